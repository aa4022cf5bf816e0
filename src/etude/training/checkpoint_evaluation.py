"""Evaluation of a checkpoint on a split or on files: the same code at the end of training and in `etude evaluate`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from etude.atomic import make_folder, storage_errors, write_json, write_text
from etude.checkpoints.checkpoint import read_weights
from etude.errors import ConfigurationError
from etude.metrics.score import Score
from etude.runs.folder import EVALUATIONS
from etude.runs.saved_run import SavedRun
from etude.tasks.base import Task
from etude.tasks.prediction import Calibrates
from etude.tasks.running_sums import Row
from etude.training.build import Experiment
from etude.training.evaluation_settings import RequestedFiles, evaluation_name

_log = logging.getLogger(__name__)

BOOTSTRAP = 1000
"""Bootstrap resamples of the test set for a confidence interval (Koehn 2004)."""

OPTIONAL = ("files", "settings", "left_out_or_changed", "details", "ensemble")
"""Keys of an evaluation that are left out where they have no content."""


def evaluate_checkpoint(
    run: SavedRun,
    experiment: Experiment,
    checkpoint: Path,
    split: str | None = None,
    callbacks: Sequence[Callback] = (),
    members: Mapping[Path, Task] | None = None,
    files: RequestedFiles | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score a checkpoint on a split and write `evaluations/<split>.json` and `.jsonl` into the run's folder.

    `details` has what the task reports on the rows besides scores (see `Task.details`); a calibration is fitted on val.
    Where the rows are texts, `<split>.outputs.txt` and `<split>.references.txt` have one line per row, for other tools.
    An ensemble is written to `<split>-ensemble`, and an evaluation with changed settings under its own name.

    Args:
        run: The run.
        experiment: The experiment; its task gets the checkpoint's weights.
        checkpoint: Folder of the checkpoint.
        split: `test`, `val` or `train`; None: `test` where it exists, else `val`.
        callbacks: Lightning callbacks, such as a progress bar.
        members: Tasks of the other members of an ensemble, by the folders of their runs.
        files: Files whose rows stand in place of the split's in the experiment's data already; the evaluation has their name.
        settings: Settings of the experiment that are not the run's own (see `changed_settings`).

    Returns:
        The content of the JSON file.

    Raises:
        ConfigurationError: If the data does not have the split.
    """
    data, task = experiment.data, experiment.task
    split = split or ("test" if "test" in data.splits else "val")
    if split not in data.splits:
        raise ConfigurationError(
            f"split={split}: the data has no such split; write split={' or split='.join(data.splits)}"
        )
    task.load_state_dict(read_weights(checkpoint, task.state_dict()))
    if members:
        task.join(list(members.values()))
    task.bootstrap = BOOTSTRAP
    trainer = _score_and_calibrate(run.path, experiment, split, callbacks)
    name = files.name if files else split
    dropped_or_changed = data.prepared.dropped.get(split, {})
    evaluation = {
        "split": name,
        "checkpoint": checkpoint.name,
        "examples": len(task.rows),
        "files": files.paths() if files else {},
        "settings": dict(settings or {}),
        "left_out_or_changed": dropped_or_changed,
        **score_values(task.results, name),
        "details": {} if files else task.details(task.rows, split),
        "ensemble": [str(member) for member in members or ()],
    }
    evaluation = {key: value for key, value in evaluation.items() if value or key not in OPTIONAL}
    if trainer.is_global_zero:
        stem = evaluation_name(name, settings or {}, files, ensemble=bool(members))
        write_evaluation(run.path / EVALUATIONS, stem, evaluation, _with_scores(task.rows, task.results))
        _warn_of_changed_lines(name, dropped_or_changed if files else {}, task.rows)
    return evaluation


def _score_and_calibrate(
    run: Path, experiment: Experiment, split: str, callbacks: Sequence[Callback]
) -> lightning.Trainer:
    """Score the task on a split; if it has probabilities to calibrate, calibrate them on the validation split first."""
    task = experiment.task
    if isinstance(task, Calibrates) and "val" in experiment.data.splits:
        trainer = score(run, experiment, "val", callbacks)
        task.calibrate(task.rows)
        if split == "val":
            return trainer
    return score(run, experiment, split, callbacks)


def score(run: Path, experiment: Experiment, split: str, callbacks: Sequence[Callback] = ()) -> lightning.Trainer:
    """Score the task with its present weights on a split; the scores are its `results`, the examples its `rows`.

    Returns:
        The trainer that ran the evaluation.
    """
    progress = bool(callbacks) and experiment.machine.progress_bar
    trainer = experiment.trainer(run, callbacks=callbacks, enable_progress_bar=progress)
    experiment.data.evaluated = split
    trainer.test(experiment.task, datamodule=experiment.data, verbose=False)
    return trainer


def score_values(results: Mapping[str, Score], name: str) -> dict[str, dict[str, Any]]:
    """Return scores, confidence intervals and signatures as plain values by `<name>/<metric>`."""
    return {
        "scores": {f"{name}/{metric}": score.value for metric, score in results.items()},
        "intervals": {
            f"{name}/{metric}": [score.low, score.high]
            for metric, score in results.items()
            if score.low is not None and score.high is not None
        },
        "signatures": {f"{name}/{metric}": score.signature for metric, score in results.items() if score.signature},
    }


def _with_scores(rows: Sequence[Row], results: Mapping[str, Score]) -> list[Row]:
    """Return the rows with the scores of each row by itself, where a metric has such scores.

    They are rounded to two digits, and to four if their magnitude is below one.
    """
    row_scores = {
        metric: score.statistics.alone.tolist()
        for metric, score in results.items()
        if score.statistics is not None and score.statistics.alone is not None
    }
    if not row_scores:
        return list(rows)
    by_row = zip(*row_scores.values(), strict=True)
    return [
        {
            **row,
            "scores": {
                metric: round(value, 2 if abs(value) >= 1 else 4)
                for metric, value in zip(row_scores, values, strict=True)
                if not isnan(value)
            },
        }
        for row, values in zip(rows, by_row, strict=True)
    ]


def _warn_of_changed_lines(name: str, changed: Mapping[str, int], rows: Sequence[Row]) -> None:
    """Warn of lines that were dropped or cut, and of outputs that reached their length limit."""
    for reason, count in changed.items():
        _log.warning("%s: %d lines %s", name, count, reason)
    stopped = sum(row.get("finished") is False for row in rows)
    if stopped:
        advice = "a larger decoding.max_length lets them go on, up to twice their source"
        _log.warning("%d of %d outputs were stopped at their length limit; %s", stopped, len(rows), advice)


def write_evaluation(folder: Path, name: str, evaluation: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write an evaluation and its rows into the folder of a run's evaluations, and their texts where they are texts."""
    with storage_errors(folder):
        make_folder(folder)
    write_text(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    if all("output" in row for row in rows):
        write_text(folder / f"{name}.outputs.txt", "".join(_line(row["output"]) for row in rows))
    if all(len(row.get("references", ())) == 1 for row in rows):
        write_text(folder / f"{name}.references.txt", "".join(_line(row["references"][0]) for row in rows))
    write_json(folder / f"{name}.json", evaluation)


def _line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ") + "\n"
