"""The functions of the commands on folders of runs, with keys and values as they are typed on a command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from etude.cli.run_commands import call
from etude.commands.train import resume as resume_run
from etude.commands.train import train as train_run
from etude.config.schema import Config
from etude.runs.saved_run import SavedRun
from etude.tasks.base import Task
from etude.tokenization.base import Tokenizer
from etude.training.fit import fit as fit_run
from etude.training.restore import load_run as load_task


def train(config: Config) -> Path:
    return train_run(config).path


def fit(path: Path) -> None:
    fit_run(SavedRun.open(path))


def resume(path: Path, changes: Mapping[str, Any] | None = None) -> Path:
    return resume_run(SavedRun.open(path), changes).path


def load_run(path: Path) -> tuple[Task, Tokenizer]:
    run = SavedRun.open(path)
    return load_task(run), run.tokenizer


def find_checkpoint(path: Path, which: str) -> Path:
    return SavedRun.open(path).checkpoint(which)


def evaluate(paths: Sequence[Path], overrides: Mapping[str, Any]) -> Any:
    return call("evaluate", paths, overrides)


def compare(paths: Sequence[Path], overrides: Mapping[str, Any]) -> Any:
    return call("compare", paths, overrides)


def predict(path: Path, overrides: Mapping[str, Any], lines: BinaryIO, out: TextIO) -> None:
    call("predict", [path], overrides, out, lines)


def export(path: Path, overrides: Mapping[str, Any]) -> Path:
    return Path(call("export", [path], overrides))


def inspect(path: Path, overrides: Mapping[str, Any]) -> Any:
    return call("inspect", [path], overrides)


def reproduce(path: Path, overrides: Mapping[str, Any]) -> Any:
    return call("reproduce", [path], overrides)


def replay(path: Path, overrides: Mapping[str, Any]) -> Any:
    return call("replay", [path], overrides)
