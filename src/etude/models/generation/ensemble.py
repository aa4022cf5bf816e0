"""Ensembles: a step that averages the probabilities of several models (Sutskever et al. 2014, section 3.6).

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
        of_models: The cache of each model.
    """

    of_models: tuple[SearchCache, ...]

    def select(self, rows: Int[Tensor, " B"]) -> Caches:
        """Return the caches of the given rows, in that order."""
        return Caches(tuple(cache.select(rows) for cache in self.of_models))


def ensemble(steps: Sequence[Step[Any]]) -> Step[Caches]:
    """Return the step of an ensemble, whose logits are the logarithm of the mean of the models' probabilities.

    Args:
        steps: The step of each model, in the order of their caches; all models have the same vocabulary.
    """

    def step(tokens: Int[Tensor, " B"], caches: Caches) -> tuple[Float[Tensor, "B V"], Caches]:
        pairs = [model_step(tokens, cache) for model_step, cache in zip(steps, caches.of_models, strict=True)]
        logits = mean_log_probability([logits.float().log_softmax(dim=-1) for logits, _ in pairs])
        return logits, Caches(tuple(cache for _, cache in pairs))

    return step


def mean_log_probability(log_probabilities: Sequence[Float[Tensor, "*axes"]]) -> Float[Tensor, "*axes"]:
    """Return log(Σ exp(x_m) / M) of the log-probabilities x_m of M models."""
    return torch.stack(list(log_probabilities)).logsumexp(dim=0) - math.log(len(log_probabilities))
