"""Scores of a run's checkpoint on a split: the same code after a training and by `etude evaluate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from etude.errors import ConfigurationError
from etude.experiment.build import Experiment, build
from etude.experiment.stored import stored_configuration
from etude.store.folder import write_json, write_text
from etude.store.saver import newest_valid, read_weights
from etude.tokenization.tokenizer import Tokenizer

BOOTSTRAP = 1000
"""Resamplings of the test set for a confidence interval (Koehn 2004)."""

OVERRIDABLE = ("batch", "decoding", "trainer", "limit", "paths")
"""What an evaluation may change of a run's configuration; `split` and `checkpoint` are its own."""


def evaluate(runs: Sequence[Path], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate the best checkpoint of each run.

    Args:
        runs: Folders of runs.
        overrides: Dotted keys and values: `split`, `checkpoint` (`best`, `last` or a step), and keys of the run's
            configuration below `OVERRIDABLE`.

    Returns:
        What `evaluations/<split>.json` says; for several runs, by their folder.
    """
    own = {key: value for key, value in overrides.items() if key in ("split", "checkpoint")}
    found: dict[str, Any] = {}
    for run in runs:
        values = stored_configuration(run, {key: overrides[key] for key in overrides if key not in own}, OVERRIDABLE)
        experiment = build(values, Tokenizer.load(run / "tokenizer"))
        checkpoint = find_checkpoint(run, str(own.get("checkpoint", "best")))
        found[str(run)] = evaluate_checkpoint(run, experiment, checkpoint, own.get("split"))
    return found[str(runs[0])] if len(runs) == 1 else found


def find_checkpoint(run: Path, which: str) -> Path:
    """Return a checkpoint's folder: `best` (else the last valid one), `last`, or a step's number.

    Raises:
        ConfigurationError: If there is none.
    """
    folder = run / "checkpoints"
    named = folder / (f"step-{int(which):08d}" if which.isdigit() else which)
    if which != "last" and named.exists():
        return named.resolve()
    last = newest_valid(folder) if which in ("best", "last") else None
    if last is None:
        raise ConfigurationError(f"{run} has no checkpoint {which!r}; there are: {_names(folder)}")
    return last


def _names(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.glob("step-*"))) or "none yet"


def evaluate_checkpoint(
    run: Path, experiment: Experiment, checkpoint: Path, split: str | None = None, callbacks: Sequence[Callback] = ()
) -> dict[str, Any]:
    """Score a checkpoint on a split and write `evaluations/<split>.json` and `.jsonl` into the run's folder.

    Args:
        run: The run's folder.
        experiment: The experiment, built; its task gets the checkpoint's weights.
        checkpoint: The checkpoint's folder.
        split: `test`, `val` or `train`; None: `test` where there is one, else `val`.
        callbacks: Lightning callbacks, such as a progress bar.
    """
    data, task = experiment.data, experiment.task
    splits = data.splits
    chosen = split or ("test" if "test" in splits else "val")
    if chosen not in splits:
        raise ConfigurationError(f"split={chosen}: the data has no such split, only {', '.join(splits)}")
    task.load_state_dict(read_weights(checkpoint))
    task.bootstrap = BOOTSTRAP
    trainer = score(run, experiment, chosen, callbacks)
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
    if trainer.is_global_zero:
        _write(run / "evaluations", chosen, scores, task.rows)
    return scores


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


def _write(folder: Path, split: str, scores: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    write_text(folder / f"{split}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_json(folder / f"{split}.json", scores)
