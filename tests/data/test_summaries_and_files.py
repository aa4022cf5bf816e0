from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from etude.data.corpora import EvaluationFiles, ParallelFiles, Summaries
from etude.errors import DataError

SPLITS: dict[str, str | None] = {"train": "train.jsonl", "val": "dev.jsonl", "test": None}


def written(folder: Path, train: list[Any], dev: list[Any]) -> Summaries:
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    (folder / "dev.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in dev).encode()))
    return Summaries(str(folder), SPLITS)


def test_each_summary_is_trained_on_and_all_are_references(tmp_path: Path) -> None:
    row = {"source": ["One sentence.", " Another. "], "target": ["first", "second "]}
    corpus = written(tmp_path, [row, {"source": "A text.", "target": "only"}], [row])
    assert corpus.splits() == ("train", "val")
    train = [(found.fields["source"], found.fields["target"]) for found in corpus.rows("train")]
    assert train == [("One sentence. Another.", "first"), ("One sentence. Another.", "second"), ("A text.", "only")]
    (val,) = corpus.rows("val")
    assert val.fields["target"] == "first"
    assert json.loads(val.fields["references"]) == ["first", "second"]
    assert val.origin == "dev.jsonl.gz:1"


def test_unusable_rows_are_counted_and_files_without_any_refused(tmp_path: Path) -> None:
    rows = [{"source": [], "target": "a"}, {"source": "a", "target": 3}, [1], {"source": "a", "target": ["b", " "]}]
    corpus = written(tmp_path, rows, rows[:3])
    assert [row.fields["target"] for row in corpus.rows("train")] == ["b"]
    assert corpus.dropped == {"empty": 1, "not text": 1, "not a JSON object": 1}
    with pytest.raises(DataError, match=r"dev\.jsonl\.gz has no usable row; dropped: .* empty"):
        list(corpus.rows("val"))


def test_a_missing_key_folder_or_file(tmp_path: Path) -> None:
    corpus = written(tmp_path, [{"text": "a", "target": "b"}], [])
    with pytest.raises(DataError, match=r"train\.jsonl:1 has no key 'source'; its keys are: text, target"):
        list(corpus.rows("train"))
    with pytest.raises(DataError, match=r"give data\.root=FOLDER with train\.jsonl, dev\.jsonl"):
        Summaries(None, SPLITS).fingerprint()
    with pytest.raises(DataError, match="no such file"):
        Summaries(str(tmp_path), {"train": "absent.jsonl"}).fingerprint()


def test_a_split_may_be_null_and_files_of_different_lengths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.en").write_text("a\nb\nc\n")
    (tmp_path / "train.de").write_text("a\nb\n")
    corpus = ParallelFiles(str(tmp_path), "en", "de", {"train": "train", "val": None})
    assert corpus.splits() == ("train",)
    with pytest.raises(DataError, match=r"train\.en has 3 lines but \S+train\.de has 2"):
        list(corpus.rows("train"))


def test_every_line_of_evaluated_files_is_kept(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"one\n\nthr\xffee\n")
    (tmp_path / "out").write_text("eins\nzwei\ndrei\n")
    (tmp_path / "other").write_text("ein\n\ndrei\n")
    corpus = EvaluationFiles(str(tmp_path / "in"), [str(tmp_path / "out"), str(tmp_path / "other")])
    rows = [row.fields for row in corpus.rows("test")]
    assert [row["source"] for row in rows] == ["one", "", "thr\ufffdee"]
    assert [json.loads(row["references"]) for row in rows] == [["eins", "ein"], ["zwei", ""], ["drei", "drei"]]
    assert list(corpus.dropped.values()) == [1]
    assert corpus.dropped.first[next(iter(corpus.dropped))] == "in:3"
