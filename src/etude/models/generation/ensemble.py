"""Several models as one: a step that averages their probabilities (Sutskever et al. 2014, section 3.6).

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from etude.models.generation.hypothesis import SearchCache, Step


@dataclass(frozen=True)
class Caches:
    """The caches of several models for the same rows.

    Attributes:
        of_models: One for each model.
    """

    of_models: tuple[SearchCache, ...]

    def select(self, rows: Int[Tensor, " B"]) -> Caches:
        """Return the caches of the given rows, in that order."""
        return Caches(tuple(cache.select(rows) for cache in self.of_models))


def ensemble(steps: Sequence[Step[Any]]) -> Step[Caches]:
    """Return the step of an ensemble: its logits are the logarithm of the mean of the models' probabilities.

    Args:
        steps: One for each model, all over the same vocabulary; they take the caches of `Caches` in that order.
    """

    def step(tokens: Int[Tensor, " B"], caches: Caches) -> tuple[Float[Tensor, "B V"], Caches]:
        pairs = [one(tokens, cache) for one, cache in zip(steps, caches.of_models, strict=True)]
        logits = mean_log_probability([logits.float().log_softmax(dim=-1) for logits, _ in pairs])
        return logits, Caches(tuple(cache for _, cache in pairs))

    return step


def mean_log_probability(log_probabilities: Sequence[Float[Tensor, "*axes"]]) -> Float[Tensor, "*axes"]:
    """Return log(Σ exp(x_m) / M) of the log-probabilities x_m that M models give to the same things."""
    return torch.stack(list(log_probabilities)).logsumexp(dim=0) - math.log(len(log_probabilities))
