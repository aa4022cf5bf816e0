"""Templates escape what they are given, and refuse names that they do not know."""

from __future__ import annotations

import jinja2
import pytest

from etude.report.templates import environment, flat


def test_all_text_is_escaped() -> None:
    shown = environment().from_string('<a title="{{ text }}">{{ text }}</a>').render(text='"<script>&')
    assert shown == '<a title="&#34;&lt;script&gt;&amp;">&#34;&lt;script&gt;&amp;</a>'


def test_a_name_that_is_not_there_is_an_error_and_no_gap() -> None:
    with pytest.raises(jinja2.UndefinedError):
        environment().from_string("{{ nothing }}").render()


def test_values_are_rows_of_dotted_names() -> None:
    assert flat({"a": {"b": 1, "c": {"d": None}}, "e": [1, "x"], "f": []}) == [
        ("a.b", "1"),
        ("a.c.d", "–"),
        ("e", "1, x"),
        ("f", "–"),
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0.00123456, "0.001235"), (12, "12"), (True, "True"), ("cosine", "cosine")]
)
def test_settings_are_short(value: object, text: str) -> None:
    assert environment().from_string("{{ value | setting }}").render(value=value) == text
