"""Hidden states with the output layer that predicts from them and the labels that they should predict.

Axes: N positions or examples, D model width, V vocabulary or classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from jaxtyping import Float, Int, Real
from torch import Tensor

from etude.models.losses.cross_entropy import label_smoothed_cross_entropy
from etude.models.losses.targets import weighted_cross_entropy


@dataclass(frozen=True)
class LabelledStates:
    """What a loss over tokens or classes is computed from. The logits, [N, V], need not exist at once.

    Attributes:
        hidden: Hidden states before the output layer.
        weight: The matrix of the output layer.
        labels: Ids of the correct tokens or classes; positions labelled `IGNORED` do not count.
        bias: Added to the logits; None: none.
        cap: Bound of the logits, by soft-capping after the bias; None: none.
        weights: Weight of each example, 0 where it does not count; None: all that count weigh 1.
        smoothing: ε of label smoothing, from 0 to 1.
        chunk: Number of positions whose logits are in memory at a time; None: see `chunk_length`.
    """

    hidden: Float[Tensor, "N D"]
    weight: Float[Tensor, "V D"]
    labels: Int[Tensor, " N"]
    bias: Float[Tensor, " V"] | None = None
    cap: float | None = None
    weights: Float[Tensor, " N"] | None = None
    smoothing: float = 0.0
    chunk: int | None = None

    def halves(self) -> tuple[LabelledStates, LabelledStates]:
        """Return the first half of the positions, and the second one."""
        hidden, labels = self.hidden.chunk(2), self.labels.chunk(2)
        weights = (None, None) if self.weights is None else self.weights.chunk(2)
        first, second = (
            replace(self, hidden=h, labels=y, weights=w) for h, y, w in zip(hidden, labels, weights, strict=True)
        )
        return first, second

    def cross_entropy(self) -> tuple[Float[Tensor, ""], Real[Tensor, ""]]:
        """Return the cross-entropy with the labels, in nats, summed over what counts, and its denominator: count or weight."""
        if self.weights is not None:
            logits = F.linear(self.hidden, self.weight, self.bias)
            return weighted_cross_entropy(logits, self.labels, self.weights, self.smoothing)
        return label_smoothed_cross_entropy(
            self.hidden, self.weight, self.labels, self.smoothing, self.bias, self.cap, self.chunk
        )
