"""Floating-point operations of training, counted from shapes as a function of lengths and of the trained parameters.

Only matrix products count, with two operations for each multiplication and its addition: those of linear layers at the
real tokens, and the two of attention at every pair of a row's query and key, causal or not (Chowdhery et al. 2022,
appendix B), although a causal kernel may do half of these, and a kernel that keeps no probabilities recomputes them. A
product of inputs and weights occurs up to three times: forward, for the gradient of the weights if they are trained, and
for the gradient of the inputs if anything before it is trained. If everything is trained, a step costs three forward
passes. Embeddings, norms, activations, softmax, pooling and the optimizer are not matrix products, and padding is not
work that the model requires: neither counts.

Axes: N examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from torch import Tensor, nn

from etude.models.layers.attention import Attend, CrossAttention, SelfAttention
from etude.models.layers.residual import PreNorm, Residual

Counts = Int[np.ndarray, " N"]


@runtime_checkable
class Multiplies(Protocol):
    """A layer that multiplies its inputs by anything but a single weight."""

    def matrices(self) -> Sequence[tuple[int, bool]]:
        """Return the number of elements of each matrix, in order, and whether it is trained."""
        ...


class Flops:
    """The operations of training once on each of N examples, summed from a model's input to its output.

    The parts of a module are visited in the order of their registration, which is that of computation.

    Attributes:
        total: [N] operations so far, forward and backward.
        trains: Whether anything so far is trained, so that later products need the gradients of their inputs.

    Args:
        examples: N.
    """

    def __init__(self, examples: int) -> None:
        self.total: Counts = np.zeros(examples, np.int64)
        self.trains = False

    def add_lookup(self, module: nn.Module) -> None:
        """Visit a module without products, such as embeddings."""
        self.trains |= any(parameter.requires_grad for parameter in module.parameters())

    def add_product(self, weight: Tensor, positions: Counts) -> None:
        """Add the product of a matrix and the states at the given number of positions of each example."""
        self._add_product(weight.numel(), weight.requires_grad, positions)

    def add_module(
        self,
        module: nn.Module,
        positions: Counts,
        keys: Counts | None = None,
        *,
        keys_train: bool = True,
        remaining: Counts | None = None,
        first: bool = False,
    ) -> None:
        """Add all parts of a layer, or of any other module.

        Args:
            module: The layer.
            positions: [N] real tokens of each example at its input.
            keys: [N] real tokens that cross-attention attends to; None: the layer has none.
            keys_train: Whether anything is trained that the keys of cross-attention are computed from.
            remaining: [N] tokens that are computed after attention; None: all.
            first: Whether the remaining token is the first of each example.
        """
        width, cross = 0, False
        done: set[nn.Module] = set()
        residual = next((part for part in module.modules() if isinstance(part, Residual)), None)
        if isinstance(residual, PreNorm):  # it is registered after the sublayer but computed before it
            self.add_lookup(residual)
        for part in module.modules():
            if part in done:
                continue
            if isinstance(part, SelfAttention) and first and part.folds:
                self._attend_from_first(part, positions)
                done = {*part.query_key_value.modules(), *part.attend.modules()}
                positions = np.ones_like(positions)
            elif isinstance(part, SelfAttention | CrossAttention):
                width, cross = part.output.in_features, isinstance(part, CrossAttention)
            elif isinstance(part, Attend):
                attended = keys if cross and keys is not None else positions
                self._attend(2 * width * positions * attended, keys_train if cross else self.trains)
                positions = positions if remaining is None else remaining
            elif isinstance(part, nn.Linear):
                for size, trains in _matrices(part):
                    self._add_product(size, trains, positions)
            self.trains |= any(parameter.requires_grad for parameter in part.parameters(recurse=False))

    def _attend(self, product: Counts, keys_train: bool) -> None:
        """Add the two products, and the gradients of the scores, of the queries, and of the keys and values."""
        backward = (self.trains or keys_train) + self.trains + 2 * keys_train
        self.total = self.total + product * (2 + backward)
        self.trains |= keys_train

    def _attend_from_first(self, layer: SelfAttention, tokens: Counts) -> None:
        """Add the products with the query, key and value matrices, and the two with the states."""
        once, weight = np.ones_like(tokens), layer.query_key_value.weight
        width = weight.shape[1]
        heads = width // layer.head_width
        states_train = self.trains
        for _ in range(3):
            self._add_product(width * width, weight.requires_grad, once)
            self.add_lookup(layer.query_key_value)
        self.total = self.total + 2 * 2 * heads * width * tokens * (1 + self.trains + states_train)

    def _add_product(self, size: int, trains: bool, positions: Counts) -> None:
        self.total = self.total + 2 * size * positions * (1 + trains + self.trains)
        self.trains |= trains


def _matrices(layer: nn.Linear) -> Sequence[tuple[int, bool]]:
    if isinstance(layer, Multiplies):
        return layer.matrices()
    return [(layer.weight.numel(), layer.weight.requires_grad)]
