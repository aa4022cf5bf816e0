"""A finished run as `etude compare` reads it: configuration, scores, rows, cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import get_class

from etude.config.schema import Node
from etude.config.values import shown_values, within
from etude.errors import ConfigurationError, DataError
from etude.metrics.resampling import all_scored
from etude.metrics.score import Score
from etude.report.significance import ScoredRows, ids_and_references
from etude.runs.folder import COST, EVALUATIONS
from etude.runs.reading import read_cost, read_evaluation, read_rows
from etude.runs.saved_run import SavedRun
from etude.tasks.base import Task
from etude.tasks.running_sums import Row
from etude.training.build import factory

IGNORED = ("seed", "run", "paths", "logger", "log", "trainer.progress_bar", "trainer.watts_per_core")
"""Configuration keys, with all below them, that do not distinguish experiments."""


@dataclass(frozen=True)
class ComparedRun:
    """A run with what a comparison needs of it.

    Attributes:
        run: The run.
        configuration: Values as text by dotted key, without `IGNORED`.
        scores: Scores by `<split>/<name>`.
        intervals: 95 % confidence intervals by score, where there are any.
        signatures: How scores were computed, where it is recorded.
        rows: Rows of the evaluation; empty if they were not kept.
        cost: Content of `cost.json`; empty if the run has none.
    """

    run: SavedRun
    configuration: Mapping[str, str]
    scores: Mapping[str, float]
    intervals: Mapping[str, list[float]]
    signatures: Mapping[str, str]
    rows: list[Row]
    cost: Mapping[str, Any]

    @classmethod
    def read(cls, run: SavedRun, split: str) -> ComparedRun:
        """Read a run that was evaluated on a split.

        Raises:
            BrokenFileError: If one of its files is damaged.
        """
        evaluation = read_evaluation(run.path, split)
        has_rows = (run.path / EVALUATIONS / f"{split}.jsonl").exists()
        values = shown_values(run.config.values)
        if run.merged is not None:
            kept = [Path(source.run).name for source in run.merged.sources if source.kept]
            values["merged"] = f"{run.merged.method} of {', '.join(kept)}"
        return cls(
            run=run,
            configuration={key: text for key, text in values.items() if not within(key, IGNORED)},
            scores=evaluation.scores,
            intervals=evaluation.intervals,
            signatures=evaluation.signatures,
            rows=read_rows(run.path, split) if has_rows else [],
            cost=read_cost(run.path).plain() if (run.path / COST).exists() else {},
        )

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.run.path

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.run.config.seed

    @property
    def main(self) -> str:
        """Name of the metric that selected the run's best checkpoint, without the split."""
        return self.run.config.validate.metric.partition("/")[2]

    def has_data_of(self, other: ComparedRun) -> bool:
        """Return whether both were scored on the same data: on the same ids and references, where both have them."""
        rows, others = ids_and_references(self.rows), ids_and_references(other.rows)
        if rows and others and all(reference is not None for _, reference in (*rows, *others)):
            return rows == others
        return self.run.data.fingerprint == other.run.data.fingerprint

    def scored_rows(self, names: Collection[str]) -> ScoredRows:
        """Return the rows with the scores of these names, recomputed from the rows, for a paired test.

        Raises:
            DataError: If the rows do not reproduce a recorded score.
        """
        results = self._results(names)
        for recorded, value in self.scores.items():
            recomputed = results.get(recorded.partition("/")[2])
            if recomputed is not None and not np.isclose(recomputed.value, value, rtol=0, atol=1e-6, equal_nan=True):
                raise DataError(
                    f"{self.folder}: the rows of its evaluation give {recorded} {recomputed.value:g}, not {value:g} as was "
                    f"recorded; evaluate it again: etude evaluate {self.folder}"
                )
        return ScoredRows(results, ids_and_references(self.rows))

    def _results(self, names: Collection[str]) -> dict[str, Score]:
        if not self.rows:
            return {}
        node = self.run.config.task
        task_class: type[Task] = get_class(node.target)
        nodes = node.arguments.get("metrics")
        metrics = (
            task_class.STANDARD if nodes is None else {key: factory(Node(value))() for key, value in nodes.items()}
        )
        requested = {
            key: metric for key, metric in metrics.items() if any(f"{name}_".startswith(f"{key}_") for name in names)
        }
        statistics = task_class.statistics(self.rows, requested, self.run.facts)
        return all_scored({name: statistic for name, statistic in statistics.items() if name in names})


def common_split(runs: Collection[SavedRun], requested: str | None) -> str:
    """Return the split that all runs were evaluated on: the requested one, else test, else val.

    Raises:
        ConfigurationError: If there is no such split.
    """
    missing: dict[str, Path] = {}
    for split in (requested,) if requested else ("test", "val"):
        without = [run.path for run in runs if not (run.path / EVALUATIONS / f"{split}.json").exists()]
        if not without:
            return split
        missing[split] = without[0]
    problem = "; ".join(f"{folder} has no evaluation of {split}" for split, folder in missing.items())
    first, folder = next(iter(missing.items()))
    raise ConfigurationError(f"{problem}; make it: etude evaluate {folder} split={first}")
