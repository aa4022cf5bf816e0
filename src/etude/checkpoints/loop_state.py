"""Lightning's own progress counters, in a trainer and in a checkpoint.

They depend on more than the step: on the number of micro-batches, and on the moment at which a checkpoint is written.
"""

from __future__ import annotations

from typing import Any

import lightning


def rewind(checkpoint: dict[str, Any], epoch: int) -> None:
    """Set Lightning's progress to its state right after an optimizer step, whenever the checkpoint is written.

    Otherwise, the progress after a validation can make a continued run train past the end of its epoch, that of a training
    stopped in the middle of an epoch makes it begin the next one, and that of a run continued at the end of an epoch counts
    one epoch too few. With this, it depends on the step alone, and equal states make equal files.

    Args:
        checkpoint: Checkpoint as Lightning dumped it, after a whole step.
        epoch: Epoch of that step, from 0.
    """
    progress = checkpoint["loops"]["fit_loop"]
    for counts in progress["epoch_progress"].values():
        counts.update(ready=epoch + 1, started=epoch + 1, processed=epoch, completed=epoch)
    for name in ("total", "current"):
        batches = progress["epoch_loop.batch_progress"][name]
        batches["completed"] = batches["processed"] - 1
        # The number of validation batches matters to progress bars only.
        validated = progress["epoch_loop.val_loop.batch_progress"][name]
        validated.update(dict.fromkeys(validated, 0))
    progress["epoch_loop.val_loop.batch_progress"]["is_last_batch"] = False
    progress["epoch_loop.state_dict"]["_batches_that_stepped"] = checkpoint["global_step"] - 1
    checkpoint["epoch"] = epoch


def recount(checkpoint: dict[str, Any], micro_batches: int) -> None:
    """Convert Lightning's progress, which counts micro-batches, to steps of another number of them.

    Every step of a run was counted with the same number of micro-batches, so it can be computed from the checkpoint.

    Args:
        checkpoint: Checkpoint as it was saved, after a whole step.
        micro_batches: Slices of each step on each process from now on.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    saved_micro_batches = progress["total"]["ready"] // checkpoint["global_step"]
    for name in ("total", "current"):
        count = progress[name]["ready"] // saved_micro_batches * micro_batches
        progress[name].update(ready=count, started=count, processed=count, completed=count - 1)


def is_inside_step(trainer: lightning.Trainer) -> bool:
    """Return whether a step is incomplete: its gradients so far are in no checkpoint."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    epoch_ended = progress.is_last_batch or progress.current.ready >= trainer.num_training_batches
    return progress.current.ready % trainer.accumulate_grad_batches > 0 and not epoch_ended
