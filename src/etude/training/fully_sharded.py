"""FSDP2 as a Lightning strategy: weights, gradients and optimizer states are sharded over the ranks.

Zhao et al. 2023, https://arxiv.org/abs/2304.11277; FSDP2 is `torch.distributed.fsdp.fully_shard`. A task shards itself
when Lightning calls its `configure_model` (see `etude.models.sharding`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lightning
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from etude.checkpoints.checkpoint import begin
from etude.checkpoints.codec import TRAINING
from etude.checkpoints.saver import FolderCheckpointIO
from etude.checkpoints.shards import Place

_MOMENTS = re.compile(r"optimizer_states/(\d+)/state/(\d+)/\w+")


class FullyShardedStrategy(ModelParallelStrategy):
    """Trains on sharded weights, evaluates on whole ones, and saves checkpoints to which each rank writes its slices.

    Weights are gathered block by block in a training step. An evaluation gathers all of them first, on each device: the
    ranks decode different numbers of tokens there, and could not exchange weights in step.

    Lightning's own checkpoints of this strategy hold pickles, and weights under other names than those of one process.
    Here a checkpoint is the folder that it is everywhere, whose tensors are in several files (`etude.checkpoints.shards`):
    any number of processes can continue from it, and it can continue from any.

    Args:
        ranks: Number of processes over which everything is sharded.
        timeout: Longest time that a rank may wait for another.
    """

    lightning_restore_optimizer = True
    """Checkpoints of this strategy are read as all others are."""

    def __init__(self, ranks: int, timeout: timedelta) -> None:
        super().__init__(data_parallel_size=ranks, tensor_parallel_size=1, timeout=timeout)
        self._seconds = timeout.total_seconds()

    @property
    def _task(self) -> lightning.LightningModule:
        return cast(lightning.LightningModule, self.lightning_module)

    @property
    def _io(self) -> FolderCheckpointIO:
        return cast(FolderCheckpointIO, self.checkpoint_io)

    def _sharded(self) -> Iterator[tuple[str, FSDPModule]]:
        """Yield the modules that are sharded by themselves, by name."""
        for name, module in self._task.named_modules():
            if isinstance(module, FSDPModule):
                yield name, module

    # Evaluation

    def on_validation_start(self) -> None:
        """Gather all weights."""
        for _, module in self._sharded():
            module.unshard()
            module.set_reshard_after_forward(False, recurse=False)

    def on_validation_end(self) -> None:
        """Keep this rank's slices alone."""
        for name, module in self._sharded():
            module.reshard()
            # What is left besides the blocks, the task's own, stays gathered for the whole step.
            module.set_reshard_after_forward(bool(name), recurse=False)

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    # Checkpoints

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the module's state_dict; its tensors are this rank's slices."""
        return self._task.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the state of an optimizer; its tensors are this rank's slices."""
        state: dict[str, Any] = getattr(optimizer, "_optimizer", optimizer).state_dict()
        return state

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load this rank's slices of the weights."""
        self._task.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this rank's slices of the optimizers' states."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Save a checkpoint, by all ranks together: each writes its slices.

        Raises:
            StorageError: If it cannot be written.
        """
        folder, temporary = Path(filepath), None
        self._io.writer.wait()
        if self.is_global_zero:
            temporary = begin(folder, checkpoint["global_step"], checkpoint.get("etude", {}).get("score"))
        temporary = self.broadcast(temporary)
        if temporary is not None:
            place = Place(self.global_rank, self.world_size, temporary, self._seconds)
            self._io.save_checkpoint(checkpoint, folder, place)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, saved by whatever number of processes: of what is sharded here, this rank's slices."""
        weights: dict[str, Tensor] = self._task.state_dict()
        trained: dict[tuple[str, str], Tensor] = {
            (str(number), str(index)): weight
            for number, optimizer in enumerate(self.optimizers)
            for index, weight in enumerate(weight for group in optimizer.param_groups for weight in group["params"])
        }

        def target(stem: str, name: str) -> Tensor | None:
            moment = _MOMENTS.fullmatch(name)
            if stem == TRAINING and moment is not None:
                return trained.get((moment[1], moment[2]))
            return weights.get(name.rpartition("/")[2])  # callbacks keep weights under their names

        return self._io.load_checkpoint(checkpoint_path, target=target)
