"""What a tracker costs a training: `python -m tests.bench.trackers`, a step with W&B over one without a tracker.

W&B writes offline; or has a server that accepts connections and never answers; or one that refuses them. All contenders train the
same experiment by turns, each round in a process forked from this one, and log as often as a run does by default
(`--log-every 1`: every step). A round begins once the logger is connected offline, or waits for its server. With `--same` a
second one has no tracker either: its spread is that of the machine. Beside the time there is the CPU time of the thread that
trains, and of the whole process with the logger's thread: neighbours hardly change them. The CPU time of W&B's service, another
process, is not in them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from etude.duration import Duration
from etude.runs.record import RECORD, Record
from etude.tasks.run_context import RunContext
from etude.training.build import Experiment
from etude.training.callbacks.log_training import LogTraining
from etude.training.callbacks.speed_curves import SpeedCurves
from etude.training.loggers.safe_logger import SafeLogger
from etude.training.loggers.tracking import RecordLogger, wandb_logger
from tests.bench.rounds import WARMUP, Stopwatch
from tests.bench.through_trainer import built

NOBODY = "http://127.0.0.1:9"
"""A port that refuses connections."""


class _Timed(Callback):
    """Stops the training when the round is over; `taken` has the seconds of a step by each clock."""

    def __init__(self, seconds: float) -> None:
        self.watch = Stopwatch(seconds)
        self.taken: dict[str, float] = {}
        self._began: dict[str, float] = {}

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        over = self.watch.over(1.0)
        if not self._began and trainer.global_step == WARMUP:
            self._began = clocks()
        if over:
            now, steps = clocks(), self.watch.work.units
            self.taken = {name: (now[name] - began) / steps for name, began in self._began.items()}
            trainer.should_stop = True


def clocks() -> dict[str, float]:
    """Return the readings of the clocks of this process."""
    return {"time": time.perf_counter(), "training_cpu": time.thread_time(), "process_cpu": time.process_time()}


def seconds_of_a_step(
    experiment: Experiment, folder: Path, number: int, mode: str | None, seconds: float, log_every: int
) -> dict[str, float]:
    """Train for some seconds, and return those of a step by each clock.

    Args:
        experiment: The experiment; its weights go on from round to round.
        folder: An empty folder.
        number: Number of the round, by which the data is ordered.
        mode: Mode of W&B; None: no tracker.
        seconds: Of the round.
        log_every: Steps between two events that are logged.
    """
    task, data = experiment.task, experiment.data
    data.settings = replace(data.settings, seed=number)
    data._plans.clear()
    curves = SpeedCurves(task, data, experiment.config.precision, log_every)
    task.run_context = RunContext(
        1, 1, Duration(1e9, "step"), log_every=log_every, clock=data.clock, measured=curves.values
    )

    def position() -> tuple[int, int, float]:
        return task.global_step, data.tokens_at(task.global_step), task.seconds()

    loggers: list[Logger] = [RecordLogger(Record(folder / RECORD), position)]
    if mode is not None:
        inner = wandb_logger(folder, os.urandom(4).hex(), "bench", [], "", {}, mode=mode)
        guard = SafeLogger(inner, position, patience=2)
        loggers.append(guard)
        guard.save()
        # The start of W&B is no part of a step. A server that does not answer is waited for longer than a round.
        if mode == "offline":
            guard._drain(20)
        else:
            time.sleep(2)
    timed = _Timed(seconds)
    trainer = experiment.trainer(
        folder,
        callbacks=[curves, LogTraining(), timed],
        loggers=loggers,
        limit_val_batches=0,
        enable_progress_bar=False,
        max_epochs=-1,
    )
    trainer.fit(task, datamodule=data)
    for logger in loggers:
        close: Callable[[], None] | None = getattr(logger, "close", None)
        if close is not None:
            close()
    return timed.taken


def forked(experiment: Experiment, number: int, mode: str | None, seconds: float, log_every: int) -> dict[str, float]:
    """Do `seconds_of_a_step` in a process of its own: what hangs in one round must not reach the next."""
    ours, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)

    def child() -> None:
        torch.set_num_threads(1)  # threads do not survive a fork
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            theirs.send(seconds_of_a_step(experiment, Path(folder), number, mode, seconds, log_every))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    taken: dict[str, float] = ours.recv()
    process.join()
    return taken


def main() -> None:
    """Run the rounds; write one JSON object with the ratios of each contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each contender in each round")
    parser.add_argument("--log-every", type=int, default=50, help="steps between two events that are logged")
    parser.add_argument("--same", action="store_true", help="a second contender without a tracker, for the spread")
    options = parser.parse_args()
    experiment = built("experiment=classification/demo", "trainer=cpu", "logger=none", "callbacks=none")
    importlib.import_module("wandb")  # once, ahead of the forks
    os.environ |= {"WANDB_API_KEY": "a" * 40, "WANDB_SILENT": "true"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        servers = {"silent": f"http://127.0.0.1:{silent.getsockname()[1]}", "refusing": NOBODY}
        modes = {"none": None, **({"same": None} if options.same else {}), "offline": "offline"}
        modes |= dict.fromkeys(servers, "online")
        times: dict[str, list[dict[str, float]]] = {name: [] for name in modes}
        for number in range(options.rounds):
            order = list(modes)[number % len(modes) :] + list(modes)[: number % len(modes)]
            for name in order:
                os.environ["WANDB_BASE_URL"] = servers.get(name, NOBODY)
                taken = forked(experiment, number, modes[name], options.seconds, options.log_every)
                times[name].append(taken)
                sys.stderr.write(f"round {number + 1}: {name}: {1000 * taken['time']:.3f} ms\n")
    json.dump({name: _summary(times["none"], mine) for name, mine in times.items()}, sys.stdout, indent=1)
    sys.stdout.write("\n")


def _summary(without: list[dict[str, float]], mine: list[dict[str, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {"milliseconds_of_a_step": 1000 * statistics.median(one["time"] for one in mine)}
    for clock in mine[0]:
        ratios = sorted(one[clock] / other[clock] for one, other in zip(mine, without, strict=True))
        found[f"{clock}_over_none"] = round(statistics.median(ratios), 4)
        found[f"{clock}_ratios"] = [round(ratio, 3) for ratio in ratios]
    return found


if __name__ == "__main__":
    main()
