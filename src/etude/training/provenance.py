"""Provenance of a run: written to its folder once at its start, and compared each time the run is continued."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from etude.atomic import storage_errors, sync_tree, write_json
from etude.errors import DataError
from etude.hub import PretrainedFiles
from etude.models.pretrained.weight_files import skeleton_content
from etude.runs.folder import DATA, FACTS, MANIFEST, PRETRAINED, TOKENIZER
from etude.runs.manifest import manifest, parameters
from etude.runs.manifest_drift import MACHINERY, drift
from etude.runs.saved_run import SavedRun
from etude.training.build import Experiment
from etude.training.continuation import note_changes
from etude.training.from_runs.teacher_run import refuse_changed_teacher
from etude.training.step_loop import Length
from etude.training.warm_start import describe_warm_start

_log = logging.getLogger(__name__)


def write_provenance(run: SavedRun, experiment: Experiment) -> None:
    """Write a run's tokenizer, data description, facts, manifest and pretrained skeleton, unless they exist.

    The folder of a reproduction begins with the tokenizer and data description of the run that it reproduces. Its manifest
    is its own.

    Raises:
        DataError: If the data has changed since the run was begun.
        StorageError: If a file cannot be written.
    """
    described = experiment.data.describe()
    if run.is_prepared:
        refuse_changed_data(run, described)
    else:
        with storage_errors(run.path / TOKENIZER):
            experiment.data.tokenizer.save(run.path / TOKENIZER)
            sync_tree(run.path / TOKENIZER)
        write_json(run.path / DATA, described)
        _log_summary(experiment, described)
    files: PretrainedFiles | None = getattr(experiment.task.model, "files", None)
    teacher = {} if experiment.teacher is None else {"teacher": dict(experiment.teacher)}
    current = _manifest(experiment, described["fingerprint"], files) | teacher
    if (run.path / MANIFEST).exists():
        refuse_changed_teacher(run, experiment)
        drifted = drift(run.manifest.plain(), current)
        note_changes(run, {key: change for section in MACHINERY for key, change in drifted[section].items()})
        return
    write_json(run.path / FACTS, experiment.task.facts.to_json())
    if files:
        write_json(run.path / PRETRAINED, skeleton_content(files))
    warm_start = {} if experiment.warm_start is None else {"start": describe_warm_start(experiment.warm_start)}
    write_json(run.path / MANIFEST, {**current, **warm_start})


def refuse_changed_data(run: SavedRun, described: Mapping[str, Any]) -> None:
    """Compare the data with that of a run.

    Args:
        run: The run.
        described: The data, as its module describes it.

    Raises:
        DataError: If it has changed.
    """
    recorded = run.data.fingerprint
    if recorded != described["fingerprint"]:
        raise DataError(
            f"the data of {run.path} has changed since it was begun (fingerprint {recorded[:12]} -> "
            f"{described['fingerprint'][:12]}); put it back, or begin a new run: run.name=NAME"
        )


def _manifest(experiment: Experiment, fingerprint: str, files: PretrainedFiles | None) -> dict[str, Any]:
    config = experiment.config
    return manifest(
        seed=config.seed,
        data_fingerprint=fingerprint,
        module=experiment.task,
        command=("etude", "train", *config.overrides),
        precision=config.precision,
        trust=config.trust,
        pretrained=files.describe() if files else None,
    )


def _log_summary(experiment: Experiment, described: Mapping[str, Any]) -> None:
    """Log sizes of the data and the model before the first step."""
    counts = parameters(experiment.task)
    _log.info("rows %s, vocabulary %d", described["rows"], described["tokenizer"]["vocabulary"])
    for split, reasons in described["dropped"].items():
        for reason, count in reasons.items():
            _log.info("%s: %d rows %s", split, count, reason)
    trained, total = counts["trainable"], counts["total"]
    _log.info("%s of %s parameters train (%.3g %%)", f"{trained:,}", f"{total:,}", 100 * trained / total)
    _log.info("%d steps an epoch", described["steps_per_epoch"])
    _warn_of_late_parameters(experiment)


def _warn_of_late_parameters(experiment: Experiment) -> None:
    """Warn of parameters that would begin to train only after the end of the budget."""
    clock, schedules = experiment.data.clock, experiment.task.parameter_schedules
    steps = Length.of(experiment.config.budget, clock).steps
    first_steps = [schedule.first(clock) for schedule in schedules.values()]
    late = [first for first in first_steps if steps is not None and first >= steps]
    if late:
        _log.warning(
            "%d of the tensors that train would begin to after the budget of %d steps, the last at step %d; "
            "a shorter finetune.every reaches them",
            len(late),
            steps,
            max(late) + 1,
        )
