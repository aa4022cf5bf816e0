"""The first losses of each task, bit for bit: what no other test sees to have changed is seen here."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.configuration.check import plain
from etude.experiment.record import RECORD, read, series
from etude.experiment.run import fit
from tests.runs.conftest import TASKS
from tests.runs.killing import BATCH, EXACT, begin

GOLDEN = Path(__file__).with_name("golden_losses.json")
"""{"made_on": what `this_machine` says, "losses": {task: float.hex of each}}; a failing test shows the new ones."""

LOSSES = 20
SCIENCE = {
    "translation": ("task.label_smoothing=0.1",),
    "masked_lm": (),
    "classification": ("++task.label_smoothing=0.0", "task.head_dropout=0.1"),
}
"""What `EXACT` leaves to the demos, held here: tuning one of them is no reason for other losses."""


def this_machine() -> dict[str, str]:
    """What the last bits of a sum depend on: the library, and which of its kernels the processor gets."""
    return {
        "torch": torch.__version__,
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def first_losses(composed: Callable[..., Any], folder: Path, task: str) -> list[str]:
    """Train a small run with dropout and return its losses, exactly."""
    values = composed(task, *EXACT, *SCIENCE[task], BATCH[task], f"budget={LOSSES}step", "checkpoint.every=100step")
    run = begin(folder / task, plain(values))
    fit(run)
    return [loss.hex() for loss in series(read(run / RECORD), "train/loss")[1]]


@pytest.mark.parametrize("task", TASKS)
def test_the_first_losses_are_those_of_old(composed: Callable[..., Any], tmp_path: Path, task: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    if this_machine() != golden["made_on"]:
        pytest.skip(f"the golden losses were made on {golden['made_on']}, this is {this_machine()}")
    losses = first_losses(composed, tmp_path, task)
    assert len(losses) == LOSSES
    assert losses == golden["losses"][task]
