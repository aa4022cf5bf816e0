"""Compiled models: in training each layer runs as what torch.compile made of it.

Layers are compiled in place and one by one, since all layers of a stack share what is compiled of the first: weights keep their
names, and nothing of a checkpoint changes. Sizes are dynamic, so that batches of other lengths compile nothing anew. Evaluations
run the plain layers: their scores are those of any other process that reads the checkpoint.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, fx, nn

from etude.models.layers.unpad import Unpadding
from etude.models.sharding import blocks
from etude.tasks.base import Task

CompilerName = Literal["inductor", "aot_eager", "eager"]
"""Backends of torch.compile: `inductor` writes kernels; the others trace alone, to find where a fault is."""

SECONDS, FAILED = "speed/compile_seconds", "speed/compile_failed"
"""Names of what the record says, in the lines in whose steps something was compiled."""

_log = logging.getLogger(__name__)


class Compilation(Callback):
    """Compiles the layers of a task, keeps the time of it out of the training's speed, and goes on without where it fails.

    Attributes:
        failed: Whether the compiler failed: what follows runs as it was traced.

    Args:
        backend: Of torch.compile.
    """

    def __init__(self, backend: CompilerName) -> None:
        self.backend = backend
        self.failed = False
        self._unreported = 0.0
        self._seconds = 0.0
        self._started: float | None = None
        self._said = False

    def apply(self, task: nn.Module) -> None:
        """Have each block of a task's stacks compiled when it first trains."""
        for block in blocks(task):
            compiled = torch.compile(block.forward, backend=self._compiled, dynamic=True)
            block.forward = partial(_forward, block, block.forward, compiled)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have torch tell of each compilation in this process."""
        torch._dynamo.callback.callback_handler.register_start_callback(self._begin)
        torch._dynamo.callback.callback_handler.register_end_callback(self._end)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have torch tell no more."""
        torch._dynamo.callback.callback_handler.remove_start_callback(self._begin)
        torch._dynamo.callback.callback_handler.remove_end_callback(self._end)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leave what was compiled in this batch out of the speed of the line that follows; say once how long it took."""
        if not self._seconds:
            return
        cast(Task, pl_module).leave_out_of_speed(self._seconds)
        if not self._said and not self.failed:
            _log.info("compiled by %s in %.1f s, which the speed leaves out", self.backend, self._seconds)
        self._unreported, self._seconds, self._said = self._unreported + self._seconds, 0.0, True

    def values(self) -> dict[str, float]:
        """Return the seconds of compilation since the last call, and whether it failed; nothing if there was none."""
        if not self._unreported:
            return {}
        values = {SECONDS: self._unreported, **({FAILED: 1.0} if self.failed else {})}
        self._unreported = 0.0
        return values

    def _compiled(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        """Compile a graph; if that fails, run it as it was traced, which computes the same."""
        if self.failed:
            return graph.forward
        try:
            return torch._dynamo.lookup_backend(self.backend)(graph, inputs)
        except torch._dynamo.exc.RestartAnalysis:
            raise  # no failure: the graph is traced anew with what was learned
        except Exception as error:  # a compiler fails in all ways, of a missing program to a defect of its own
            self.failed = True
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            _log.warning("the model trains without trainer.compile=%s, which failed: %s", self.backend, reason)
            return graph.forward

    def _begin(self, *_: Any) -> None:
        self._started = time.monotonic()

    def _end(self, *_: Any) -> None:
        if self._started is not None:
            self._seconds += time.monotonic() - self._started
        self._started = None


def _forward(
    block: nn.Module, plain: Callable[..., Any], compiled: Callable[..., Any], *args: Any, **named: Any
) -> Any:
    """Return a block's output: compiled in training, plain otherwise."""
    if not (block.training and torch.is_grad_enabled()):
        return plain(*args, **named)
    for argument in args:
        if isinstance(argument, Unpadding):
            argument.complete()
    return compiled(*args, **named)
