"""One attempt at a card: its command, typed in an empty folder, and the values that are found afterwards."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from etude.runs.folder import CONFIGURATION, COST
from etude.runs.manifest import processor
from etude.sweeps.sweep_documents import SWEEP
from tests.cards.card import Card, Number, Result, Spent, Stamp
from tests.conftest import ROOT, corpora

_LAST_LINES = 5


class SkippedError(Exception):
    """The card cannot be tried here."""


def attempt(card: Card) -> tuple[Stamp, list[str]]:
    """Type a card's command and look at what comes out.

    Returns:
        The stamp, and what is wrong, one line each; where something is, the stamp is of no use.

    Raises:
        SkippedError: If it needs a corpus that is not there.
    """
    command = corpus_named(card)
    with tempfile.TemporaryDirectory() as empty:
        # make is typed where the Makefile is; everything else may be typed anywhere.
        here = ROOT if command.startswith("make ") else Path(empty)
        began = time.monotonic()
        done = [_typed(command, here)]
        runs = list(_runs(done[0].stdout, here))
        if card.then and not done[0].returncode:
            done.append(_typed(re.sub(r"\bRUN(\d+)\b", lambda match: str(runs[int(match[1]) - 1]), card.then), here))
        seconds = time.monotonic() - began
        if done[-1].returncode != card.exit:
            last = " / ".join(done[-1].stderr.strip().splitlines()[-_LAST_LINES:])
            return _stamp(seconds, {}), [f"exit code {done[-1].returncode}, and should be {card.exit}: {last}"]
        values = {name: list(_found(result, done, runs)) for name, result in card.results.items()}
        missing = [name for name in card.files if not any((place / name).exists() for place in [*runs, here])]
        faults = [f"{name} was not written" for name in missing] + card.faults(values)
        costs = [run / COST for run in runs]
        spent = [msgspec.json.decode(path.read_bytes(), type=Spent) for path in costs if path.is_file()]
    return msgspec.structs.replace(_stamp(seconds, values), spent=spent), faults


def corpus_named(card: Card) -> str:
    """Return a card's command with the corpus in the place of FOLDER.

    Raises:
        SkippedError: If the corpus is not there.
    """
    if card.corpus is None:
        return card.command
    folder = corpora() / card.corpus
    if not folder.is_dir():
        raise SkippedError(f"it needs {folder}; set ETUDE_CORPORA")
    return card.command.replace("FOLDER", str(folder))


def head() -> str:
    """Return the commit that is checked out."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _typed(command: str, here: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash as a user who has this folder's etude on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "WANDB_MODE": "offline"}
    words = ["bash", "-o", "pipefail", "-c", command]
    return subprocess.run(words, cwd=here, env=variables, capture_output=True, text=True, check=False)


def _runs(written: str, here: Path) -> Iterable[Path]:
    """Yield the folders of runs that standard output names, each once; of a sweep, those of its members."""
    words = dict.fromkeys(word for line in written.splitlines() for word in line.split())
    for word in words:
        folder = here / word
        if len(word) >= os.pathconf("/", "PC_PATH_MAX"):
            continue
        if (folder / SWEEP).is_file():
            yield from (path.parent for path in sorted(folder.glob(f"*/{CONFIGURATION}")))
        elif (folder / CONFIGURATION).is_file():
            yield folder


def _found(result: Result, done: list[subprocess.CompletedProcess[str]], runs: list[Path]) -> Iterable[Number]:
    if result.line is not None:
        matches = re.findall(result.line, "\n".join(f"{one.stdout}\n{one.stderr}" for one in done))
        yield from (float(match.replace(",", "")) for match in matches[-1:])
        return
    assert result.key is not None
    if result.file is None:
        sources = [done[-1].stdout]
    else:
        sources = [(run / result.file).read_text(encoding="utf-8") for run in runs if (run / result.file).is_file()]
    for source in sources:
        value: Any = json.loads(source)
        for key in result.key.split(" "):
            value = value[int(key)] if isinstance(value, list) else value[key]
        yield value


def _stamp(seconds: float, values: dict[str, list[Number]]) -> Stamp:
    facts = processor()
    machine = f"{facts['name']} with {facts['vectors']}, {facts['cores']} cores"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Stamp(head(), today, machine, round(seconds, 1), values)
