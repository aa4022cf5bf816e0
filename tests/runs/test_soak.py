"""A long run keeps its memory and its pace: nothing may gather from step to step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from etude.runs.record import RECORD, read, series
from tests.runs.doors import fit
from tests.runs.killing import BATCH, begin

STEPS = 10_000
OBSERVER = "++callbacks.observer._target_=tests.runs.test_soak.MemoryObserver"


class MemoryObserver(Callback):
    """Writes the process's resident memory, in pages, after every so many steps."""

    def __init__(self, path: str, every: int = 500) -> None:
        self.path = Path(path)
        self.every = every

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every == 0:
            resident = Path("/proc/self/statm").read_text().split()[1]
            with self.path.open("a") as file:
                file.write(f"{resident}\n")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_is_flat_over_ten_thousand_steps(composed: Callable[..., Any], tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    values = composed(
        "translation",
        BATCH["translation"],
        "callbacks=averaged",
        f"budget={STEPS}step",
        "validate.every=500step",
        "checkpoint.every=250step",
        "log.every=10step",
        "trust=[tests]",
        OBSERVER,
        f"++callbacks.observer.path={pages}",
    )
    run = begin(tmp_path / "soak", values)
    fit(run)
    assert series(read(run / RECORD), "train/loss")[0] == list(range(10, STEPS + 1, 10))
    resident = [int(line) for line in pages.read_text().split()]
    assert len(resident) == STEPS // 500
    settled, last = max(resident[4:8]), max(resident[-4:])
    assert last <= settled * 1.02, f"resident pages every 500 steps: {resident}"
