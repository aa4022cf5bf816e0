"""Goodput: what share of an undisturbed run's progress is left when the process is killed by SIGKILL again and again.

    python -m tests.bench.goodput [minutes=5] [every=60] [key=value…]

Trains `translation/demo` (or what the overrides say) twice for the same time: once undisturbed, once with a kill every so
many seconds, and compares the steps that the last checkpoint holds. Attempts are forked from a server that has imported
etude, so what is measured is what etude loses: steps since the last checkpoint, and the time to continue. The time that a
new process takes to import torch and Lightning, as a command does, is measured besides, and counted in `goodput_with_start`:
there each kill comes so much later, and the undisturbed run has trained meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from etude.checkpoints.saver import newest_valid
from etude.config.compose import compose
from etude.runs.record import RECORD, read
from tests.runs.killing import begin, kill_after

CHECKPOINT_EVERY = "2s"
IMPORTS = "from etude.cli.command_table import load; load('etude.commands.train:train')"


def steps_done(run: Path) -> int:
    """Return the step of the newest checkpoint."""
    newest = newest_valid(run / "checkpoints")
    return 0 if newest is None else int(newest.name.removeprefix("step-"))


def undisturbed_rate(run: Path) -> float:
    """Return the steps per second of a run between its first and last line of the record: without its beginning."""
    lines = [event for event in read(run / RECORD) if "train/loss" in event.values]
    first, last = lines[0], lines[-1]
    return (last.step - first.step) / (last.seconds - first.seconds)


def main() -> None:
    """Measure, and write one JSON object."""
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    minutes, every = float(given.pop("minutes", 5)), float(given.pop("every", 60))
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "experiment=translation/demo",
            "logger=none",
            "trainer.progress_bar=false",
            "budget=100epoch",
            "validate.every=100epoch",
            "log.every=10step",
            f"checkpoint.every={CHECKPOINT_EVERY}",
            *(f"{key}={value}" for key, value in given.items()),
        ]
        config = compose(*overrides)
        whole, killed = begin(Path(folder) / "whole", config), begin(Path(folder) / "killed", config)
        kill_after(whole, 5.0)  # the first attempt makes the tokenizer and fills the cache: for both
        kill_after(killed, 5.0)
        kills = round(60 * minutes / every)
        before = steps_done(killed)
        for _ in range(kills):
            kill_after(killed, every)
        progress = steps_done(killed) - before
        kill_after(whole, 60 * minutes / 2)
        possible = undisturbed_rate(whole) * every * kills
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    imports = time.monotonic() - started
    found = {
        "kills": kills,
        "seconds_between_kills": every,
        "checkpoint_every": CHECKPOINT_EVERY,
        "steps": progress,
        "steps_undisturbed": round(possible),
        "goodput": progress / possible,
        "import_seconds": imports,
        "goodput_with_start": progress / possible * every / (every + imports),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
