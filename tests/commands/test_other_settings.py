"""Names of evaluations that were asked for with other settings."""

from __future__ import annotations

import re
from typing import Any

import pytest

from etude.training.other_settings import named


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "test"),
        ({"limit.test": 5, "decoding.beams": 1}, "test-decoding.beams=1-limit.test=5"),
        ({"decoding.end": "a/b c"}, r"test-decoding\.end=[0-9a-f]{8}"),
        ({"task.metrics.bleu": {"_target_": "x"}}, r"test-task\.metrics\.bleu=[0-9a-f]{8}"),
        ({f"decoding.{'x' * 50}": number for number in range(3)}, "test-decoding.+"),
        ({f"decoding.{'x' * 50}{number}": number for number in range(3)}, "test-[0-9a-f]{8}"),
    ],
)
def test_a_name_is_that_of_a_file(settings: dict[str, Any], name: str) -> None:
    assert re.fullmatch(name, named("test", settings))


def test_the_order_of_settings_is_of_no_account_and_values_are() -> None:
    one = named("val", {"decoding.a": [1, 2], "decoding.b": 1})
    assert one == named("val", {"decoding.b": 1, "decoding.a": [1, 2]})
    assert one != named("val", {"decoding.b": 1, "decoding.a": [2, 1]})
