"""How a model's outputs are searched for: what `conf/decoding/` chooses."""

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
from etude.models.generation.constraint import Constraint, padded
from etude.models.generation.greedy_search import greedy_search
from etude.models.generation.hypothesis import CacheT, Hypothesis, Step
from etude.models.generation.length_penalty import GNMT, LengthPenalty, Unnormalized
from etude.models.generation.logit_filters import Filter, keep_min_p, keep_top_k, keep_top_p, temper
from etude.models.generation.sampling import sample
from etude.seeding import mix


@dataclass(frozen=True)
class Rows:
    """What a search is asked for each row of a batch.

    Attributes:
        bos: The token to start from.
        limits: The most tokens that each row may predict, eos included.
        constraint: What may not be chosen, and which token is eos.
        keys: What the random numbers of each row derive from.
    """

    bos: int
    limits: Int[Tensor, " B"]
    constraint: Constraint
    keys: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Search(ABC):
    """One way from a model to outputs.

    Attributes:
        max_length: The most tokens that are predicted, eos included.
        min_length: The fewest tokens of an output that is not cut off, eos left out.
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
        bos: int,
        eos: int,
        rows: int,
        max_lengths: Int[Tensor, " B"] | None = None,
        prefixes: Sequence[Sequence[int]] | None = None,
        keys: Sequence[int] | None = None,
        device: torch.device | None = None,
    ) -> list[list[Hypothesis]]:
        """Search for outputs of each row. What a row gets does not depend on the other rows.

        Args:
            step: The model.
            start: Its cache before the first token.
            bos: The token to start from.
            eos: The token to end at.
            rows: Rows of the batch.
            max_lengths: A limit for each row besides `max_length`; less than 1 counts as 1.
            prefixes: The tokens that the outputs of each row start with, without bos and eos; they count as predicted.
            keys: What the random numbers of each row derive from, from 0 up; by default its place in the batch.
            device: Where the model is; by default where `max_lengths` is.

        Returns:
            For each row its outputs: the best first, or, of samples, the first that was drawn.
        """
        if not rows:
            return []
        limits = torch.full((rows,), self.max_length, device=device if max_lengths is None else max_lengths.device)
        if max_lengths is not None:
            limits = limits.minimum(max_lengths).clamp(min=1)
        forced = None if prefixes is None else padded(prefixes, limits.device)
        constraint = Constraint(eos, self.min_length, forced)
        return self.found(step, start, Rows(bos, limits, constraint, range(rows) if keys is None else keys))

    @abstractmethod
    def found(self, step: Step[CacheT], start: CacheT, rows: Rows) -> list[list[Hypothesis]]:
        """Return the outputs of each row, of which there is at least one."""


@dataclass(frozen=True, kw_only=True)
class Greedy(Search):
    """The most probable token, one after the other."""

    def found(self, step: Step[CacheT], start: CacheT, rows: Rows) -> list[list[Hypothesis]]:
        """Return the one output of each row; its score is its log-probability."""
        best = greedy_search(
            step, start, bos=rows.bos, limits=rows.limits, constraint=rows.constraint, penalty=Unnormalized()
        )
        return [[hypothesis] for hypothesis in best]


@dataclass(frozen=True, kw_only=True)
class Beam(Search):
    """The best of several hypotheses that are extended side by side; with one beam, greedy search.

    Attributes:
        beams: Hypotheses that are extended at each length.
        length_penalty: What ranks hypotheses of different lengths; a number is the exponent of `GNMT`.
        n_best: Hypotheses to return for each row.
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
        in_range("n_best", self.n_best, self.n_best >= 1, "1 or more")
        if self.n_best > self.beams:
            raise ConfigurationError(
                f"decoding.n_best={self.n_best} is more than decoding.beams={self.beams}; "
                f"write decoding.beams={self.n_best}"
            )
        _ = self.penalty  # refuses an exponent that is none

    @property
    def penalty(self) -> LengthPenalty:
        """What scores are divided by."""
        given = self.length_penalty
        return GNMT(given) if isinstance(given, int | float) else given

    def found(self, step: Step[CacheT], start: CacheT, rows: Rows) -> list[list[Hypothesis]]:
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
    """Tokens drawn by their probabilities, after temperature, top-k, top-p and min-p, in that order.

    Attributes:
        samples: Outputs to draw for each row.
        temperature: Above 0; what logits are divided by.
        top_k: Only so many tokens may be drawn; None: all.
        top_p: In (0, 1]; only the most probable tokens that together are so probable (Holtzman et al. 2020).
        min_p: In [0, 1]; only tokens so probable in relation to the most probable one (Nguyen et al. 2024).
        seed: Another one gives other samples.
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
        """Return those filters that leave anything out."""
        chosen: list[Filter] = []
        if self.temperature != 1:
            chosen.append(partial(temper, temperature=self.temperature))
        if self.top_k is not None:
            chosen.append(partial(keep_top_k, count=self.top_k))
        if self.top_p < 1:
            chosen.append(partial(keep_top_p, share=self.top_p))
        if self.min_p > 0:
            chosen.append(partial(keep_min_p, share=self.min_p))
        return chosen

    def found(self, step: Step[CacheT], start: CacheT, rows: Rows) -> list[list[Hypothesis]]:
        """Return `samples` outputs of each row, in the order in which they were drawn; more of them change none."""
        count, constraint = self.samples, rows.constraint
        repeated = torch.arange(len(rows.limits), device=rows.limits.device).repeat_interleave(count)
        prefixes = None if constraint.prefixes is None else constraint.prefixes[repeated]
        drawn = sample(
            step,
            start.select(repeated) if count > 1 else start,
            bos=rows.bos,
            limits=rows.limits[repeated],
            constraint=Constraint(constraint.eos, constraint.min_length, prefixes),
            penalty=Unnormalized(),
            filters=self.filters(),
            keys=[mix("sample", self.seed, key, number) for key in rows.keys for number in range(count)],
        )
        return [drawn[first : first + count] for first in range(0, len(drawn), count)]


def in_range(name: str, value: float | None, holds: bool, advice: str) -> None:
    """Refuse a value that is out of its range.

    Raises:
        ConfigurationError: If `holds` is false.
    """
    if not holds:
        raise ConfigurationError(f"decoding.{name}={value} is out of range; write {advice}")
