"""Configurations of equal shape are rehearsed once, and the errors of all of them are told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from etude.config.compose import compose
from etude.config.schema import Config
from etude.errors import DataError, MemoryExhaustedError
from etude.training.preflight import forecast
from etude.training.preflight.forecast import preflight, shape
from etude.training.preflight.trial import Outcome, Planned

WORDS = ("experiment=translation/demo", "trainer=cpu", "logger=none")
OUTCOME = Outcome(Planned(90, 2000.0, 300, ["train", "val"], 1000, 900, [1, 2]), 0.25, 2**30, "cpu", 1)


def config(*words: str) -> Config:
    return compose(*WORDS, *words)


@pytest.fixture
def attempted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Config]]:
    """The configurations that are rehearsed; those of a width of 64 have no data."""
    tried: list[Config] = []

    def attempt(config: Config, limit: int | None) -> Outcome:
        tried.append(config)
        if config.model.arguments["width"] == 64:
            raise DataError("train.en is missing")
        return OUTCOME

    monkeypatch.setattr(forecast, "attempt", attempt)
    yield tried


@pytest.mark.parametrize(
    "word",
    [
        "seed=7",
        "budget=3epoch",
        "optimizer.lr=3e-4",
        "optimizer.weight_decay=0.3",
        "optimizer.betas=[0.8,0.99]",
        "scheduler.warmup=9step",
        "scheduler=constant",
        "validate.every=1epoch",
        "checkpoint.keep_last=5",
        "stop.patience=3",
        "run.name=other",
        "run.notes=why",
        "model.dropout=0.3",
        "task.label_smoothing=0.2",
        "paths.outputs=elsewhere",
    ],
)
def test_what_changes_no_size_is_not_in_the_shape(word: str) -> None:
    assert shape(config("task.label_smoothing=0.1", word)) == shape(config("task.label_smoothing=0.1"))


@pytest.mark.parametrize(
    "word",
    [
        "model.width=64",
        "model.dropout=0.0",
        "batch.tokens=1024",
        "optimizer.weight_decay=0.0",
        "optimizer.betas=[0.0,0.99]",
        "optimizer=sgd",
        "+optimizer.amsgrad=true",
        "precision=bf16-mixed",
        "trainer.micro_batches=2",
        "trainer.threads=1",
        "tokenizer.vocabulary=500",
        "decoding.beams=9",
        "data.max_length=20",
        "validate.metric=val/loss",
        "callbacks=none",
    ],
)
def test_what_may_change_sizes_or_costs_is(word: str) -> None:
    assert shape(config(word)) != shape(config())


def test_a_seed_that_draws_the_examples_is_in_the_shape() -> None:
    assert shape(config("limit.train=50", "seed=1")) != shape(config("limit.train=50", "seed=2"))


def test_equal_shapes_are_rehearsed_once(attempted: list[Config]) -> None:
    words: tuple[list[str], ...] = (
        [],
        ["seed=2"],
        ["model.width=256"],
        ["optimizer.lr=1e-4", "seed=3"],
        ["model.width=256", "budget=3epoch"],
    )
    answers = preflight([config(*more) for more in words])
    assert [one.model.arguments["width"] for one in attempted] == [128, 256]
    assert [answer.error for answer in answers] == [None] * 5


def test_the_errors_of_all_are_told_and_end_none_of_the_others(attempted: list[Config]) -> None:
    wrong = ("optimizer.betas=[0.9,1.5]", "log.every=30s", "start=no/such", "trainer.accelerator=gpu")
    words = (["model.width=64"], *([word] for word in wrong), ["seed=3"], ["model.width=64", "seed=2"])
    answers = preflight([config(*more) for more in words])
    said = [str(answer.error) for answer in answers]
    assert said[0] == said[6] == "train.en is missing"
    for text, part in zip(
        said[1:5], ("optimizer: Invalid beta", "log.every=30s", "no run 'no/such'", "gpu"), strict=True
    ):
        assert part in text
    assert answers[5].error is None
    assert [answer.forecast is None for answer in answers] == [True, True, True, True, True, False, True]
    assert len(attempted) == 2


def test_what_one_has_wrong_is_not_told_of_others_of_its_shape(attempted: list[Config]) -> None:
    of_no_split = Outcome(Planned(90, 2000.0, 300, ["train"], 1000, 900, [1, 2]), 0.25, 2**30, "cpu", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecast, "attempt", lambda config, limit: of_no_split)
        wrong, right = preflight([config("stop.patience=2"), config()])
    assert "stop.patience needs validations" in str(wrong.error)
    assert right.error is None


def test_an_unforeseen_error_is_told_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(config: Config, limit: int | None) -> Outcome:
        raise ZeroDivisionError("of three")

    monkeypatch.setattr(forecast, "attempt", attempt)
    (answer,) = preflight([config()])
    assert "ZeroDivisionError: of three" in str(answer.error)


@pytest.mark.parametrize(
    ("budget", "steps", "seconds"), [("20epoch", 1800, 450.0), ("7step", 7, 1.75), ("60s", 240, 60.0)]
)
def test_the_budget_in_steps_and_seconds(attempted: list[Config], budget: str, steps: int, seconds: float) -> None:
    (answer,) = preflight([config(f"budget={budget}", *(["scheduler.warmup=1s"] if budget == "60s" else []))])
    assert answer.forecast is not None
    assert (answer.forecast.steps, answer.forecast.seconds) == (steps, seconds)
    assert answer.forecast.peak_bytes >= OUTCOME.peak_bytes


def test_automatic_micro_batches_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def choose(config: Config, limit: int | None) -> Outcome:
        limits.append(limit)
        if len(limits) == 2:
            raise MemoryExhaustedError("one example")
        return OUTCOME

    monkeypatch.setattr(forecast, "choose", choose)
    auto = config("trainer.micro_batches=auto")
    answers = preflight([auto, config("trainer.micro_batches=auto", "model.width=64")], limit=5)
    assert answers[0].forecast is not None
    assert answers[1].error is not None
    assert answers[1].error.exit_code == 71
    assert limits == [5, 5]
