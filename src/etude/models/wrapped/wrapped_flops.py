"""What training models costs that transformers computes: counted by torch on a few short texts, and no more than that.

Products with weights grow with the tokens of a text, those of attention with their square. So the operations of a text are
a polynomial of second degree in its length, or in those of source and target, which a few lengths determine; another one
says whether it is true of the model.

Axes: N examples, K lengths of an example, T terms, B texts, L positions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations_with_replacement

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from etude.models.layers.flop_counts import Flops
from etude.models.wrapped.wrapped_attention import plain_attention

Lengths = Int[np.ndarray, "N K"]

TRIED = {1: ((3,), (5,), (8,)), 2: ((3, 3), (5, 3), (8, 3), (3, 5), (3, 8), (5, 5))}
"""Lengths of the texts that are counted, by K: as many as a polynomial has terms."""

CHECKED = 33
"""The length of the text that says whether it is true; or the longest there may be."""

_log = logging.getLogger(__name__)


def counted_flops(model: nn.Module, run: Callable[[Lengths], Tensor], lengths: Lengths, longest: int) -> Flops | None:
    """Count training, forward and backward, up to what the model returns.

    What is computed once for a batch, whatever its texts are, is left out: the factors of adapters, vectors of distances.

    Args:
        model: The module of transformers. It is left as it was found; no random numbers are drawn.
        run: Returns what the model makes of texts of the given lengths, all of them real tokens.
        lengths: Of each example.
        longest: The most tokens of a text.

    Returns:
        The operations; None, which is said, if they are no such polynomial, as those of models that pad texts to windows,
        or if the model does not run on such texts.
    """
    tried, check = np.array(TRIED[lengths.shape[1]]), np.full((1, lengths.shape[1]), min(CHECKED, longest))
    try:
        with _at_rest(model), plain_attention(model):
            alone, _ = np.array([_counted(model, run, one[None]) for one in (*tried, check[0])]).T
            beside, trains = np.array([_counted(model, run, np.stack([one, one])) for one in tried]).T
    except Exception as error:  # of another library, after days of training: a number less is no reason to fail
        _say_not_known(model, " ".join(str(error).split()))
        return None
    *once, checked = alone - np.append(beside - alone[:-1], 0)
    coefficients = np.rint(np.linalg.solve(_terms(tried).astype(float), (beside - alone[:-1]).astype(float)))
    coefficients = coefficients.astype(np.int64)
    grows = all(coefficients[1 : 1 + lengths.shape[1]] > 0)
    if not grows or {*once, checked - (_terms(check) @ coefficients)[0]} != {once[0]}:
        _say_not_known(model, "they do not grow as a polynomial of second degree in a text's length")
        return None
    flops = Flops(len(lengths))
    flops.total, flops.trains = _terms(lengths) @ coefficients, bool(trains[0])
    return flops


def texts_of(lengths: Int[np.ndarray, " B"], embedding: Tensor) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Return ids and mask of texts of equal lengths, of the id that the last row of an embedding is for."""
    tokens = torch.full((len(lengths), int(lengths[0])), len(embedding) - 1, device=embedding.device)
    return tokens, torch.ones_like(tokens, dtype=torch.bool)


def _terms(lengths: Lengths) -> Int[np.ndarray, "N T"]:
    """Return 1, each length, and each product of two."""
    columns = list(lengths.astype(np.int64).T)
    products = [one * other for one, other in combinations_with_replacement(columns, 2)]
    return np.stack([np.ones_like(columns[0]), *columns, *products], axis=1)


def _counted(model: nn.Module, run: Callable[[Lengths], Tensor], lengths: Lengths) -> tuple[int, bool]:
    """Return the operations, and whether there are gradients."""
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        outputs = run(lengths)
        if outputs.requires_grad:
            outputs.sum().backward()
    return counter.get_total_flops(), outputs.requires_grad


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """Have a model without dropout and gradients while the block runs; those that it has come back."""
    training = [module for module in model.modules() if module.training]
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    model.eval().zero_grad()
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter, gradient in gradients.items():
            parameter.grad = gradient


def _say_not_known(model: nn.Module, why: str) -> None:
    _log.info("the operations of %s are not counted: %.200s", type(model).__name__, why)
