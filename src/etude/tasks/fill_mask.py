"""What a masked language model answers to a text: what its masks hide, or how likely it is. `conf/decoding/` chooses.

Axes: B rows, L positions, M chosen positions, V vocabulary.
"""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from etude.errors import ConfigurationError
from etude.tasks.prediction import Output
from etude.tokenization.base import Tokenizer

Guess = Callable[[Int[Tensor, "B L"], Bool[Tensor, "B L"], Bool[Tensor, "B L"]], Float[Tensor, "M V"]]
"""Takes ids, which of them are real, and which positions are chosen; returns the log-probabilities there, row by row."""

TOKENS = 8192
"""The most tokens that a sentence and its copies are read in at a time."""


@dataclass(frozen=True)
class Filling(Output):
    """A text with its masks filled; its score is the probability.

    Attributes:
        fillers: What stands at each mask.
    """

    fillers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Likelihood(Output):
    """The pseudo-log-likelihood of a text, in nats, as its score.

    Attributes:
        tokens: What the vocabulary calls the tokens of the text.
        log_probabilities: Of each token where it is masked and all others are not.
    """

    tokens: tuple[str, ...] = ()
    log_probabilities: tuple[float, ...] = ()


class MaskedAnswers(ABC):
    """One kind of answer."""

    @abstractmethod
    def __call__(self, guess: Guess, rows: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[tuple[Output, ...]]:
        """Answer each row, whatever the others are.

        Args:
            guess: The model.
            rows: Ids, from bos to eos; some may be the mask's.
            tokenizer: What made them.

        Returns:
            For each row its answers, at least one, the best first.
        """


@dataclass(frozen=True)
class FillMasks(MaskedAnswers):
    """The likeliest tokens at the masks; only tokens that stand for text.

    Of several masks in a text each is guessed without knowing the others' fillers, and a filling's probability is the
    product.

    Attributes:
        fillers: How many answers each text gets; one that has no mask gets itself.

    Raises:
        ConfigurationError: If there are none.
    """

    fillers: int = 5

    def __post_init__(self) -> None:
        if self.fillers < 1:
            raise ConfigurationError(f"decoding.fillers={self.fillers} is too small; write 1 or more")

    def __call__(self, guess: Guess, rows: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[tuple[Output, ...]]:
        """Fill the masks of each row."""
        tokens = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=tokenizer.pad)
        real = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
        where = tokens == tokenizer.mask
        log_probabilities = guess(tokens, real, where).cpu()
        silent = [tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unknown, tokenizer.mask]
        log_probabilities[:, silent] = -torch.inf
        best, ids = log_probabilities.topk(min(self.fillers, log_probabilities.shape[1] - len(set(silent))))
        sizes = where.sum(dim=1).tolist()
        return [
            tuple(_filled(row, choice, total, tokenizer) for total, choice in self._choices(scores, fillers))
            for row, scores, fillers in zip(rows, best.split(sizes), ids.split(sizes), strict=True)
        ]

    def _choices(self, best: Float[Tensor, "M n"], ids: Int[Tensor, "M n"]) -> list[tuple[float, tuple[int, ...]]]:
        """Return the likeliest fillers of all M masks of a text together, with their log-probabilities."""
        found: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for scores, fillers in zip(best.tolist(), ids.tolist(), strict=True):
            longer = [
                (total + score, (*chosen, filler))
                for total, chosen in found
                for score, filler in zip(scores, fillers, strict=True)
            ]
            found = heapq.nlargest(self.fillers, longer, key=itemgetter(0))
        return found


def _filled(row: Sequence[int], choice: Sequence[int], log_probability: float, tokenizer: Tokenizer) -> Filling:
    left = iter(choice)
    text, *fillers = tokenizer.decode([[next(left) if i == tokenizer.mask else i for i in row], *([i] for i in choice)])
    return Filling(text, round(math.exp(log_probability), 6), fillers=tuple(fillers))


@dataclass(frozen=True)
class PseudoLogLikelihood(MaskedAnswers):
    """How likely a text is: the sum over its tokens of log P(token | all others) (Salazar et al. 2020, equation 1).

    A text of n tokens is read n times, each time with another token masked. Its copies are of one length and are read by
    themselves, so a text has the same score, to the last bit, wherever it stands. Masks that the text has itself stay
    masks, and are not scored. The pseudo-perplexity of a corpus is exp(-Σ score / Σ tokens).
    """

    def __call__(self, guess: Guess, rows: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[tuple[Output, ...]]:
        """Score each row."""
        return [(self._score(guess, torch.tensor(row), tokenizer),) for row in rows]

    def _score(self, guess: Guess, row: Int[Tensor, " L"], tokenizer: Tokenizer) -> Likelihood:
        places = 1 + (row[1:-1] != tokenizer.mask).nonzero().squeeze(1)
        found: list[float] = []
        for some in places.split(max(1, TOKENS // len(row))):
            where = some[:, None] == torch.arange(len(row))
            copies = row.expand_as(where).masked_fill(where, tokenizer.mask)
            log_probabilities = guess(copies, torch.ones_like(where), where)
            wanted = row[some].to(log_probabilities.device)
            found += log_probabilities.double().gather(1, wanted[:, None]).squeeze(1).tolist()
        names = tokenizer.names(row[places].tolist())
        total = sum(found)
        return Likelihood(f"{total:.4f}", total, tokens=tuple(names), log_probabilities=tuple(found))
