"""Preparing: ids, texts and labels belong together; overflow and counts follow their laws; the cache is exact."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.data.encode import Encoding
from etude.data.prepare import Prepared, followed, prepare
from etude.data.readers.labels import ClassLabels
from etude.data.readers.sources import Dropped, Row
from etude.errors import ConfigurationError, DataError
from etude.tokenization.trained import BPE, Bytes

TEXTS = ["one two three", "four", "five six", "seven eight nine ten", "eleven"]


class Toy:
    """A corpus of given rows; empty texts are dropped."""

    def __init__(self, **splits: list[dict[str, str]]) -> None:
        self.content = splits
        self.dropped = Dropped()
        self.reads = 0

    def fingerprint(self) -> str:
        return repr(self.content)

    def splits(self) -> tuple[str, ...]:
        return tuple(self.content)

    def rows(self, split: str) -> Iterator[Row]:
        self.reads += 1
        for number, fields in enumerate(self.content[split], 1):
            if all(fields.values()):
                yield Row(fields, f"{split}:{number}")
            else:
                self.dropped.drop("empty", f"{split}:{number}")


def toy(**labels: list[str]) -> Toy:
    return Toy(
        **{
            split: [{"text": text, "label": label} for text, label in zip(TEXTS, names, strict=False)]
            for split, names in labels.items()
        }
    )


def prepared(corpus: Any, cache: Path, **changes: Any) -> Prepared:
    settings = {"text_fields": ("text",), "max_length": 100, "overflow": "truncate", "cache": cache, **changes}
    tokenizer = settings.pop("tokenizer", Bytes())
    return prepare(corpus, tokenizer, **settings)


def decoded(result: Prepared) -> list[str]:
    tokens = result.splits["train"].tokens["text"]
    return result.tokenizer.decode([tokens[index].tolist() for index in range(len(tokens))])


def test_ids_texts_and_labels_belong_together(tmp_path: Path) -> None:
    corpus = toy(train=["b", "a", "b", "c", "a"], val=["a", "c"])
    result = prepared(corpus, tmp_path, label_field="label", tokenizer=BPE(61))
    train = result.splits["train"]
    assert result.classes == ("a", "b", "c")
    assert train.labels is not None and train.labels.tolist() == [1, 0, 1, 2, 0]
    assert list(train.texts["text"]) == TEXTS
    assert decoded(result) == TEXTS
    assert result.splits["val"].labels is not None and result.splits["val"].labels.tolist() == [0, 2]
    assert train.tokens["text"].values.dtype == np.uint16


def test_second_time_reads_nothing_and_is_equal(tmp_path: Path) -> None:
    first_corpus, second_corpus = (toy(train=["a", "b", "a"], val=["a"]) for _ in range(2))
    first_corpus.content["val"].append({"text": "", "label": "a"})
    second_corpus.content["val"].append({"text": "", "label": "a"})
    first = prepared(first_corpus, tmp_path, label_field="label", tokenizer=BPE(61))
    second = prepared(second_corpus, tmp_path, label_field="label", tokenizer=BPE(61))
    assert second_corpus.reads == 0
    assert first.fingerprint == second.fingerprint and first.classes == second.classes
    assert first.dropped == second.dropped == {"train": {}, "val": {"empty": 1}}
    assert first.tokenizer.fingerprint == second.tokenizer.fingerprint


def test_a_finished_tokenizer_finds_what_its_recipe_made(tmp_path: Path) -> None:
    first = prepared(toy(train=["a", "b"]), tmp_path, tokenizer=BPE(61))
    corpus = toy(train=["a", "b"])
    assert prepared(corpus, tmp_path, tokenizer=first.tokenizer).fingerprint == first.fingerprint
    assert corpus.reads == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"max_length": 99},
        {"overflow": "window"},
        {"label_field": "label"},
        {"label_field": "label", "classes": ("b", "a")},
        {"tokenizer": BPE(61)},
        {"corpus": toy(train=["a", "b", "b"])},
    ],
)
def test_everything_that_matters_is_in_the_fingerprint(tmp_path: Path, changes: dict[str, Any]) -> None:
    corpus = changes.pop("corpus", None) or toy(train=["a", "b"])
    assert prepared(corpus, tmp_path, **changes).fingerprint != prepared(toy(train=["a", "b"]), tmp_path).fingerprint


IDS = st.dictionaries(st.sampled_from(["a", "b"]), st.lists(st.integers(0, 9), max_size=13), min_size=2)


@given(IDS, st.integers(1, 11), st.sampled_from(["drop", "truncate"]), st.booleans())
def test_overflow_of_pairs(ids: dict[str, list[int]], size: int, overflow: str, training: bool) -> None:
    examples, happened = Encoding(("a", "b"), None, size, overflow).examples(ids, training)
    fits = all(len(tokens) <= size for tokens in ids.values())
    empty = not all(ids.values())
    if training and empty:
        assert (examples, happened) == ([], "no tokens")
    elif training and overflow == "drop" and not fits:
        assert (examples, happened) == ([], f"longer than {size} tokens")
    else:
        assert examples == [{field: tokens[:size] for field, tokens in ids.items()}]
        assert happened == (None if fits else "truncated")


@given(st.lists(st.integers(0, 9), max_size=23), st.integers(1, 7), st.booleans())
def test_windows_are_the_document(tokens: list[int], size: int, training: bool) -> None:
    windows, happened = Encoding(("a",), None, size, "window").examples({"a": tokens}, training)
    assert [token for window in windows for token in window["a"]] == tokens
    assert all(len(window["a"]) == size for window in windows[:-1])
    assert (happened is None) == bool(tokens)


def test_windows_know_their_document(tmp_path: Path) -> None:
    result = prepared(toy(train=["a"] * 3), tmp_path, max_length=5, overflow="window").splits["train"]
    assert result.tokens["text"].lengths.tolist() == [5, 5, 3, 4, 5, 3]
    assert list(result.texts["text"]) == [TEXTS[0]] * 3 + [TEXTS[1]] + [TEXTS[2]] * 2


def test_dropped_rows_are_counted_by_split(tmp_path: Path) -> None:
    corpus = toy(train=["a"] * 5, val=["a"] * 5)
    corpus.content["train"].append({"text": "", "label": "a"})
    result = prepared(corpus, tmp_path, max_length=8, overflow="drop", tokenizer=BPE(40))
    train, val = result.splits["train"], result.splits["val"]
    long = sum(len(ids) > 8 for ids in result.tokenizer.encode(TEXTS))
    assert 0 < long < 5
    assert result.dropped == {"train": {"longer than 8 tokens": long, "empty": 1}, "val": {"truncated": long}}
    assert len(train.tokens["text"]) == 5 - long and len(val.tokens["text"]) == 5
    assert val.tokens["text"].lengths.max() == 8
    assert list(val.texts["text"]) == TEXTS, "references are whole, however short the ids"


def test_numbers_are_sorted_by_value(tmp_path: Path) -> None:
    assert prepared(toy(train=["10", "9", "2"]), tmp_path, label_field="label").classes == ("2", "9", "10")


def test_given_classes_keep_their_order(tmp_path: Path) -> None:
    result = prepared(toy(train=["a", "b"]), tmp_path, label_field="label", classes=("b", "x", "a"))
    labels = result.splits["train"].labels
    assert result.classes == ("b", "x", "a") and labels is not None and labels.tolist() == [2, 0]


def test_label_that_training_has_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="val:2 has the label 'c', which training has not; it has: a, b"):
        prepared(toy(train=["b", "a"], val=["a", "c"]), tmp_path, label_field="label")
    with pytest.raises(DataError, match="train:1 has the label 'b'"):
        prepared(toy(train=["b", "a"]), tmp_path, label_field="label", classes=("a",))


def test_labels_are_renumbered() -> None:
    labels = ClassLabels("label")
    ids = [labels.value(Row({"label": name}, "")) for name in "cabac"]
    assert labels.close(ids).tolist() == [2, 0, 1, 0, 2]
    assert labels.classes == ("a", "b", "c")


def test_split_without_rows(tmp_path: Path) -> None:
    corpus = Toy(train=[{"text": "a"}], val=[{"text": ""}, {"text": ""}])
    with pytest.raises(DataError, match=r"the val split of Toy has no usable row \(left out: 2 empty\)"):
        prepared(corpus, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overflow": "cut"}, "overflow='cut' is not one of drop, truncate, truncate_longer, window"),
        ({"overflow": "window", "text_fields": ("text", "label")}, "for one text field, not for text, label"),
        ({"max_length": 0}, r"data\.max_length leaves 0 tokens"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        prepared(toy(train=["a"]), tmp_path, **changes)


def _in_a_process(cache: Path, answers: Any) -> None:
    result = prepared(toy(train=["b", "a", "b"]), cache, label_field="label", tokenizer=BPE(61))
    answers.put((result.fingerprint, decoded(result)))


def test_a_long_reading_says_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    rows = [Row({"text": text}, "here") for text in TEXTS]
    with caplog.at_level(logging.INFO, logger="etude"):
        assert list(followed(rows, "train", every=0.0)) == rows
        told = [record.getMessage() for record in caplog.records]
        assert told == [f"reading train: {number} rows" for number in range(1, 6)]
        caplog.clear()
        assert list(followed(rows, "train")) == rows
        assert not caplog.records


def test_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    processes = [context.Process(target=_in_a_process, args=(tmp_path, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    assert found[0] == found[1] and found[0][1] == TEXTS[:3]
