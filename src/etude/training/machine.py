"""The machine that trains a run: devices, processes and threads. Nothing here changes the science."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.accelerators import Accelerator, CPUAccelerator, CUDAAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import nn

from etude.config.schema import Precision
from etude.duration import Duration
from etude.errors import ConfigurationError
from etude.hardware import usable_cores
from etude.models.recomputation import recompute_activations
from etude.training.callbacks.compilation import Compilation, CompilerName
from etude.training.fully_sharded import FullyShardedStrategy
from etude.training.rank_watch import MARGIN

AcceleratorName = Literal["auto", "cpu", "gpu", "mps"]
StrategyName = Literal["auto", "ddp", "fsdp"]
ProfilerName = Literal["simple", "advanced", "pytorch"]
AUTO: Literal["auto"] = "auto"

ACCELERATORS: dict[AcceleratorName, tuple[type[Accelerator], ...]] = {
    "auto": (CUDAAccelerator, MPSAccelerator, CPUAccelerator),
    "cpu": (CPUAccelerator,),
    "gpu": (CUDAAccelerator, MPSAccelerator),
    "mps": (MPSAccelerator,),
}
"""Accelerators by name; the first that the machine has is used."""

MAX_PER_CORE, MAX_TOTAL = 16, 128
"""Limit on workers, and on the threads of a process: the larger of these, per core and in all. A mistyped number would bring
the machine to a stop."""

_OVERSUBSCRIBE = "or trainer.oversubscribe=true if that is meant"


@dataclass(frozen=True)
class Machine:
    """Arguments of Lightning's Trainer that belong to the machine.

    Attributes:
        accelerator: Kind of device; `auto` is a GPU if the machine has one.
        devices: Number of devices on each node, each with a process of its own.
        nodes: Number of computers.
        strategy: `ddp`: each process has all weights; `fsdp`: weights, gradients and optimizer states are sharded over the
            processes (FSDP2); `auto`: `ddp` for several processes. They communicate through gloo on CPUs.
        micro_batches: Number of slices of a step's batch on each device, computed one after the other: less memory, same
            gradient. `auto`: as few as fit in memory, tried out before a run begins (see `etude.training.preflight.trial`).
        workers: Number of processes that make batches for each device.
        threads: Number of threads that compute in each process; None: `OMP_NUM_THREADS`, else torch's default. Another
            number adds floating-point numbers in another order.
        deterministic: Whether operations whose result differs from run to run are refused.
        checkpoint_activations: Whether layers forget their activations and compute them anew for the gradient: the memory of
            one layer in place of all, a third more computation, the same bits.
        compile: Backend of torch.compile for the layers, in training alone; null: they are not compiled. It draws other
            numbers for dropout, and adds in another order.
        profiler: Name of Lightning's profiler, or null.
        progress_bar: Whether progress is shown on stderr.
        watts_per_core: Power of a busy core with its share of the processor, in watts: energy is estimated from it where it
            cannot be measured. 12 W for an unknown processor (Lannelongue et al. 2021).
        timeout: Longest time, such as `30min`, that a rank may wait for another; a training of which a rank comes no further
            for so long ends with an error. Some waits are long by design: for the first rank, while it copies a checkpoint to
            memory, waits until the one before is on the disk, or averages checkpoints at the end; in the first step, for
            compilation; for the slowest rank of an evaluation; and on several nodes, for the node that prepares its data
            last (`etude prepare` does that before).
        oversubscribe: Whether to allow more processes than this machine has cores, and any number of workers and threads.
    """

    accelerator: AcceleratorName = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: StrategyName = "auto"
    micro_batches: int | Literal["auto"] = 1
    workers: int = 0
    threads: int | None = None
    deterministic: bool = True
    checkpoint_activations: bool = False
    compile: CompilerName | None = None
    profiler: ProfilerName | None = None
    progress_bar: bool = True
    watts_per_core: float = 12.0
    timeout: str = "30min"
    oversubscribe: bool = False

    @property
    def timeout_seconds(self) -> float:
        """Seconds that ranks may wait for each other."""
        return Duration.parse(self.timeout).amount

    @property
    def world_size(self) -> int:
        """Number of processes that train together."""
        return self.devices * self.nodes

    @property
    def slices(self) -> int:
        """Number of micro-batches; 1 for `auto`, which only a training replaces by the number that it tried out."""
        return 1 if self.micro_batches == AUTO else self.micro_batches

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ConfigurationError(f"trainer.threads={self.threads}: at least one computes; write 1 or more, or null")
        if not 0 <= self.watts_per_core < math.inf:
            raise ConfigurationError(
                f"trainer.watts_per_core={self.watts_per_core}: write the watts of a core, such as 12"
            )
        timeout = Duration.parse(self.timeout)
        if timeout.unit != "second" or not timeout.amount:
            raise ConfigurationError(f"trainer.timeout={self.timeout} is no time to wait; write such as 30min or 2h")

    def configure_torch(self) -> None:
        """Set torch's threads and determinism in this process, before weights are drawn: all of a run is computed alike.

        Raises:
            ConfigurationError: If the machine does not have the accelerator, the devices or the cores.
        """
        self.check()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        torch.use_deterministic_algorithms(self.deterministic)
        if self.deterministic and self._kind() is CUDAAccelerator:
            # cuBLAS reads it before its first product, and torch refuses deterministic products without it.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Otherwise every torch.empty is filled with NaN first, which costs time and guards nothing here.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def adapt(self, task: nn.Module) -> Compilation | None:
        """Have the layers of a task compiled and recomputed, as configured.

        Returns:
            What compiles them, a callback of the training; None: they are not compiled.
        """
        compilation = None if self.compile is None else Compilation(self.compile)
        if compilation is not None:
            compilation.apply(task)
        if self.checkpoint_activations:
            recompute_activations(task)
        return compilation

    def check(self) -> None:
        """Check that this computer has the devices and cores of the configuration.

        Raises:
            ConfigurationError: If it does not have the accelerator, the devices or the cores.
        """
        self._check_present()
        if not self.oversubscribe:
            self._check_cores()

    def _check_cores(self) -> None:
        cores = usable_cores()
        if self._kind() is CPUAccelerator and self.devices > cores:
            raise ConfigurationError(
                f"trainer.devices={self.devices}, but this machine has {cores} cores for as many processes; write "
                f"trainer.devices={cores} or less, {_OVERSUBSCRIBE}"
            )
        for name, count in (("workers", self.devices * self.workers), ("threads", self.threads or 1)):
            if count > max(MAX_TOTAL, MAX_PER_CORE * cores):
                raise ConfigurationError(
                    f"trainer.{name}={getattr(self, name)} makes {count} {name} on {cores} cores; write fewer, {_OVERSUBSCRIBE}"
                )

    def _kind(self) -> type[Accelerator] | None:
        return next((kind for kind in ACCELERATORS[self.accelerator] if kind.is_available()), None)

    def _check_present(self) -> None:
        kind = self._kind()
        if kind is None:
            raise ConfigurationError(
                f"trainer.accelerator={self.accelerator}, but torch {torch.__version__} finds none on this machine; write "
                "trainer=cpu"
            )
        # A CPU counts as any number of devices.
        if kind is not CPUAccelerator and self.devices > kind.auto_device_count():
            raise ConfigurationError(
                f"trainer.devices={self.devices}, but torch finds {kind.auto_device_count()} on this machine; write that or less"
            )

    def trainer(
        self,
        folder: Path,
        *,
        precision: Precision,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Logger] = (),
        plugins: Sequence[CheckpointIO] = (),
        **arguments: Any,
    ) -> lightning.Trainer:
        """Return a Trainer that works in a run's folder; `configure_torch` has been called before.

        Args:
            folder: The run's folder.
            precision: Precision of the experiment.
            callbacks: Lightning callbacks.
            loggers: Lightning loggers.
            plugins: Reader and writer of checkpoints.
            arguments: Further arguments of Lightning's Trainer.

        Raises:
            ConfigurationError: If the strategy does not go with the precision.
        """
        if self.strategy == "fsdp" and precision == "16-mixed":
            raise ConfigurationError(
                "trainer.strategy=fsdp does not go with precision=16-mixed, whose gradient scaler would leave out steps on "
                "some ranks alone; write precision=bf16-mixed"
            )
        trainer = lightning.Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.nodes,
            strategy=self._strategy(),
            precision=precision,
            accumulate_grad_batches=self.slices,
            profiler=self.profiler,
            default_root_dir=folder,
            callbacks=list(callbacks),
            logger=list(loggers),
            plugins=list(plugins),
            use_distributed_sampler=False,  # the plan cuts each batch for ranks
            num_sanity_val_steps=0,
            enable_model_summary=False,
            inference_mode=self.strategy != "fsdp",  # weights that are gathered in it could not be trained afterwards
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            **arguments,
        )
        # Lightning's own signal handlers communicate with other ranks, and could wait there for ever. Signals are handled by
        # etude.signals and etude.training.callbacks.stop_on_signal.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        return trainer

    def _strategy(self) -> Strategy | Literal["auto"]:
        if self.strategy == "auto" and self.world_size == 1:
            return "auto"
        timeout = timedelta(seconds=self.timeout_seconds + MARGIN)
        if self.strategy == "fsdp":
            return FullyShardedStrategy(self.world_size, timeout)
        return DDPStrategy(timeout=timeout)
