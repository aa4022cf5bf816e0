"""What a run's folder holds, for a report. Every file may be missing, or be broken: then the report says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from etude.errors import StorageError
from etude.report.charts import Chart, Series, chart
from etude.report.confusion import checked
from etude.report.cost_rows import read_cost_rows
from etude.report.inspection import Inspection
from etude.runs.folder import CONFIGURATION, COST, OVERRIDES, state
from etude.runs.record import RECORD, WALL_CLOCK, Event, read

SHOWN_SAMPLES = 100
"""Samples on the page at most."""

TITLES = {
    "train/loss": "Loss",
    "val/loss": "Loss",
    "train/learning_rate": "Learning rate",
    "train/gradient_norm": "Gradient norm",
    "train/skipped_steps": "Steps left out",
    "speed/tokens_per_second": "Tokens per second",
}
"""Titles of charts; values with the same title are drawn together."""

EXACT = ("Learning rate", "Steps left out")
"""Titles of charts whose values have no noise."""

SPIKE = "train/spike"
"""What a line of the record has where its loss is a spike: marked in the chart of the loss."""

_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Evaluation:
    """One file of `evaluations/`: scores on a split, with what they need to be believed.

    Attributes:
        name: The file's name, without its ending.
        checkpoint: Of which model; None if that is not told.
        examples: Rows of the split.
        scores: Name and value of each.
        intervals: Name, and both ends of the confidence interval.
        signatures: Name, and how exactly it was computed.
        details: What else is told of the rows: see `etude.tasks.base.Task.details`.
    """

    name: str
    checkpoint: str | None
    examples: int | None
    scores: Mapping[str, float]
    intervals: Mapping[str, Sequence[float]]
    signatures: Mapping[str, str]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownSamples:
    """Outputs of the last validation.

    Attributes:
        step: When.
        columns: Names, in the order in which they first occur.
        rows: A mapping from names to texts for each sample.
        total: How many there are in the file; `rows` may be fewer.
    """

    step: int
    columns: list[str]
    rows: list[dict[str, Any]]
    total: int


@dataclass
class Contents:
    """A run, as far as it is known. What is None or empty is not there; `problems` says what is there but broken.

    Attributes:
        run: The folder.
        experiment: The experiment's name.
        status: `finished` or `unfinished`.
        config: The configuration; empty without one.
        config_text: The same, as it is written.
        overrides: What was given on the command line.
        events: The record.
        evaluations: All evaluations, those of the test split first.
        samples: Of the last validation.
        attention: What the model attends to in sample sentences.
        data: Facts about the data.
        manifest: Code, packages and machine.
        cost: Names and texts of what the training has cost besides steps and time.
        best: Name of the best checkpoint's folder.
        last: Name of the last checkpoint's folder.
        problems: One line for each file that cannot be read.
    """

    run: Path
    experiment: str
    status: str
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    overrides: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    samples: ShownSamples | None = None
    attention: list[Inspection] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    cost: list[tuple[str, str]] = field(default_factory=list)
    best: str | None = None
    last: str | None = None
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, run: Path) -> Contents:
        """Read everything that is there."""
        absolute = run.resolve()
        contents = cls(run, f"{absolute.parent.parent.name}/{absolute.parent.name}", _status(run))
        known, note = contents, contents._note
        known.config_text = note(run / CONFIGURATION, Path.read_text) or ""
        known.config = note(run / CONFIGURATION, _yaml_mapping) or {}
        known.overrides = note(run / OVERRIDES, _yaml_list) or []
        known.events = note(run / RECORD, read) or []
        found = [note(path, _evaluation) for path in sorted((run / "evaluations").glob("*.json"))]
        known.evaluations = sorted(filter(None, found), key=lambda one: (not one.name.startswith("test"), one.name))
        for path in sorted((run / "samples").glob("step-*.jsonl"))[-1:]:
            known.samples = note(path, _samples)
        known.attention = note(run / "attention.json", _attention) or []
        known.data = note(run / "data.json", _mapping) or {}
        known.manifest = note(run / "manifest.json", _mapping) or {}
        known.cost = note(run / COST, read_cost_rows) or []
        known.best, known.last = (_link(run / "checkpoints" / name) for name in ("best", "last"))
        return contents

    def _note(self, path: Path, reader: Callable[[Path], _Read]) -> _Read | None:
        """Return what a reader makes of a file; None, and a note of the problem, if it makes nothing of it."""
        if not path.exists():
            return None
        try:
            return reader(path)
        except StorageError as error:
            self.problems.append(str(error))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            self.problems.append(f"{path.relative_to(self.run)} cannot be read: {reason} ({type(error).__name__})")
        return None

    @property
    def metric(self) -> str:
        """The value by which the run's checkpoints are compared."""
        return str((self.config.get("validate") or {}).get("metric", "val/loss"))

    def best_validation(self) -> tuple[int, float] | None:
        """Return the step and the value of the best validation, or None before the first."""
        found = [(event.values[self.metric], event.step) for event in self.events if self.metric in event.values]
        found = [pair for pair in found if np.isfinite(pair[0])]
        if not found:
            return None
        largest = (self.config.get("validate") or {}).get("mode") == "max"
        value, step = max(found) if largest else min(found)
        return step, value

    @property
    def parameters(self) -> int | None:
        """Parameters of the model."""
        counted = self.manifest.get("parameters")
        total = counted.get("total") if isinstance(counted, dict) else counted
        return total if isinstance(total, int) else None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens trained on, by all the seconds of training, validation included."""
        last = self.events[-1] if self.events else None
        return last.tokens / last.seconds if last and last.seconds > 0 else None

    @property
    def command(self) -> str:
        """The command that began the run, on one line; empty if it is not known."""
        words = self.manifest.get("command")
        return " ".join(map(str, words)) if isinstance(words, list) else ""

    @property
    def environment(self) -> dict[str, Any]:
        """The manifest without the command, for a table."""
        return {name: value for name, value in self.manifest.items() if name != "command"}

    @property
    def other_facts(self) -> dict[str, Any]:
        """Facts about the data besides its rows, for a table."""
        return {name: value for name, value in self.data.items() if name not in ("rows", "dropped")}

    def charts(self) -> list[Chart]:
        """Return a chart of every value that was recorded more than once, in the order in which a person asks."""
        names = list(dict.fromkeys(name for event in self.events for name in event.values))
        shown = [name for name in names if name not in ("epoch", SPIKE) and not name.startswith("test/")]
        groups: dict[str, list[str]] = {}
        for name in sorted(shown, key=self._rank):
            groups.setdefault(TITLES.get(name, name), []).append(name)
        drawn = {title: [_series(self.events, name) for name in group] for title, group in groups.items()}
        return [
            chart(title, series, logarithmic=title not in (*EXACT, "Loss"), exact=title in EXACT)
            for title, series in drawn.items()
            if max(len(one.values) for one in series) > 1
        ]

    def _rank(self, name: str) -> tuple[int, int]:
        """Order: losses, the chosen metric, other validation scores, other values of training, speed."""
        order = list(TITLES)
        known = order.index(name) if name in order else len(order)
        if name in ("train/loss", "val/loss"):
            return 0, known
        if name == self.metric:
            return 1, 0
        if name.startswith("val/"):
            return 2, 0
        return (4, known) if name.startswith(WALL_CLOCK) else (3, known)


def _status(run: Path) -> str:
    return "finished" if state(run) == "finished" else "unfinished"


def _link(link: Path) -> str | None:
    return link.resolve().name if link.exists() else None


def _series(events: Iterable[Event], name: str) -> Series:
    lines = [one for one in events if name in one.values]
    found = [(one.step, one.tokens, one.seconds, one.values[name]) for one in lines]
    steps, tokens, seconds, values = np.array(found, dtype=np.float64).T
    spikes = np.array([SPIKE in one.values for one in lines]) if name == "train/loss" else None
    return Series(name, steps, tokens, seconds, values, spikes)


def _mapping(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text())
    if not isinstance(values, dict):
        raise TypeError(f"an object was expected, not {type(values).__name__}")
    return values


def _yaml_mapping(path: Path) -> dict[str, Any]:
    values = yaml.safe_load(path.read_text())
    if not isinstance(values, dict):
        raise TypeError(f"a mapping was expected, not {type(values).__name__}")
    return values


def _yaml_list(path: Path) -> list[str]:
    return [str(item) for item in yaml.safe_load(path.read_text()) or []]


def _evaluation(path: Path) -> Evaluation:
    values = _mapping(path)
    return Evaluation(
        name=path.stem,
        checkpoint=values.get("checkpoint"),
        examples=values.get("examples"),
        scores={str(name): float(value) for name, value in values["scores"].items()},
        intervals={str(name): (float(low), float(high)) for name, (low, high) in values.get("intervals", {}).items()},
        signatures={str(name): str(text) for name, text in values.get("signatures", {}).items()},
        details=checked(values.get("details", {})),
    )


def _samples(path: Path) -> ShownSamples:
    rows = [dict(json.loads(line)) for line in path.read_text().splitlines() if line.strip()]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return ShownSamples(int(path.stem.removeprefix("step-")), columns, rows[:SHOWN_SAMPLES], len(rows))


def _attention(path: Path) -> list[Inspection]:
    return [Inspection.from_json(one) for one in json.loads(path.read_text())]
