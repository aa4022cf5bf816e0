"""Weights of the classes in the training loss.

Axes: C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from etude.errors import ConfigurationError


class ClassWeights(Protocol):
    """A weight for each class; the loss of a step is then Σ w loss / Σ w over its whole batch."""

    def of(self, counts: Int[np.ndarray, " C"], classes: Sequence[str]) -> Float[np.ndarray, " C"]:
        """Return the weights.

        Args:
            counts: Number of training examples of each class.
            classes: Names of the classes, by id.

        Raises:
            ConfigurationError: If the weights do not fit the classes.
        """
        ...


@dataclass(frozen=True)
class BalancedWeights:
    """Equal total weight for every class: N / (C n) for a class with n of N examples (King and Zeng 2001)."""

    def of(self, counts: Int[np.ndarray, " C"], classes: Sequence[str]) -> Float[np.ndarray, " C"]:
        """Return the weights, whose mean over the training examples is 1; 0 for a class without examples."""
        present = counts > 0
        return np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 0.0)


@dataclass(frozen=True)
class GivenWeights:
    """Weights given by name.

    Attributes:
        weights: Class -> weight, above 0; 1 for a class that is not listed.
    """

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if weight <= 0:
                raise ConfigurationError(f"data.weights.weights.{name}={weight} is not positive; write 2.0")

    def of(self, counts: Int[np.ndarray, " C"], classes: Sequence[str]) -> Float[np.ndarray, " C"]:
        """Return the weights.

        Raises:
            ConfigurationError: If a weight is for a class that the data does not have.
        """
        unknown = [name for name in self.weights if str(name) not in classes]
        if unknown:
            raise ConfigurationError(
                f"data.weights.weights.{unknown[0]}: no class is called that; the data has {', '.join(classes[:8])}"
            )
        weights = {str(name): weight for name, weight in self.weights.items()}
        return np.array([weights.get(name, 1.0) for name in classes], np.float64)
