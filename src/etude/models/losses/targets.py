"""Losses of examples with a class, several classes, or a number as their target, as sums, never means.

Axes: B examples, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from etude.types import IGNORED


def weighted_cross_entropy(
    logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"], weights: Float[Tensor, " B"], smoothing: float = 0.0
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Compute the weighted cross-entropy with smoothed labels (Szegedy et al. 2016, section 7).

    Args:
        logits: Unnormalised log-probabilities.
        labels: Class ids; examples labelled `IGNORED` do not count.
        weights: Weight of each example; 0 if it is ignored.
        smoothing: ε, from 0 to 1.

    Returns:
        Σ weight loss, in nats, and Σ weight: the denominator.
    """
    losses = F.cross_entropy(
        _precise(logits), labels, reduction="none", ignore_index=IGNORED, label_smoothing=smoothing
    )
    return (losses * weights).sum(), weights.sum()


def binary_cross_entropy(
    logits: Float[Tensor, "B C"], labels: Float[Tensor, "B C"], real: Bool[Tensor, " B"]
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Compute the cross-entropy of an independent decision for each class, as the mean over classes.

    Args:
        logits: Log-odds of each class.
        labels: 1 at the classes of an example, 0 elsewhere.
        real: False at examples that do not count.

    Returns:
        The loss summed over examples, in nats, and their number.
    """
    losses = F.binary_cross_entropy_with_logits(_precise(logits), labels.to(_precise(logits)), reduction="none")
    return losses.mean(dim=1)[real].sum(), real.sum()


def squared_error(
    values: Float[Tensor, " B"], labels: Float[Tensor, " B"], real: Bool[Tensor, " B"]
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Compute the squared difference of values and labels.

    Args:
        values: Predicted values.
        labels: Correct values.
        real: False at examples that do not count.

    Returns:
        The loss summed over examples, and their number.
    """
    difference = _precise(values) - labels.to(_precise(values))
    return difference.square()[real].sum(), real.sum()


def _precise(x: Tensor) -> Tensor:
    """Return the values in at least single precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
