"""Scores of a run's checkpoint on a split: the same code after a training and by `etude evaluate`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from etude.errors import ConfigurationError
from etude.experiment.build import Experiment, build
from etude.experiment.restored import find_checkpoint, load_members
from etude.experiment.stored import stored_configuration
from etude.store.durable import make_folder, storage_errors
from etude.store.folder import write_json, write_text
from etude.store.saver import read_weights
from etude.tasks.base import Task
from etude.tasks.sums import Row
from etude.tokenization.tokenizer import Tokenizer

_log = logging.getLogger(__name__)
BOOTSTRAP = 1000
"""Resamplings of the test set for a confidence interval (Koehn 2004)."""

OVERRIDABLE = ("batch", "decoding", "trainer", "limit", "paths")
"""What an evaluation may change of a run's configuration; `split`, `checkpoint` and `ensemble` are its own."""


def evaluate(runs: Sequence[Path], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate the best checkpoint of each run.

    Args:
        runs: Folders of runs.
        overrides: Dotted keys and values: `split`, `checkpoint` (`best`, `last` or a step), `ensemble` (other runs, whose
            checkpoints join that of the one run), and keys of the run's configuration below `OVERRIDABLE`.

    Returns:
        What `evaluations/<split>.json` says; for several runs, by their folder.
    """
    own = {key: value for key, value in overrides.items() if key in ("split", "checkpoint", "ensemble")}
    if "ensemble" in own and len(runs) > 1:
        raise ConfigurationError(f"ensemble={own['ensemble']} joins one RUN, not {len(runs)}; name one (command line)")
    which = str(own.get("checkpoint", "best"))
    found: dict[str, Any] = {}
    for run in runs:
        values = stored_configuration(run, {key: overrides[key] for key in overrides if key not in own}, OVERRIDABLE)
        experiment = build(values, Tokenizer.load(run / "tokenizer"))
        members = load_members(own.get("ensemble"), run, experiment.root.paths.outputs, which)
        checkpoint = find_checkpoint(run, which)
        found[str(run)] = evaluate_checkpoint(run, experiment, checkpoint, own.get("split"), members=members)
    return found[str(runs[0])] if len(runs) == 1 else found


def evaluate_checkpoint(
    run: Path,
    experiment: Experiment,
    checkpoint: Path,
    split: str | None = None,
    callbacks: Sequence[Callback] = (),
    members: Mapping[Path, Task] | None = None,
) -> dict[str, Any]:
    """Score a checkpoint on a split and write `evaluations/<split>.json` and `.jsonl` into the run's folder.

    An ensemble is written to `<split>-ensemble` beside them.

    Args:
        run: The run's folder.
        experiment: The experiment, built; its task gets the checkpoint's weights.
        checkpoint: The checkpoint's folder.
        split: `test`, `val` or `train`; None: `test` where there is one, else `val`.
        callbacks: Lightning callbacks, such as a progress bar.
        members: Tasks of other runs that join the checkpoint's, by their folders.
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
    trainer = experiment.machine.trainer(
        run, callbacks=callbacks, enable_progress_bar=bool(callbacks) and experiment.machine.progress_bar
    )
    data.evaluated = chosen
    trainer.test(task, datamodule=data, verbose=False)
    scores = {
        "split": chosen,
        "checkpoint": checkpoint.name,
        "examples": len(task.rows),
        "scores": {f"{chosen}/{name}": score.value for name, score in task.results.items()},
        "intervals": {
            f"{chosen}/{name}": [score.low, score.high]
            for name, score in task.results.items()
            if score.low is not None and score.high is not None
        },
        "signatures": {f"{chosen}/{name}": score.signature for name, score in task.results.items() if score.signature},
    }
    if members:
        scores["ensemble"] = [str(member) for member in members]
    if trainer.is_global_zero:
        _write(run / "evaluations", f"{chosen}-ensemble" if members else chosen, scores, task.rows)
        _say_stopped(task.rows)
    return scores


def _say_stopped(rows: Sequence[Row]) -> None:
    stopped = sum(row.get("finished") is False for row in rows)
    if stopped:
        advice = "a larger decoding.max_length lets them go on, up to twice their source"
        _log.warning("%d of %d outputs were stopped at their length limit; %s", stopped, len(rows), advice)


def _write(folder: Path, split: str, scores: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    with storage_errors(folder):
        make_folder(folder)
    write_text(folder / f"{split}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_json(folder / f"{split}.json", scores)
