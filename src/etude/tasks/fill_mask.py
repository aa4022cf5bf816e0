"""Answers of a masked language model to a text: its masks filled, or its likelihood. `conf/decoding/` chooses.

Axes: B rows, L positions, M masked positions, V vocabulary.
"""

from __future__ import annotations

import heapq
import itertools
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
"""Takes ids, a mask of real ones and a mask of positions; returns the log-probabilities at these, row by row."""

TOKENS = 8192
"""Largest number of tokens, of a sentence and its copies, that are read at a time."""


@dataclass(frozen=True)
class Filling(Output):
    """A text with its masks filled; its score is the probability.

    Attributes:
        fillers: Text at each mask.
    """

    fillers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Likelihood(Output):
    """The pseudo-log-likelihood of a text, in nats, as its score.

    Attributes:
        tokens: Names of the text's tokens in the vocabulary.
        log_probabilities: Log-probability of each token with itself masked and all others not.
    """

    tokens: tuple[str, ...] = ()
    log_probabilities: tuple[float, ...] = ()


class MaskedAnswers(ABC):
    """A kind of answer."""

    @abstractmethod
    def __call__(self, guess: Guess, rows: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[tuple[Output, ...]]:
        """Answer each row, whatever the others are.

        Args:
            guess: The model.
            rows: Ids, from bos to eos; some may be the mask's.
            tokenizer: Tokenizer of the ids.

        Returns:
            The answers to each row, at least one, the best first.
        """


@dataclass(frozen=True)
class FillMasks(MaskedAnswers):
    """The likeliest tokens at the masks; only tokens that stand for text.

    Several masks in a text are filled independently of each other, and the probability of a filling is the product.

    Attributes:
        fillers: Number of answers to each text; a text without a mask is its own answer.

    Raises:
        ConfigurationError: If the number is not positive.
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
        choices: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for scores, fillers in zip(best.tolist(), ids.tolist(), strict=True):
            longer = [
                (total + score, (*chosen, filler))
                for total, chosen in choices
                for score, filler in zip(scores, fillers, strict=True)
            ]
            choices = heapq.nlargest(self.fillers, longer, key=itemgetter(0))
        return choices


def _filled(row: Sequence[int], choice: Sequence[int], log_probability: float, tokenizer: Tokenizer) -> Filling:
    remaining = iter(choice)
    text, *fillers = tokenizer.decode(
        [[next(remaining) if i == tokenizer.mask else i for i in row], *([i] for i in choice)]
    )
    return Filling(text, round(math.exp(log_probability), 6), fillers=tuple(fillers))


@dataclass(frozen=True)
class PseudoLogLikelihood(MaskedAnswers):
    """Sum over the tokens of a text of log P(token | all others) (Salazar et al. 2020, equation 1).

    A text of n tokens is read n times, each time with another token masked. Masks in the text itself stay masks, and are not
    scored. The pseudo-perplexity of a corpus is exp(-Σ score / Σ tokens).
    """

    def __call__(self, guess: Guess, rows: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[tuple[Output, ...]]:
        """Score each row without the others, so that its score is the same, to the last bit, in any company."""
        return [(likelihood,) for row in rows for likelihood in self.of_one_length(guess, [row], tokenizer)]

    def of_one_length(self, guess: Guess, rows: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[Likelihood]:
        """Score rows of one length together, which takes less time for short ones, and is the same up to rounding."""
        tokens = torch.tensor(rows)
        masked_row, position = (tokens[:, 1:-1] != tokenizer.mask).nonzero(as_tuple=True)
        position = position + 1
        scores: list[float] = []
        for part in torch.arange(len(position)).split(max(1, TOKENS // tokens.shape[1])):
            where = position[part, None] == torch.arange(tokens.shape[1])
            read = tokens[masked_row[part]]
            log_probabilities = guess(read.masked_fill(where, tokenizer.mask), torch.ones_like(where), where)
            targets = read[where].to(log_probabilities.device)
            scores += log_probabilities.gather(1, targets[:, None]).squeeze(1).tolist()
        sizes = masked_row.bincount(minlength=len(rows)).tolist()
        remaining = iter(zip(tokenizer.names(tokens[masked_row, position].tolist()), scores, strict=True))
        return [_likelihood(list(itertools.islice(remaining, size))) for size in sizes]


def _likelihood(scored: Sequence[tuple[str, float]]) -> Likelihood:
    total = sum(score for _, score in scored)
    return Likelihood(
        f"{total:.4f}",
        total,
        tokens=tuple(name for name, _ in scored),
        log_probabilities=tuple(score for _, score in scored),
    )
