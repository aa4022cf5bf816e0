"""Runs the command line in forked processes, alone or as ranks, and sends signals at chosen calls of chosen functions."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import lightning
from lightning.pytorch.callbacks import Callback

from etude.cli import worker
from etude.cli.main import main
from etude.training import launch
from tests.forked import CONTEXT

STEP = "etude.tasks.base:Task.training_step"
VALIDATION = "etude.tasks.base:Task.validation_step"
SCORING = "etude.tasks.base:Task._conclude"
STARTING = "etude.training.fit:build"


class Sent(NamedTuple):
    """A signal, sent before a call of a function.

    Attributes:
        target: `module:attribute`.
        call: Which call, from 1.
        numbers: The signals, one after the other.
        rank: In which rank.
        parent: To the parent of that process, not to itself.
    """

    target: str
    call: int
    numbers: tuple[int, ...]
    rank: int = 0
    parent: bool = False


@dataclass
class Ended:
    """What a command left.

    Attributes:
        code: Its exit code; that of a signal is negative.
        out: What it wrote on its standard output.
        log: What it, and its ranks, wrote on standard error.
        ranks: The process ids of its ranks.
    """

    code: int
    out: str
    log: str
    ranks: list[int] = field(default_factory=list)

    @property
    def said(self) -> list[str]:
        """The lines in which etude says how it ended."""
        return [line for line in self.log.splitlines() if line.startswith("etude: ")]


def command(
    folder: Path,
    words: Sequence[str],
    *sent: Sent,
    variables: dict[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
) -> Any:
    """Start `etude words…` in a forked process that writes into a folder, and that does `prepare` first."""
    folder.mkdir(parents=True, exist_ok=True)
    process = CONTEXT.Process(target=_work, args=(folder, list(words), sent, variables or {}, prepare))
    process.start()
    return process


def ended(folder: Path, process: Any, seconds: float = 300.0) -> Ended:
    """Wait for a command and read what it left."""
    process.join(seconds)
    assert process.exitcode is not None, "still running: " + (folder / "log").read_text()[-3000:]
    ranks = [int(path.name.partition("-")[2]) for path in folder.glob("rank-*")]
    for path in folder.glob("rank-*"):
        path.unlink()
    return Ended(process.exitcode, (folder / "out").read_text(), (folder / "log").read_text(), ranks)


def run(folder: Path, words: Sequence[str], *sent: Sent) -> Ended:
    """Run a command to its end."""
    return ended(folder, command(folder, words, *sent))


def gone(process: int, seconds: float = 15.0) -> bool:
    """Whether a process that is not one's own child ends in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":  # nobody in the test's container may be there to reap it
            return True
        time.sleep(0.05)
    return False


def _work(
    folder: Path,
    words: list[str],
    sent: Sequence[Sent],
    variables: dict[str, str],
    prepare: Callable[[], None] | None,
) -> None:
    for descriptor, name in ((1, "out"), (2, "log")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(variables)

    def start(run: Path, rank_variables: dict[str, str], descriptors: list[int]) -> Any:
        return ForkedRank(folder, run, rank_variables)

    setattr(launch, "_start", start)  # noqa: B010
    _send_at(sent)
    if prepare is not None:
        prepare()
    code = main(words)
    sys.stderr.flush()
    os._exit(code)


def _send_at(sent: Sequence[Sent]) -> None:
    for one in sent:
        module, _, path = one.target.partition(":")
        owner: Any = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, _sending(getattr(owner, name), one))


def _sending(function: Callable[..., Any], sent: Sent) -> Callable[..., Any]:
    calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        mine = int(os.environ.get("RANK", "0")) == sent.rank
        calls += mine
        if mine and calls == sent.call:
            for number in sent.numbers:
                os.kill(os.getppid() if sent.parent else os.getpid(), number)
                time.sleep(0.3 if sent.parent else 0.0)
        return function(*arguments, **named)

    return call


class ForkedRank:
    """In the place of a rank's Popen: it need not import everything again."""

    def __init__(self, folder: Path, run: Path, variables: dict[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            (folder / f"rank-{self.pid}").touch()
            return
        code = 1
        try:
            os.setpgid(0, 0)
            os.environ.update(variables)
            sys.argv = ["worker", str(run)]
            worker.main()
            code = 0
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            process, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if process else None
        return self.returncode

    def wait(self, seconds: float | None = None) -> int:
        deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("rank", seconds or 0.0)
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class KilledInStep(Callback):
    """Kills rank 1 after a step; each rank notes its process before.

    Args:
        step: The step.
        note: A file for the process ids.
    """

    def __init__(self, step: int, note: str) -> None:
        self.step = step
        self.note = Path(note)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        with self.note.open("a") as file:
            file.write(f"{os.getpid()}\n")

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
