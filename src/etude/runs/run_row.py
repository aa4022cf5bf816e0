"""A run as a row of a list: state, scores and cost, read from its folder in a millisecond and without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from etude.config.annotations import TARGET
from etude.config.case import get
from etude.config.compose import CONF
from etude.config.stored import stored_values
from etude.runs.documents import PRUNED, Conclusion, Cost
from etude.runs.folder import CHECKPOINTS, CONFIGURATION, COST, DATA, FAILURE, FINISHED
from etude.runs.lock import holder
from etude.runs.reading import read_conclusion, read_cost, read_failure
from etude.runs.record import RECORD, Event, read_some

RunState = Literal["begun", "prepared", "running", "interrupted", "failed", "pruned", "finished"]
"""How far a run is.

`begun`: it has a configuration; `prepared`: tokenizer and data too; `running`: a process holds it; `interrupted`: it has
trained and goes on when its command is given again; `failed`: an error ended the last attempt; `pruned`: its sweep ended it
early; `finished`: it came to its end.
"""

_TRACEBACK = "etude-traceback-*.txt"


@dataclass(frozen=True)
class RunRow:
    """One run.

    Attributes:
        path: Its folder.
        name: Its folder relative to that of all runs, such as `translation/demo/first`.
        sweep: Name of the sweep that it is a member of; empty for none.
        state: How far it is.
        values: Its configuration, as it is stored.
        best: The best of its validations by `validate.metric`; None before the first.
        last: The last event of its record; None before the first.
        conclusion: What it ended with; None before.
        cost: What it has cost; None before it has ended.
        reason: Why it ended or failed; empty where that is not known.
        written: When it last wrote something, in seconds since 1970.
    """

    path: Path
    name: str
    sweep: str
    state: RunState
    values: Mapping[str, Any]
    best: Event | None
    last: Event | None
    conclusion: Conclusion | None
    cost: Cost | None
    reason: str
    written: float

    @classmethod
    def read(cls, path: Path, outputs: Path, sweep: str = "") -> RunRow:
        """Read the folder of a run that has begun.

        Args:
            path: The folder.
            outputs: Folder of all runs.
            sweep: Name of the sweep that it is a member of.

        Raises:
            BrokenFileError: If one of its files is damaged, or of another version of etude.
        """
        values = stored_values(path / CONFIGURATION)
        metric, mode = values["validate"]["metric"], values["validate"]["mode"]
        validations, last = read_some(path / RECORD, metric) if (path / RECORD).exists() else ([], None)
        conclusion = read_conclusion(path) if (path / FINISHED).exists() else None
        state, reason = _state(path, conclusion, last is not None)
        return cls(
            path=path,
            name=path.relative_to(outputs).as_posix(),
            sweep=sweep,
            state=state,
            values=values,
            best=_best(validations, metric, mode),
            last=last,
            conclusion=conclusion,
            cost=read_cost(path) if (path / COST).exists() else None,
            reason=reason,
            written=_written(path),
        )

    @property
    def metric(self) -> str:
        """Name of the score that says which checkpoint is best."""
        return str(self.values["validate"]["metric"])

    @property
    def score(self) -> float | None:
        """The best of its validations."""
        return None if self.best is None else self.best.values[self.metric]

    @property
    def experiment(self) -> str:
        """Name of its experiment; empty where it has none."""
        return str(get(self.values, "run.experiment") or "")

    @property
    def task(self) -> str:
        """Name of its task, as `task=…` takes it."""
        return _task(self.values["task"][TARGET], self.experiment.partition("/")[0])

    def field(self, key: str) -> Any:
        """Return what a key means: one of `FIELDS`, a metric with a slash, or a dotted key of the configuration.

        Of a metric of validations the value at the best one, of the final scores that one, and otherwise the last that was
        recorded. Of a group of the configuration the names that its class goes by.

        Raises:
            BrokenFileError: If the record has to be read for it, and is damaged.
        """
        if key in FIELDS:
            return FIELDS[key](self)
        if "/" in key:
            return self._metric(key)
        value = get(self.values, key)
        return names_of(value) if isinstance(value, Mapping) and TARGET in value else value

    def _metric(self, key: str) -> float | None:
        if self.best is not None and key in self.best.values:
            return self.best.values[key]
        if self.conclusion is not None and key in self.conclusion.scores:
            return self.conclusion.scores[key]
        events = read_some(self.path / RECORD, key)[0] if self.last is not None else []
        return events[-1].values[key] if events else None


FIELDS: Mapping[str, Callable[[RunRow], Any]] = {
    "run": lambda row: row.name,
    "folder": lambda row: str(row.path),
    "experiment": lambda row: row.experiment,
    "task": lambda row: row.task,
    "sweep": lambda row: row.sweep or None,
    "state": lambda row: row.state,
    "metric": lambda row: row.metric,
    "score": lambda row: row.score,
    "step": lambda row: row.last.step if row.last else None,
    "tokens": lambda row: row.last.tokens if row.last else None,
    "seconds": lambda row: row.last.seconds if row.last else None,
    "energy_joules": lambda row: row.cost.energy_joules if row.cost else None,
    "flops": lambda row: row.cost.flops if row.cost else None,
    "parameters": lambda row: row.cost.parameters.total if row.cost else None,
    "reason": lambda row: row.reason or None,
    "written": lambda row: row.written,
}
"""What a row says of itself, by name."""


def names_of(node: Mapping[str, Any]) -> list[str]:
    """Return the names that the class of a node goes by: `encoder` and `Encoder` of `etude.models.encoder.Encoder`."""
    *modules, name = str(node[TARGET]).split(".")
    return list(dict.fromkeys([*modules[-1:], name, name.lower()]))


@cache
def _task(target: str, prefix: str) -> str:
    """Return the choice of `task=` that makes a class; of several, the one that the experiment's name begins with."""
    file = CONF / "task" / f"{prefix}.yaml"
    if file.is_file() and f"{TARGET}: {target}\n" in file.read_text(encoding="utf-8"):
        return prefix
    return target.split(".")[-2] if target.startswith("etude.tasks.") else target.rpartition(".")[2]


def _state(run: Path, conclusion: Conclusion | None, trained: bool) -> tuple[RunState, str]:
    """Return the state of a run and why it ended or failed."""
    if conclusion is not None:
        return ("pruned" if conclusion.ended.startswith(PRUNED) else "finished"), conclusion.ended
    if holder(run) is not None:
        return "running", ""
    if (run / FAILURE).exists():
        return "failed", read_failure(run).reason
    if any(run.glob(_TRACEBACK)):
        return "failed", "a defect of etude"
    if trained or (run / CHECKPOINTS).exists():
        return "interrupted", ""
    return ("prepared" if (run / DATA).exists() else "begun"), ""


def _best(events: list[Event], metric: str, mode: str) -> Event | None:
    numbers = [event for event in events if not math.isnan(event.values[metric])]
    return (max if mode == "max" else min)(numbers, key=lambda event: event.values[metric], default=None)


def _written(run: Path) -> float:
    """Return when a run last wrote something."""
    return max((run / name).stat().st_mtime for name in (CONFIGURATION, RECORD, FINISHED) if (run / name).exists())
