"""What `etude bench` measures, on small data."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from etude.cli.main import main
from etude.commands.bench import decoding as bench_decoding
from etude.commands.bench import training_step as bench
from etude.config.compose import compose
from etude.models.generation.hypothesis import Hypothesis
from etude.models.generation.search import Greedy
from etude.tasks.translation import Translation
from etude.training.build import build

Overrides = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, values in (
        (bench, {"STEPS": 5, "ROUNDS": 1}),
        (bench_decoding, {"SENTENCES": 9, "ALONE": 2, "ROUNDS": 1}),
    ):
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(bench, "matrix_multiply_flops", lambda: 1e9)


@pytest.mark.parametrize("words", [[], ["train"]])
def test_training_is_measured(words: list[str], overrides: Overrides, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words, *overrides("translation", "task=translation")]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["tokens_per_second"] > 0
    assert set(found["milliseconds"]) == set(bench.PHASES)
    work = found["gflop_per_step"] * 1e9 * (bench.STEPS - bench.WARMUP)
    assert found["model_flops_utilisation"] * 1e9 * sum(found["milliseconds"].values()) * 2 / 1e3 == pytest.approx(work)


def test_decoding_is_measured(overrides: Overrides, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "decode", *overrides("translation", "decoding=beam", "decoding.beams=3")]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["sentences_per_second"] > 0
    assert found["tokens_per_second"] / found["sentences_per_second"] == pytest.approx(found["tokens_of_a_sentence"])


def test_a_task_without_a_search_has_no_decoding(overrides: Overrides, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "decode", *overrides("classification")]) == 78
    assert "Classification has none" in capfd.readouterr().err


@pytest.mark.parametrize("task", ["translation", "masked_lm"])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_real_positions_are_those_of_the_batches_of_an_epoch(
    task: str, micro_batches: int, overrides: Overrides
) -> None:
    data = build(compose(*overrides(task, f"trainer.micro_batches={micro_batches}", "batch.tokens=150"))).data
    batches = [batch._asdict() for batch in data.train_dataloader() if batch.ids[0] >= 0]  # fillers are no positions
    masks = [value for batch in batches for name, value in batch.items() if name.endswith("mask")]
    counted = sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    assert bench.real_positions(data) == pytest.approx(counted)
    assert counted < 1


def test_every_sentence_is_searched_to_the_length_of_its_reference(
    overrides: Overrides, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = build(compose(*overrides("translation", "decoding=greedy")))
    task = experiment.task
    assert isinstance(task, Translation)
    batches = bench_decoding.sentence_batches(experiment.data, 9, experiment.data.settings.batch)
    found: list[int] = []
    search = Greedy.search

    def looked_on(self: Greedy, *arguments: Any) -> list[list[Hypothesis]]:
        outputs = search(self, *arguments)
        found.extend(len(hypotheses[0].tokens) for hypotheses in outputs)
        return outputs

    monkeypatch.setattr(Greedy, "search", looked_on)
    bench_decoding.seconds(task, task.decoding, batches)
    references = [min(n, task.decoding.max_length) for batch in batches for n in batch.target_mask.sum(dim=1).tolist()]
    assert found == references
    assert len(found) == 9
