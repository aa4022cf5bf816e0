"""Laws of the choice of what is merged, on scores of means that are made up."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import ConfigurationError
from etude.training.from_runs.merging import Ingredient, greedy, uniform


class Named:
    """In the place of a run: its place among the runs."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.path = Path(str(place))


def ingredients(number: int) -> list[Ingredient]:
    return [Ingredient(cast(Any, Named(place)), Path(str(place))) for place in range(number)]


def scorer(table: Mapping[frozenset[int], float | None]) -> Any:
    def scored(chosen: Sequence[Ingredient]) -> float | None:
        return table[frozenset(cast(Any, one.run).place for one in chosen)]

    return scored


def subsets(number: int) -> list[frozenset[int]]:
    places = range(number)
    return [frozenset(some) for size in range(1, number + 1) for some in itertools.combinations(places, size)]


@given(st.data(), st.integers(2, 4), st.booleans())
def test_greedy_is_never_worse_than_the_best_and_never_leaves_out_what_helps(
    data: st.DataObject, number: int, largest: bool
) -> None:
    """Checked against the recipe of the paper, written once more as a loop."""
    value = st.integers(0, 5).map(float)
    table = {some: data.draw(value) for some in subsets(number)}
    sign = 1 if largest else -1

    def better(score: float, than: float) -> bool:
        return sign * score > sign * than

    found = greedy(ingredients(number), scorer(table), better)
    alone = [table[frozenset([place])] for place in range(number)]
    order = sorted(range(number), key=lambda place: (-sign * alone[place], place))
    soup = {order[0]}
    for place in order[1:]:
        if sign * table[frozenset(soup | {place})] >= sign * table[frozenset(soup)]:
            soup.add(place)
    assert set(found.kept) == soup and list(found.kept) == sorted(soup)
    assert list(found.scores) == alone
    assert sign * table[frozenset(soup)] >= max(sign * score for score in alone)


def test_one_without_a_finite_score_is_left_out() -> None:
    table = {some: 1.0 + len(some) if 1 not in some else None for some in subsets(3)}
    found = greedy(ingredients(3), scorer(table), lambda score, than: score > than)
    assert (found.kept, found.scores) == ((0, 2), (2.0, None, 2.0))
    with pytest.raises(ConfigurationError, match="none of the runs has a finite score on the validation split"):
        greedy(ingredients(2), lambda chosen: None, lambda score, than: score > than)


def test_the_uniform_mean_is_of_all_and_scores_none() -> None:
    found = uniform(ingredients(3), scorer({}), lambda score, than: False)
    assert (found.kept, found.scores) == ((0, 1, 2), (None, None, None))
