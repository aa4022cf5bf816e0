"""Token classification data: a label at the first token of each word, long sentences in parts, everything counted."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from etude.data.base import DataSettings
from etude.data.loader import Slice
from etude.data.readers.labels import WordLabels
from etude.data.readers.sources import Row
from etude.data.sizes import BatchSize, Limit
from etude.data.token_classification import TaggedParts, TokenClassificationData
from etude.errors import ConfigurationError, DataError
from etude.tokenization.trained import Bytes, WordPiece
from etude.types import IGNORED

Sentence = tuple[Sequence[str], Sequence[str]]


@dataclass
class Sentences:
    """A corpus that is nowhere but here."""

    splits_of: dict[str, list[Sentence]]
    dropped: Counter[str] = field(default_factory=Counter)

    def fingerprint(self) -> str:
        return json.dumps(self.splits_of)

    def splits(self) -> tuple[str, ...]:
        return tuple(self.splits_of)

    def rows(self, split: str) -> Iterator[Row]:
        for number, (words, tags) in enumerate(self.splits_of[split], 1):
            yield Row({"text": " ".join(words), "tags": json.dumps(tags)}, f"{split}.conll:{number}")


def made(
    folder: Path, train: list[Sentence], max_length: int = 12, recipe: Any = None, **more: Any
) -> TokenClassificationData:
    splits = {"train": train, "val": more.pop("val", train[:1])}
    limit = more.pop("limit", Limit())
    settings = DataSettings(recipe or Bytes(), seed=1, batch=BatchSize(examples=2), limit=limit, cache=folder)
    return TokenClassificationData(Sentences(splits), max_length, settings=settings, **more)


def labelled(data: TokenClassificationData, split: str = "train") -> list[list[tuple[str, str]]]:
    """The labelled tokens of each part, as text, with their classes."""
    examples = data.splits[split]
    parts = []
    for example in range(len(examples.counts)):
        batch = examples.batch(Slice(np.array([example]), 0, 1.0, False))
        pairs = zip(batch.tokens[0].tolist(), batch.labels[0].tolist(), strict=True)
        names = [
            (str(data.tokenizer.backend.id_to_token(token)), int(label)) for token, label in pairs if label != IGNORED
        ]
        parts.append([(name, data.facts.classes[label]) for name, label in names])
        assert batch.tokens[0, 0] == data.facts.bos and batch.tokens[0, -1] == data.facts.eos
        assert int((batch.labels != IGNORED).sum()) == examples.counts[example]
        assert batch.tokens.shape[1] == examples.lengths[example]
    return parts


def test_the_first_token_of_each_word_has_its_label(tmp_path: Path) -> None:
    data = made(tmp_path, [(["abc", "d"], ["X", "A"]), (["é", "b"], ["A", "B"])])
    assert data.facts.classes == ("A", "B", "X")
    assert labelled(data) == [[("a", "X"), ("d", "A")], [("Ã", "A"), ("b", "B")]]  # é is two bytes: the first of them
    assert data.describe()["words"] == {"train": 4, "val": 2}


def test_a_long_sentence_is_divided_between_words_and_counted(tmp_path: Path) -> None:
    words = ["abc", "de", "fghijklmnopqr", "s"]
    data = made(tmp_path, [(words, ["A", "B", "A", "B"]), (["x"], ["A"])])
    assert labelled(data) == [[("a", "A"), ("d", "B")], [("f", "A")], [("s", "B")], [("x", "A")]]
    examples = data.splits["train"]
    assert examples.lengths.max() == 12  # the word of 13 letters is cut
    assert data.prepared.dropped["train"] == {
        "of more than 12 tokens, divided between words": 1,
        "with a word of more tokens than there is room for, cut": 1,
    }
    assert [data.text("train", "text", part) for part in range(4)] == [" ".join(words)] * 3 + ["x"]
    assert data.describe()["sentences"] == {"train": 2, "val": 1} and data.describe()["rows"]["train"] == 4


def test_words_without_a_token_are_left_out_and_counted(tmp_path: Path) -> None:
    rows: list[Sentence] = [(["sun", "\x85", "moon"], ["A", "B", "C"]), (["sun", "moon"], ["A", "B"]), (["sun"], ["C"])]
    data = made(tmp_path, rows, recipe=WordPiece(40), val=[(["\x85", "sun"], ["B", "A"]), (["\x85"], ["B"])])
    assert [[tag for _, tag in part] for part in labelled(data)] == [["A", "C"], ["A", "B"], ["C"]]
    assert data.words_of("train", 0) == ["sun", "moon"] and data.words_of("val", 0) == ["sun"]
    assert data.prepared.dropped["train"] == {"with words that have no token, which are left out": 1}
    assert data.prepared.dropped["val"] == {
        "with words that have no token, which are left out": 2,
        "of words that have no token, left out": 1,
    }
    assert data.describe()["sentences"]["val"] == 1


def test_a_span_goes_on_without_a_word_that_has_no_token(tmp_path: Path) -> None:
    rows: list[Sentence] = [
        (["\x85", "sun", "moon"], ["B-x", "I-x", "O"]),
        (["sun", "\x85", "moon"], ["B-x", "I-x", "I-x"]),
    ]
    for scheme, first in (("iob2", "B-x"), (None, "I-x")):
        data = made(tmp_path, rows, recipe=WordPiece(40), scheme=scheme)
        assert [[tag for _, tag in part] for part in labelled(data)] == [[first, "O"], ["B-x", "I-x"]]


def test_a_batch_is_padded_and_a_filler_counts_for_nothing(tmp_path: Path) -> None:
    examples = made(tmp_path, [(["abc"], ["A"]), (["d", "ef"], ["B", "A"])]).splits["train"]
    batch = examples.batch(Slice(np.array([0, 1]), 0, 3.0, False))
    assert batch.labels.tolist() == [[IGNORED, 0, *[IGNORED] * 4], [IGNORED, 1, IGNORED, 0, IGNORED, IGNORED]]
    assert batch.mask.sum(dim=1).tolist() == [5, 6] and batch.sentences.tolist() == [0, 1] and batch.step_count == 3
    filler = examples.batch(Slice(np.array([0]), 0, 3.0, True))
    assert filler.ids.tolist() == [-1] and (filler.labels == IGNORED).all()


def test_a_limit_counts_sentences(tmp_path: Path) -> None:
    source = random.Random(2)
    rows: list[Sentence] = [([source.choice("abcdefgh") * 3 for _ in range(5)], list("ABABA")) for _ in range(9)]
    data = made(tmp_path, rows, limit=Limit(train=4), val=rows)
    examples = cast(TaggedParts, data.splits["train"])
    assert len(np.unique(examples.sentences)) == 4 and len(examples.counts) == 12
    texts = {data.text("train", "text", part) for part in range(12)}
    for sentence in range(4):
        assert " ".join(data.words_of("train", sentence)) in texts


def test_a_tag_that_training_has_not_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"val\.conll:1 has the label 'Z', which training has not; it has: A"):
        made(tmp_path, [(["abc"], ["A"])], val=[(["d"], ["Z"])]).prepared  # noqa: B018


def test_a_length_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.max_length=2 leaves no room for a word"):
        made(tmp_path, [(["abc"], ["A"])], max_length=2)


def test_labels_of_words_are_stored_as_their_number() -> None:
    labels = WordLabels("tags")
    values = [labels.value(Row({"tags": tags}, "")) for tags in ('["b", "a"]', '["a"]')]
    assert labels.close(values).tolist() == [2, 1] and labels.classes == ("a", "b")
