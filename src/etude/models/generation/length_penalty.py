"""Length penalties: divisors of log-probabilities, for ranking hypotheses of different lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from etude.errors import ConfigurationError


@runtime_checkable
class LengthPenalty(Protocol):
    """A divisor of log-probabilities that depends on the length.

    It must be positive and must not decrease with the length: beam search's stopping bound relies on that.
    """

    def divisor(self, length: int) -> float:
        """Return the divisor for `length` predicted tokens, eos included."""
        ...


@dataclass(frozen=True)
class Unnormalized:
    """Ranking by log-probability."""

    def divisor(self, length: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class LengthNormalized:
    """Ranking by log-probability per predicted token, eos included (Cho et al. 2014, section 4)."""

    def divisor(self, length: int) -> float:
        """Return the length, or 1 if nothing was predicted."""
        return float(max(length, 1))


@dataclass(frozen=True)
class GNMT:
    """((5 + length) / 6) ** alpha: Wu et al. 2016, equation 14, without the coverage term.

    Attributes:
        alpha: Exponent; 0 ranks by log-probability, and larger values favour longer outputs.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Check the exponent.

        Raises:
            ConfigurationError: If it is negative or not finite.
        """
        if not 0 <= self.alpha < float("inf"):
            raise ConfigurationError(f"decoding.length_penalty={self.alpha} is out of range; write 0 or more")

    def divisor(self, length: int) -> float:
        """Return the penalty; 1 for a single token."""
        return ((5 + length) / 6) ** self.alpha
