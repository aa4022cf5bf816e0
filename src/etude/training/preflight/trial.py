"""Trials: the largest steps of an experiment, taken in a process of their own, and the number of micro-batches that fits.

What a trial measures is its own: no other trial has been in its memory, and one that needs too much of it ends alone.
`etude.training.preflight.rehearsal` is what runs in there.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from etude.atomic import write_json
from etude.config.schema import Config
from etude.config.trust import VARIABLE, trusted
from etude.duration import Clock
from etude.errors import EtudeError, MemoryExhaustedError, StorageError
from etude.hardware import gibibytes, memory_limit, resident_bytes, total_memory
from etude.runs.manifest import accelerators
from etude.runs.saved_run import SavedRun
from etude.sweeps.launchers.base import PRUNING
from etude.training import launch
from etude.training.continuation import note_changes
from etude.training.machine import AUTO
from etude.untrusted import read_json

REHEARSAL = "etude.training.preflight.rehearsal"
PLANNED, OUTCOME, FAILURE, LOG = "planned.json", "outcome.json", "failure.json", "log.txt"
"""Files that a rehearsal leaves in its folder: before its first step, after its last, if it fails, and what it said."""

MICRO_BATCHES = "micro_batches.json"
"""File of a run with the number that was tried out for it, and the machine that it was tried out on."""

KEPT_SHARE = 0.6
"""Part of the kept buffers that makes a process grow, as measured on the demos: the rest fills gaps between tensors."""

_CAPACITY = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
_DEFAULT_CAPACITY = "1024"

WAIT_SECONDS = 3600.0
"""Seconds that a rank waits for the first one to try out micro-batches."""

_POLL_SECONDS = 0.01
_RANKS = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
_LAUNCHERS = ("SLURM_", "TORCHELASTIC_")
_ADVICE = "remove the file: the number is tried out anew"
_SMALLER = "write a smaller data.max_length or model"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planned:
    """What is known of an experiment before its first step.

    Attributes:
        steps_per_epoch: Steps of an epoch.
        tokens_per_step: Mean real tokens of a step.
        examples: Examples of the largest step on one device.
        splits: Names of the splits.
        parameters: Number of all parameters.
        trainable: Number of those that train.
        first_steps: The steps of the first epoch, from 1, that have another number of real tokens than all before them.
    """

    steps_per_epoch: int
    tokens_per_step: float
    examples: int
    splits: list[str]
    parameters: int
    trainable: int
    first_steps: list[int]

    @property
    def clock(self) -> Clock:
        """Converts durations to steps."""
        return Clock(self.steps_per_epoch, self.tokens_per_step)


@dataclass(frozen=True)
class Outcome:
    """What a rehearsal measured.

    Attributes:
        planned: What was known before its first step.
        seconds_per_step: Mean wall-clock time of a training step; validations and checkpoints are not in it.
        peak_bytes: Largest memory of one process: resident memory of a CPU, allocated memory of a GPU.
        device: `cpu`, `cuda` or `mps`: whose memory that is.
        micro_batches: Micro-batches of each step on each device.
        kept_bytes: What a CPU keeps for each size of a micro-batch (see `peak_after`).
    """

    planned: Planned
    seconds_per_step: float
    peak_bytes: int
    device: str
    micro_batches: int
    kept_bytes: int = 0

    def peak_after(self, steps: int) -> int:
        """Return the peak memory of a training of so many steps, in bytes, with the buffers that a CPU keeps.

        oneDNN, by which torch computes GELU on CPUs, keeps a buffer of the size of the activations for each shape that it
        meets, forward and backward being two entries of its cache. A rehearsal meets too few shapes for that to show.
        """
        sizes = self.micro_batches * sum(first <= steps for first in self.planned.first_steps)
        kept = min(kept_sizes(), sizes) * self.kept_bytes * KEPT_SHARE
        return self.peak_bytes + int(kept)


def kept_sizes() -> int:
    """Return the number of shapes that fit in oneDNN's cache: half of its capacity, which the environment may set."""
    capacity = os.environ.get(_CAPACITY, "")
    return int(capacity if capacity.isdecimal() else _DEFAULT_CAPACITY) // 2


class TrialMemoryError(MemoryExhaustedError):
    """A trial needed more memory than there is.

    Args:
        message: What is shown.
        planned: What was known before the first step; None if memory ran out before.
    """

    def __init__(self, message: str, planned: Planned | None) -> None:
        super().__init__(message)
        self.planned = planned


def attempt(config: Config, limit: int | None = None) -> Outcome:
    """Rehearse an experiment in a process of its own; nothing but the cache of its data is left behind.

    Args:
        config: The configuration, with the model of its warm start; its number of micro-batches is not `auto`.
        limit: Most bytes of resident memory that the process may take; None: see `memory_limit`.

    Raises:
        EtudeError: The error of the rehearsal, with its exit code.
        TrialMemoryError: If it needed more memory.
    """
    limit = memory_limit(config.trainer.arguments.get("devices", 1)) if limit is None else limit
    with tempfile.TemporaryDirectory(prefix="etude-trial-") as name:
        folder = Path(name)
        SavedRun.begin(folder, config)
        with (folder / LOG).open("wb") as log:
            code = _run(folder, log, limit)
        if code == 0:
            outcome: Outcome = _read(folder / OUTCOME, Outcome)
            if outcome.device != "cpu" or outcome.peak_after(outcome.planned.steps_per_epoch) <= limit:
                return outcome
            code = None
        planned = _read(folder / PLANNED, Planned) if (folder / PLANNED).exists() else None
        raise _failure(folder, code, limit, planned)


def _run(folder: Path, log: IO[bytes], limit: int) -> int | None:
    """Return the exit code of a rehearsal; None if it was ended since it had taken more memory than the limit."""
    # -P: nothing is imported from the working directory but what trust names.
    command = [sys.executable, "-P", "-m", REHEARSAL, str(folder)]
    with subprocess.Popen(command, env=_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
        try:
            while process.poll() is None:
                if resident_bytes(process.pid) > limit:
                    return None
                time.sleep(_POLL_SECONDS)
        finally:
            process.kill()
    return process.returncode


def _environment() -> dict[str, str]:
    """Return the variables of a process that is no rank, whatever this one is."""
    of_ranks = (*_RANKS, *_LAUNCHERS, PRUNING)
    own = {name: value for name, value in os.environ.items() if not name.startswith(of_ranks)}
    return {**own, VARIABLE: ",".join(trusted())}


def _failure(folder: Path, code: int | None, limit: int, planned: Planned | None) -> EtudeError:
    """Return the error of a rehearsal that ended without an outcome."""
    if code is None or code == -9:
        return TrialMemoryError(
            f"needs more than the {gibibytes(limit)} of memory that are free for it; a training takes less, and learns the "
            "same, with trainer.micro_batches=auto; otherwise write a smaller batch, data.max_length or model",
            planned,
        )
    if (folder / FAILURE).exists():
        exit_code, message = _read(folder / FAILURE, tuple[int, str])
        if exit_code == MemoryExhaustedError.exit_code:
            return TrialMemoryError(message, planned)
        error = EtudeError(message)
        error.exit_code = exit_code
        return error
    said = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    return EtudeError(f"its rehearsal ended with exit code {code}{f': {said}' if said else ''}")


def _read(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise StorageError(f"{path} could not be read ({error}); is the folder of temporary files full?") from error


# The number of micro-batches


@dataclass(frozen=True)
class TriedMachine:
    """What a number of micro-batches was tried out on; a run that is continued on the like keeps it.

    Attributes:
        accelerators: Names of the GPUs.
        memory_gib: Memory of the computer in whole GiB.
        processes: Processes that train together.
    """

    accelerators: list[str]
    memory_gib: int
    processes: int


@dataclass(frozen=True)
class TriedMicroBatches:
    """The content of `micro_batches.json`."""

    micro_batches: int
    machine: TriedMachine


def choose(config: Config, limit: int | None = None) -> Outcome:
    """Try out 1, 2, 4, … micro-batches, and return the outcome of the first number that fits in memory.

    Args:
        config: The configuration, with the model of its warm start; its own number of micro-batches has no effect.
        limit: Most bytes of resident memory of a process; None: see `memory_limit`.

    Raises:
        EtudeError: If a rehearsal fails for another reason than memory.
        MemoryExhaustedError: If not even a micro-batch of one example fits.
    """
    limit = memory_limit(config.trainer.arguments.get("devices", 1)) if limit is None else limit
    count = 1
    while True:
        try:
            return attempt(_with(config, count), limit)
        except TrialMemoryError as error:
            if error.planned is None or count >= error.planned.examples:
                part = "the model alone" if error.planned is None else "even a micro-batch of a single example"
                raise MemoryExhaustedError(
                    f"trainer.micro_batches=auto: {part} needs more than the {gibibytes(limit)} of memory that are free for "
                    f"it; {_SMALLER}"
                ) from error
        count *= 2


def with_micro_batches(run: SavedRun) -> Config:
    """Return the configuration of a run with a number in the place of `trainer.micro_batches=auto`.

    The first rank tries it out and writes it to the run; a run that is continued on the like machine keeps it. The stored
    configuration keeps `auto`.

    Raises:
        MemoryExhaustedError: If no number fits.
    """
    if run.config.trainer.arguments.get("micro_batches") != AUTO:
        return run.config
    machine = _machine(run.config)
    if launch.global_rank() > 0:
        return _with(run.config, _wait_for(run.path / MICRO_BATCHES, machine).micro_batches)
    before = _tried(run.path)
    tried = before if before is not None and before.machine == machine else _try_out(run, machine, before)
    return _with(run.config, tried.micro_batches)


def micro_batches_of(run: SavedRun) -> int:
    """Return the number of micro-batches that a run was trained with last: its configuration's, or what was tried out."""
    configured = run.config.trainer.arguments.get("micro_batches", 1)
    if configured != AUTO:
        return int(configured)
    tried = _tried(run.path)
    return 1 if tried is None else tried.micro_batches


def _with(config: Config, micro_batches: int) -> Config:
    return config.updated({"trainer.micro_batches": micro_batches})


def _try_out(run: SavedRun, machine: TriedMachine, before: TriedMicroBatches | None) -> TriedMicroBatches:
    """Choose the number of a run, and write it there with a line in the log."""
    outcome = choose(run.config)
    tried = TriedMicroBatches(outcome.micro_batches, machine)
    _log.info(
        "trainer.micro_batches=auto: %d, whose largest step takes %s",
        tried.micro_batches,
        gibibytes(outcome.peak_bytes),
    )
    if before is not None and before.micro_batches != tried.micro_batches:
        note_changes(run, {"trainer.micro_batches": f"{before.micro_batches} -> {tried.micro_batches}"})
    write_json(run.path / MICRO_BATCHES, msgspec.to_builtins(tried))
    return tried


def _wait_for(path: Path, machine: TriedMachine) -> TriedMicroBatches:
    deadline = time.monotonic() + WAIT_SECONDS
    while (tried := _tried(path.parent)) is None or tried.machine != machine:
        if time.monotonic() > deadline:
            raise StorageError(f"{path} was not written in {WAIT_SECONDS:g} s; has rank 0 failed?")
        time.sleep(0.1)
    return tried


def _tried(run: Path) -> TriedMicroBatches | None:
    path = run / MICRO_BATCHES
    return read_json(path, TriedMicroBatches, _ADVICE) if path.exists() else None


def _machine(config: Config) -> TriedMachine:
    machine = config.trainer.arguments
    processes = machine.get("devices", 1) * machine.get("nodes", 1)
    return TriedMachine(accelerators(), round(total_memory() / 2**30), processes)
