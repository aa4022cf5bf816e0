"""The mean of a score over groups of rows, such as the directions of a translation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.metrics.resampling import intervals, paired_p_value, scored
from etude.metrics.score import MeanOfGroups, Statistics, mean_of_rows
from etude.metrics.translation import BLEU

FIRST, SECOND = np.array([0, 2, 3]), np.array([1, 4])
OUTPUTS = ["a b c d e", "x y z u v", "a b c d f", "a b c", "x y z u"]
REFERENCES = [["a b c d e"], ["x y z u w"], ["a b c d e"], ["a b c d"], ["y z u v w"]]


def mean(outputs: list[str]) -> MeanOfGroups:
    groups = [BLEU().statistics([outputs[n] for n in own], [REFERENCES[n] for n in own])[""] for own in (FIRST, SECOND)]
    return MeanOfGroups.of(groups, [FIRST, SECOND], "directions")


def test_a_small_group_counts_as_much_as_a_large_one() -> None:
    made = mean(OUTPUTS)
    assert made.whole == pytest.approx(np.mean([group.whole for group in made.groups]))
    whole = BLEU().statistics(OUTPUTS, REFERENCES)[""]
    assert abs(made.whole - whole.whole) > 1 and made.bounds == whole.bounds
    assert made.signature == f"{whole.signature}|directions:2"
    assert made.alone is not None and whole.alone is not None
    np.testing.assert_array_equal(made.alone, whole.alone)
    assert scored(made, 10).signature.startswith("nrefs:1|bs:10|seed:12345|")


SAMPLE = st.lists(st.integers(0, 4), min_size=5, max_size=5).filter(sum)


@given(st.lists(SAMPLE, min_size=1, max_size=4))
def test_a_sample_of_rows_is_a_sample_of_each_group_that_it_has(samples: list[list[int]]) -> None:
    groups = [*zip(mean(OUTPUTS).groups, (FIRST, SECOND), strict=True)]
    expected = [
        np.mean([group.resampled(times[None, own])[0] for group, own in groups if times[own].any()])
        for times in map(np.array, samples)
    ]
    assert mean(OUTPUTS).resampled(np.array(samples)) == pytest.approx(expected)


def test_exchanged_rows_are_exchanged_in_their_groups() -> None:
    first, second = mean(OUTPUTS), mean([row[0] for row in REFERENCES])
    kept = np.array([[True] * 5, [False] * 5, [True, False, True, False, True]])
    trials = list(first.exchanged(second, kept))
    assert trials[0] == pytest.approx((first.whole, second.whole))
    assert trials[1] == pytest.approx((second.whole, first.whole))
    mixed = [OUTPUTS[n] if keep else REFERENCES[n][0] for n, keep in enumerate(kept[2])]
    assert trials[2][0] == pytest.approx(mean(mixed).whole)
    assert 0 < paired_p_value(first, second, 100) < 1 and paired_p_value(first, first, 100) == 1


def test_the_interval_is_that_of_the_rows_where_all_groups_are_alike() -> None:
    values = np.arange(20.0)
    places = [np.arange(0, 20, 2), np.arange(1, 20, 2)]
    groups: list[Statistics] = [mean_of_rows(values[own], "nrefs:1", (0, 100)) for own in places]
    ((low, high),) = intervals([MeanOfGroups.of(groups, places, "groups")], 400)
    ((plain_low, plain_high),) = intervals([mean_of_rows(values, "nrefs:1", (0, 100))], 400)
    assert (low, high) == pytest.approx((plain_low, plain_high), abs=0.5)
