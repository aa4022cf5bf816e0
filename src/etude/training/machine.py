"""The machine that a run is trained on. Nothing here changes the science."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.accelerators import Accelerator, CPUAccelerator, CUDAAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO

from etude.errors import ConfigurationError

AcceleratorName = Literal["auto", "cpu", "gpu", "mps"]
StrategyName = Literal["auto", "ddp", "fsdp"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"]
ProfilerName = Literal["simple", "advanced", "pytorch"]

ACCELERATORS: dict[AcceleratorName, tuple[type[Accelerator], ...]] = {
    "auto": (CUDAAccelerator, MPSAccelerator, CPUAccelerator),
    "cpu": (CPUAccelerator,),
    "gpu": (CUDAAccelerator, MPSAccelerator),
    "mps": (MPSAccelerator,),
}
"""What each name stands for: the first of these that the machine has."""


@dataclass(frozen=True)
class Machine:
    """Arguments of Lightning's Trainer that belong to the machine.

    Attributes:
        accelerator: `auto` is a GPU where there is one.
        devices: Devices on each node: processes that train together.
        nodes: Computers that train together.
        strategy: `auto` is `ddp` for several processes; those on CPUs talk through gloo.
        precision: Of the weights (`true`), or of the products alone (`mixed`).
        micro_batches: Slices of a step's batch on each device, one after the other: less memory, same gradient.
        workers: Processes that make batches, for each device.
        threads: Threads that compute, in each process; None: `OMP_NUM_THREADS`, or what torch makes of the cores. Another
            number adds floating-point numbers in another order.
        deterministic: Refuse operations whose result differs from run to run.
        profiler: Lightning's, or null.
        progress_bar: Show progress on stderr.
        watts_per_core: Of a core that works, with its share of the processor: energy is estimated from it where none can be
            measured. 12 W where nothing is known of the processor (Lannelongue et al. 2021).
    """

    accelerator: AcceleratorName = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: StrategyName = "auto"
    precision: Precision = "32-true"
    micro_batches: int = 1
    workers: int = 0
    threads: int | None = None
    deterministic: bool = True
    profiler: ProfilerName | None = None
    progress_bar: bool = True
    watts_per_core: float = 12.0

    @property
    def world(self) -> int:
        """Processes that train together."""
        return self.devices * self.nodes

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ConfigurationError(f"trainer.threads={self.threads}: at least one computes; write 1 or more, or null")
        if not 0 <= self.watts_per_core < math.inf:
            raise ConfigurationError(
                f"trainer.watts_per_core={self.watts_per_core}: write the watts of a core, such as 12"
            )

    def settle(self) -> None:
        """Tell torch how to compute in this process: before weights are drawn, so that all of a run is computed alike.

        Raises:
            ConfigurationError: If this machine has no such accelerator, or fewer devices.
        """
        self._check_present()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        torch.use_deterministic_algorithms(self.deterministic)
        # Otherwise every torch.empty is filled with NaN first, which costs time and guards nothing here.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def _check_present(self) -> None:
        kind = next((kind for kind in ACCELERATORS[self.accelerator] if kind.is_available()), None)
        if kind is None:
            raise ConfigurationError(
                f"trainer.accelerator={self.accelerator}, but torch {torch.__version__} finds none on this machine; write "
                "trainer=cpu"
            )
        if kind is CPUAccelerator:  # has as many devices as processes are started
            if self.strategy == "fsdp":
                raise ConfigurationError("trainer.strategy=fsdp shards over GPUs, not CPUs; write trainer.strategy=ddp")
        elif self.devices > kind.auto_device_count():
            raise ConfigurationError(
                f"trainer.devices={self.devices}, but torch finds {kind.auto_device_count()} on this machine; write that or less"
            )

    def trainer(
        self,
        folder: Path,
        *,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Logger] = (),
        plugins: Sequence[CheckpointIO] = (),
        **arguments: Any,
    ) -> lightning.Trainer:
        """Return a Trainer that works in a run's folder; it computes as `settle` was told to.

        Args:
            folder: The run's folder.
            callbacks: Lightning callbacks.
            loggers: Lightning loggers.
            plugins: How checkpoints are written.
            arguments: More arguments of Lightning's Trainer.
        """
        trainer = lightning.Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.nodes,
            strategy="ddp" if self.strategy == "auto" and self.world > 1 else self.strategy,
            precision=self.precision,
            accumulate_grad_batches=self.micro_batches,
            profiler=self.profiler,
            default_root_dir=folder,
            callbacks=list(callbacks),
            logger=list(loggers),
            plugins=list(plugins),
            use_distributed_sampler=False,  # the plan cuts each batch for ranks
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            **arguments,
        )
        # Lightning's own handlers would talk to other ranks inside the handler, and wait there for good. The answer to
        # signals is in etude.signals and etude.training.callbacks.stop_on_signal.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        return trainer
