"""How a run ends."""

from __future__ import annotations

import logging
from collections.abc import Collection

import lightning
from lightning.pytorch.callbacks import Callback

from etude.config.schema import Config
from etude.errors import ConfigurationError
from etude.training.callbacks.early_stopping import StopWithoutProgress

_log = logging.getLogger(__name__)


def stopping(root: Config, splits: Collection[str]) -> list[Callback]:
    """Return the callback that ends a run before its budget is spent, if the configuration asks for one.

    Raises:
        ConfigurationError: If something is asked for that needs validations, and there is no split for them.
    """
    stop, average = root.stop, root.average
    for key, value, nothing in (
        ("stop.patience", stop.patience, "null"),
        ("average.last", average.last, "[]"),
        ("average.best", average.best, "[]"),
    ):
        if value and "val" not in splits:
            raise ConfigurationError(f"{key} needs validations, but the data has no split 'val'; write {key}={nothing}")
    if stop.patience is None:
        return []
    return [StopWithoutProgress(root.validate.metric, root.validate.mode, stop.patience, stop.min_delta)]


def why_ended(root: Config, trainer: lightning.Trainer) -> str:
    """Return why a training has ended, in a few words."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, StopWithoutProgress) and callback.reason is not None:
            _log.info("ended after step %d: %s", trainer.global_step, callback.reason)
            return callback.reason
    return f"the budget of {root.budget} is spent"
