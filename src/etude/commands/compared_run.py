"""A finished run as another one is held against: configuration, scores, rows, cost."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.errors import ConfigurationError, StorageError
from etude.metrics.resampling import all_scored
from etude.metrics.score import Score
from etude.report.significance import Judged, ids_and_wanted
from etude.runs.folder import COST, DATA, FACTS, shown_values, within
from etude.runs.stored import stored_configuration
from etude.tasks.base import Task
from etude.tasks.running_sums import Row
from etude.training.build import make
from etude.types import Facts

ASIDE = ("seed", "run", "paths", "logger", "log", "trainer.progress_bar", "trainer.watts_per_core")
"""Keys, with all below them, that make no other experiment of a run."""


@dataclass(frozen=True)
class ComparedRun:
    """What is read of a run.

    Attributes:
        folder: Its folder.
        configuration: Values as texts by dotted keys, without those of `ASIDE`.
        seed: Its seed.
        main: The name of the score that its checkpoints were compared by, without the split.
        task: The node of its task.
        scores: By `<split>/<name>`.
        intervals: Ends of the 95 % intervals of some of them.
        signatures: How some of them were computed.
        rows: The rows of its evaluation; empty if they are not there.
        data: The fingerprint of its data.
        cost: What `cost.json` says; empty for a run from before there was one.
    """

    folder: Path
    configuration: Mapping[str, str]
    seed: int
    main: str
    task: Mapping[str, Any]
    scores: Mapping[str, float]
    intervals: Mapping[str, list[float]]
    signatures: Mapping[str, str]
    rows: list[Row]
    data: str
    cost: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, split: str) -> ComparedRun:
        """Read a run that has an evaluation of a split.

        Raises:
            StorageError: If one of its files is damaged.
        """
        values = stored_configuration(folder)
        evaluation = _read(folder / "evaluations" / f"{split}.json")
        rows = folder / "evaluations" / f"{split}.jsonl"
        return cls(
            folder=folder,
            configuration={key: text for key, text in shown_values(values).items() if not within(key, ASIDE)},
            seed=values["seed"],
            main=values["validate"]["metric"].partition("/")[2],
            task=values["task"],
            scores=evaluation["scores"],
            intervals=evaluation["intervals"],
            signatures=evaluation["signatures"],
            rows=[json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else [],
            data=_read(folder / DATA)["fingerprint"],
            cost=_read(folder / COST) if (folder / COST).exists() else {},
        )

    @property
    def judged_on(self) -> Any:
        """What makes scores comparable: the rows' ids and wanted outputs; of rows that hold none, all of the run's data."""
        rows = ids_and_wanted(self.rows)
        return rows if rows and all(wanted is not None for _, wanted in rows) else self.data

    def judged(self, names: Collection[str]) -> Judged:
        """Return what a paired test needs of the scores of these names, computed anew from the rows.

        Raises:
            StorageError: If the rows do not give a score that was recorded.
        """
        results = self._results(names)
        for recorded, value in self.scores.items():
            found = results.get(recorded.partition("/")[2])
            if found is not None and abs(found.value - value) > 1e-6:
                raise StorageError(
                    f"{self.folder}: the rows of its evaluation give {recorded} {found.value:g}, not {value:g} as was "
                    f"recorded; evaluate it again: etude evaluate {self.folder}"
                )
        return Judged(results, ids_and_wanted(self.rows))

    def _results(self, names: Collection[str]) -> dict[str, Score]:
        if not self.rows:
            return {}
        made: Any = make(self.task)  # the class of the task, and those of its arguments that its node has
        kind: type[Task] = made.func
        metrics = made.keywords.get("metrics")
        asked = {
            key: metric
            for key, metric in (kind.STANDARD if metrics is None else metrics).items()
            if any(f"{name}_".startswith(f"{key}_") for name in names)
        }
        found = kind.statistics(self.rows, asked, Facts.from_json(_read(self.folder / FACTS)))
        return all_scored({name: one for name, one in found.items() if name in names})


def _read(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {' '.join(str(error).split())}; leave the run out") from error
    return values


def common_split(folders: Collection[Path], asked: str | None) -> str:
    """Return the split that all runs were evaluated on: the one asked for, else test, else val.

    Raises:
        ConfigurationError: If there is none.
    """
    lacking: dict[str, Path] = {}
    for split in (asked,) if asked else ("test", "val"):
        without = [folder for folder in folders if not (folder / "evaluations" / f"{split}.json").exists()]
        if not without:
            return split
        lacking[split] = without[0]
    said = "; ".join(f"{folder} has no evaluation of {split}" for split, folder in lacking.items())
    first, folder = next(iter(lacking.items()))
    raise ConfigurationError(f"{said}; make it: etude evaluate {folder} split={first}")
