"""What a search sees of a model, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from etude.models.generation.length_penalty import LengthPenalty

SameT = TypeVar("SameT")


@runtime_checkable
class SearchCache(Protocol):
    """What a model remembers of the tokens that it was given, for each row of a batch."""

    def select(self: SameT, rows: Int[Tensor, " B"]) -> SameT:
        """Return the cache of the given rows, in that order; a row may be repeated or left out."""
        ...


CacheT = TypeVar("CacheT", bound=SearchCache)

Step = Callable[[Int[Tensor, " B"], CacheT], tuple[Float[Tensor, "B V"], CacheT]]
"""Takes the last token of each row and the cache of those before it; returns the next token's logits and the cache.

The logits are the search's own: it may write into them.
"""


@dataclass(frozen=True)
class Hypothesis:
    """One output of a search.

    Attributes:
        tokens: Token ids, without bos and eos.
        score: What the search ranks by: the log-probability over the length penalty of the predicted tokens.
        finished: Whether it ended in eos. False: it was stopped at its length limit.
        log_probability: Of the tokens and, if finished, of eos after them; in nats.
    """

    tokens: tuple[int, ...]
    score: float
    finished: bool
    log_probability: float

    @classmethod
    def of(cls, predicted: list[int], eos: int, log_probability: float, penalty: LengthPenalty) -> Hypothesis:
        """Return the hypothesis of predicted tokens, up to the first eos if there is one."""
        finished = eos in predicted
        tokens = tuple(predicted[: predicted.index(eos)]) if finished else tuple(predicted)
        score = log_probability / penalty.divisor(len(tokens) + finished)
        return cls(tokens, score, finished, log_probability)


def log_normalizer(logits: Float[Tensor, "B V"]) -> Float[Tensor, "B 1"]:
    """Return log Σ exp(logits) in float32, whatever the precision of the model; float32 logits are overwritten.

    The largest probability is exp(largest - log Σ exp), never near zero: one pass of exponentials, and no second matrix
    of the vocabulary's width.
    """
    logits = logits.float()
    largest = logits.amax(dim=-1, keepdim=True)
    torch.softmax(logits, dim=-1, out=logits)
    return largest - logits.amax(dim=-1, keepdim=True).log()
