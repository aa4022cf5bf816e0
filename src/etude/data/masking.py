"""Exactly-k masking for masked language models (Devlin et al. 2019, section 3.1).

What is masked in a text is a pure function of (seed, epoch, example): it depends on no worker, rank or restart. Since
exactly k tokens are chosen, the loss's denominator is known before any text is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from etude.errors import ConfigurationError
from etude.seeding import mix


@dataclass(frozen=True)
class Masking:
    """How tokens are chosen for prediction and what stands in their place.

    Attributes:
        rate: Share of the tokens that is predicted: k = max(1, round(rate * n)) of n.
        masked: Of those, the share replaced by the mask token.
        random: Of those, the share replaced by a random token; the rest stays as it is.
    """

    rate: float = 0.15
    masked: float = 0.8
    random: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.rate < 1 and self.masked >= 0 and self.random >= 0 and self.masked + self.random <= 1):
            raise ConfigurationError(
                f"masking rate={self.rate}, masked={self.masked}, random={self.random}: "
                "rate must lie between 0 and 1, and masked + random be at most 1"
            )

    def counts(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Return how many tokens are predicted in texts of these lengths."""
        return np.maximum(1, np.rint(self.rate * lengths)).astype(np.int64)

    def choose(
        self, length: int, ordinary: Int[np.ndarray, " ordinary"], key: tuple[int, int, int]
    ) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Choose for a text of n tokens.

        Args:
            length: n, without the special tokens at the ends.
            ordinary: Ids that a random replacement is drawn from.
            key: (seed, epoch, example).

        Returns:
            Which tokens are predicted; which are replaced by the mask token; the id of a random replacement, -1 elsewhere.
        """
        bits = np.random.Philox(key=mix("masking", *key)).random_raw(3 * length).reshape(3, length)
        count = int(self.counts(np.array([length]))[0])
        chosen = np.zeros(length, bool)
        chosen[np.argsort(bits[0], kind="stable")[:count]] = True
        share = bits[1] / 2.0**64
        hidden = chosen & (share < self.masked)
        swapped = chosen & ~hidden & (share < self.masked + self.random)
        return chosen, hidden, np.where(swapped, ordinary[bits[2] % np.uint64(len(ordinary))], -1)
