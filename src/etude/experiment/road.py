"""A road: one pretraining, then fine-tunings from several starts, with few labels and with many, over several seeds.

Each of its runs is a run like any other, in a folder with a name that says what it is. So a road that was stopped goes on
where it was when the same command is given again, and does nothing when all is done. Given twice at a time, the two share
the runs.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from etude.configuration.check import check
from etude.configuration.compose import Composer
from etude.configuration.conf import CONF
from etude.configuration.root import Road, Root
from etude.errors import ConfigurationError, FolderInUseError
from etude.experiment import launch
from etude.experiment.report.road import Cell, road_page, road_table
from etude.interrupts import StoppedError
from etude.store.folder import DATA, FINISHED, without_secrets, write_json, write_text

RESULTS = "road.json"
WAIT = 5.0
"""Seconds until it is looked again whether another command has ended a run."""

PRETRAINING, PRETRAINED = "pretrained", "{pretrained}"
"""The name of the pretraining's run, and what stands for its folder in what is said of a start."""

MACHINE = ("trainer", "logger", "paths")
ARCHITECTURE = ("model", "tokenizer")
"""What a start from a run brings: what is said of it is said of the pretraining, and of starts from new weights."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fork:
    """One fine-tuning.

    Attributes:
        start: Its name in `road.starts`.
        labels: Training examples, as in `road.labels`; `all` of them.
        seed: Of the order, of new weights, and of which examples are drawn.
    """

    start: str
    labels: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its run."""
        return f"{self.start}-{self.labels}-seed{self.seed}"


def walk(values: Mapping[str, Any], overrides: Sequence[str], train: Callable[[DictConfig, list[str]], object]) -> Path:
    """Train everything on a road, and write `road.json`, `road.md` and `road.html`.

    Args:
        values: The checked configuration as plain values, of which `road` is this road.
        overrides: What was written on the command line. All but `road.…` holds for every fine-tuning; what is said of the
            machine, of model and of tokenizer, for the pretraining too.
        train: Trains a run of a configuration, given its command line; a finished one is left as it is.

    Returns:
        The road's folder, in which its runs are.

    Raises:
        ConfigurationError: If one of its runs would have a wrong configuration: before the first one begins.
    """
    root = Root.from_plain(values)
    outputs, place = root.paths.outputs, Path(root.run.experiment or "road", root.run.name or "")
    folder = outputs / place
    lines = _Lines(outputs, place, root.road, [word for word in overrides if not _says(word, "road", "run.name")])
    forks = [
        Fork(start, labels, seed)
        for labels in root.road.labels
        for start in root.road.starts
        for seed in root.road.seeds
    ]
    named = {
        **({PRETRAINING: lines.pretraining()} if root.road.pretrain else {}),
        **{f.name: lines.fork(f) for f in forks},
    }
    for line in named.values():
        _composed(line)
    _train_all(
        {name: partial(_train, train, line) for name, line in named.items()},
        after={fork.name: PRETRAINING for fork in forks if PRETRAINING in named and lines.is_pretrained(fork)},
    )
    if launch.global_rank() == 0:
        _write(folder, root, values)
    return folder


def _train(train: Callable[[DictConfig, list[str]], object], line: list[str]) -> None:
    train(_composed(line), line)


def _train_all(runs: Mapping[str, Callable[[], None]], after: Mapping[str, str]) -> None:
    """Train all runs, in this order but for those that another command is at: these are looked at again later.

    Args:
        runs: What trains each, by its name.
        after: The run that must be there before the one of a name begins.
    """
    number = {name: index for index, name in enumerate(runs, 1)}
    left, elsewhere = list(runs), set[str]()

    def is_done(name: str) -> bool:
        if name not in elsewhere:
            _log.info("road: run %d of %d: %s", number[name], len(runs), name)
        try:
            runs[name]()
        except FolderInUseError as error:
            if launch.started_outside():  # the other ranks of this command are in the run already
                raise
            if name not in elsewhere:
                _log.info("road: %s", str(error).partition(";")[0])
            elsewhere.add(name)
            return False
        except StoppedError:
            message = "the road stopped in run %d of %d; the same command goes on with it"
            _log.warning(message, number[name], len(runs))
            raise
        return True

    while left:
        done = next((name for name in left if after.get(name) not in left and is_done(name)), None)
        if done is None:
            time.sleep(WAIT)
        else:
            left.remove(done)


@dataclass(frozen=True)
class _Lines:
    """The command lines of a road's runs.

    Attributes:
        outputs: The folder of all runs.
        place: Of the road in it.
        road: What it is.
        said: Words of the command line that hold for every fine-tuning.
    """

    outputs: Path
    place: Path
    road: Road
    said: Sequence[str]

    def pretraining(self) -> list[str]:
        said = [word for word in self.said if _says(word, *MACHINE, *ARCHITECTURE)]
        return [*self.road.pretrain, *said, *self._place(PRETRAINING)]

    def is_pretrained(self, fork: Fork) -> bool:
        """Whether it starts from the pretraining."""
        return any(PRETRAINED in word for word in self.road.starts[fork.start])

    def fork(self, fork: Fork) -> list[str]:
        start = [
            word.replace(PRETRAINED, str(self.outputs / self.place / PRETRAINING))
            for word in self.road.starts[fork.start]
        ]
        limit = "null" if fork.labels == "all" else fork.labels
        budget = f"budget={self.road.labels[fork.labels]}"
        brought = [*(ARCHITECTURE if any(_says(word, "start") for word in start) else ())]
        if any(_says(word, "experiment") for word in start):
            brought.append("experiment")
        said = [word for word in self.said if not _says(word, *brought)]
        return [*start, budget, *said, f"seed={fork.seed}", f"limit.train={limit}", *self._place(fork.name)]

    def _place(self, name: str) -> list[str]:
        return [f"paths.outputs='{self.outputs}'", f"run.experiment='{self.place}'", f"run.name={name}"]


def _says(word: str, *keys: str) -> bool:
    """Whether an override is of one of the keys, or of one below it."""
    key = word.lstrip("+~").partition("=")[0].replace("/", ".")
    return any(f"{key}.".startswith(f"{one}.") for one in keys)


def _composed(line: list[str]) -> DictConfig:
    """Return the checked configuration of a command line. What it says of a run is checked when that run is there."""
    composer = Composer(CONF, "train")
    composition = composer.compose(composer.normalized(line))
    with open_dict(composition.config):
        composition.config.pop("road", None)  # what is a run of a road is none itself
    check(composition.config, composition.overrides, composition.sources)
    return composition.config


def _write(folder: Path, root: Root, values: Mapping[str, Any]) -> None:
    """Write what was found, for programs and for people."""
    road, metric = root.road, f"test/{root.validate.metric.partition('/')[2]}"
    cells = []
    for labels in road.labels:
        for start in road.starts:
            runs = [folder / Fork(start, labels, seed).name for seed in road.seeds]
            examples = json.loads((runs[0] / DATA).read_text())["rows"]["train"]
            cells.append(Cell(start, examples, tuple(_score(run, metric) for run in runs)))
    found = {"metric": metric, "cells": [cell.to_json() for cell in cells], "road": without_secrets(values)["road"]}
    write_json(folder / RESULTS, found)
    table = road_table(metric, cells)
    write_text(folder / "road.md", table)
    write_text(folder / "road.html", road_page(folder, metric, cells))
    print(table, file=sys.stderr)  # noqa: T201


def _score(run: Path, metric: str) -> float:
    scores = json.loads((run / FINISHED).read_text())["scores"]
    if metric not in scores:
        raise ConfigurationError(f"{run} has no score {metric}, only {', '.join(scores)}; a road needs a test split")
    return float(scores[metric])
