"""Conditions as people type them."""

from __future__ import annotations

import operator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.commands.browse.filters import OPERATORS, Condition, holding, partly_typed
from etude.errors import ConfigurationError

NUMBERS = st.floats(-1e6, 1e6) | st.integers(-1000, 1000)


@given(value=NUMBERS, other=NUMBERS, sign=st.sampled_from(sorted(OPERATORS)))
def test_numbers_compare_as_numbers(value: float, other: float, sign: str) -> None:
    wanted = {
        "=": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }
    assert Condition.parse(f"optimizer.lr{sign}{other!r}").holds(value) == wanted[sign](value, other)


@given(value=st.none() | st.booleans() | NUMBERS | st.text("abc"), text=st.text("abc012."))
def test_a_condition_and_its_opposite_never_agree(value: Any, text: str) -> None:
    assert Condition("key", "=", text).holds(value) != Condition("key", "!=", text).holds(value)


@pytest.mark.parametrize(
    ("word", "value", "holds"),
    [
        ("task=translation", "translation", True),
        ("optimizer.lr<1e-3", 5e-4, True),
        ("optimizer.lr<1e-3", "5e-4", True),
        ("optimizer.lr<1e-3", None, False),
        ("optimizer.lr>=1e-3", None, False),
        ("optimizer.fused=true", True, True),
        ("optimizer.fused=1", True, False),
        ("model.width=1", True, False),
        ("model.dropout=null", None, True),
        ("model.dropout!=null", 0.1, True),
        ("run.tags=first", ["first", "second"], True),
        ("run.tags!=first", ["first", "second"], False),
        ("optimizer.betas=[0.9, 0.98]", [0.9, 0.98], True),
        ("model=encoder", ["encoder", "Encoder"], True),
        ("budget>=10epoch", "12epoch", True),
        ("budget>=10epoch", "9epoch", False),
        ("budget>=10epoch", "99step", False),
        ("budget=1min", "60s", True),
        ("seconds>10min", 601.0, True),
        ("age<2d", 3600.0, True),
        ("age<2d", 200_000.0, False),
        ("step>10min", 601, False),
        ("run.name='a b'", "a b", True),
        ("run.name>a", "b", False),
        ("score>30", float("nan"), False),
    ],
)
def test_examples(word: str, value: Any, holds: bool) -> None:
    assert Condition.parse(word).holds(value) == holds


def test_all_conditions_must_hold() -> None:
    values = {"a": 1, "b": 2}
    conditions = [Condition.parse("a=1"), Condition.parse("b>1")]
    assert holding(conditions, values.get)
    assert not holding([*conditions, Condition.parse("a!=1")], values.get)


@pytest.mark.parametrize("word", ["last", "=3", "3=3", "-x=1", "", "a b=c"])
def test_what_is_no_condition_is_refused(word: str) -> None:
    with pytest.raises(ConfigurationError, match="is no filter"):
        Condition.parse(word)


@pytest.mark.parametrize(
    ("word", "parts"), [("sta", ("sta", "", "")), ("state!=", ("state", "!=", "")), ("a.b>=1", ("a.b", ">=", "1"))]
)
def test_half_a_condition_is_read(word: str, parts: tuple[str, str, str]) -> None:
    assert partly_typed(word) == parts
