"""Searchers: which assignments of a space are tried. One is chosen in `conf/searcher/`.

Everything but the grid is drawn by Optuna. What the next trial gets is a function of the seed, the number of the trial and
the trials before it: a search that was killed goes on as if it had not been.
"""

from __future__ import annotations

import math
import random
from typing import Annotated, Any

import cmaes
import numpy as np
import optuna
from msgspec import Meta, Struct
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState

from etude.errors import ConfigurationError
from etude.sweeps.space import Range, Space

Number = IntDistribution | FloatDistribution


class Grid(Struct, frozen=True, tag="grid", forbid_unknown_fields=True):
    """Every combination of the values, the first parameter changing slowest."""


class Random(Struct, frozen=True, tag="random", forbid_unknown_fields=True):
    """Each trial is drawn at random, whatever came before (Bergstra and Bengio 2012)."""

    def sampler(self, seed: int) -> BaseSampler:
        """Return the sampler of one trial."""
        return RandomSampler(seed)


class TPE(Struct, frozen=True, tag="tpe", forbid_unknown_fields=True):
    """The tree-structured Parzen estimator: near to what was good, far from what was not (Bergstra et al. 2011).

    Attributes:
        startup: So many trials are drawn at random first.
        candidates: So many are drawn for each trial, of which the most promising is tried.
    """

    startup: Annotated[int, Meta(ge=1)] = 10
    candidates: Annotated[int, Meta(ge=1)] = 24

    def sampler(self, seed: int) -> BaseSampler:
        """Return the sampler of one trial; trials that still run count as bad, so that no two are the same."""
        return TPESampler(n_startup_trials=self.startup, n_ei_candidates=self.candidates, seed=seed, constant_liar=True)


class CMAES(Struct, frozen=True, tag="cmaes", forbid_unknown_fields=True):
    """A normal distribution that moves and stretches towards what is good (CMA-ES; Hansen and Ostermeier 2001).

    For two or more ranges; values that are no numbers are drawn at random.

    Attributes:
        sigma: The first standard deviation, where a range is from 0 to 1.
        population: Trials of a generation, 4 or more: fewer say nothing of a shape; null: 4 + ⌊3 ln (number of ranges)⌋.
    """

    sigma: Annotated[float, Meta(gt=0)] = 0.2
    population: Annotated[int, Meta(ge=4)] | None = None

    def sampler(self, seed: int) -> BaseSampler:
        """Return the sampler of one trial."""
        return ReplayedCMAES(seed, self.sigma, self.population)


Searcher = Grid | Random | TPE | CMAES


def check_searcher(searcher: Searcher, space: Space) -> None:
    """Refuse a searcher that cannot search a space.

    Raises:
        ConfigurationError: If it has no use for the space's parameters.
    """
    if isinstance(searcher, Grid):
        next(space.grid(), None)
    elif not space.parameters:
        raise ConfigurationError(
            "there is nothing to search: write search=NAME, or a range: 'optimizer.lr=interval(1e-4,1e-2)'"
        )
    if isinstance(searcher, CMAES):
        ranges = [one.name for one in space.parameters if isinstance(one.domain, Range) and not one.when]
        if len(ranges) < 2:
            raise ConfigurationError(
                f"searcher=cmaes needs two ranges that always exist, not {len(ranges)}; write searcher=tpe"
            )


class ReplayedCMAES(BaseSampler):
    """CMA-ES whose state is computed anew from the finished trials: nothing of it has to be stored.

    Each generation is told so many finished trials, in the order of their numbers.

    Args:
        seed: Seed of the draw.
        sigma: The first standard deviation.
        population: Trials of a generation; None: the default of the method.
    """

    def __init__(self, seed: int, sigma: float, population: int | None) -> None:
        self._seed = seed
        self._sigma = sigma
        self._population = population
        self._random = RandomSampler(seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the ranges that all finished trials have."""
        common = IntersectionSearchSpace().calculate(study)
        return {name: one for name, one in common.items() if isinstance(one, Number) and not one.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw a value for each range, or nothing before two of them are known."""
        ranges = {name: one for name, one in search_space.items() if isinstance(one, Number)}
        if len(ranges) < 2:
            return {}
        bounds = np.tile([0.0, 1.0], (len(ranges), 1))
        mean = np.full(len(ranges), 0.5)
        search = cmaes.CMA(mean, self._sigma, bounds, seed=self._seed, population_size=self._population)
        sign = 1.0 if study.direction is optuna.study.StudyDirection.MINIMIZE else -1.0
        told = [
            (
                np.array([_place(one, trial.params[name]) for name, one in ranges.items()]),
                sign * float(trial.value or 0.0),
            )
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
            if trial.value is not None and ranges.keys() <= trial.params.keys()
        ]
        size = search.population_size
        for start in range(0, len(told) - size + 1, size):
            search.tell(told[start : start + size])
        return {name: _at(one, float(place)) for (name, one), place in zip(ranges.items(), search.ask(), strict=True)}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw at random what is no range, or is not known yet."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def _place(distribution: Number, value: float) -> float:
    """Return where a value is in its range, from 0 to 1."""
    low, high, value = float(distribution.low), float(distribution.high), float(value)
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _at(distribution: Number, place: float) -> float:
    """Return the value at a place in a range."""
    low, high = float(distribution.low), float(distribution.high)
    value = math.exp(math.log(low) + place * math.log(high / low)) if distribution.log else low + place * (high - low)
    if distribution.step is not None and not distribution.log:
        value = low + round((value - low) / distribution.step) * distribution.step
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else value


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of a trial's draws."""
    return random.Random(f"trial {number} of {seed}").getrandbits(32)  # noqa: S311 (not for secrets)
