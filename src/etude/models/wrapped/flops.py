"""Floating-point operations of models that transformers computes, measured by torch on a few short texts.

Products with weights grow with the length of a text, those of attention with its square. The operations are therefore a
quadratic polynomial in the length, or in those of source and target. A few lengths determine it, and a further one
verifies it.

Axes: N examples, K lengths of an example, T terms, B rows, L positions.
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

FITTED = {1: ((3,), (5,), (8,)), 2: ((3, 3), (5, 3), (8, 3), (3, 5), (3, 8), (5, 5))}
"""Lengths of the measured texts, by K: as many as the polynomial has terms."""

CHECKED = 33
"""Length of the text that verifies the polynomial, unless the model's limit is lower."""

_log = logging.getLogger(__name__)


def measured_flops(model: nn.Module, run: Callable[[Lengths], Tensor], lengths: Lengths, longest: int) -> Flops | None:
    """Count training, forward and backward, up to the model's outputs.

    Each length is measured as one text and as a batch of two equal texts: the difference is what a text costs, and the rest
    occurs once per batch, whatever its texts are. That rest does not count: products of adapters' factors, for example, or
    embeddings of distances.

    Args:
        model: The module of transformers. Its state is restored, and no random numbers are drawn.
        run: Returns the model's outputs for texts of the given lengths, without padding.
        lengths: Lengths of each example.
        longest: Largest number of tokens in a text.

    Returns:
        The operations; None, with a message in the log, if they are not such a polynomial, as in models that pad texts to
        windows, or if the model does not run on such texts.
    """
    fitted, check = np.array(FITTED[lengths.shape[1]]), np.full((1, lengths.shape[1]), min(CHECKED, longest))
    try:
        with _without_state(model), plain_attention(model):
            single, _ = np.array([_measure(model, run, text[None]) for text in (*fitted, check[0])]).T
            double, trains = np.array([_measure(model, run, np.stack([text, text])) for text in fitted]).T
    except Exception as error:  # from another library, after days of training: a missing number is no reason to fail
        _log_unknown(model, " ".join(str(error).split()))
        return None
    *per_batch, checked = single - np.append(double - single[:-1], 0)
    coefficients = np.rint(np.linalg.solve(_terms(fitted).astype(float), (double - single[:-1]).astype(float)))
    coefficients = coefficients.astype(np.int64)
    grows = all(coefficients[1 : 1 + lengths.shape[1]] > 0)
    if not grows or {*per_batch, checked - (_terms(check) @ coefficients)[0]} != {per_batch[0]}:
        _log_unknown(model, "they do not grow as a polynomial of second degree in a text's length")
        return None
    flops = Flops(len(lengths))
    flops.total, flops.trains = _terms(lengths) @ coefficients, bool(trains[0])
    return flops


def dummy_texts(lengths: Int[np.ndarray, " B"], embedding: Tensor) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Return token ids and mask of texts of equal lengths that repeat the last id of the embedding."""
    tokens = torch.full((len(lengths), int(lengths[0])), len(embedding) - 1, device=embedding.device)
    return tokens, torch.ones_like(tokens, dtype=torch.bool)


def _terms(lengths: Lengths) -> Int[np.ndarray, "N T"]:
    """Return the terms of the polynomial: 1, each length, and each product of two lengths."""
    columns = list(lengths.astype(np.int64).T)
    products = [left * right for left, right in combinations_with_replacement(columns, 2)]
    return np.stack([np.ones_like(columns[0]), *columns, *products], axis=1)


def _measure(model: nn.Module, run: Callable[[Lengths], Tensor], lengths: Lengths) -> tuple[int, bool]:
    """Return the operations, and whether the outputs require a gradient."""
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        outputs = run(lengths)
        if outputs.requires_grad:
            outputs.sum().backward()
    return counter.get_total_flops(), outputs.requires_grad


@contextmanager
def _without_state(model: nn.Module) -> Iterator[None]:
    """Disable dropout and remove gradients within the context, and restore both afterwards."""
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


def _log_unknown(model: nn.Module, reason: str) -> None:
    _log.info("the operations of %s are not counted: %.200s", type(model).__name__, reason)
