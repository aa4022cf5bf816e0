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
        prefixes: Tokens that each row's output starts with, followed by `FREE`; None: no row has a prefix.
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
        early = length <= self.min_length
        prefixed = self.prefixes is not None and length <= self.prefixes.shape[1]
        if not early and not prefixed:
            return scores
        scores = scores.clone()
        if early:
            scores[:, self.eos] = float("-inf")
        if self.prefixes is not None and prefixed:
            _force(scores, self.prefixes[row, length - 1])
        return scores


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
