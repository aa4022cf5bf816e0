"""The functions of the commands on folders of runs, with keys and values as they are typed on a command line."""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any, BinaryIO, TextIO
from unittest import mock

from etude.cli.run_commands import call
from etude.commands.export import documented_use
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
    with mock.patch.object(documented_use, "ask", ask_here):
        return Path(call("export", [path], overrides))


def ask_here(program: str, request: Mapping[str, Any]) -> Any:
    """As `documented_use.ask`, in this process, which has the libraries in memory already."""
    path = Path(documented_use.__file__).with_name("documented") / f"{program}.py"
    with tempfile.TemporaryDirectory() as place, mock.patch.object(sys, "argv", [program, *ASKED]), chdir(place):
        Path(ASKED[0]).write_text(json.dumps(request), encoding="utf-8")
        runpy.run_path(str(path), run_name="__main__")
        return json.loads(Path(ASKED[1]).read_text(encoding="utf-8"))


ASKED = ("request.json", "answers.json")


def inspect(path: Path, overrides: Mapping[str, Any]) -> Any:
    return call("inspect", [path], overrides)


def reproduce(path: Path, overrides: Mapping[str, Any]) -> Any:
    return call("reproduce", [path], overrides)


def replay(path: Path, overrides: Mapping[str, Any]) -> Any:
    return call("replay", [path], overrides)
