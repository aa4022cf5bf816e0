"""Agreement of ranks on the keys that they log through Lightning."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import lightning
import torch
import torch.distributed
from lightning.pytorch.callbacks import Callback

from etude.errors import ConfigurationError


class AgreedKeys(Callback):
    """Refuses keys that some ranks logged and others did not, before their values are reduced over ranks.

    What `log` gets is kept by each rank, and the first rank's is recorded: a key that it lacks would be lost, one that only
    it has would stand for all, and the reduction of a key that not all ranks have would wait for ever. Ranks compare at each
    end of a validation or epoch, and from time to time between steps. Keys logged with `rank_zero_only=True` are meant
    for one rank.

    Args:
        every: Steps between two comparisons; None: none between steps.
    """

    def __init__(self, every: int | None = None) -> None:
        self._every = every
        self._step = 0

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Compare whenever Lightning computes the values of an epoch, which has no hook."""
        connector = trainer._logger_connector
        for name in ("epoch_end_reached", "on_epoch_end"):
            setattr(connector, name, _after(lambda: self._compare(trainer), getattr(connector, name)))

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Compare after some of the steps."""
        step = trainer.global_step
        if self._every is not None and step != self._step and step % self._every == 0:
            self._compare(trainer)
        self._step = step

    def _compare(self, trainer: lightning.Trainer) -> None:
        if trainer._results is not None:
            metrics = trainer._results.result_metrics
            names = [metric.meta.name for metric in metrics if not metric.meta.sync.rank_zero_only]
            require_equal_keys(names, trainer.strategy.root_device)


def _after(before: Callable[[], None], function: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        before()
        function()

    return both


def require_equal_keys(keys: Iterable[str], device: torch.device) -> None:
    """Require that all ranks, which call this together, have logged the same keys.

    Args:
        keys: Keys that this rank has logged.
        device: Device of this rank.

    Raises:
        ConfigurationError: If they differ, on every rank alike: names a key, and ranks with and without it.
    """
    own = sorted(set(keys))
    digest = int.from_bytes(hashlib.sha256("\n".join(own).encode()).digest()[:7])
    extremes = torch.tensor([digest, -digest], device=device)
    torch.distributed.all_reduce(extremes, torch.distributed.ReduceOp.MAX)
    largest, smallest = extremes.tolist()
    if largest == -smallest:
        return
    of_ranks: list[list[str]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(of_ranks, own)
    key = min(key for rank in of_ranks for key in rank if not all(key in others for others in of_ranks))
    having = [rank for rank, logged in enumerate(of_ranks) if key in logged]
    lacking = [rank for rank, logged in enumerate(of_ranks) if key not in logged]
    raise ConfigurationError(
        f"{key!r} was logged by rank {_listed(having)} and not by rank {_listed(lacking)}; log it on every rank, or on the "
        f"first alone with rank_zero_only=True"
    )


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:4])) + (" and others" if len(ranks) > 4 else "")
