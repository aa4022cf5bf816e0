"""Samples of the outputs of each validation, for people to read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from etude.errors import ConfigurationError, StorageError
from etude.metrics.text_differences import TEXTS, marked
from etude.runs.folder import SAMPLES
from etude.tasks.base import Task


@runtime_checkable
class LogsTables(Protocol):
    """A logger that shows tables, such as Lightning's WandbLogger."""

    def log_table(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Log rows of cells under a name."""
        ...


class ValidationSamples(Callback):
    """Writes the task's samples to RUN/samples/step-00001000.jsonl, one per line, and to loggers that show tables.

    A validation that is repeated, since its run was continued from before it, rewrites its file. A logger that fails is
    reported and does not stop the training.

    Args:
        count: Number of samples of each validation.

    Raises:
        ConfigurationError: If count is negative; when training starts, if it is not of a `Task`.
        StorageError: If the file cannot be written.
    """

    def __init__(self, count: int = 8) -> None:
        if count < 0:
            raise ConfigurationError(f"callbacks.samples.count={count} is negative; write 0 or more")
        self.count = count

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tell the task how many samples to keep."""
        if stage == "fit":
            _task(pl_module).sample_count = self.count

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the samples, while training, on the first rank."""
        samples = _task(pl_module).samples
        if trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero or not samples:
            return
        step = trainer.global_step
        _write(Path(trainer.default_root_dir) / SAMPLES / f"step-{step:08d}.jsonl", samples)
        columns, rows = table(samples, step)
        for logger in trainer.loggers:
            if isinstance(logger, LogsTables):
                try:
                    logger.log_table("samples", columns, rows, step=step)
                except Exception as error:
                    warnings.warn(
                        f"the samples of step {step} were not sent to {type(logger).__name__}: {error}", stacklevel=2
                    )


def table(samples: Sequence[Mapping[str, str]], step: int) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of a tracker's table.

    The first column is the step, so that the tables of all validations can be read as one. Where a model has written texts,
    the last one marks how each differs from its reference (see `etude.metrics.text_differences.marked`).

    Args:
        samples: Texts by name, at least one sample.
        step: Step of the validation.
    """
    columns = list(samples[0])
    pair = next(((made, wanted) for made, wanted in TEXTS.items() if {made, wanted} <= set(columns)), None)
    rows: list[list[Any]] = [[step, *(sample[column] for column in columns)] for sample in samples]
    if pair is None:
        return ["step", *columns], rows
    made, wanted = pair
    differences = [marked(sample[wanted], sample[made]) for sample in samples]
    return ["step", *columns, "difference"], [
        [*row, difference] for row, difference in zip(rows, differences, strict=True)
    ]


def _task(module: pl.LightningModule) -> Task:
    if isinstance(module, Task):
        return module
    raise ConfigurationError(f"callbacks.samples: {type(module).__name__} keeps no samples; write ~callbacks.samples")


def _write(path: Path, samples: list[dict[str, str]]) -> None:
    """Write the file completely or not at all."""
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(
            "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples), encoding="utf-8"
        )
        partial.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror}; make room there, or write ~callbacks.samples"
        ) from error
