"""Folders of runs as training leaves them, without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from etude.atomic import write_json
from etude.config.compose import compose
from etude.config.schema import Config
from etude.runs.folder import COST, DATA, FINISHED
from etude.runs.record import RECORD, Event, Record
from etude.runs.saved_run import SavedRun

COST_OF_A_RUN = {
    "parameters": {"total": 1000, "trainable": 900},
    "steps": 4,
    "tokens": 400,
    "flops": 12345,
    "flops_are": "counted",
    "model_flops_utilisation": None,
    "peak_flops": None,
    "peak_is": "not known",
    "seconds": 20.0,
    "validation_seconds": 1.0,
    "cpu_seconds": 30.0,
    "gpu_seconds": 0.0,
    "peak_memory_mb": 10.0,
    "peak_gpu_memory_mb": 0.0,
    "energy_joules": 2500.0,
    "energy_estimated": True,
    "energy_estimated_joules": 2500.0,
    "energy_is": "estimated",
}
DATA_OF_A_RUN = {
    "rows": {"train": 9},
    "dropped": {},
    "fingerprint": "f",
    "classes": ["a", "b"],
    "tokenizer": {"vocabulary": 60, "fingerprint": "t"},
    "batch": {"tokens": None, "examples": 3, "pool": None},
    "steps_per_epoch": 3,
    "tokens_per_step": 30.0,
}

WriteRun = Callable[..., Path]


@cache
def composed(*words: str) -> Config:
    return compose("experiment=classification/demo", *words)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def conclusion(scores: Mapping[str, float], ended: str = "the budget of 4step is spent") -> dict[str, Any]:
    return {
        "step": 4,
        "ended": ended,
        "split": "test",
        "checkpoint": "step-00000004",
        "examples": 7,
        "scores": dict(scores),
        "intervals": {name: [value - 0.25, value + 0.25] for name, value in scores.items()},
        "signatures": dict.fromkeys(scores, "nrefs:1"),
    }


@pytest.fixture
def write_run(outputs: Path) -> WriteRun:
    """Writes a run: its words, its accuracies in validations at steps 2, 4, …, and what it ended with."""

    def write(
        name: str, *words: str, validations: tuple[float, ...] = (), test: float | None = None, ended: str = ""
    ) -> Path:
        folder = outputs / name
        folder.mkdir(parents=True)
        SavedRun.begin(folder, composed(*words))
        if validations:
            write_json(folder / DATA, DATA_OF_A_RUN)
            record = Record(folder / RECORD)
            for place, value in enumerate(validations, start=1):
                record.append(Event(2 * place - 1, 100 * place - 50, 5.0 * place - 2, {"train/loss": 1 / place}))
                validated = {"val/loss": 1 - value, "val/accuracy": value}
                record.append(Event(2 * place, 100 * place, 5.0 * place, validated))
            record.close()
        if test is not None:
            write_json(folder / COST, COST_OF_A_RUN)
            write_json(folder / FINISHED, conclusion({"test/accuracy": test}, ended or "the budget of 4step is spent"))
        return folder

    return write
