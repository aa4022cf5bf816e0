"""The share of minimal pairs whose better sentence is likelier, by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as draw

from etude.metrics.language_modeling import pair_statistics

NUMBERS = draw.lists(draw.tuples(draw.floats(-50, 0), draw.floats(-50, 0), draw.sampled_from("abc")), min_size=1)


def test_equal_likelihoods_are_wrong() -> None:
    found = pair_statistics(np.array([-1.0, -2.0, -3.0]), np.array([-2.0, -2.0, -1.0]), ["a", "b", ""], "pseudo")
    assert {name: one.whole for name, one in found.items()} == {"accuracy": 1 / 3, "accuracy/a": 1.0, "accuracy/b": 0.0}
    assert [len(one.rows) for one in found.values()] == [3, 1, 1], "a sample of a phenomenon is of its own pairs"
    assert found["accuracy"].signature == "nrefs:1|likelihood:pseudo|equal:wrong"


@given(NUMBERS)
def test_the_whole_is_the_mean_of_the_phenomena_weighted_by_their_pairs(rows: list[tuple[float, float, str]]) -> None:
    good, bad = (np.array(column) for column in list(zip(*rows, strict=True))[:2])
    names = [name for _, _, name in rows]
    found = pair_statistics(good, bad, names, "pseudo")
    weighted = sum(found[f"accuracy/{name}"].whole * names.count(name) for name in set(names))
    assert np.isclose(found["accuracy"].whole, weighted / len(rows))
    swapped = pair_statistics(bad, good, names, "pseudo")["accuracy"].whole
    assert np.isclose(found["accuracy"].whole + swapped, np.mean(good != bad))
