"""Runs on a mixture, and on an order that is computed: exact over kills, on any machine, and scored by part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.commands.evaluate import evaluate
from etude.config.compose import compose
from etude.errors import ConfigurationError
from etude.runs.saved_run import SavedRun
from tests.runs.doors import fit, resume
from tests.runs.killing import BATCH, EXACT, begin
from tests.runs.test_continued import (
    assert_same_but_for_rounding,
    continue_from_every_step,
    elastic,
    only_until,
)

KEYED = ("batch.shuffle=keyed", "batch.pool=3")


@pytest.fixture
def mixed(small_data: Path, overrides: Callable[..., list[str]]) -> Callable[..., Any]:
    """The configuration of a small experiment on two parts, the train and the test files."""

    def made(task: str, *more: str) -> Any:
        kept = [word for word in overrides(task) if not word.startswith("data")]
        text = {part: f"{small_data}/{part}.txt" for part in ("train", "val", "test")}
        table = {part: f"{small_data}/{part}.tsv" for part in ("train", "val", "test")}
        corpora = {
            "translation": "{{_target_: etude.data.corpora.ParallelFiles, root: {4}, source: en, target: de, "
            "splits: {{train: {5}, val: val, test: test}}}}",
            "causal_lm": "{{_target_: etude.data.corpora.TextFiles, train: {0}, val: {1}}}",
            "masked_lm": "{{_target_: etude.data.corpora.TextFiles, train: {0}, val: {1}}}",
            "classification": "{{_target_: etude.data.corpora.Tables, root: ., train: {2}, val: {3}, test: {3}, "
            "columns: {{text: text, label: label}}}}",
        }[task]
        parts = [
            f"+data.parts.{name}={corpora.format(text[one], text['val'], table[one], table['val'], small_data, one)}"
            for name, one in (("large", "train"), ("small", "test"))
        ]
        longest = 60 if task == "translation" else 16
        data = ["data=mixture", f"data/of={task}", f"data.max_length={longest}", "data.weights={large: 1, small: 2}"]
        return compose(*kept, *data, *parts, *KEYED, *more)

    return made


@pytest.mark.slow
@pytest.mark.parametrize("task", ["causal_lm", "classification", "masked_lm", "translation"])
def test_a_mixture_continued_from_any_step_ends_alike(mixed: Callable[..., Any], tmp_path: Path, task: str) -> None:
    settings = (*EXACT, BATCH[task], "budget=9step", "checkpoint.every=1step", "checkpoint.keep_last=100")
    continue_from_every_step(begin(tmp_path / "whole", mixed(task, *settings)), [4, 8])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["translation", "causal_lm"])
def test_an_order_that_is_computed_is_gone_on_with(composed: Callable[..., Any], tmp_path: Path, task: str) -> None:
    settings = (*EXACT, BATCH[task], *KEYED, "budget=12step", "checkpoint.every=1step", "checkpoint.keep_last=100")
    continue_from_every_step(begin(tmp_path / "whole", composed(task, *settings)), [1, 6, 11])


@pytest.mark.slow
def test_a_mixture_is_read_alike_on_another_machine(mixed: Callable[..., Any], tmp_path: Path) -> None:
    whole = elastic(mixed, tmp_path / "whole", "classification", "checkpoint.keep_last=100")
    fit(whole)
    run = elastic(mixed, tmp_path / "run", "classification", "checkpoint.keep_last=100")
    fit(run)
    for step, machine in ((6, {"trainer.micro_batches": 1}), (12, {"trainer.micro_batches": 3, "trainer.workers": 1})):
        only_until(run, step)
        resume(run, machine)
    assert_same_but_for_rounding(run, whole)


def test_each_part_has_its_scores(mixed: Callable[..., Any], tmp_path: Path) -> None:
    run = begin(
        tmp_path / "run", mixed("classification", "budget=4step", "validate.metric=val/small/loss", "validate.mode=min")
    )
    fit(run)
    lines = [json.loads(line)["values"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    (last,) = [line for line in lines if "val/loss" in line][-1:]
    assert last["val/large/loss"] == pytest.approx(last["val/loss"], rel=1e-6)  # both parts have the same rows
    assert last["val/small/accuracy"] == last["val/accuracy"]
    scores = evaluate([SavedRun.open(run)], split="val")
    assert json.dumps(scores).count("small/accuracy") >= 1


def test_a_mixture_is_evaluated_on_files_of_ones_own(
    mixed: Callable[..., Any], small_data: Path, tmp_path: Path
) -> None:
    run = begin(tmp_path / "run", mixed("translation", "budget=2step"))
    fit(run)
    source, reference = (str(small_data / f"val.{language}") for language in ("en", "de"))
    scores = evaluate([SavedRun.open(run)], source=source, reference=reference)
    assert scores["examples"] == 23 and not [name for name in scores["scores"] if "small" in name]


def test_a_mixture_without_a_keyed_order_is_one_line(mixed: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"write batch\.pool=50"):
        mixed("causal_lm", "batch.pool=null")


def test_a_mixture_of_another_task_is_one_line(mixed: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="gives MaskedLMBatch"):
        mixed("causal_lm", "data/of=masked_lm")
