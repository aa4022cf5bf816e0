"""Curves of a validation go to the loggers that show tables, while training, and nowhere else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger

from etude.training.callbacks.validation_curves import ValidationCurves
from etude.training.loggers.safe_logger import SafeLogger
from tests.training.callbacks.conftest import OneWeight


class Plain(Logger):
    name, version = "plain", ""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Nothing."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


class Tables(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.tables: list[tuple[Any, ...]] = []

    def log_table(self, key: str, columns: Any, data: Any, step: int) -> None:
        self.tables.append((key, columns, data, step))


class Curved(OneWeight):
    asked = 0

    def curves(self, rows: Any) -> dict[str, tuple[list[str], list[list[Any]]]]:
        self.asked += 1
        return {"confusion": (["count"], [[3]])}


@pytest.mark.parametrize(("function", "sanity", "sent"), [("fit", False, 1), ("validate", False, 0), ("fit", True, 0)])
def test_curves_are_sent_while_training(function: str, sanity: bool, sent: int) -> None:
    inner, task = Tables(), Curved()
    guard = SafeLogger(inner)
    trainer: Any = SimpleNamespace(
        loggers=[Plain(), guard], state=SimpleNamespace(fn=function), sanity_checking=sanity, global_step=7
    )
    ValidationCurves().on_validation_end(trainer, task)
    guard.finalize("success")
    assert inner.tables == [("val/confusion", ["count"], [[3]], 7)] * sent


def test_nothing_is_computed_where_nobody_shows_it() -> None:
    task = Curved()
    trainer: Any = SimpleNamespace(
        loggers=[Plain(), SafeLogger(Plain())], state=SimpleNamespace(fn="fit"), sanity_checking=False, global_step=7
    )
    ValidationCurves().on_validation_end(trainer, task)
    assert task.asked == 0
