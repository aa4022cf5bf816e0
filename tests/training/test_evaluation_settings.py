"""Names of evaluations with changed settings."""

from __future__ import annotations

import re
from typing import Any

import pytest

from etude.training.evaluation_settings import evaluation_name


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
def test_a_name_can_be_that_of_a_file(settings: dict[str, Any], name: str) -> None:
    assert re.fullmatch(name, evaluation_name("test", settings))


def test_a_name_depends_on_the_values_of_settings_and_not_on_their_order() -> None:
    name = evaluation_name("val", {"decoding.a": [1, 2], "decoding.b": 1})
    assert name == evaluation_name("val", {"decoding.b": 1, "decoding.a": [1, 2]})
    assert name != evaluation_name("val", {"decoding.b": 1, "decoding.a": [2, 1]})
