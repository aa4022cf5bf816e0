"""The interface between a search and a model, and the hypotheses that a search returns."""

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
    """A model's memory of the tokens that it has read, for each row of a batch."""

    def select(self: SameT, rows: Int[Tensor, " B"]) -> SameT:
        """Return the cache of the given rows, in that order; rows may be repeated or left out."""
        ...


CacheT = TypeVar("CacheT", bound=SearchCache)

Step = Callable[[Int[Tensor, " B"], CacheT], tuple[Float[Tensor, "B V"], CacheT]]
"""Maps the last token of each row, and the cache of those before it, to the next token's logits and the new cache.

A search may overwrite the logits.
"""


@dataclass(frozen=True)
class Hypothesis:
    """An output of a search.

    Attributes:
        tokens: Token ids, without bos and the eos that ends them.
        score: Ranking score: the log-probability over the length penalty of the predicted tokens.
        finished: Whether it ended in eos; False: it was stopped at the length limit.
        log_probability: Log-probability, in nats, of the tokens and, if finished, of the eos that follows.
    """

    tokens: tuple[int, ...]
    score: float
    finished: bool
    log_probability: float

    @classmethod
    def of(
        cls, predicted: list[int], eos: int, log_probability: float, penalty: LengthPenalty, prefix: int = 0
    ) -> Hypothesis:
        """Return the hypothesis of predicted tokens, which end at the first eos behind a prefix of so many, if any."""
        finished = eos in predicted[prefix:]
        tokens = tuple(predicted[: predicted.index(eos, prefix)]) if finished else tuple(predicted)
        score = log_probability / penalty.divisor(len(tokens) + finished)
        return cls(tokens, score, finished, log_probability)


@torch.no_grad()
def read_given(step: Step[CacheT], start: CacheT, given: Int[Tensor, "B P"]) -> tuple[Int[Tensor, " B"], CacheT]:
    """Read all given tokens but the last; return that one, from which a search goes on, and the cache."""
    for tokens in given[:, :-1].unbind(1):
        _, start = step(tokens, start)
    return given[:, -1], start


def log_normalizer(logits: Float[Tensor, "B V"]) -> Float[Tensor, "B 1"]:
    """Return log Σ exp(logits) in float32, whatever the model's precision; float32 logits are overwritten.

    It is recovered from the largest probability, exp(largest - log Σ exp), which is never near zero. This takes a single
    pass of exponentials and no second matrix of the vocabulary's width.
    """
    logits = logits.float()
    largest = logits.amax(dim=-1, keepdim=True)
    torch.softmax(logits, dim=-1, out=logits)
    return largest - logits.amax(dim=-1, keepdim=True).log()
