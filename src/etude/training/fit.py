"""Training of a run in this process, from its newest checkpoint to its final scores."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from etude.atomic import write_json
from etude.config.schema import Config
from etude.runs.folder import FINISHED
from etude.runs.record import RECORD, Record
from etude.runs.saved_run import SavedRun
from etude.training import launch
from etude.training.attention_samples import save_attention_samples
from etude.training.build import Experiment, build
from etude.training.callbacks.divergence import StopWhenDiverged
from etude.training.callbacks.early_stopping import StopWithoutProgress
from etude.training.callbacks.pruning import StopWhenPruned
from etude.training.checkpoint_averaging import keep_best_average
from etude.training.checkpoint_evaluation import evaluate_checkpoint
from etude.training.cost import write_cost
from etude.training.from_runs.teacher_run import with_teacher
from etude.training.loggers.alerting import alerting
from etude.training.loggers.detail_tables import Table, log_curves, log_details, tables
from etude.training.preflight.trial import with_micro_batches
from etude.training.provenance import write_provenance
from etude.training.rank_watch import detecting_lost_ranks
from etude.training.step_loop import Length
from etude.training.trainer import build_trainer, checkpoint_companions, retention
from etude.training.warm_start import load_warm_start

_log = logging.getLogger(__name__)


def fit(run: SavedRun) -> None:
    """Train a run from its newest checkpoint to its end in this process, which may be one rank of several.

    The run ends with the scores of its best checkpoint on the test split, or on the validation split where there is none.
    """
    checkpoint = run.newest_checkpoint()
    config = with_micro_batches(run)
    experiment = with_teacher(build(config, run.tokenizer if run.is_prepared else None, run if checkpoint else None))
    if checkpoint is None:
        load_warm_start(experiment)
    carry_out(run, experiment, checkpoint)


def carry_out(
    run: SavedRun, experiment: Experiment, checkpoint: Path | None = None, length: Length | None = None
) -> None:
    """Train the experiment of a run, and conclude it.

    Args:
        run: The run.
        experiment: Its experiment.
        checkpoint: The checkpoint that training continues from; None: training begins.
        length: Length of a rehearsal; None: that of the configuration.
    """
    if launch.global_rank() == 0:
        write_provenance(run, experiment)
    record = _open_record(run, checkpoint)
    trainer = build_trainer(run, experiment, record, length)
    with detecting_lost_ranks(run.path):
        trainer.fit(experiment.task, datamodule=experiment.data, ckpt_path=checkpoint, weights_only=False)
        with alerting(trainer.loggers):
            conclude(run, experiment, trainer)


def conclude(run: SavedRun, experiment: Experiment, trainer: lightning.Trainer) -> None:
    """Write the results of a training: its cost, the best average of its checkpoints, and scores.

    Called by all ranks together.
    """
    config, step, loggers = experiment.config, trainer.global_step, trainer.loggers
    reason = end_reason(config, trainer)
    trainer.strategy.barrier("conclude")
    write_cost(run, experiment, trainer)
    averages = keep_best_average(
        run, experiment, retention(config, experiment.data.clock), step, checkpoint_companions(run)
    )
    trainer.strategy.barrier("average")
    evaluation = evaluate_checkpoint(run, experiment, run.checkpoint("best"))
    experiment.task.trainer = trainer  # the step and the seconds that the loggers write are those of the training
    _log_evaluation(evaluation, experiment.task.curves(experiment.task.rows), loggers, step)
    if trainer.is_global_zero:
        save_attention_samples(run, loggers, step)
    _close(loggers)
    if trainer.is_global_zero:
        scores = {name: value for name, value in evaluation.items() if name != "details"}
        conclusion = {"step": step, "ended": reason, **scores, **({"averages": averages} if averages else {})}
        write_json(run.path / FINISHED, conclusion)


def end_reason(config: Config, trainer: lightning.Trainer) -> str:
    """Return why a training has ended, in a few words."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if (
            isinstance(callback, StopWithoutProgress | StopWhenPruned | StopWhenDiverged)
            and callback.reason is not None
        ):
            _log.info("ended after step %d: %s", trainer.global_step, callback.reason)
            return callback.reason
    return f"the budget of {config.budget} is spent"


def _open_record(run: SavedRun, checkpoint: Path | None) -> Record | None:
    """Open the run's record on rank 0, which alone writes it; without a checkpoint to continue from, it is emptied."""
    if launch.global_rank() > 0:
        return None
    record = Record(run.path / RECORD)
    if checkpoint is None:
        record.cut(0)
    return record


def _log_evaluation(evaluation: dict[str, Any], curves: Mapping[str, Table], loggers: list[Logger], step: int) -> None:
    split = evaluation["split"]
    if split != "val":  # a validation has its line already, at the step of its weights
        for logger in loggers:
            logger.log_metrics(evaluation["scores"], step)
    log_details(evaluation.get("details", {}), split, loggers, step)
    known = tables(evaluation.get("details", {}))  # the confusion matrix is among both
    log_curves({name: curve for name, curve in curves.items() if name not in known}, split, loggers, step)


def _close(loggers: Iterable[Logger]) -> None:
    """Close the loggers that can be closed: a tracker then shows the run as finished."""
    for logger in loggers:
        close = getattr(logger, "close", None)
        if close is not None:
            close()
