"""Constraints on decoding: a minimum length, and prefixes that outputs must start with.

Axes: R rows of the batch, P tokens of the longest prefix, N rows of the model's batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

FREE = -1
"""Stands for a token in a prefix; any token may be chosen there."""


class Constraint:
    """Excludes tokens from the choice. The others keep their probabilities, so that scores stay the model's own.

    Args:
        eos: The token that ends an output.
        min_length: Smallest number of tokens in a finished output, without eos.
        prefixes: Tokens that each row's output starts with, followed by `FREE`; None: no row has a prefix. They may include
            eos, which does not end an output there.
    """

    def __init__(self, eos: int, min_length: int = 0, prefixes: Int[Tensor, "R P"] | None = None) -> None:
        self.eos = eos
        self.min_length = min_length
        self.prefixes = prefixes

    def __call__(self, scores: Float[Tensor, "N V"], row: Int[Tensor, " N"], length: int) -> Float[Tensor, "N V"]:
        """Return the scores with minus infinity at excluded tokens: a copy, unless every token is allowed.

        Args:
            scores: Scores of the next token.
            row: Index of each score's row in the batch.
            length: Number of predicted tokens including the next, from 1.
        """
        early, forced = length <= self.min_length, self._forced(row, length)
        if not early and forced is None:
            return scores
        scores = scores.clone()
        if early:  # eos in a prefix does not end an output
            scores[slice(None) if forced is None else forced == FREE, self.eos] = float("-inf")
        if forced is not None:
            _force(scores, forced)
        return scores

    def select(self, rows: Int[Tensor, " N"]) -> Constraint:
        """Return the constraint of the given rows, in that order; rows may be repeated or left out."""
        return Constraint(self.eos, self.min_length, None if self.prefixes is None else self.prefixes[rows])

    def ends(self, row: Int[Tensor, " N"], length: int) -> int | Int[Tensor, " N"]:
        """Return the token that ends an output of each row, if it is chosen now: eos, and none (`FREE`) in a prefix.

        Args:
            row: As in a call.
            length: As in a call.
        """
        forced = self._forced(row, length)
        return self.eos if forced is None else torch.where(forced == FREE, self.eos, FREE)

    def prefix_sizes(self, rows: int) -> list[int]:
        """Return the number of tokens of each row's prefix."""
        return [0] * rows if self.prefixes is None else (self.prefixes != FREE).sum(dim=1).tolist()

    def _forced(self, row: Int[Tensor, " N"], length: int) -> Int[Tensor, " N"] | None:
        """Return the token of each row's prefix at a length, or `FREE` behind it; None: no prefix is so long."""
        if self.prefixes is None or length > self.prefixes.shape[1]:
            return None
        return self.prefixes[row, length - 1]


def _force(scores: Float[Tensor, "N V"], forced: Int[Tensor, " N"]) -> None:
    """Exclude all but the forced token in each row that has one, in place."""
    rows = (forced != FREE).nonzero().squeeze(1)
    tokens = forced[rows, None]
    own = scores[rows].gather(1, tokens)
    scores[rows] = scores.new_full((len(rows), scores.shape[1]), float("-inf")).scatter_(1, tokens, own)


def pad_prefixes(prefixes: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "R P"]:
    """Return prefixes of any length in the form that `Constraint` takes."""
    longest = max(map(len, prefixes), default=0)
    return torch.tensor(
        [[*prefix, *[FREE] * (longest - len(prefix))] for prefix in prefixes], dtype=torch.long, device=device
    ).view(len(prefixes), longest)
