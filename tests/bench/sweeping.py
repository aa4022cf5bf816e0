"""How busy a sweep keeps its slots, and how fast its members start: `python -m tests.bench.sweeping members=32`.

Members are tiny trainings of about a second. Busy is a slot from the request to start a member to the news of its end.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from etude.commands import sweep as command
from etude.runs.record import RECORD
from etude.sweeps.launchers.base import Ending, Job
from etude.sweeps.launchers.local import LocalLauncher
from etude.sweeps.sweep_plan import read_plan

SMALL = (
    "experiment=translation/demo",
    "limit.train=100",
    "limit.val=4",
    "limit.test=4",
    "logger=none",
    "callbacks=none",
    "validate.every=100step",
    "log.every=1step",
    "trainer.progress_bar=false",
    "model.width=32",
    "model.heads=2",
    "model.feed_forward=64",
)


class TimedLauncher(LocalLauncher):
    """Notes when members start, take their first step, and end."""

    def __init__(self, slots: int | None = None) -> None:
        super().__init__(slots)
        self.begun: dict[int, tuple[float, Path]] = {}
        self.first: dict[int, float] = {}
        self.ended: dict[int, float] = {}

    def start(self, job: Job) -> None:
        self.begun[job.number] = (time.monotonic(), job.folder)
        super().start(job)

    def wait(self, seconds: float) -> list[Ending]:
        endings = super().wait(min(seconds, 0.02))
        now = time.monotonic()
        for number, (_, folder) in self.begun.items():
            record = folder / RECORD
            if number not in self.first and record.exists() and record.stat().st_size:
                self.first[number] = now
        self.ended |= {ending.number: now for ending in endings}
        return endings


def main(words: list[str]) -> None:
    """Run the sweep and print what was measured."""
    given = dict(word.split("=", 1) for word in words)
    members, steps = int(given.get("members", 32)), given.get("steps", "20")
    launcher = TimedLauncher(2)
    setattr(command, "open_launcher", lambda configuration: launcher)  # noqa: B010
    with tempfile.TemporaryDirectory() as folder:
        plan = [*SMALL, f"budget={steps}step", f"seed=range(1,{members + 1})", f"paths.outputs={folder}"]
        called = time.monotonic()
        command.run_sweep(read_plan(plan))
    begun = {number: start for number, (start, _) in launcher.begun.items()}
    lengths = [launcher.ended[number] - start for number, start in begun.items()]
    span = max(launcher.ended.values()) - min(begun.values())
    starts = sorted(launcher.first[number] - start for number, start in begun.items())
    measured = {
        "members": members,
        "seconds_of_a_member": sum(lengths) / members,
        "busy": sum(lengths) / (2 * span),
        "seconds_from_command_to_first_step": min(launcher.first.values()) - called,
        "seconds_from_start_to_first_step": {"median": starts[members // 2], "largest": starts[-1]},
        "seconds_in_all": time.monotonic() - called,
    }
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
