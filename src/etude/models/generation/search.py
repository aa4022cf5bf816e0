"""Decoding methods: greedy search, beam search and sampling, as `conf/decoding/` configures them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.generation.beam_search import beam_search
from etude.models.generation.constraint import Constraint, pad_prefixes
from etude.models.generation.greedy_search import greedy_search
from etude.models.generation.hypothesis import CacheT, Hypothesis, Step, read_given
from etude.models.generation.length_penalty import GNMT, LengthPenalty, Unnormalized
from etude.models.generation.logit_filters import Filter, keep_min_p, keep_top_k, keep_top_p, temper
from etude.models.generation.rows import Rows, search_parts
from etude.models.generation.sampling import sample
from etude.seeding import mix


@dataclass(frozen=True, kw_only=True)
class Search(ABC):
    """A decoding method.

    Attributes:
        max_length: Largest number of predicted tokens, eos included.
        min_length: Smallest number of tokens in an output that is not truncated, without eos.
    """

    max_length: int = 128
    min_length: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: If a value is out of its range.
        """
        in_range("max_length", self.max_length, self.max_length >= 1, "1 or more")
        in_range("min_length", self.min_length, self.min_length >= 0, "0 or more")
        if self.min_length >= self.max_length:
            raise ConfigurationError(
                f"decoding.min_length={self.min_length} leaves no room below decoding.max_length={self.max_length}; "
                f"write decoding.min_length={self.max_length - 1} or less"
            )

    def __call__(
        self,
        step: Step[CacheT],
        start: CacheT,
        *,
        bos: int | Int[Tensor, "B P"],
        eos: int,
        rows: int,
        max_lengths: Int[Tensor, " B"] | None = None,
        prefixes: Sequence[Sequence[int]] | None = None,
        keys: Sequence[int] | None = None,
        device: torch.device | None = None,
    ) -> list[list[Hypothesis]]:
        """Return outputs for each row, which do not depend on the other rows.

        Args:
            step: The model's step function.
            start: The model's cache before the first token.
            bos: The token to start from; or the tokens that each row is given, such as a start and a language, which are
                read, not predicted.
            eos: The token to end at.
            rows: Number of rows in the batch.
            max_lengths: A limit for each row in addition to `max_length`; less than 1 counts as 1.
            prefixes: Tokens that each row's outputs start with, without bos; they count as predicted. None of them ends an
                output.
            keys: Keys of each row's random numbers, 0 or more; by default its index in the batch.
            device: The model's device; by default that of `max_lengths`.

        Returns:
            The outputs of each row: best first, or, for samples, in the order of drawing.
        """
        if not rows:
            return []
        limits = torch.full((rows,), self.max_length, device=device if max_lengths is None else max_lengths.device)
        if max_lengths is not None:
            limits = limits.minimum(max_lengths).clamp(min=1)
        given = torch.full_like(limits, bos)[:, None] if isinstance(bos, int) else bos
        last, start = read_given(step, start, given)
        padded_prefixes = None if prefixes is None else pad_prefixes(prefixes, limits.device)
        constraint = Constraint(eos, self.min_length, padded_prefixes)
        batch = Rows(last, limits, constraint, range(rows) if keys is None else keys)
        return search_parts(partial(self.search, step), start, batch)

    @abstractmethod
    def search(self, step: Step[CacheT], start: CacheT, rows: Rows) -> list[list[Hypothesis]]:
        """Return the outputs of each of the rows, of which there is at least one."""


@dataclass(frozen=True, kw_only=True)
class Greedy(Search):
    """The most probable token at each position."""

    def search(self, step: Step[CacheT], start: CacheT, rows: Rows) -> list[list[Hypothesis]]:
        """Return a single output for each row; its score is its log-probability."""
        best = greedy_search(
            step, start, bos=rows.bos, limits=rows.limits, constraint=rows.constraint, penalty=Unnormalized()
        )
        return [[hypothesis] for hypothesis in best]


@dataclass(frozen=True, kw_only=True)
class Beam(Search):
    """Beam search; with one beam, greedy search.

    Attributes:
        beams: Number of hypotheses that are extended at each length.
        length_penalty: Divisor of log-probabilities; a number is the exponent of `GNMT`.
        n_best: Number of hypotheses to return for each row, at most the number of beams.
    """

    beams: int = 5
    length_penalty: float | LengthPenalty = 1.0
    n_best: int = 1

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: If a value is out of its range.
        """
        super().__post_init__()
        in_range("beams", self.beams, self.beams >= 1, "1 or more")
        _ = self.penalty  # refuses an invalid exponent

    @property
    def penalty(self) -> LengthPenalty:
        """The length penalty as an object."""
        penalty = self.length_penalty
        return GNMT(penalty) if isinstance(penalty, int | float) else penalty

    def search(self, step: Step[CacheT], start: CacheT, rows: Rows) -> list[list[Hypothesis]]:
        """Return at most `n_best` hypotheses of each row, best first."""
        bos, limits, constraint, penalty = rows.bos, rows.limits, rows.constraint, self.penalty
        if self.beams == 1:
            best = greedy_search(step, start, bos=bos, limits=limits, constraint=constraint, penalty=penalty)
            return [[hypothesis] for hypothesis in best]
        return beam_search(
            step,
            start,
            bos=bos,
            limits=limits,
            constraint=constraint,
            penalty=penalty,
            beams=self.beams,
            n_best=self.n_best,
        )


@dataclass(frozen=True, kw_only=True)
class Sample(Search):
    """Sampling from the model's distribution, filtered by temperature, top-k, top-p and min-p, in that order.

    Attributes:
        samples: Number of outputs to draw for each row.
        temperature: Divisor of the logits, above 0.
        top_k: Number of most probable tokens to draw from; None: all.
        top_p: In (0, 1]; draw from the fewest most probable tokens that have this probability (Holtzman et al. 2020).
        min_p: In [0, 1]; draw from tokens at least this probable relative to the most probable (Nguyen et al. 2024).
        seed: Seed of the draws.
    """

    samples: int = 1
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: If a value is out of its range.
        """
        super().__post_init__()
        in_range("samples", self.samples, self.samples >= 1, "1 or more")
        in_range(
            "temperature", self.temperature, 0 < self.temperature < float("inf"), "more than 0; or decoding=greedy"
        )
        in_range("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "1 or more, or null")
        in_range("top_p", self.top_p, 0 < self.top_p <= 1, "more than 0 and at most 1")
        in_range("min_p", self.min_p, 0 <= self.min_p <= 1, "0 to 1")

    def filters(self) -> list[Filter]:
        """Return the filters that change anything, in order."""
        filters: list[Filter] = []
        if self.temperature != 1:
            filters.append(partial(temper, temperature=self.temperature))
        if self.top_k is not None:
            filters.append(partial(keep_top_k, count=self.top_k))
        if self.top_p < 1:
            filters.append(partial(keep_top_p, share=self.top_p))
        if self.min_p > 0:
            filters.append(partial(keep_min_p, share=self.min_p))
        return filters

    def search(self, step: Step[CacheT], start: CacheT, rows: Rows) -> list[list[Hypothesis]]:
        """Return `samples` outputs of each row, in the order of drawing; drawing more does not change the first."""
        count = self.samples
        places = torch.arange(len(rows.limits), device=rows.limits.device).repeat_interleave(count)
        repeated = rows.select(places)
        samples = sample(
            step,
            start.select(places) if count > 1 else start,
            bos=repeated.bos,
            limits=repeated.limits,
            constraint=repeated.constraint,
            penalty=Unnormalized(),
            filters=self.filters(),
            keys=[mix("sample", self.seed, key, number) for key in rows.keys for number in range(count)],
        )
        return [samples[first : first + count] for first in range(0, len(samples), count)]


def in_range(name: str, value: float | None, holds: bool, advice: str) -> None:
    """Refuse a value that is out of range.

    Raises:
        ConfigurationError: If `holds` is false.
    """
    if not holds:
        raise ConfigurationError(f"decoding.{name}={value} is out of range; write {advice}")
