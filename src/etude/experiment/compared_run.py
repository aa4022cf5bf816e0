"""A finished run as another one is held against: configuration, scores, rows, cost."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from etude.errors import ConfigurationError, StorageError
from etude.experiment.build import make
from etude.experiment.comparison import Judged
from etude.experiment.stored import stored_configuration
from etude.metrics.resampling import scored
from etude.metrics.score import Score, Statistics
from etude.metrics.texts import text_scores
from etude.store.folder import COST, DATA, shown_values
from etude.tasks.sums import Row
from etude.tasks.translation import STANDARD_METRICS

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
            configuration={key: text for key, text in shown_values(values).items() if not _is_aside(key)},
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
        if self.rows and all("references" in row or "label" in row for row in self.rows):
            return [(row["id"], row.get("references", row.get("label"))) for row in self.rows]
        return self.data

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
        return Judged(results, [(row["id"], row.get("references", row.get("label"))) for row in self.rows])

    def _results(self, names: Collection[str]) -> dict[str, Score]:
        if self.rows and all("output" in row and "references" in row for row in self.rows):
            outputs, references = ([row[name] for row in self.rows] for name in ("output", "references"))
            metrics = make(self.task).keywords.get("metrics") or STANDARD_METRICS  # type: ignore[attr-defined]
            asked = {
                key: one for key, one in metrics.items() if any(f"{name}_".startswith(f"{key}_") for name in names)
            }
            return {name: score for name, score in text_scores(asked, outputs, references).items() if name in names}
        if "accuracy" in names and self.rows and all("prediction" in row and "label" in row for row in self.rows):
            return {"accuracy": scored(_hits([row["prediction"] == row["label"] for row in self.rows]))}
        return {}


def _hits(right: list[bool]) -> Statistics:
    """Return the statistics of an accuracy: hits and rows."""
    hits = np.array(right, np.float64)
    return Statistics(
        np.stack([hits, np.ones_like(hits)], axis=1), lambda sums: float(sums[0] / sums[1]), hits, "nrefs:1"
    )


def _is_aside(key: str) -> bool:
    return any(f"{key}.".startswith(f"{part}.") for part in ASIDE)


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
