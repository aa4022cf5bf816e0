"""A configuration as rules see it: resolved, with interpolations followed back to where a value is written."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from etude.config.case import Case, get, leaves
from etude.config.origins import Origins
from etude.errors import ConfigurationError


def opened(text: str, *overrides: str) -> Case:
    config = OmegaConf.create(text)
    return Case.open(config, Origins(overrides, ()))  # type: ignore[arg-type]


def test_values_are_resolved_and_interpolations_followed() -> None:
    case = opened("a: {b: '${c}', d: '${.b}', e: '${..f}'}\nc: 3\nf: 4\n")
    assert case.values == {"a": {"b": 3, "d": 3, "e": 4}, "c": 3, "f": 4}
    assert [case.written(f"a.{name}") for name in "bde"] == ["c", "c", "f"]
    assert case.written("c") == "c"


def test_a_failure_names_the_key_where_the_value_is_written_and_its_origin() -> None:
    with pytest.raises(ConfigurationError, match=r"^c = 3 is odd \(command line\)$"):
        opened("a: {b: '${c}'}\nc: 3", "c=3").fail("a.b", "= 3 is odd")


def test_a_value_that_is_missing_is_asked_for() -> None:
    with pytest.raises(ConfigurationError, match=r"^data\.train has no value; write data\.train=… \("):
        opened("data: {train: '???'}")


def test_an_interpolation_to_nothing_is_one_line() -> None:
    with pytest.raises(ConfigurationError, match=r"^a = '\$\{absent\}': .*absent"):
        opened("a: '${absent}'")


def test_keys_lead_into_lists() -> None:
    tree = {"a": [{"b": 1}, 2], "c": None}
    assert get(tree, "a.0.b") == 1
    assert get(tree, "a.1") == 2
    assert get(tree, "a.2") is None
    assert list(leaves("", tree)) == [("a.0.b", 1), ("a.1", 2), ("c", None)]


def test_every_mapping_comes_after_its_parent() -> None:
    assert [key for key, _ in opened("a: {b: {c: 1}, d: [{e: 2}]}").mappings] == ["", "a", "a.b", "a.d.0"]
