"""Scores for people: on stderr, with interval, p-value and signature."""

from __future__ import annotations

import pytest

from etude.commands.score_table import show_scores


def test_scores_are_shown_on_stderr_with_what_belongs_to_them(capsys: pytest.CaptureFixture[str]) -> None:
    first = {
        "checkpoint": "step-00000012",
        "scores": {"test/bleu": 37.123, "test/loss": 1.5},
        "intervals": {"test/bleu": [36.0, 38.25]},
        "signatures": {"test/bleu": "case:mixed"},
    }
    second = {**first, "scores": {"test/bleu": 38.0}, "against": {"p": {"bleu": 0.0123}}}
    show_scores({"outputs/a/[bold]one": first, "outputs/a/two": second})
    shown = capsys.readouterr()
    assert not shown.out
    assert "[bold]one (step-00000012)" in shown.err  # a name is not a style
    (row,) = (line for line in shown.err.splitlines() if line.startswith("test/bleu  ") and "p=" in line)
    assert row.count("[") == 2
    assert row.rstrip().endswith("p=0.0123")
    assert "test/bleu  case:mixed" in shown.err


def test_why_a_run_is_not_compared_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    one = {"checkpoint": "best", "scores": {"test/loss": 1.5}, "intervals": {}, "signatures": {}}
    show_scores({"a/one": one, "a/two": {**one, "against": {"why_not": "other rows"}}})
    assert "two is not compared: other rows" in capsys.readouterr().err
