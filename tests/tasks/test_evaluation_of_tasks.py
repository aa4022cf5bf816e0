"""A split is scored once, from all its rows in the order of the data, however batches cut it; loss is a sum over a count."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from etude.duration import Clock, Duration
from etude.errors import ConfigurationError
from etude.metrics.classification import Accuracy
from etude.metrics.multilabel import LabelSetMatch
from etude.metrics.regression import Pearson
from etude.metrics.score import Score, Statistics, mean_of_rows
from etude.tasks.evaluation import LABEL_METRICS, EvaluatedTask
from etude.tasks.run_context import RunContext
from etude.tasks.running_sums import Row
from etude.types import Facts

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log", "ignore:.*LeafSpec")

FACTS = Facts(7, 0, 1, 2)
Example = tuple[int, float]
FILLER: Example = (-1, 1e6)


class Numbers(EvaluatedTask):
    """Judges numbers: the loss of each is its double, and its score their mean."""

    STANDARD: ClassVar[Mapping[str, Any]] = {"mean": "mean of all"}
    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/mean")

    def __init__(self) -> None:
        super().__init__(FACTS)
        self.judged: list[str] = []

    def judge(self, batch: Sequence[Example], split: str) -> tuple[Tensor, Tensor, list[Row]]:
        self.judged.append(split)
        values = [value for number, value in batch if number >= 0]
        rows = [{"id": number, "value": value} for number, value in batch]
        return torch.tensor(2 * sum(values)), torch.tensor(len(values)), rows

    @classmethod
    def statistics(cls, rows: Sequence[Row], metrics: Mapping[str, Any], facts: Facts) -> dict[str, Statistics]:
        assert facts is FACTS
        values = np.array([row["value"] for row in rows], np.float64)
        return {name: mean_of_rows(values, f"nrefs:0|{metric}", (-9.0, 9.0)) for name, metric in metrics.items()}

    def sample(self, row: Row, split: str) -> dict[str, str]:
        return {"number": f"{row['id']} of {split}", "value": str(row["value"])}


def evaluated(task: EvaluatedTask, batches: Sequence[Sequence[Example]]) -> EvaluatedTask:
    """Validate without a trainer: nothing is logged."""
    for index, batch in enumerate(batches):
        task.validation_step(batch, index)  # type: ignore[arg-type]
    task.on_validation_epoch_end()
    return task


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., lightning.Trainer]:
    def make(**settings: Any) -> lightning.Trainer:
        quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_checkpointing": False}
        quiet |= {"enable_model_summary": False, "default_root_dir": tmp_path, "logger": False, "accelerator": "cpu"}
        return lightning.Trainer(**{**quiet, **settings})

    return make


def loader(*batches: Sequence[Example]) -> Any:
    return torch.utils.data.DataLoader(list(batches), batch_size=None, collate_fn=list)  # type: ignore[arg-type]


BATCHES = ([(3, 4.0), (0, 1.0), FILLER], [FILLER], [(2, 2.0), (4, 5.0), (1, 3.0)])
ROWS = [{"id": number, "value": value} for number, value in enumerate((1.0, 3.0, 2.0, 4.0, 5.0))]


# Rows and scores


@given(values=st.lists(st.integers(-8, 8), min_size=1, max_size=12), draw=st.data())
def test_how_batches_cut_a_split_changes_nothing(values: list[int], draw: st.DataObject) -> None:
    examples: list[Example] = [(number, float(value)) for number, value in enumerate(values)]
    mixed = draw.draw(st.permutations([*examples, FILLER, FILLER]))
    ends = sorted(draw.draw(st.lists(st.integers(0, len(mixed)), max_size=4)))
    cut = [mixed[start:end] for start, end in zip([0, *ends], [*ends, len(mixed)], strict=True)]
    task, plain = evaluated(Numbers(), cut), evaluated(Numbers(), [examples])
    assert task.rows == plain.rows == [{"id": number, "value": value} for number, value in examples]
    assert task.results == plain.results
    assert task.results["loss"].value == pytest.approx(2 * sum(values) / len(values))
    assert task.results["mean"].value == pytest.approx(sum(values) / len(values))


def test_a_loss_is_divided_once_by_the_count_of_all_batches() -> None:
    task = evaluated(Numbers(), [[(0, 1.0)], [(1, 4.0), (2, 7.0)]])
    assert task.results["loss"] == Score(8.0)  # and not 6.5, the mean of 2 and 11


def test_an_evaluation_begins_anew() -> None:
    task = evaluated(Numbers(), BATCHES)
    first = task.results
    assert task.rows == ROWS and first["loss"].value == 6.0
    evaluated(task, [[(0, 2.0)]])
    assert task.rows == [{"id": 0, "value": 2.0}] and task.results["loss"].value == 4.0
    assert evaluated(task, BATCHES).results == first


def test_rows_are_scored_as_they_were_concluded() -> None:
    class Halves(Numbers):
        def concluded(self, rows: list[Row], split: str) -> list[Row]:
            assert split == "val"
            return [{**row, "value": row["value"] / 2} for row in rows if row["id"] != 3]

    task = evaluated(Halves(), BATCHES)
    assert [row["id"] for row in task.rows] == [0, 1, 2, 4]
    assert task.results["mean"].value == pytest.approx((1 + 3 + 2 + 5) / 2 / 4)
    assert task.results["loss"].value == 6.0


@pytest.mark.parametrize("count", [0, 2, 9])
def test_the_first_rows_are_samples(count: int) -> None:
    task = Numbers()
    task.sample_count = count
    expected = [{"number": f"{row['id']} of val", "value": str(row["value"])} for row in ROWS[:count]]
    assert evaluated(task, BATCHES).samples == expected


def test_intervals_are_those_that_are_asked_for() -> None:
    task = Numbers()
    assert evaluated(task, BATCHES).results["mean"] == Score(3.0, "nrefs:0|mean of all")
    task.bootstrap = 40
    mean = evaluated(task, BATCHES).results["mean"]
    assert mean.low is not None and mean.high is not None and 1 < mean.low < mean.value < mean.high < 5
    assert mean.signature == "nrefs:0|bs:40|seed:12345|mean of all"


def test_scores_are_those_of_the_tasks_own_metrics() -> None:
    task = Numbers()
    task.metrics = {"one": "first", "two": "second"}
    assert {name: score.signature for name, score in evaluated(task, BATCHES).results.items()} == {
        "loss": "",
        "one": "nrefs:0|first",
        "two": "nrefs:0|second",
    }


class Bare(EvaluatedTask):
    """Defines no more than it must."""

    def judge(self, batch: Sequence[Example], split: str) -> tuple[Tensor, Tensor, list[Row]]:
        return torch.tensor(1.0), torch.tensor(2), [{"id": number, "split": split} for number, _ in batch]

    def sample(self, row: Row, split: str) -> dict[str, str]:
        return {}


def test_a_task_without_metrics_has_a_loss() -> None:
    task = evaluated(Bare(FACTS), BATCHES)
    assert task.results == {"loss": Score(0.5)}
    assert Bare.statistics(task.rows, {"mean": "x"}, FACTS) == {} == task.details(task.rows, "val")


# Splits, loggers and data


class Known(lightning.LightningDataModule):
    """A data module of etude's kind: it has a clock."""

    clock = Clock(1, 1.0)
    evaluated = "train"

    def parts_of(self, split: str) -> dict[str, range]:
        return {}

    def test_dataloader(self) -> Any:
        return loader(*BATCHES)

    def predict_dataloader(self) -> Any:
        return loader(*BATCHES)


def without_clock() -> lightning.LightningDataModule:
    """Somebody else's data module, which has the same batches and knows no texts."""

    class Theirs(lightning.LightningDataModule):
        evaluated = "train"
        test_dataloader, predict_dataloader = Known.test_dataloader, Known.predict_dataloader

    return Theirs()


@pytest.mark.parametrize(("data", "split"), [(Known, "train"), (without_clock, "test")])
def test_the_split_is_the_one_that_the_data_names(trainer: Callable[..., Any], data: Any, split: str) -> None:
    task, run = Numbers(), trainer()
    (logged,) = run.test(task, datamodule=data(), verbose=False)
    assert logged == {f"{split}/loss": 6.0, f"{split}/mean": 3.0}
    assert set(task.judged) == {split} and task.rows == ROWS


def test_loaders_alone_are_the_test_split(trainer: Callable[..., Any]) -> None:
    task, run = Numbers(), trainer()
    (logged,) = run.test(task, loader(*BATCHES), verbose=False)
    assert logged == {"test/loss": 6.0, "test/mean": 3.0}
    (logged,) = run.validate(task, loader(*BATCHES), verbose=False)
    assert logged == {"val/loss": 6.0, "val/mean": 3.0}
    assert task.judged == ["test"] * 3 + ["val"] * 3


@pytest.mark.parametrize("in_run", [False, True])
def test_each_value_is_logged_once_and_in_a_run_at_its_own_step(
    trainer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_run: bool
) -> None:
    task, logger, found = Numbers(), CSVLogger(tmp_path), list[tuple[dict[str, float], int | None]]()
    monkeypatch.setattr(logger, "log_metrics", lambda metrics, step=None: found.append((dict(metrics), step)))
    monkeypatch.setattr(Numbers, "global_step", 17)
    if in_run:
        task.run_context = RunContext(1, 1, Duration(4, "step"), log_every=1)
    run = trainer(logger=logger)
    run.validate(task, loader(*BATCHES), verbose=False)
    assert {name: float(value) for name, value in run.callback_metrics.items()} == {"val/loss": 6.0, "val/mean": 3.0}
    ((metrics, step),) = found
    assert {name: value for name, value in metrics.items() if name != "epoch"} == {"val/loss": 6.0, "val/mean": 3.0}
    assert step == (17 if in_run else 0)


@pytest.mark.parametrize("data", [None, without_clock])
def test_a_task_without_its_data_says_what_to_give(trainer: Callable[..., Any], data: Any) -> None:
    task, run = Numbers(), trainer()
    task.trainer = run
    if data is not None:
        vars(run)["datamodule"] = data()
    line = "Numbers needs its data module for this, and the Trainer has none; give it datamodule=…, not loaders alone"
    with pytest.raises(ConfigurationError, match=f"^{re.escape(line)}$"):
        _ = task.data
    assert task.evaluated_split == "test"


def test_the_data_is_the_trainers(trainer: Callable[..., Any]) -> None:
    task, run, data = Numbers(), trainer(), Known()
    task.trainer = run
    vars(run)["datamodule"] = data
    assert id(task.data) == id(data) and task.evaluated_split == "train"


# Predictions


def test_answers_are_the_judged_rows_without_fillers(trainer: Callable[..., Any]) -> None:
    predicted = trainer().predict(Bare(FACTS), datamodule=Known())
    assert [[row["id"] for row in batch] for batch in predicted] == [[3, 0], [], [2, 4, 1]]
    assert {row["split"] for batch in predicted for row in batch} == {"train"}


def test_predictions_are_the_tasks_own_answers_and_need_no_gradient() -> None:
    class Answers(Bare):
        def answers(self, batch: Any) -> list[Row]:
            weight = torch.ones(1, requires_grad=True)
            return [{"id": number, "grows": (weight * value).requires_grad} for number, value in batch]

    assert Answers(FACTS).predict_step([(5, 1.0), FILLER]) == [{"id": 5, "grows": False}]  # type: ignore[arg-type]


# Metrics of a configuration


class OfTexts:
    def statistics(self, outputs: Any) -> None: ...


class OfNothing:
    statistics = 3


class Texts(Bare):
    STANDARD: ClassVar[Mapping[str, Any]] = {"first": OfTexts(), "second": OfTexts()}


class Classes(Bare):
    STANDARD: ClassVar[Mapping[str, Any]] = {"accuracy": Accuracy(), "texts": OfTexts()}
    METRIC: ClassVar[type | None] = LABEL_METRICS[0]


def test_without_a_choice_metrics_are_the_standard_ones() -> None:
    chosen = Texts.checked_metrics(None)
    assert chosen == Texts.STANDARD and chosen is not Texts.STANDARD
    assert Texts.checked_metrics({}) == {}


@pytest.mark.parametrize(("task", "metric"), [(Texts, OfTexts()), (Classes, Accuracy())])
def test_metrics_of_the_tasks_outputs_are_taken(task: type[Bare], metric: Any) -> None:
    assert task.checked_metrics({"mine": metric}) == {"mine": metric}


@pytest.mark.parametrize("metric", [Accuracy(), LabelSetMatch(), Pearson(), OfNothing()])
def test_a_task_of_texts_takes_no_metric_of_labels(metric: Any) -> None:
    line = (
        f"task.metrics.mine: {type(metric).__name__} does not compare the outputs of Texts; take metrics such as OfTexts, "
        "or write ~task.metrics.mine"
    )
    with pytest.raises(ConfigurationError, match=f"^{re.escape(line)}$"):
        Texts.checked_metrics({"first": OfTexts(), "mine": metric})


@pytest.mark.parametrize("metric", [OfTexts(), LabelSetMatch(), Pearson()])
def test_a_task_of_labels_takes_only_those_of_its_kind(metric: Any) -> None:
    line = (
        f"task.metrics.mine: {type(metric).__name__} does not compare the outputs of Classes; take metrics such as Accuracy, "
        "OfTexts, or write ~task.metrics.mine"
    )
    with pytest.raises(ConfigurationError, match=f"^{re.escape(line)}$"):
        Classes.checked_metrics({"mine": metric})
