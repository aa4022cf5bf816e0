"""What saving costs the training: `PYTHONPATH=src python tests/bench/saving.py [experiment=…] [key=value…]`.

Trains the same few steps of an experiment by turns: without checkpoints, with one now and then in the background, and with
one that the training waits for. Times of a busy machine drift; those of neighbours can be compared. One JSON object says:

    step_ms             a step without checkpoints
    save_ms             what one checkpoint takes from the training: of this, `copy_ms` to copy all tensors, and the rest
                        where the writing thread and the steps share processors
    write_ms            from there until the checkpoint is on the disk, while the training goes on
    waiting_ms          what one checkpoint takes from a training that waits for the disk
    stall_at_10min      the part of the time that goes to saving at the default interval
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from etude.checkpoints.saver import CheckpointSaver, FolderCheckpointIO, Retention
from etude.config.compose import compose
from etude.duration import Duration
from etude.tasks.run_context import RunContext
from etude.training.build import Experiment, build

STEPS, WARMUP, EVERY, ROUNDS = 40, 5, 15, 5
INTERVAL = 600.0
"""Seconds between checkpoints: `checkpoint.every` in conf/train.yaml."""


class TimedIO(FolderCheckpointIO):
    """Notes how long each copy takes, and each write."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[float] = []
        self.writes: list[float] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        self.writer.wait()
        started = time.perf_counter()
        super().save_checkpoint(checkpoint, path)
        copied = time.perf_counter()
        self.copies.append(copied - started)
        self.writer.start(lambda: self.writes.append(time.perf_counter() - copied))


class Stopwatch(Callback):
    """Times the steps after the warm-up; the one that waits does so after each step."""

    def __init__(self, waits: bool) -> None:
        self.waits = waits
        self.started = self.ended = 0.0

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        io = trainer.strategy.checkpoint_io
        if self.waits and isinstance(io, TimedIO):
            io.writer.wait()
        if trainer.global_step == WARMUP:
            self.started = time.perf_counter()
        self.ended = time.perf_counter()


def train(experiment: Experiment, folder: Path, *, every: int | None, waits: bool) -> tuple[float, TimedIO]:
    """Train the first steps; return the seconds from the warm-up to the last step's begin."""
    watch, io = Stopwatch(waits), TimedIO()
    saver = CheckpointSaver(folder / "checkpoints", Retention(), every_steps=every)
    trainer = experiment.trainer(
        folder,
        callbacks=[*experiment.callbacks, watch, saver],
        plugins=[io],
        max_steps=STEPS,
        limit_val_batches=0,
        enable_progress_bar=False,
    )
    trainer.fit(experiment.task, datamodule=experiment.data)
    return watch.ended - watch.started, io


def measure(experiment: Experiment) -> dict[str, float]:
    """Measure by turns; each number is the median over the rounds."""
    found: dict[str, list[float]] = {"without": [], "background": [], "waiting": [], "copy": [], "write": []}
    size = 0.0
    for _ in range(ROUNDS):
        for name, every in (("without", None), ("background", EVERY), ("waiting", EVERY)):
            with tempfile.TemporaryDirectory() as folder:
                seconds, io = train(experiment, Path(folder), every=every, waits=name == "waiting")
                size = sum(path.stat().st_size for path in Path(folder).glob("checkpoints/last/*.safetensors"))
            found[name].append(seconds)
            if name == "background":
                found["copy"] += io.copies[:-1]  # the last one is that of the end, which nothing follows
                found["write"] += io.writes[:-1]
    saves = (STEPS - 1) // EVERY
    taken = {
        name: statistics.median((some - none) / saves for some, none in zip(found[name], found["without"], strict=True))
        for name in ("background", "waiting")
    }
    copy, write = statistics.median(found["copy"]), statistics.median(found["write"])
    return {
        "step_ms": 1000 * statistics.median(found["without"]) / (STEPS - 1 - WARMUP),
        "save_ms": 1000 * taken["background"],
        "copy_ms": 1000 * copy,
        "write_ms": 1000 * write,
        "waiting_ms": 1000 * taken["waiting"],
        "checkpoint_mb": size / 1e6,
        "stall_at_10min": max(copy, taken["background"]) / INTERVAL,
    }


def main(words: list[str]) -> None:
    """Measure the experiment of a command line."""
    experiment = build(compose("trainer.progress_bar=false", *words))
    micro_batches = experiment.machine.slices
    experiment.task.run_context = RunContext(experiment.config.seed, micro_batches, Duration(1e9, "step"), log_every=10)
    print(json.dumps({name: round(value, 6) for name, value in measure(experiment).items()}))


if __name__ == "__main__":
    main(sys.argv[1:])
