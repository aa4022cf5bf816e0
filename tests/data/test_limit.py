"""`limit`: which examples are used when not all are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etude.data.base import DataSettings
from etude.data.classification import ClassificationData
from etude.data.corpora.table_files import Tables
from etude.data.sizes import BatchSize, Limit
from etude.tokenization.trained import BPE

ROWS = {"train": 90, "val": 40, "test": 40}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables that are sorted by their labels."""
    folder = tmp_path_factory.mktemp("sorted")
    for split, rows in ROWS.items():
        lines = [f"word{number} of {split}\t{'ab'[2 * number // rows]}\n" for number in range(rows)]
        (folder / f"{split}.tsv").write_text("text\tlabel\n" + "".join(lines))
    return folder


@pytest.fixture
def data(files: Path, tmp_path: Path) -> Callable[..., ClassificationData]:
    """Makes a data module with a limit and a seed."""

    def make(seed: int, **limit: Any) -> ClassificationData:
        train, val, test = (str(files / f"{split}.tsv") for split in ROWS)
        return ClassificationData(
            Tables(train, val, test, columns={"text": "text", "label": "label"}),
            max_length=32,
            settings=DataSettings(
                BPE(vocabulary=80), seed=seed, batch=BatchSize(examples=4), limit=Limit(**limit), cache=tmp_path
            ),
        )

    return make


def used(data: ClassificationData, split: str) -> list[str]:
    return [data.text(split, "text", number) for number in range(len(data.splits[split].lengths))]


def test_an_evaluation_is_spread_over_its_split_whatever_the_seed(data: Callable[..., ClassificationData]) -> None:
    chosen = [used(data(seed, val=10), "val") for seed in (1, 2)]
    assert chosen[0] == chosen[1] == [f"word{number} of val" for number in range(0, 40, 4)]
    labels = data(1, val=10).selected["val"].labels
    assert labels is not None
    assert labels.tolist() == [0] * 5 + [1] * 5


def test_training_examples_are_drawn_by_the_seed(data: Callable[..., ClassificationData]) -> None:
    one, again, other = (used(data(seed, train=30), "train") for seed in (1, 1, 2))
    assert one == again != other
    assert len(set(one)) == len(set(other)) == 30
    assert one != [f"word{number} of train" for number in range(30)]
    labels = data(1, train=30).selected["train"].labels
    assert labels is not None
    assert 5 <= labels.sum() <= 25


def test_ids_texts_and_labels_still_belong_together(data: Callable[..., ClassificationData]) -> None:
    module = data(3, train=30)
    split = module.selected["train"]
    assert split.labels is not None
    for number, text in enumerate(split.texts["text"]):
        assert module.decode([np.asarray(split.tokens["text"][number]).tolist()]) == [text]
        assert split.labels[number] == (int(text.split()[0].removeprefix("word")) >= 45)


@pytest.mark.parametrize("limit", [90, 500])
def test_a_limit_of_all_is_none(data: Callable[..., ClassificationData], limit: int) -> None:
    assert used(data(1, train=limit), "train") == used(data(1), "train") == [f"word{n} of train" for n in range(90)]


def test_overfitting_validates_on_what_it_trains_on(data: Callable[..., ClassificationData]) -> None:
    module = data(1, train=8, overfit=True)
    assert used(module, "val") == used(module, "train")
    assert len(used(module, "train")) == 8
