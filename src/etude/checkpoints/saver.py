"""Checkpoints in Lightning: a `CheckpointIO` that saves and loads folders, and the callback that decides when.

Checkpoints are folders (see `etude.checkpoints.checkpoint`); `Trainer.fit(ckpt_path=FOLDER)` means what it always does. The
training waits for a copy in memory, not for the disk.
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

from etude.checkpoints.background import BackgroundWriter
from etude.checkpoints.checkpoint import complete, read, read_weights, remove, snapshot, write, write_shard
from etude.checkpoints.integrity import CheckpointBrokenError, checkpoint_folder, newest_valid, verify
from etude.checkpoints.loop_state import is_inside_step, recount, rewind
from etude.checkpoints.retention import Retention, Saved, apply
from etude.checkpoints.shards import Place, Target
from etude.errors import ConfigurationError, StorageError

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

    Saving takes as long as copying every tensor; a thread writes the copy. While a checkpoint is written there is thus a
    second copy of its content, model and optimizer, in the CPU's memory, but never a third: the next save waits for the
    last, and so does whatever reads or removes a checkpoint, and the end of the training. An error in writing is raised
    there, or by `writer.check()`. Only the first rank writes, unless weights are sharded: Lightning does not call the others.

    Args:
        companions: Files and folders that are copied into every checkpoint, by their name there.

    Attributes:
        writer: Background writer of checkpoints; tasks started on it follow the writing of the last checkpoint.
    """

    def __init__(self, companions: Mapping[str, Path] | None = None) -> None:
        self.companions = dict(companions or {})
        self.writer = BackgroundWriter()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Place | None = None
    ) -> None:
        """Copy a checkpoint and start writing its folder (see `write`).

        Args:
            checkpoint: As Lightning dumps it.
            path: The folder.
            storage_options: This rank's place in a sharded checkpoint, which all ranks save; None: it is written here alone.

        Raises:
            StorageError: If the checkpoint cannot be written in this format, or the last one could not be written.
        """
        self.writer.wait()
        folder, place = Path(path), storage_options
        copy = snapshot(checkpoint, 0 if place is None else place.rank)
        if place is None:
            self.writer.start(lambda: write(copy, folder, self.companions))
        elif place.rank == 0:
            self.writer.start(lambda: complete(copy, folder, place, self.companions))
        else:
            self.writer.start(lambda: write_shard(copy, folder, place))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,
        weights_only: bool | None = None,
        target: Target = lambda stem, name: None,
    ) -> dict[str, Any]:
        """Verify and read a checkpoint folder.

        Args:
            path: The folder, or a link to it.
            map_location: Device of its tensors; None: the CPU.
            weights_only: Has no effect, since nothing is ever unpickled.
            target: What each tensor will be copied to (see `read`).

        Raises:
            CheckpointBrokenError: If any file differs from what was written; names the file.
        """
        self.writer.wait()
        return read(Path(path), torch.device(map_location or "cpu"), target)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint folder."""
        self.writer.wait()
        remove(Path(path))

    def teardown(self) -> None:
        """Wait until everything is written."""
        self.writer.wait()


class CheckpointSaver(Checkpoint):
    """Saves `step-…` folders through the trainer's strategy and its `FolderCheckpointIO`.

    A checkpoint holds the state after a whole step, never one between micro-batches. If it is due at a step that a
    validation follows, it is written after the validation: a run continued from one written before would skip the
    validation, unless that is noted in the checkpoint, as `save_now` does.

    The next save, `save_now` and the end of the training wait for the disk. A checkpoint that could not be written ends
    the training, at the latest after the step that is computed meanwhile; earlier ones stay as they are.

    Args:
        folder: Folder of checkpoints.
        retention: Numbers of checkpoints to keep.
        every_steps: Steps between checkpoints, counted from the start of the run; None: not by steps.
        every_seconds: Seconds from any checkpoint to the next; None: not by time.
        metric: Name of the validation's score, with which a checkpoint is saved after every validation; None: no score.
        validation_due: Returns whether a validation follows a step.
        clock: Returns seconds from a fixed moment on.
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
        self.best_model_path = ""  # Lightning reads it for ckpt_path="best"
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
        """Count from here; first validate, if the checkpoint that the run continues from was saved before its validation."""
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
        """Store the epoch: at its end Lightning counts on before the last checkpoint is written."""
        self._epoch = trainer.current_epoch

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save after a step if a checkpoint is due, or after the validation that follows.

        Raises:
            StorageError: If the last checkpoint could not be written.
        """
        step = trainer.global_step
        if step == self._seen_step:
            return  # a micro-batch that did not end a step
        _writer(trainer).check()
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
            # The clocks of ranks differ, and all must save together.
            due |= trainer.strategy.broadcast(late) if trainer.world_size > 1 else late
        return due

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save with the validation's score."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or is_inside_step(trainer):
            return
        if self.metric is not None or self._waits_for_validation:
            self._waits_for_validation = False
            self._save(trainer, self._read_score(trainer))

    def _read_score(self, trainer: lightning.Trainer) -> float | None:
        # Rank 0 alone writes, and it alone may have the score.
        if self.metric is None or not trainer.is_global_zero:
            return None
        if self.metric not in trainer.callback_metrics:
            names = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise ConfigurationError(f"validate.metric={self.metric!r} was not logged; the validation logged: {names}")
        return float(trainer.callback_metrics[self.metric])

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the last step, unless it is saved already, and wait until it is on the disk.

        Raises:
            StorageError: If it could not be written.
        """
        if is_inside_step(trainer):
            _log.warning(
                "stopped between the micro-batches of step %d: not saved; the last checkpoint is of step %d",
                trainer.global_step + 1,
                self._saved_step,
            )
        elif trainer.global_step != self._saved_step:
            self._save(trainer)
        _writer(trainer).wait()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Wait for the disk when the training fails, too; the original error is the one that is raised."""
        try:
            _writer(trainer).wait()
        except StorageError as error:
            _log.warning("%s", error)

    def save_now(self, trainer: lightning.Trainer) -> None:
        """Save the last whole step, unless it is saved already: for callbacks after a step or in a validation.

        If a validation follows or is not over, the continued run starts with it. All ranks return when the checkpoint is on
        the disk, since a launcher may end them all as soon as the first exits.

        Raises:
            StorageError: If it could not be written.
        """
        if trainer.global_step != self._saved_step:
            self._save(trainer, validates_first=self._validation_follows(trainer))
        _writer(trainer).wait()
        trainer.strategy.barrier("CheckpointSaver.save_now")

    def _save(self, trainer: lightning.Trainer, score: float | None = None, *, validates_first: bool = False) -> None:
        step = trainer.global_step
        self._notes = {"score": score, "validates_first": validates_first}
        trainer.save_checkpoint(checkpoint_folder(self.folder, step), weights_only=False)
        self._notes = None
        if trainer.is_global_zero:
            _writer(trainer).start(lambda: self._retain(step))
        self._saved_step = step
        self._saved_at = self._clock()

    def _retain(self, step: int) -> None:
        apply(self.retention, self.folder, step)
        best = self.folder / "best"
        self.best_model_path = str(best.resolve()) if best.exists() else ""

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the score, and make the progress a function of the step."""
        if self._notes is not None:
            checkpoint.setdefault("etude", {}).update(self._notes)
            rewind(checkpoint, self._epoch)

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Convert to this trainer's micro-batches, and apply the retention, which a stopped process may have left undone."""
        recount(checkpoint, trainer.accumulate_grad_batches)
        if trainer.state.fn == TrainerFn.FITTING and trainer.is_global_zero:
            apply(self.retention, self.folder, checkpoint["global_step"])
        self._epoch = checkpoint["epoch"]
        self._validates_first = checkpoint.get("etude", {}).get("validates_first", False)
        if self._validates_first:
            # After the last step too: Lightning does not start a training that has no steps left.
            loop = trainer.fit_loop.epoch_loop
            self._steps_allowed, loop.max_steps = loop.max_steps, -1


def _writer(trainer: lightning.Trainer) -> BackgroundWriter:
    io = trainer.strategy.checkpoint_io
    if not isinstance(io, FolderCheckpointIO):
        raise TypeError("a CheckpointSaver belongs to a Trainer(plugins=[FolderCheckpointIO(…)])")
    return io.writer
