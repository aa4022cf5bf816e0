"""A card held again without its hours: the first steps of its training at the commit of its stamp, and at this one.

A training is its seed, its data and its code. Where the commit that stamped the card and this one come to the same losses,
step for step on the same machine, what lies between them has left the training alone, and the card's result stands. The
stamp keeps its values; `held` says at which commit the losses were compared. Each comparison is with the commit of the stamp
itself, so that small differences cannot add up unseen. What is done with trained weights, such as decoding and scores, is not
in the first steps: quick cards and tests hold that.
"""

from __future__ import annotations

import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.cards.attempt import corpus_named, head
from tests.cards.card import Card, Held
from tests.conftest import ROOT

STEPS = 24
TOLERANCE = 1e-5
"""The largest relative difference of a loss: that of sums in another order, in single precision."""
_PATIENCE = 600.0
_END = 60.0


class ChangedError(Exception):
    """The training is not what it was, or cannot be compared."""


def hold(card: Card, steps: int = STEPS) -> Card:
    """Return a card whose stamp says that this commit trains as the stamp's does.

    Args:
        card: A card with a stamp, whose command is one training, or several that differ by seed.
        steps: How many first steps are compared.

    Raises:
        ChangedError: If the losses differ, or there are none.
        SkippedError: If it needs a corpus that is not there.
    """
    assert card.stamp is not None
    words = _one_training(card)
    with _code_of(card.stamp.commit) as old:
        before = first_losses(words, old, steps)
    difference = compared(before, first_losses(words, ROOT, steps))
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return msgspec.structs.replace(
        card, stamp=msgspec.structs.replace(card.stamp, held=Held(head(), today, steps, difference))
    )


def compared(before: Sequence[float], now: Sequence[float]) -> float:
    """Return the largest relative difference of the losses of two trainings.

    Raises:
        ChangedError: If it is larger than `TOLERANCE`.
    """
    for step, (one, other) in enumerate(zip(before, now, strict=True), start=1):
        if abs(one - other) > TOLERANCE * abs(one):
            raise ChangedError(
                f"the loss of step {step} was {one:.6f} and is {other:.6f}; the command must be typed again"
            )
    return max(abs(one - other) / abs(one) for one, other in zip(before, now, strict=True))


def first_losses(words: Sequence[str], code: Path, steps: int) -> list[float]:
    """Return the losses of the first steps of a training, which is stopped then.

    Args:
        words: Command line, after `etude`.
        code: Checkout whose code is used.
        steps: How many.

    Raises:
        ChangedError: If it ends, or ten minutes pass, before there are as many.
    """
    with tempfile.TemporaryDirectory() as empty, Path(empty, "written").open("w+b") as written:
        command = [sys.executable, "-m", "etude", *words, "log.every=1step", "logger=none"]
        # One thread, so that the two do their sums in the same order however many cores are free.
        variables = {**os.environ, "PYTHONPATH": str(code / "src"), "OMP_NUM_THREADS": "1"}
        training = subprocess.Popen(command, cwd=empty, env=variables, stdout=written, stderr=written)
        until = time.monotonic() + _PATIENCE
        losses: list[float] = []
        while len(losses) < steps and training.poll() is None and time.monotonic() < until:
            time.sleep(0.5)
            losses = list(_logged(Path(empty)))
        training.terminate()
        try:
            training.wait(_END)
        except subprocess.TimeoutExpired:
            training.kill()
            training.wait()
        losses = list(_logged(Path(empty)))
        if len(losses) < steps:
            written.seek(0)
            last = " / ".join(written.read().decode(errors="replace").strip().splitlines()[-3:])
            raise ChangedError(f"{len(losses)} of {steps} losses came: {last}")
    return losses[:steps]


def _logged(here: Path) -> Iterator[float]:
    for path in here.glob("outputs/**/metrics.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n") and "train/loss" in (values := json.loads(line)["values"]):
                yield values["train/loss"]


def _one_training(card: Card) -> list[str]:
    words = shlex.split(corpus_named(card))
    if words[:2] != ["etude", "train"]:
        raise ChangedError("its command is no training; it must be typed again")
    return [word.split(",")[0] if word.startswith("seed=") else word for word in words[1:] if word != "-m"]


@contextmanager
def _code_of(commit: str) -> Iterator[Path]:
    """Give the files of a commit, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", commit, "src", "conf", "pyproject.toml"], cwd=ROOT, capture_output=True, check=False
        )
        if archive.returncode:
            raise ChangedError(f"the history that is here does not have {commit}")
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)
