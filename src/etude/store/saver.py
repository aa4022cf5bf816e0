"""The store of checkpoints, as Lightning sees it: how one is saved and loaded, and when.

Checkpoints are folders (see `etude.store.checkpoint`); `Trainer.fit(ckpt_path=FOLDER)` means what it always does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from etude.errors import ConfigurationError
from etude.store.checkpoint import read, read_weights, remove, snapshot, write
from etude.store.integrity import CheckpointBrokenError, checkpoint_folder, newest_valid, verify
from etude.store.retention import Retention, Saved, apply

__all__ = [
    "CheckpointBrokenError",
    "CheckpointSaver",
    "FolderCheckpointIO",
    "Retention",
    "Saved",
    "newest_valid",
    "read_weights",
    "verify",
]

_log = logging.getLogger(__name__)


class FolderCheckpointIO(CheckpointIO):
    """Lets Lightning save to, and continue from, checkpoint folders: `Trainer(plugins=[FolderCheckpointIO(…)])`.

    Args:
        companions: Files and folders that are copied into every checkpoint, by their name there.
    """

    def __init__(self, companions: Mapping[str, Path] | None = None) -> None:
        self.companions = dict(companions or {})

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint folder (see `write`); there are no storage options."""
        write(snapshot(checkpoint), Path(path), self.companions)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verify and read a checkpoint folder.

        Args:
            path: The folder, or a link to it.
            map_location: The device of its tensors; None: the CPU.
            weights_only: Of no effect: nothing is ever unpickled.

        Raises:
            CheckpointBrokenError: If any file is not what was written; names the file.
        """
        return read(Path(path), torch.device(map_location or "cpu"))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint folder."""
        remove(Path(path))


class CheckpointSaver(Checkpoint):
    """Saves `step-…` folders through the trainer's strategy and its `FolderCheckpointIO`.

    A checkpoint holds the state after a whole step, never one between micro-batches. One that is due at a step that a
    validation follows is written after the validation: a run continued from one written before would skip it, unless
    that is noted in the checkpoint, as `save_now` does.

    Args:
        folder: Of checkpoints.
        retention: Which ones are kept.
        every_steps: Steps between checkpoints, counted from the run's start; None: not by steps.
        every_seconds: Seconds from one checkpoint to the next, whatever its reason; None: not by time.
        metric: Name of the validation's score. Every validation is then followed by a checkpoint with its score.
        validation_due: Whether a validation follows a step.
        clock: Seconds from some moment on.
    """

    def __init__(
        self,
        folder: Path,
        retention: Retention,
        *,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        metric: str | None = None,
        validation_due: Callable[[int], bool] = lambda step: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.retention = retention
        self.every_steps = every_steps
        self.every_seconds = every_seconds
        self.metric = metric
        self.best_model_path = ""  # where Lightning looks for ckpt_path="best"
        self._validation_due = validation_due
        self._clock = clock
        self._seen_step = 0
        self._saved_step = 0
        self._saved_at = 0.0
        self._waits_for_validation = False
        self._validates_first = False
        self._steps_allowed = -1
        self._epoch = 0
        self._notes: dict[str, Any] | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Count from here, after the validation that the checkpoint that was continued from was saved before, if it was."""
        self._seen_step = self._saved_step = trainer.global_step
        self._saved_at = self._clock()
        if self._validates_first:
            self._validates_first = False
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True
            trainer.fit_loop.epoch_loop.max_steps = self._steps_allowed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the epoch: when it ends, Lightning counts on before the last checkpoint is written."""
        self._epoch = trainer.current_epoch

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save after a step if it is time, or after the validation that follows."""
        step = trainer.global_step
        if step == self._seen_step:
            return  # a micro-batch that did not end a step
        self._seen_step = step
        due = self._is_due(trainer, step)
        if self._validation_follows(trainer):
            self._waits_for_validation = due
        elif due:
            self._save(trainer)

    def _validation_follows(self, trainer: lightning.Trainer) -> bool:
        return trainer.enable_validation and self._validation_due(trainer.global_step)

    def _is_due(self, trainer: lightning.Trainer, step: int) -> bool:
        due = self.retention.is_milestone(step) or (self.every_steps is not None and step % self.every_steps == 0)
        if self.every_seconds is not None:
            late = self._clock() - self._saved_at >= self.every_seconds
            # Clocks of ranks differ, and all must come to save together.
            due |= trainer.strategy.broadcast(late) if trainer.world_size > 1 else late
        return due

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save with the validation's score."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or _is_inside_step(trainer):
            return
        if self.metric is not None or self._waits_for_validation:
            self._waits_for_validation = False
            self._save(trainer, self._read_score(trainer))

    def _read_score(self, trainer: lightning.Trainer) -> float | None:
        # Rank 0 alone writes, and it alone may have the score.
        if self.metric is None or not trainer.is_global_zero:
            return None
        if self.metric not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise ConfigurationError(f"validate.metric={self.metric!r} was not logged; the validation logged: {known}")
        return float(trainer.callback_metrics[self.metric])

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the last step, if that is not done yet."""
        if _is_inside_step(trainer):
            _log.warning(
                "stopped between the micro-batches of step %d: not saved; the last checkpoint is of step %d",
                trainer.global_step + 1,
                self._saved_step,
            )
        elif trainer.global_step != self._saved_step:
            self._save(trainer)

    def save_now(self, trainer: lightning.Trainer) -> None:
        """Save the last whole step, unless that is done already: for callbacks after a step or in a validation.

        Where a validation follows or is not over, the continued run begins with it.
        """
        if trainer.global_step != self._saved_step:
            self._save(trainer, validates_first=self._validation_follows(trainer))

    def _save(self, trainer: lightning.Trainer, score: float | None = None, *, validates_first: bool = False) -> None:
        step = trainer.global_step
        self._notes = {"score": score, "validates_first": validates_first}
        trainer.save_checkpoint(checkpoint_folder(self.folder, step), weights_only=False)
        self._notes = None
        if trainer.is_global_zero:
            apply(self.retention, self.folder, step)
            best = self.folder / "best"
            self.best_model_path = str(best.resolve()) if best.exists() else ""
        self._saved_step = step
        self._saved_at = self._clock()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the score, and have every checkpoint continue in the same way."""
        if self._notes is not None:
            checkpoint.setdefault("etude", {}).update(self._notes)
            _rewind(checkpoint, self._epoch)

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count in this trainer's micro-batches, and do what a stopped process left undone after writing a checkpoint."""
        recount(checkpoint, trainer.accumulate_grad_batches)
        if trainer.state.fn == TrainerFn.FITTING and trainer.is_global_zero:
            apply(self.retention, self.folder, checkpoint["global_step"])
        self._epoch = checkpoint["epoch"]
        self._validates_first = checkpoint.get("etude", {}).get("validates_first", False)
        if self._validates_first:
            # After the last step too: Lightning would not start a training that has nothing left to train.
            loop = trainer.fit_loop.epoch_loop
            self._steps_allowed, loop.max_steps = loop.max_steps, -1


def _rewind(checkpoint: dict[str, Any], epoch: int) -> None:
    """Set Lightning's progress to where it is right after an optimizer step, whenever the checkpoint is written.

    Left as it is, the progress after a validation can make a continued run train past the end of its epoch, that of a
    training stopped in the middle of an epoch makes it begin the next one, and that of a run continued at the end of an
    epoch counts one epoch too few. So set, it depends on the step alone, and equal states make equal files.

    Args:
        checkpoint: As Lightning dumped it, after a whole step.
        epoch: The epoch of that step, from 0.
    """
    progress = checkpoint["loops"]["fit_loop"]
    for counts in progress["epoch_progress"].values():
        counts.update(ready=epoch + 1, started=epoch + 1, processed=epoch, completed=epoch)
    for name in ("total", "current"):
        batches = progress["epoch_loop.batch_progress"][name]
        batches["completed"] = batches["processed"] - 1
        # How many validation batches were seen counts for progress bars only.
        validated = progress["epoch_loop.val_loop.batch_progress"][name]
        validated.update(dict.fromkeys(validated, 0))
    progress["epoch_loop.val_loop.batch_progress"]["is_last_batch"] = False
    progress["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"] - 1
    checkpoint["epoch"] = epoch


def recount(checkpoint: dict[str, Any], micro_batches: int) -> None:
    """Convert Lightning's progress, which counts micro-batches, for steps of another number of them.

    Every step of a run was counted with the same number of micro-batches, so the checkpoint itself says how many.

    Args:
        checkpoint: As it was saved, after a whole step.
        micro_batches: Slices of each step on each process from now on.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    before = progress["total"]["ready"] // checkpoint["global_step"]
    for name in ("total", "current"):
        counted = progress[name]["ready"] // before * micro_batches
        progress[name].update(ready=counted, started=counted, processed=counted, completed=counted - 1)


def _is_inside_step(trainer: lightning.Trainer) -> bool:
    """Whether micro-batches of a step are still to come: their gradients so far are in no checkpoint."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    epoch_ended = progress.is_last_batch or progress.current.ready >= trainer.num_training_batches
    return progress.current.ready % trainer.accumulate_grad_batches > 0 and not epoch_ended
