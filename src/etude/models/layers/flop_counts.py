"""What training costs in floating-point operations, counted from shapes: a function of lengths and of what trains.

Counted are products of matrices, two operations for each multiplication with its addition: those of linear layers at the
real tokens, and the two of attention at every pair of a row's query and key, causal or not (Chowdhery et al. 2022,
appendix B), though a causal kernel may do half of these, and one that keeps no probabilities computes them again. A
product of inputs and weights comes up to three times: forward, for the gradient of the weights if they train, and for the
gradient of the inputs if anything before it trains. Where all trains, a step costs three forward passes. Embeddings,
norms, activations, softmax, pooling and the optimizer are no such products, and padding is no work that a model asks for:
neither counts.

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
    """A layer that multiplies its inputs by something else than one weight."""

    def matrices(self) -> Sequence[tuple[int, bool]]:
        """Return of each matrix, in order, how many elements it has, and whether it trains."""
        ...


class Flops:
    """Sums the operations of training on each of N examples once, on the way from a model's input to its output.

    The parts of a module are taken in the order in which they are registered, which is that of computing.

    Attributes:
        total: [N] operations so far, forward and backward.
        trains: Whether anything so far trains: then later products owe it the gradients of their inputs.

    Args:
        examples: N.
    """

    def __init__(self, examples: int) -> None:
        self.total: Counts = np.zeros(examples, np.int64)
        self.trains = False

    def look_up(self, module: nn.Module) -> None:
        """Go through a module without products, such as embeddings."""
        self.trains |= any(parameter.requires_grad for parameter in module.parameters())

    def multiply(self, weight: Tensor, positions: Counts) -> None:
        """Go through a product of a matrix and the states at so many positions of each example."""
        self._multiply(weight.numel(), weight.requires_grad, positions)

    def go_through(
        self,
        module: nn.Module,
        positions: Counts,
        keys: Counts | None = None,
        *,
        keys_train: bool = True,
        kept: Counts | None = None,
        first: bool = False,
    ) -> None:
        """Go through all parts of a layer, or of any other module.

        Args:
            module: The layer.
            positions: [N] real tokens of each example that it sees.
            keys: [N] real tokens that attention to elsewhere looks at; None: there is no such attention.
            keys_train: Whether anything trains that these keys are made from.
            kept: [N] those of its tokens that it goes on with behind attention; None: all.
            first: These are the first token of each example.
        """
        width, elsewhere = 0, False
        done: set[nn.Module] = set()
        residual = next((part for part in module.modules() if isinstance(part, Residual)), None)
        if isinstance(residual, PreNorm):  # it is registered after the sublayer, and computes before it
            self.look_up(residual)
        for part in module.modules():
            if part in done:
                continue
            if isinstance(part, SelfAttention) and first and part.folds:
                self._attend_from_first(part, positions)
                done = {*part.query_key_value.modules(), *part.attend.modules()}
                positions = np.ones_like(positions)
            elif isinstance(part, SelfAttention | CrossAttention):
                width, elsewhere = part.output.in_features, isinstance(part, CrossAttention)
            elif isinstance(part, Attend):
                seen = keys if elsewhere and keys is not None else positions
                self._attend(2 * width * positions * seen, keys_train if elsewhere else self.trains)
                positions = positions if kept is None else kept
            elif isinstance(part, nn.Linear):
                for size, trains in _matrices(part):
                    self._multiply(size, trains, positions)
            self.trains |= any(parameter.requires_grad for parameter in part.parameters(recurse=False))

    def _attend(self, product: Counts, keys_train: bool) -> None:
        """Add the two products; and of the gradients that of the scores, of the queries, and of the keys and values."""
        backward = (self.trains or keys_train) + self.trains + 2 * keys_train
        self.total = self.total + product * (2 + backward)
        self.trains |= keys_train

    def _attend_from_first(self, layer: SelfAttention, tokens: Counts) -> None:
        """Add the query's product, that with the keys' matrix, those with the states, and that with the values' matrix."""
        once, weight = np.ones_like(tokens), layer.query_key_value.weight
        width = weight.shape[1]
        heads = width // layer.head_width
        states_train = self.trains
        for _ in range(3):
            self._multiply(width * width, weight.requires_grad, once)
            self.look_up(layer.query_key_value)
        self.total = self.total + 2 * 2 * heads * width * tokens * (1 + self.trains + states_train)

    def _multiply(self, size: int, trains: bool, positions: Counts) -> None:
        self.total = self.total + 2 * size * positions * (1 + trains + self.trains)
        self.trains |= trains


def _matrices(layer: nn.Linear) -> Sequence[tuple[int, bool]]:
    if isinstance(layer, Multiplies):
        return layer.matrices()
    return [(layer.weight.numel(), layer.weight.requires_grad)]
