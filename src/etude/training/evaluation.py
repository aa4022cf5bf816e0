"""Scores of a checkpoint on a split or on any files: the same code at the end of a training and in `etude evaluate`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from etude.atomic import make_folder, storage_errors
from etude.checkpoints.saver import read_weights
from etude.errors import ConfigurationError
from etude.metrics.score import Score
from etude.runs.folder import write_json, write_text
from etude.tasks.base import Task
from etude.tasks.prediction import Calibrates
from etude.tasks.running_sums import Row
from etude.training.build import Experiment
from etude.training.evaluated_files import AskedFiles
from etude.training.other_settings import named

_log = logging.getLogger(__name__)

BOOTSTRAP = 1000
"""Resamplings of the test set for a confidence interval (Koehn 2004)."""

OPTIONAL = ("files", "settings", "left_out_or_changed", "details", "ensemble")
"""What an evaluation says only where there is something to say."""


def evaluate_checkpoint(
    run: Path,
    experiment: Experiment,
    checkpoint: Path,
    split: str | None = None,
    callbacks: Sequence[Callback] = (),
    members: Mapping[Path, Task] | None = None,
    files: AskedFiles | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score a checkpoint on a split and write `evaluations/<split>.json` and `.jsonl` into the run's folder.

    What the task tells of the rows besides (see `Task.details`) is under `details`; a calibration is fitted on val. Where the
    rows are texts, `<split>.outputs.txt` and `<split>.references.txt` have a line for each, for other tools. An
    ensemble is written to `<split>-ensemble` beside them, and what was asked for with other settings under their names.

    Args:
        run: The run's folder.
        experiment: The experiment, built; its task gets the checkpoint's weights.
        checkpoint: The checkpoint's folder.
        split: `test`, `val` or `train`; None: `test` where there is one, else `val`.
        callbacks: Lightning callbacks, such as a progress bar.
        members: Tasks of other runs that join the checkpoint's, by their folders.
        files: What is evaluated on in place of a split of the run's data; its name is that of the files written.
        settings: What the experiment was built with that is not the run's own (see `other_settings`).
    """
    data, task = experiment.data, experiment.task
    splits = data.splits
    chosen = split or ("test" if "test" in splits else "val")
    if chosen not in splits:
        raise ConfigurationError(f"split={chosen}: the data has no such split, only {', '.join(splits)}")
    task.load_state_dict(read_weights(checkpoint))
    if members:
        task.join(list(members.values()))
    task.bootstrap = BOOTSTRAP
    trainer = _score_and_calibrate(run, experiment, chosen, callbacks)
    name = files.name if files else chosen
    changed = data.prepared.dropped.get(chosen, {})
    scores = {
        "split": name,
        "checkpoint": checkpoint.name,
        "examples": len(task.rows),
        "files": files.paths() if files else {},
        "settings": dict(settings or {}),
        "left_out_or_changed": changed,
        **described(task.results, name),
        "details": {} if files else task.details(task.rows, chosen),
        "ensemble": [str(member) for member in members or ()],
    }
    scores = {key: value for key, value in scores.items() if value or key not in OPTIONAL}
    if trainer.is_global_zero:
        rows = _with_scores(task.rows, task.results)
        whole = f"{name}-ensemble" if members else name
        _write(run / "evaluations", whole if files and files.named else named(whole, settings or {}), scores, rows)
        _say_changed(name, changed if files else {}, task.rows)
    return scores


def _score_and_calibrate(
    run: Path, experiment: Experiment, split: str, callbacks: Sequence[Callback]
) -> lightning.Trainer:
    """Score the task on a split; where it has probabilities to calibrate, on the validation split before."""
    task = experiment.task
    if isinstance(task, Calibrates) and "val" in experiment.data.splits:
        trainer = score(run, experiment, "val", callbacks)
        task.calibrate(task.rows)
        if split == "val":
            return trainer
    return score(run, experiment, split, callbacks)


def score(run: Path, experiment: Experiment, split: str, callbacks: Sequence[Callback] = ()) -> lightning.Trainer:
    """Score the task, with the weights that it has, on a split: its `results` and `rows` are those afterwards.

    Returns:
        The trainer that did it.
    """
    machine = experiment.machine
    trainer = machine.trainer(run, callbacks=callbacks, enable_progress_bar=bool(callbacks) and machine.progress_bar)
    experiment.data.evaluated = split
    trainer.test(experiment.task, datamodule=experiment.data, verbose=False)
    return trainer


def described(results: Mapping[str, Score], name: str) -> dict[str, dict[str, Any]]:
    """Return scores, intervals and signatures as plain values by `<name>/<score>`."""
    return {
        "scores": {f"{name}/{score}": one.value for score, one in results.items()},
        "intervals": {
            f"{name}/{score}": [one.low, one.high]
            for score, one in results.items()
            if one.low is not None and one.high is not None
        },
        "signatures": {f"{name}/{score}": one.signature for score, one in results.items() if one.signature},
    }


def _with_scores(rows: Sequence[Row], results: Mapping[str, Score]) -> list[Row]:
    """Return the rows with the scores of each alone, as far as there are any, to two digits, or four of those below one."""
    alone = {
        name: one.statistics.alone.tolist()
        for name, one in results.items()
        if one.statistics is not None and one.statistics.alone is not None
    }
    if not alone:
        return list(rows)
    by_row = zip(*alone.values(), strict=True)
    return [
        {
            **row,
            "scores": {
                name: round(value, 2 if abs(value) >= 1 else 4)
                for name, value in zip(alone, values, strict=True)
                if not isnan(value)
            },
        }
        for row, values in zip(rows, by_row, strict=True)
    ]


def _say_changed(name: str, changed: Mapping[str, int], rows: Sequence[Row]) -> None:
    """Say which lines were not read as they are, and which outputs were not ended."""
    for reason, count in changed.items():
        _log.warning("%s: %d lines %s", name, count, reason)
    stopped = sum(row.get("finished") is False for row in rows)
    if stopped:
        advice = "a larger decoding.max_length lets them go on, up to twice their source"
        _log.warning("%d of %d outputs were stopped at their length limit; %s", stopped, len(rows), advice)


def _write(folder: Path, name: str, scores: dict[str, Any], rows: Sequence[Row]) -> None:
    with storage_errors(folder):
        make_folder(folder)
    write_text(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    if all("output" in row for row in rows):
        write_text(folder / f"{name}.outputs.txt", "".join(_line(row["output"]) for row in rows))
    if all(len(row.get("references", ())) == 1 for row in rows):
        write_text(folder / f"{name}.references.txt", "".join(_line(row["references"][0]) for row in rows))
    write_json(folder / f"{name}.json", scores)


def _line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ") + "\n"
