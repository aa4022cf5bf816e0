"""What log-probabilities are divided by before hypotheses of different lengths are ranked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from etude.errors import ConfigurationError


@runtime_checkable
class LengthPenalty(Protocol):
    """A divisor of log-probabilities that may grow with the length.

    It is positive and no smaller for a longer hypothesis: the bound at which beam search stops rests on that.
    """

    def divisor(self, length: int) -> float:
        """Return what the log-probability of `length` predicted tokens, eos included, is divided by."""
        ...


@dataclass(frozen=True)
class Unnormalized:
    """Hypotheses are ranked by their log-probability."""

    def divisor(self, length: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class LengthNormalized:
    """Hypotheses are ranked by their log-probability per predicted token, eos included (Cho et al. 2014, section 4)."""

    def divisor(self, length: int) -> float:
        """Return the length; 1 where nothing was predicted."""
        return float(max(length, 1))


@dataclass(frozen=True)
class GNMT:
    """((5 + length) / 6) ** alpha: Wu et al. 2016, equation 14, without the coverage term.

    Attributes:
        alpha: 0 ranks by log-probability; the larger, the longer the outputs.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Check the exponent.

        Raises:
            ConfigurationError: If it is negative or no finite number.
        """
        if not 0 <= self.alpha < float("inf"):
            raise ConfigurationError(f"decoding.length_penalty={self.alpha} is out of range; write 0 or more")

    def divisor(self, length: int) -> float:
        """Return the penalty; 1 for a single token."""
        return ((5 + length) / 6) ** self.alpha
