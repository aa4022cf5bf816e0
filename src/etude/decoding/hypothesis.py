"""What a search sees of a model, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

SameT = TypeVar("SameT")


@runtime_checkable
class Cache(Protocol):
    """What a model remembers of the tokens that it was given, for each row of a batch."""

    def select(self: SameT, rows: Int[Tensor, " B"]) -> SameT:
        """Return the cache of the given rows, in that order; a row may be repeated or left out."""
        ...


CacheT = TypeVar("CacheT", bound=Cache)

Step = Callable[[Int[Tensor, " B"], CacheT], tuple[Float[Tensor, "B V"], CacheT]]
"""Takes the last token of each row and the cache of those before it; returns the next token's logits and the cache."""


@dataclass(frozen=True)
class Hypothesis:
    """One output of a search.

    Attributes:
        tokens: Token ids, without bos and eos.
        score: What the search ranks by: `log_probability / length_penalty(predicted tokens)`.
        finished: Whether it ended in eos. False: it was stopped at its length limit.
        log_probability: Of the tokens and, if finished, of eos after them; in nats.
    """

    tokens: tuple[int, ...]
    score: float
    finished: bool
    log_probability: float


def length_penalty(length: int, alpha: float) -> float:
    """Return what log-probabilities are divided by, so that long hypotheses can win: ((5 + length) / 6) ** alpha.

    Wu et al. 2016, "Google's Neural Machine Translation System", equation 14, without the coverage term.

    Args:
        length: Predicted tokens, eos included: no hypothesis has less than one, for which the penalty is 1.
        alpha: 0 ranks by log-probability; the larger, the longer the outputs.
    """
    return ((5 + length) / 6) ** alpha


def log_probabilities(logits: Float[Tensor, "B V"], forbidden: int | None = None) -> Float[Tensor, "B V"]:
    """Return log-probabilities in float32, whatever the precision of the model.

    Args:
        logits: Scores of the next token.
        forbidden: A token that may not be chosen. The others keep their probabilities, so that a hypothesis' score is
            the model's own.
    """
    scores = F.log_softmax(logits.float(), dim=-1)
    if forbidden is not None:
        scores[:, forbidden] = float("-inf")
    return scores
