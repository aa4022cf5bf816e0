"""What a run's folder says of what it is made of: written once, at its start, and held against each time it is continued."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.atomic import storage_errors, sync_tree
from etude.errors import DataError
from etude.hub import PretrainedFiles
from etude.models.pretrained.weight_files import kept
from etude.runs.drift import MACHINERY, drift, read_manifest
from etude.runs.folder import DATA, FACTS, MADE_OF, PRETRAINED, TOKENIZER, write_json
from etude.runs.manifest import manifest, parameters
from etude.training.build import Experiment
from etude.training.continuation import note_changes
from etude.training.step_loop import Length
from etude.training.warm_start import started_from

_log = logging.getLogger(__name__)


def write_facts(run: Path, experiment: Experiment) -> None:
    """Write what a run is made of, unless it is there; refuse to continue on other data.

    That is its tokenizer, data, facts and manifest, and what it keeps of a pretrained model.
    A reproduction is given the tokenizer and the data's description of the run that it reproduces. Its manifest is its own.

    Raises:
        DataError: If the data is not what it was.
        StorageError: If something cannot be written.
    """
    described = experiment.data.describe()
    if (run / DATA).exists():
        refuse_other_data(run, described)
    else:
        with storage_errors(run / TOKENIZER):
            experiment.data.tokenizer.save(run / TOKENIZER)
            sync_tree(run / TOKENIZER)
        write_json(run / DATA, described)
        _tell(experiment, described)
    files: PretrainedFiles | None = getattr(experiment.task.model, "files", None)
    made_of = manifest(
        seed=experiment.root.seed,
        data_fingerprint=described["fingerprint"],
        module=experiment.task,
        command=sys.argv,
        precision=experiment.machine.precision,
        trust=experiment.root.trust,
        pretrained=files.describe() if files else None,
    )
    if (run / MADE_OF).exists():
        before = drift(read_manifest(run), made_of)
        note_changes(run, {key: change for name in MACHINERY for key, change in before[name].items()})
    else:
        write_json(run / FACTS, experiment.task.facts.to_json())
        if files:
            write_json(run / PRETRAINED, kept(files))
        started = {} if experiment.root.start is None else {"start": started_from(experiment)}
        write_json(run / MADE_OF, {**made_of, **started})


def refuse_other_data(run: Path, described: Mapping[str, Any]) -> None:
    """Hold the data, as its module describes it, against that of a run.

    Raises:
        DataError: If it has changed.
    """
    before = json.loads((run / DATA).read_text())["fingerprint"]
    if before != described["fingerprint"]:
        raise DataError(
            f"the data of {run} has changed since it was begun (fingerprint {before[:12]} -> "
            f"{described['fingerprint'][:12]}); put it back, or begin a new run: run.name=NAME"
        )


def _tell(experiment: Experiment, described: Mapping[str, Any]) -> None:
    """Say in a few lines what is about to be trained."""
    counts = parameters(experiment.task)
    _log.info("rows %s, vocabulary %d", described["rows"], described["tokenizer"]["vocabulary"])
    for split, reasons in described["dropped"].items():
        for reason, count in reasons.items():
            _log.info("%s: %d rows %s", split, count, reason)
    trained, total = counts["trainable"], counts["total"]
    _log.info("%s of %s parameters train (%.3g %%)", f"{trained:,}", f"{total:,}", 100 * trained / total)
    _log.info("%d steps an epoch", described["steps_per_epoch"])
    _tell_late(experiment)


def _tell_late(experiment: Experiment) -> None:
    """Warn of parameters that would begin to train only after the budget's end."""
    clock, courses = experiment.data.clock, experiment.task.courses
    steps = Length.of(experiment.root.budget, clock).steps
    late = [course.first(clock) for course in courses.values() if steps is not None and course.first(clock) >= steps]
    if late:
        _log.warning(
            "%d of the tensors that train would begin to after the budget of %d steps, the last at step %d; "
            "a shorter finetune.every reaches them",
            len(late),
            steps,
            max(late) + 1,
        )
