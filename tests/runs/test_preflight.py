"""Trials of small experiments: what they measure, what they leave behind, and that they change nothing that is learned."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.checkpoints.checkpoint import read_weights
from etude.commands.train import train
from etude.config.compose import compose
from etude.training.build import build
from etude.training.preflight import trial
from etude.training.preflight.forecast import preflight
from etude.training.preflight.trial import MICRO_BATCHES, attempt, choose, micro_batches_of

ADAM_BYTES = 4 * 4
"""Bytes of a trained parameter: its value, its gradient, and two moments."""


@pytest.mark.slow
def test_errors_of_all_and_one_rehearsal_of_equal_shapes(
    composed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of which 160 MB are parameters and what Adam keeps of them."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    started: list[Any] = []
    real = subprocess.Popen

    def start(*words: Any, **named: Any) -> Any:
        started.append(words)
        return real(*words, **named)

    monkeypatch.setattr(subprocess, "Popen", start)
    large = ("model.width=512", "model.feed_forward=2048", "model.layers=3")
    answers = preflight(
        [
            composed("classification", *large),
            composed("classification", f"data.train={tmp_path}/missing.tsv"),
            composed("classification", *large, "seed=2", "optimizer.lr=1e-5", "budget=3epoch"),
        ]
    )
    assert len(started) == 2
    assert "missing.tsv" in str(answers[1].error)
    assert answers[1].error is not None
    assert answers[1].error.exit_code == 65
    first, third = answers[0].forecast, answers[2].forecast
    assert first is not None, answers[0].error
    assert third is not None
    assert (first.steps, third.steps) == (8, 3 * 16)
    assert first.device == "cpu"
    assert first.peak_bytes > first.trainable * ADAM_BYTES > 100 * 2**20
    assert third.seconds == pytest.approx(6 * first.seconds)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("etude-")]
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("task", ["classification", "translation"])
def test_automatic_micro_batches_learn_the_same(
    composed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    exact: tuple[str, ...] = ("precision=64-true", "model.dropout=0.0", "budget=4step", "validate.every=4step")
    exact += ("task.head_dropout=0.0",) if task == "classification" else ()
    whole = train(composed(task, *exact, "run.name=whole"))
    monkeypatch.setattr(trial, "choose", lambda config: trial.Outcome(None, 0.1, 1, "cpu", 4))  # type: ignore[arg-type]
    cut = train(composed(task, *exact, "run.name=cut", "trainer.micro_batches=auto"))
    assert cut.config.trainer.arguments["micro_batches"] == "auto"
    assert micro_batches_of(cut) == json.loads((cut.path / MICRO_BATCHES).read_text())["micro_batches"] == 4
    expected, got = (read_weights(run.checkpoint("last")) for run in (whole, cut))
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-9, atol=1e-12, msg=name)


def test_shortened_data_keeps_its_clock_and_its_examples(composed: Callable[..., Any]) -> None:
    data = build(composed("translation")).data
    clock, first = data.clock, data.plan(0).examples(3)
    data.shorten(lambda split, plan: plan.only([3, 1] if split == "train" else [0]))
    batches = list(data.train_dataloader())
    assert [len(batch.ids) for batch in batches] == [len(data.plan(0).examples(step)) for step in range(2)]
    assert batches[0].ids.tolist() == first.tolist()
    assert data.clock == clock
    assert len(list(data.val_dataloader())) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_as_few_micro_batches_as_fit_are_chosen(composed: Callable[..., Any]) -> None:
    """Activations of 200 texts fill most of the memory; a limit between the peaks of one and of several is met."""
    config = composed("classification", "batch.examples=203", "model.feed_forward=8192", "model.layers=2")
    peaks = {
        count: attempt(config.updated({"trainer.micro_batches": count}), limit=2**40).peak_after(1) for count in (1, 4)
    }
    assert peaks[1] > 1.2 * peaks[4]
    limit = (2 * peaks[4] + peaks[1]) // 3
    chosen = choose(config.updated({"trainer.micro_batches": "auto"}), limit)
    assert 1 < chosen.micro_batches <= 4
    assert chosen.peak_bytes <= limit


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("task", ["classification", "translation", "masked_lm", "causal_lm"])
def test_the_peak_of_a_training_is_within_15_percent(task: str, tmp_path: Path) -> None:
    words = [f"experiment={task}/demo", "budget=20step", "validate.every=10step", "trainer=cpu", "logger=none"]
    words += [f"paths.outputs={tmp_path}/outputs", f"paths.cache={tmp_path}/cache", "trainer.progress_bar=false"]
    (answer,) = preflight([compose(*words)])  # prepares the data, which the training then finds
    assert answer.forecast is not None, answer.error
    assert answer.forecast.peak_bytes == pytest.approx(_peak_of("train", *words), rel=0.15)


def _peak_of(*words: str) -> int:
    """Run a command; return its peak resident memory in bytes, as Linux counts it."""
    peak = 0
    command = [sys.executable, "-m", "etude", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            peak = max(peak, int(found[1]) * 1024 if found else 0)
            time.sleep(0.02)
        assert process.returncode == 0, process.stderr and process.stderr.read().decode()[-2000:]
    return peak
