"""Ends runs by SIGKILL, continues them, and tells what they ended with."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.callbacks import Callback

from etude.commands.train import resume
from etude.config.schema import Config
from etude.report.page import REPORT
from etude.runs.folder import FINISHED
from etude.runs.record import RECORD, comparable, read
from etude.runs.saved_run import SavedRun
from tests.forked import CONTEXT

EXACT = (
    "callbacks=averaged",
    "model.dropout=0.1",
    "scheduler=cosine",
    "optimizer=adamw",
    "optimizer.lr=1e-3",
    "optimizer.weight_decay=0.01",
    "budget=17step",
    "validate.every=5step",
    "checkpoint.every=3step",
    "trainer.micro_batches=2",
)
"""Dropout and a cosine schedule are on, averaged weights are kept; nothing that a demo may be tuned by is left open."""

BATCH = {
    "translation": "batch.tokens=420",
    "masked_lm": "batch.tokens=400",
    "causal_lm": "batch.tokens=400",
    "classification": "batch.examples=29",
    "token_classification": "batch.examples=37",
}
"""About seven steps an epoch: a validation and a checkpoint come at its start, in it, at its end."""


class Point(NamedTuple):
    """An instant in a process: before the call with this number, from 1, of `module:attribute`."""

    target: str
    call: int


POINTS = {
    "before anything is written": ("etude.training.fit:build", (1,)),
    "while the tokenizer is written": ("pathlib:Path.write_text", (2, 1)),
    "before the facts are written": ("etude.training.provenance:write_json", (1, 2, 3)),
    "while a file is written": ("etude.atomic:write_file", (1, 2, 3, 4)),
    "at a step": ("etude.tasks.base:Task.training_step", (1, 2, 7, 8, 13)),
    "in a validation": ("etude.tasks.base:Task.validation_step", (1, 2)),
    "when a validation is scored": ("etude.tasks.base:Task._conclude", (1, 2)),
    "while a line of the record is written": ("etude.runs.record:Record.append", (1, 4, 6)),
    "while a checkpoint is written": ("etude.checkpoints.checkpoint:write_file", (1, 2, 3, 9)),
    "before a checkpoint gets its name": ("pathlib:Path.rename", (1, 2, 3, 4)),
    "before the links are set": ("etude.checkpoints.retention:replace_link", (1, 3, 6)),
    "before old checkpoints are removed": ("etude.checkpoints.retention:remove", (1, 2)),
    "in the last evaluation": ("etude.tasks.base:Task.test_step", (1,)),
    "before the scores are written": ("etude.training.fit:write_json", (1,)),
    "before the report is written": ("etude.commands.train:report", (1,)),
}
"""Where a process is ended, and at which calls."""


def begin(run: Path, config: Config) -> Path:
    """Write a run's configuration, as `etude train` does first of all."""
    run.mkdir(parents=True)
    return SavedRun.begin(run, config).path


def finish(run: Path) -> None:
    """Let a run go on to its end, undisturbed."""
    process = _start(run, None)
    process.join()
    assert process.exitcode == 0, f"exit code {process.exitcode}: {_log(run).read_text()[-3000:]}"
    assert (run / REPORT).exists()


def kill_after(run: Path, seconds: float) -> bool:
    """Let a run go on for so long; whether it had to be killed then."""
    process = _start(run, None)
    process.join(seconds)
    process.kill()
    return _was_killed(run, process)


def kill_at(run: Path, point: Point) -> bool:
    """Let a run go on up to a point; whether it came there, and was killed."""
    process = _start(run, point)
    process.join()
    return _was_killed(run, process)


def assert_killed_is_the_same(folder: Path, config: Config, calls: Sequence[int] = (11, 13)) -> None:
    """Kill a run at calls of its processes for a micro-batch, two a step, and compare its end with an undisturbed one's."""
    whole, killed = begin(folder / "whole", config), begin(folder / "killed", config)
    finish(whole)
    for call in calls:
        assert kill_at(killed, Point(POINTS["at a step"][0], call))
    finish(killed)
    assert_same(end(killed), end(whole))


def _start(run: Path, point: Point | None) -> Any:
    process = CONTEXT.Process(target=_work, args=(run, point))
    process.start()
    return process


def _was_killed(run: Path, process: Any) -> bool:
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"exit {process.exitcode}: {_log(run).read_text()[-3000:]}"
    return bool(process.exitcode)


def _log(run: Path) -> Path:
    return run.with_name(f"{run.name}.log")


def _work(run: Path, point: Point | None) -> None:
    """Continue a run in this process; what it says goes to a file beside the run."""
    multiprocessing.set_start_method("fork", force=True)  # as in a process that a person starts: for workers that read
    log = os.open(_log(run), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if point is not None:
        _die_at(point)
    resume(SavedRun.open(run))


def _die_at(point: Point) -> None:
    module, _, path = point.target.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    function: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def die(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == point.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)

    setattr(owner, name, die)


@dataclass(frozen=True)
class End:
    """What a run ended with: everything that two equal runs share.

    Attributes:
        files: The bytes of the last checkpoint's tensors, by the file's name.
        progress: Lightning's progress in that checkpoint.
        record: The lines of the record, without seconds.
        scores: What `finished.json`, the evaluation and its rows say, as text.
        kept: The names of checkpoints that are kept, and what the links point to.
    """

    files: dict[str, bytes]
    progress: dict[str, Any]
    record: list[str]
    scores: dict[str, str]
    kept: dict[str, str]


def end(run: Path) -> End:
    """Read what a finished run ended with."""
    last = run / "checkpoints" / "last"
    written = [run / FINISHED, *sorted((run / "evaluations").iterdir()), *sorted((run / "samples").iterdir())]
    return End(
        files={path.name: path.read_bytes() for path in sorted(last.glob("*.safetensors"))},
        progress=json.loads((last / "state.json").read_text())["loops"],
        record=[comparable(event) for event in read(run / RECORD)],
        scores={path.name: path.read_text() for path in written},
        kept={path.name: path.resolve().name for path in (run / "checkpoints").iterdir() if path.name[0] != "."},
    )


def assert_same(found: End, expected: End, lines: int = 5) -> None:
    """Two ends are one, bit for bit; said part by part. Their record has at least so many lines."""
    assert len(expected.record) >= lines
    differing = [pair for pair in zip(found.record, expected.record, strict=False) if pair[0] != pair[1]]
    assert not differing, differing[0]
    assert len(found.record) == len(expected.record)
    assert found.scores == expected.scores
    assert found.kept == expected.kept
    assert found.progress == expected.progress
    assert found.files.keys() == expected.files.keys() == {"model.safetensors", "training.safetensors"}
    for name, content in expected.files.items():
        assert found.files[name] == content, name


class BatchRecorder(Callback):
    """Writes the examples of each micro-batch that was trained on: `<step>-<micro-batch>-<rank>.json`."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        name = f"{trainer.global_step}-{batch_idx % trainer.accumulate_grad_batches}-{trainer.global_rank}.json"
        self.folder.mkdir(exist_ok=True)
        (self.folder / name).write_text(json.dumps(batch.ids.tolist()))
