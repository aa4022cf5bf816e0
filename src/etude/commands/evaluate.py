"""`etude evaluate`: the scores of runs on a split or on given files, and the significance of their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etude.commands.pair_evaluation import RequestedPairs, evaluate_pairs
from etude.commands.score_table import show_scores
from etude.errors import ConfigurationError
from etude.report.significance import ScoredRows, differences
from etude.runs.saved_run import SavedRun
from etude.training.build import build
from etude.training.checkpoint_evaluation import evaluate_checkpoint
from etude.training.evaluation_settings import RequestedFiles, changed_settings, evaluation_name
from etude.training.loggers.tracked_scores import check_trackers, send_scores
from etude.training.restore import in_one_process, load_members

CHANGEABLE = ("batch", "decoding", "trainer", "precision", "limit", "paths", "task.metrics", "task.null_threshold")
"""Configuration keys, with all below them, that an evaluation may change."""


def evaluate(
    runs: Sequence[SavedRun],
    *,
    split: str | None = None,
    checkpoint: Any = "best",
    source: Any = None,
    reference: Any = None,
    pairs: Any = None,
    name: Any = None,
    ensemble: Any = None,
    track: Any = False,
    direction: Any = None,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint of each run, and compare the runs with the first.

    Args:
        runs: The runs.
        split: `train`, `val` or `test`; None: `test` where there is one, else `val`.
        checkpoint: `best`, `last` or a step's number.
        source: A file with one text per line, instead of a split.
        reference: The file or files with the reference for each line of `source`.
        pairs: A file of minimal pairs, instead of a split: how often the better sentence is likelier.
        name: Name of the evaluation of `source` or `pairs`; None: the file's name.
        ensemble: Other runs whose checkpoints form an ensemble with the run's; only with a single run.
        track: Whether the scores are sent to the runs' trackers, too.
        direction: Direction of `source`, such as `en-fr`, for runs that translate in several.
        changes: Values of configuration keys at or below `CHANGEABLE`.

    Returns:
        The content of `evaluations/<split>.json`; for several runs, a mapping by folder, with each run's differences from
        the first under `against`.

    Raises:
        ConfigurationError: If a checkpoint, split or file does not exist, or an argument is invalid.
    """
    if ensemble is not None and len(runs) > 1:
        raise ConfigurationError(f"ensemble={ensemble} joins one RUN, not {len(runs)}; name one (command line)")
    if not isinstance(track, bool):
        raise ConfigurationError(f"track={track} is neither true nor false (command line)")
    for run in runs if track else ():
        check_trackers(run)
    changes, checkpoint = changes or {}, str(checkpoint)
    arguments = {"source": source, "reference": reference, "name": name, "split": split, "direction": direction}
    minimal_pairs = RequestedPairs.of({**arguments, "ensemble": ensemble, "pairs": pairs})
    files = None if minimal_pairs else RequestedFiles.of(arguments)
    evaluations: dict[str, Any] = {}
    scored: list[ScoredRows] = []
    for run in runs:
        config = run.changed(changes, CHANGEABLE)
        settings = changed_settings(run, config, changes, checkpoint)
        config = in_one_process(config, changes)
        if minimal_pairs is not None:
            evaluation, rows = evaluate_pairs(run, config, checkpoint, minimal_pairs, settings)
        else:
            config = files.replacing_data(config, changes) if files else config
            experiment = build(config, run.tokenizer, run)
            members = load_members(ensemble, run, checkpoint)
            evaluation = evaluate_checkpoint(
                run, experiment, run.checkpoint(checkpoint), split, members=members, files=files, settings=settings
            )
            rows = ScoredRows.of(experiment.task)
        if track:
            stem = evaluation_name(evaluation["split"], settings, files, ensemble="ensemble" in evaluation)
            send_scores(run, evaluation, stem)
        evaluations[str(run.path)] = evaluation
        scored.append(rows)
    for run, other in zip(runs[1:], scored[1:], strict=True):
        evaluations[str(run.path)]["against"] = {"run": str(runs[0].path), **differences(scored[0], other)}
    show_scores(evaluations)
    return evaluations[str(runs[0].path)] if len(runs) == 1 else evaluations
