"""A training that makes no progress ends, says why, and has ended when it is continued."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from etude.training.callbacks.early_stopping import StopWithoutProgress


def trainer_with(scores: dict[str, float]) -> Any:
    return SimpleNamespace(
        callback_metrics={name: torch.tensor(value) for name, value in scores.items()},
        should_stop=False,
        current_epoch=0,
        global_step=1,
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, **how: decision),
        fast_dev_run=False,
        world_size=1,
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        sanity_checking=False,
    )


def after(scores: list[float], **arguments: Any) -> tuple[StopWithoutProgress, bool]:
    """Return the callback after validations with these scores, and whether it has stopped the training."""
    callback, stopped = StopWithoutProgress("val/bleu", "max", **arguments), False
    for score in scores:
        trainer = trainer_with({"val/bleu": score})
        callback.on_validation_end(trainer, cast(Any, None))
        stopped = trainer.should_stop
    return callback, stopped


@pytest.mark.parametrize(
    ("scores", "stops"),
    [([1.0, 2.0, 3.0], False), ([3.0, 2.0], False), ([3.0, 2.0, 1.0], True), ([3.0, 2.0, 4.0, 1.0], False)],
)
def test_it_stops_after_so_many_validations_without_a_better_score(scores: list[float], stops: bool) -> None:
    callback, stopped = after(scores, patience=2)
    assert stopped == stops
    assert (callback.reason is not None) == stops


def test_the_reason_names_metric_best_score_and_margin() -> None:
    callback, _ = after([3.5, 3.6, 3.7], patience=2, min_delta=0.25)
    assert callback.reason == "val/bleu was no better than 3.5 by more than 0.25 in 2 validations"
    callback, _ = after([float("nan")], patience=2)
    assert callback.reason == "val/bleu is not finite"


def test_a_run_that_had_ended_does_no_step_more() -> None:
    ended, _ = after([3.0, 2.0, 1.0], patience=2)
    continued = StopWithoutProgress("val/bleu", "max", patience=2)
    continued.load_state_dict(ended.state_dict())
    trainer = trainer_with({})
    continued.on_train_start(trainer, cast(Any, None))
    assert trainer.should_stop
