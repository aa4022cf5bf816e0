"""What a run has cost: exact where it follows from the plan, and summed over all the times that it was continued."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.runs.folder import COST
from etude.runs.record import RECORD, read
from etude.training.build import build
from etude.training.cost import training_flops
from tests.runs.conftest import TASKS
from tests.runs.doors import fit, resume
from tests.runs.killing import begin


@pytest.mark.parametrize("task", TASKS)
def test_operations_are_a_sum_over_the_examples_of_the_plan(composed: Callable[..., Any], task: str) -> None:
    """Any number of steps costs what each of its examples costs alone, whatever the epoch's order."""
    experiment = build(composed(task))
    data = experiment.data
    examples = data.splits["train"]
    each = experiment.task.training_flops(examples.lengths, examples.counts)
    assert each is not None
    assert (each > 0).all()
    steps = data.clock.steps_per_epoch + 3
    by_hand = 0
    for step in range(steps + 1):
        assert training_flops(experiment.task, data, step) == by_hand
        by_hand += sum(int(each[example]) for example in data.examples_of(step + 1))


def test_a_continued_run_has_cost_what_all_its_parts_have(composed: Callable[..., Any], tmp_path: Path) -> None:
    run = begin(tmp_path / "run", composed("classification", "budget=4step"))
    fit(run)
    first = json.loads((run / COST).read_text())
    saved = json.loads((run / "checkpoints" / "last" / "state.json").read_text())["callbacks"]["Meter"]
    assert 0 < saved["cpu_seconds"] <= first["cpu_seconds"]
    assert 0 < first["validation_seconds"] < first["seconds"]
    assert first["model_flops_utilisation"] > 0
    assert (first["energy_joules"] > 0, first["gpu_seconds"]) == (True, 0)
    resume(run, {"budget": "8step"})
    whole = json.loads((run / COST).read_text())
    assert (first["steps"], whole["steps"]) == (4, 8)
    assert whole["flops"] > first["flops"]
    assert whole["seconds"] > saved["seconds"]
    assert whole["cpu_seconds"] > saved["cpu_seconds"]
    assert whole["parameters"]["total"] == whole["parameters"]["trainable"]
    assert not any("cost" in name or "energy" in name for event in read(run / RECORD) for name in event.values)
    page = (run / "report.html").read_text()
    assert "FLOPs of training" in page
    assert "trainer.watts_per_core" in page or "RAPL" in page
