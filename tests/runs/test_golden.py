"""The first losses of each task: a change that no other test notices is noticed here.

On the machine that the stored losses were made on, they are equal bit for bit; on any other, to `ELSEWHERE`, because
the order in which a processor's kernels add is its own. Where a change of the losses is meant, and said in the change's
message, they are written anew by

    python -m pytest tests/runs/test_golden.py --write-golden
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.runs.record import RECORD, read, series
from tests.runs.conftest import TASKS
from tests.runs.doors import fit
from tests.runs.killing import BATCH, EXACT, begin

GOLDEN = Path(__file__).with_name("golden_losses.json")
"""{task: {"made_on": what `this_machine` says, "losses": float.hex of each}}."""

LOSSES = 100
ELSEWHERE = 1e-4
"""Relative: a hundred steps let differences in the last bits grow, and a change of the mathematics is larger than this."""

SCIENCE = {
    "translation": ("task.label_smoothing=0.1",),
    "masked_lm": (),
    "causal_lm": (),
    "classification": ("++task.label_smoothing=0.0", "task.head_dropout=0.1", "task.pooling=mean"),
    "token_classification": ("task.label_smoothing=0.0", "task.head_dropout=0.1"),
}
"""What `EXACT` leaves to the demos, held here: tuning one of them is no reason for other losses."""

LENGTH = (f"budget={LOSSES}step", f"validate.every={LOSSES}step", f"checkpoint.every={LOSSES}step", "log.every=1step")


def processor() -> str:
    """Maker, family and model, where the system tells them."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    pairs = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    return " ".join(pairs.get(key, "") for key in ("vendor_id", "cpu family", "model"))


def this_machine() -> dict[str, str]:
    """What the last bits of a sum depend on: the library, and the processor, which MKL chooses its kernels by."""
    return {
        "torch": torch.__version__,
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "processor": processor(),
        "threads": str(torch.get_num_threads()),
    }


def first_losses(composed: Callable[..., Any], folder: Path, task: str) -> list[str]:
    """Train a small run with dropout and return its losses, exactly."""
    run = begin(folder / task, composed(task, *EXACT, *SCIENCE[task], BATCH[task], *LENGTH))
    fit(run)
    return [loss.hex() for loss in series(read(run / RECORD), "train/loss")[1]]


def write(task: str, losses: list[str]) -> None:
    """Put a task's losses in the place of the old ones."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    GOLDEN.write_text(json.dumps({**golden, task: {"made_on": this_machine(), "losses": losses}}, indent=1) + "\n")


@pytest.mark.parametrize("task", TASKS)
def test_the_first_losses_are_those_of_old(
    composed: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest, task: str
) -> None:
    if request.config.getoption("--write-golden"):
        write(task, first_losses(composed, tmp_path, task))
        pytest.skip("written anew")
    golden = json.loads(GOLDEN.read_text())[task]
    losses, expected = first_losses(composed, tmp_path, task), golden["losses"]
    assert len(losses) == len(expected) == LOSSES
    if this_machine() == golden["made_on"]:
        first = next((step for step in range(LOSSES) if losses[step] != expected[step]), None)
        assert first is None, f"the loss of step {first + 1} is {losses[first]}, was {expected[first]}; see {__file__}"
    else:
        assert [*map(float.fromhex, losses)] == pytest.approx([*map(float.fromhex, expected)], rel=ELSEWHERE)
