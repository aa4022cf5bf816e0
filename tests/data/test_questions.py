"""QuestionFiles from files: what is kept, to the letter; what is dropped and counted; and the windows that are made of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etude.data.base import DataSettings
from etude.data.corpora import QuestionFiles, Squad
from etude.data.loader import Slice
from etude.data.question_answering import QuestionData, QuestionWindows
from etude.data.sizes import BatchSize
from etude.errors import DataError
from etude.tokenization.base import Tokenizer
from etude.tokenization.trained import WordPiece

PASSAGES = [f"Passage {number}:\r\n the caf\u0065\u0301 has {number} \U0001f31e." for number in range(60)]


def asked(number: int, **changes: Any) -> dict[str, Any]:
    passage = PASSAGES[number]
    answer = {"text": str(number), "answer_start": passage.index(str(number), 12)}
    return {"id": f"q{number}", "question": " How many? ", "answers": [answer], **changes}


def document(numbers: range, *more: dict[str, Any]) -> dict[str, Any]:
    paragraphs = [{"context": PASSAGES[number], "qas": [asked(number)]} for number in numbers]
    return {"version": "v2.0", "data": [{"title": "mixed", "paragraphs": [*paragraphs, *more]}]}


def squad(folder: Path, **changes: Any) -> Squad:
    return Squad(
        str(folder), **{"train": "train.json", "test": "dev.json", "extra": "extra.json", "held_out": 0.3, **changes}
    )


def test_no_passage_of_val_is_trained_on_and_test_is_the_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "train.json.gz").write_bytes(gzip.compress(json.dumps(document(range(50))).encode()))
    (tmp_path / "dev.json").write_text(json.dumps(document(range(50, 60))))
    alone = {
        split: {row.fields["context"] for row in squad(tmp_path).rows(split)} for split in ("train", "val", "test")
    }
    assert alone["train"] | alone["val"] == set(PASSAGES[:50]) and not alone["train"] & alone["val"]
    assert 5 <= len(alone["val"]) <= 25
    assert alone["test"] == set(PASSAGES[50:])
    before = squad(tmp_path).fingerprint()
    # The extra file adds to train alone, and only passages that are not held out.
    (tmp_path / "extra.json").write_text(json.dumps(document(range(60))))
    corpus = squad(tmp_path)
    rows = [row.fields["context"] for row in corpus.rows("train")]
    assert set(rows) == set(PASSAGES) - alone["val"]
    assert corpus.dropped == {"of a passage that is held out": len(alone["val"])}
    assert {row.fields["context"] for row in corpus.rows("val")} == alone["val"]
    assert corpus.fingerprint() != before
    assert squad(tmp_path, test=None).splits() == ("train", "val")


def test_val_has_whole_articles_that_are_never_read(tmp_path: Path) -> None:
    numbers = [range(first, first + 5) for first in range(0, 60, 5)]
    articles = [{**document(some)["data"][0], "title": f"article {some.start}"} for some in numbers]
    (tmp_path / "train.json").write_text(json.dumps({"data": articles}))
    (tmp_path / "dev.json").write_text(json.dumps(document(range(3))))
    titles, found = {f"article {some.start}" for some in numbers}, {}
    for share, count in ((0.01, 1), (0.3, 3)):
        corpus = squad(tmp_path, held_out=share)
        read = {split: {row.fields["article"] for row in corpus.rows(split)} for split in ("train", "val")}
        assert read["train"] | read["val"] == titles and not read["train"] & read["val"]
        assert len(read["val"]) == count
        found[share] = read["val"]
    assert {row.fields["article"] for row in squad(tmp_path, held_out=0.0).rows("train")} == titles
    # In another order, the same articles: and those of a smaller share are among those of a larger one.
    (tmp_path / "train.json").write_text(json.dumps({"data": articles[::-1]}))
    assert {row.fields["article"] for row in squad(tmp_path, held_out=0.3).rows("val")} == found[0.3] > found[0.01]


def test_bad_questions_are_dropped_and_counted_with_their_place(tmp_path: Path) -> None:
    bad = [
        asked(3, answers=[{"text": "3", "answer_start": 4}]),
        asked(3, answers=[{"text": "3", "answer_start": -1}]),
        asked(3, question=" "),
        asked(3, answers=[{"text": " ", "answer_start": 10}]),
        asked(3, question="\ud83d"),
        asked(3, is_impossible=True),
        asked(3, answers=[]),
    ]
    more = [{"context": PASSAGES[3], "qas": bad}, {"context": "\r\n", "qas": [asked(3)]}]
    (tmp_path / "train.json").write_text(json.dumps(document(range(3), *more)))
    (tmp_path / "dev.json").write_text(json.dumps(document(range(3))))
    corpus = squad(tmp_path, held_out=0.0)
    rows = list(corpus.rows("train"))
    assert [row.fields["id"] for row in rows] == ["q0", "q1", "q2", "q3", "q3"]
    assert [json.loads(row.fields["answers"])["text"] for row in rows] == [["0"], ["1"], ["2"], [], []]
    assert rows[0].fields["context"] == PASSAGES[0] and rows[0].fields["question"] == "How many?"
    assert corpus.dropped == {
        "whose context does not have the answer where it is said to be": 2,
        "without a question": 1,
        "with an empty answer": 1,
        "not UTF-8 text": 1,
        "without a context": 1,
    }
    assert corpus.dropped.first["without a question"] == "train.json data[0].paragraphs[3].qas[2]"


BROKEN = [
    ('{"data": [\n {"paragraphs": 3,}]}', r"train\.json:2 is not JSON: .* at column 19; mend that line"),
    ("[]", r"train\.json:1 is not a JSON object but list"),
    ('{"rows": []}', r"train\.json has no 'data', which SQuAD's files have there; its keys: rows"),
    ('{"data": [7]}', r"data\[0\] has no 'paragraphs'.*it is int"),
    (
        '{"data": [{"paragraphs": [{"qas": [{"question": "a", "answers": []}]}]}]}',
        r"qas\[0\]: question and context must be",
    ),
    (
        '{"data": [{"paragraphs": [{"qas": [{"question": "a", "answers": [1]}]}]}]}',
        "answers has one that is not an object",
    ),
    ('{"data": []}', "has no usable question for train"),
]


@pytest.mark.parametrize(("content", "says"), BROKEN)
def test_a_broken_file_is_refused_with_the_place_of_the_fault(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(DataError, match=says):
        list(squad(tmp_path).rows("train"))


def test_without_a_folder_or_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"give data\.root=FOLDER with train\.json, dev\.json"):
        Squad(None, "train.json", "dev.json").fingerprint()
    with pytest.raises(DataError, match="no such file"):
        squad(tmp_path).fingerprint()


LINES = [
    ('{"question": "a"', r"train\.jsonl:2 is not JSON"),
    ('{"question": "a", "context": "b"}', r"train\.jsonl:2 has no 'answers'; its keys: question, context"),
    ('{"question": 1, "context": "b", "answers": {}}', r"train\.jsonl:2: question and context must be texts"),
    ('{"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": ["0"]}}', "answers must be"),
    ('{"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": []}}', "answers must be"),
]


@pytest.mark.parametrize(("line", "says"), LINES)
def test_a_broken_line_is_refused_with_its_number(tmp_path: Path, line: str, says: str) -> None:
    good = json.dumps({"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": [0]}})
    path = tmp_path / "train.jsonl"
    path.write_text(f"{good}\n{line}\n")
    corpus = QuestionFiles(str(path), str(path), None)
    assert corpus.splits() == ("train", "val")
    with pytest.raises(DataError, match=says):
        list(corpus.rows("train"))
    path.write_text(f"{good}\n")
    assert [row.fields["id"] for row in corpus.rows("train")] == ["1"]


def made(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> QuestionData:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lengths: dict[str, Any] = {"max_length": 16, "stride": 4, "max_question": 3, **changes}
    return QuestionData(
        QuestionFiles(str(path), str(path), None),
        **lengths,
        settings=DataSettings(WordPiece(80), seed=1, batch=BatchSize(examples=4), cache=folder / "cache"),
    )


WORDS = [f"w{number}" for number in range(40)]


def about(first: int, last: int, words: int = 40) -> dict[str, Any]:
    """A question whose answer is the words from first to last, in a passage of so many; none if last is before first."""
    passage = " ".join(WORDS[:words])
    text = " ".join(WORDS[first : last + 1])
    start = len(" ".join(WORDS[:first])) + (first > 0)
    answers = {"text": [text], "answer_start": [start]} if text else {"text": [], "answer_start": []}
    return {"question": "which words", "context": passage, "answers": answers}


def test_the_labels_of_a_window_are_the_answer_it_has_whole(tmp_path: Path) -> None:
    rows = [about(0, 0), about(7, 9), about(39, 39), about(20, 26), about(5, 4), about(2, 3, words=4), about(1, 30)]
    data = made(tmp_path, rows)
    tokenizer: Tokenizer = data.tokenizer
    for split, kept in (("train", 6), ("val", 7)):  # an answer of 30 words fits no window
        windows = data.splits[split]
        assert isinstance(windows, QuestionWindows)
        assert set(windows.questions) == set(range(kept))
        batch = windows.batch(Slice(np.arange(len(windows.counts)), 0, 99, filler=False))
        assert windows.lengths.tolist() == batch.mask.sum(dim=1).tolist()
        found: dict[int, set[str]] = {}
        for window, number in enumerate(batch.questions.tolist()):
            start, end = int(batch.starts[window]), int(batch.ends[window])
            assert (start == 0) == (end == 0)
            if start:
                assert int(batch.fronts[window]) <= start <= end < int(batch.mask[window].sum()) - 1
                (text,) = tokenizer.decode([batch.tokens[window, start : end + 1].tolist()])
                found.setdefault(number, set()).add(text)
        assert found == {n: {rows[n]["answers"]["text"][0]} for n in range(6) if rows[n]["answers"]["text"]}
        assert batch.step_count == 99
    assert data.prepared.dropped["train"] == {"with an answer that no window has whole": 1}
    assert data.describe()["questions"] == {"train": 6, "val": 7}
    assert data.text("val", "context", len(data.splits["val"].counts) - 1) == rows[-1]["context"]


def test_answers_inside_tokens_and_long_questions_are_counted(tmp_path: Path) -> None:
    inside = about(3, 3) | {"question": "w1"}
    inside["answers"] = {"text": ["3 w"], "answer_start": [inside["context"].index("w3 ") + 1]}
    rows = [about(1, 2) | {"question": "w1"}, inside, about(4, 3) | {"question": "w1 w2 w3 w4 w5 w6 w7"}]
    data = made(tmp_path, rows, max_question=6)
    assert data.prepared.dropped["val"] == {
        "with a question that was cut": 1,
        "with an answer that begins or ends inside a token, taken whole": 1,
    }
    spans = data.spans["val"].spans
    question = data.question("val", 1)
    first, last = question.offsets[spans[1]]
    assert question.passage[first[0] : last[1]] == "w3 w4"
    assert question.answers == ("3 w",)


def test_a_filler_counts_for_nothing(tmp_path: Path) -> None:
    data = made(tmp_path, [about(1, 2)])
    batch = data.splits["train"].batch(Slice(np.array([0]), 0, 5, filler=True))
    assert batch.ids.tolist() == [-1] and batch.starts.tolist() == batch.ends.tolist() == [-100]


@pytest.mark.corpora
def test_every_wanted_answer_of_squad_is_where_it_is_said_to_be(corpus_folder: Path) -> None:
    corpus = Squad(str(corpus_folder / "squad"), "train.json", "dev.json", "train_extra.json")
    counts = {split: sum(1 for _ in corpus.rows(split)) for split in corpus.splits()}
    assert counts["test"] == 822 and counts["train"] + counts["val"] == 4583 + 3999
    assert 0 < counts["val"] <= 458
    assert not corpus.dropped
