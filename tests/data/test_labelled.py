"""Labelled texts and pairs as batches: what is read, what a step is divided by, and labels that cannot be learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data.base import DataSettings
from etude.data.class_weights import BalancedWeights, GivenWeights
from etude.data.classification import ClassificationData
from etude.data.corpora import Tables
from etude.data.encode import Encoding
from etude.data.labelled_texts import LabelledData
from etude.data.loader import Slice
from etude.data.multilabel import MultilabelData
from etude.data.regression import RegressionData
from etude.data.sizes import BatchSize, Limit
from etude.errors import ConfigurationError, DataError
from etude.tokenization.trained import Bytes
from etude.types import IGNORED, ClassificationBatch

PAIRS = [("ab", "cde", "yes"), ("a", "b", "no"), ("abcdefghijkl", "xyz", "no"), ("q", "r", "no"), ("s", "t", "yes")]


def data(kind: type[LabelledData], folder: Path, rows: list[Any], limit: Limit | None = None, **given: Any) -> Any:
    """A data module on JSON lines of [text, pair, label] for training and the first two of them for validation."""
    for split, some in (("train", rows), ("val", rows[:2])):
        lines = (json.dumps({"text": text, "pair": pair, "label": label}) for text, pair, label in some)
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    columns = {"text": "text", "pair": given.get("pair"), "label": "label"}
    lists = {"label": ","} if kind is MultilabelData else None
    corpus = Tables("train.jsonl", "val.jsonl", None, columns, root=str(folder), lists=lists)
    settings = DataSettings(
        Bytes(), seed=1, batch=BatchSize(examples=3), limit=limit or Limit(), cache=folder / "cache"
    )
    return kind(corpus, given.pop("max_length", 30), **given, settings=settings)


def batch(of: Any, *examples: int, filler: bool = False) -> ClassificationBatch:
    made: ClassificationBatch = of.splits["train"].batch(Slice(np.array(examples), 0, 1, filler))
    return made


def test_a_pair_is_read_with_its_segments(tmp_path: Path) -> None:
    pairs = data(ClassificationData, tmp_path, PAIRS, pair="pair")
    made, facts = batch(pairs, 0, 1), pairs.facts
    assert made.segments is not None and facts.segments == 2
    assert made.tokens[0].tolist() == [facts.bos, *_ids("ab"), facts.eos, *_ids("cde"), facts.eos]
    assert made.segments.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]]
    assert made.mask.tolist() == [[True] * 8, [True] * 5 + [False] * 3]
    assert pairs.splits["train"].lengths.tolist() == [8, 5, 18, 5, 5]
    single = data(ClassificationData, tmp_path, PAIRS)
    assert batch(single, 0).segments is None and single.facts.segments == 1


def _ids(text: str) -> list[int]:
    return Bytes().build(iter(())).encode([text])[0]


def test_the_longer_text_of_a_pair_is_cut(tmp_path: Path) -> None:
    pairs = data(ClassificationData, tmp_path, PAIRS, pair="pair", max_length=13)
    made, facts = batch(pairs, 2), pairs.facts
    assert made.tokens[0].tolist() == [facts.bos, *_ids("abcdefg"), facts.eos, *_ids("xyz"), facts.eos]
    assert pairs.prepared.dropped == {"train": {"truncated": 1}, "val": {}}


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=9), st.lists(st.integers(0, 9), max_size=9), st.integers(2, 12))
def test_both_texts_fit_and_keep_their_beginnings(first: list[int], second: list[int], room: int) -> None:
    (example,), happened = Encoding(("a", "b"), None, room, "truncate_longer").examples(
        {"a": first, "b": second}, False
    )
    assert sum(map(len, example.values())) == min(room, len(first) + len(second))
    assert example == {"a": first[: len(example["a"])], "b": second[: len(example["b"])]}
    assert (happened == "truncated") == (len(first) + len(second) > room)


def test_a_step_is_divided_by_its_weights(tmp_path: Path) -> None:
    weighted = data(ClassificationData, tmp_path, PAIRS, weights=BalancedWeights())
    each = {"yes": 5 / (2 * 2), "no": 5 / (2 * 3)}
    made = batch(weighted, *range(5))
    assert made.weights is not None
    assert made.weights.tolist() == pytest.approx([each[label] for *_, label in PAIRS])
    plan = weighted.plan(0)
    for step in range(plan.steps):
        expected = sum(each[PAIRS[i][2]] for i in plan.examples(step))
        assert plan.count(step) == pytest.approx(expected, rel=1e-6)
    assert batch(weighted, 1, filler=True).weights.tolist() == [0.0]  # type: ignore[union-attr]
    val = weighted.splits["val"]
    assert val.batch(Slice(np.array([0]), 0, 1, False)).weights is None and val.counts.tolist() == [1, 1]


def test_without_weights_a_step_is_divided_by_a_whole_number(tmp_path: Path) -> None:
    plan = data(ClassificationData, tmp_path, PAIRS).plan(0)
    assert [plan.count(step) for step in range(plan.steps)] == [2, 3] and type(plan.count(0)) is int


def test_weights_by_hand() -> None:
    counts = np.array([3, 0, 1])
    assert GivenWeights({"c": 4.0}).of(counts, ("a", "b", "c")).tolist() == [1.0, 1.0, 4.0]
    assert BalancedWeights().of(counts, ("a", "b", "c")).tolist() == pytest.approx([4 / 6, 0.0, 2.0])
    with pytest.raises(ConfigurationError, match="no class is called that; the data has a, b, c"):
        GivenWeights({"d": 1.0}).of(counts, ("a", "b", "c"))
    with pytest.raises(ConfigurationError, match="is not positive"):
        GivenWeights({"a": 0.0})


def test_several_labels(tmp_path: Path) -> None:
    rows = [("a", "", ["x", "y"]), ("b", "", []), ("c", "", "z, x"), ("d", "", "")]
    several = data(MultilabelData, tmp_path, rows)
    assert several.facts.classes == ("x", "y", "z")
    assert batch(several, 0, 1, 2, 3).labels.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert (batch(several, 2, filler=True).labels == IGNORED).all()


def test_numbers_and_their_scale(tmp_path: Path) -> None:
    numbers = data(RegressionData, tmp_path, [("a", "", 1), ("b", "", "2.5"), ("c", "", -2.0)])
    assert batch(numbers, 0, 1, 2).labels.tolist() == [1.0, 2.5, -2.0]
    facts = numbers.facts
    assert (facts.center, facts.scale) == pytest.approx((0.5, np.std([1, 2.5, -2])))
    assert facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


@pytest.mark.parametrize("label", [3, True, 2.5])
def test_a_label_that_is_no_list_of_names(tmp_path: Path, label: object) -> None:
    message = rf"train\.jsonl:2 has the label '{label}', which is not a list of names; write \[\"a\", \"b\"\]"
    with pytest.raises(DataError, match=message):
        data(MultilabelData, tmp_path, [("a", "", ["x"]), ("b", "", label)]).facts  # noqa: B018


def test_names_that_are_numbers(tmp_path: Path) -> None:
    assert data(MultilabelData, tmp_path, [("a", "", [10, 2]), ("b", "", [3])]).facts.classes == ("2", "3", "10")


def test_classes_that_are_whole_numbers_are_in_their_order_whatever_their_length(tmp_path: Path) -> None:
    names = ["9" * 5000, "1" + "0" * 5000, "10", "9", "09", "٣"]
    rows = [("a", "", name) for name in names]
    assert data(ClassificationData, tmp_path, rows).facts.classes == (
        "٣",
        "09",
        "9",
        "10",
        "9" * 5000,
        "1" + "0" * 5000,
    )


@pytest.mark.parametrize("label", [10.0**300, float("nan"), float("-inf"), 10**4000])
def test_a_number_that_a_batch_cannot_hold(tmp_path: Path, label: float) -> None:
    with pytest.raises(
        DataError, match=r"train\.jsonl:2 has the label '.{2,61}', which is not a number; write one such"
    ):
        data(RegressionData, tmp_path, [("a", "", 1), ("b", "", label)]).facts  # noqa: B018


@pytest.mark.parametrize("label", ["many", "nan", "inf", "1,5"])
def test_a_label_that_is_no_number(tmp_path: Path, label: str) -> None:
    with pytest.raises(
        DataError, match=rf"train\.jsonl:2 has the label '{label}', which is not a number; write one such"
    ):
        data(RegressionData, tmp_path, [("a", "", 1), ("b", "", label)]).facts  # noqa: B018


def test_numbers_that_are_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all labels of the train split are the same number"):
        data(RegressionData, tmp_path, [("a", "", 3), ("b", "", 3)]).facts  # noqa: B018


def test_classes_that_a_limit_leaves_out_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(text, "", label) for text, label in zip("abcd", ["x", "x", "y", "z"], strict=True)]
    limited = data(ClassificationData, tmp_path, rows, Limit(train=2))
    assert len(limited.splits["train"].counts) == 2
    labels = limited.selected["train"].labels
    assert labels is not None
    left_out = [name for number, name in enumerate("xyz") if number not in labels]
    assert f"{len(left_out)} of 3 classes have no example in training: {', '.join(left_out)}" in caplog.text
