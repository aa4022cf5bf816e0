"""Scores of a finished run, sent to the trackers that showed its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etude.checkpoints.integrity import read_manifest
from etude.config.schema import Node
from etude.errors import ConfigurationError
from etude.runs.folder import EVALUATIONS
from etude.runs.lock import RunLock
from etude.runs.saved_run import SavedRun
from etude.training.build import build_logger
from etude.training.loggers.csv_table import CsvTable
from etude.training.loggers.safe_logger import SafeLogger

_TABLE = f"{CsvTable.__module__}.{CsvTable.__qualname__}"
"""It shows the record, which a later evaluation does not change."""


def check_trackers(run: SavedRun) -> None:
    """Refuse a run whose trackers cannot be sent scores.

    Raises:
        ConfigurationError: If it has no tracker, or is not finished: the process that trains it has its trackers.
    """
    if not _trackers(run):
        raise ConfigurationError(
            f"track=true: {run.path} has no tracker that takes scores, but logger="
            f"{','.join(run.config.logger) or 'none'}; its evaluations/ has them (command line)"
        )
    if run.state != "finished":
        raise ConfigurationError(f"{run.path} is not finished; first: etude resume {run.path}")


def send_scores(run: SavedRun, evaluation: Mapping[str, Any], name: str) -> None:
    """Send the scores of an evaluation to the trackers of a run, at the step of the checkpoint.

    A run stays one run in each of them. W&B gets the predictions anew, where `logger.wandb.artifacts` has them. A tracker
    that fails is turned off with a warning, as in a training.

    Args:
        run: The run.
        evaluation: Content of the evaluation's JSON file.
        name: Name of the evaluation. A score's name is its path in the run's folder: `evaluations/val/bleu`.

    Raises:
        FolderInUseError: If another process uses the run's folder.
    """
    scores = {f"{EVALUATIONS}/{name}/{score.partition('/')[2]}": value for score, value in evaluation["scores"].items()}
    step = read_manifest(run.checkpoints / evaluation["checkpoint"]).step
    events = [event for event in run.events if event.step <= step]
    tokens, seconds = (events[-1].tokens, events[-1].seconds) if events else (0, 0.0)
    with RunLock(run.path):
        for node in _trackers(run):
            logger = SafeLogger(build_logger(node, run), lambda: (step, tokens, seconds))
            logger.log_metrics(scores)
            logger.finalize("success")
            logger.close()


def _trackers(run: SavedRun) -> list[Node]:
    return [node for node in run.config.logger.values() if node.target != _TABLE]
