"""Files of labelled texts: what is held out of train, formats of published data sets, and files that do not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from etude.data.corpora import Clinc150, LabelledLines, Tables
from etude.data.corpora.split_files import SplitFiles
from etude.data.readers.sources import Dropped
from etude.data.readers.tables import read_rows
from etude.errors import ConfigurationError, DataError

COLUMNS = {"text": "text", "label": "label"}


def table(folder: Path, order: int = 1) -> Tables:
    rows = [f"text {number}\t{number % 3}" for number in range(600)][::order]
    (folder / "t.tsv").write_text("\n".join(["text\tlabel", *rows, "broken"]) + "\n")
    return Tables("t.tsv", None, None, COLUMNS, root=str(folder), val_share=0.2, test_share=0.1)


def texts(corpus: SplitFiles, split: str) -> list[str]:
    return [row.fields["text"] for row in corpus.rows(split)]


def test_held_out_rows_are_disjoint_complete_and_of_no_order(tmp_path: Path) -> None:
    corpus = table(tmp_path)
    assert corpus.splits() == ("train", "val", "test")
    found = {split: texts(corpus, split) for split in corpus.splits()}
    assert sorted(text for split in found.values() for text in split) == sorted(f"text {n}" for n in range(600))
    assert 80 < len(found["val"]) < 160 and 35 < len(found["test"]) < 90
    assert corpus.dropped == {"wrong number of columns": 1}, "counted once, in train"
    backwards = table(tmp_path, -1)
    assert {split: sorted(texts(backwards, split)) for split in found} == {s: sorted(t) for s, t in found.items()}


def test_shares_belong_to_the_fingerprint(tmp_path: Path) -> None:
    corpus = table(tmp_path)
    plain = Tables(f"{tmp_path}/t.tsv", None, None, COLUMNS)
    assert plain.splits() == ("train",)
    prints = {corpus.fingerprint(), plain.fingerprint()}
    prints.add(Tables(f"{tmp_path}/t.tsv", None, None, COLUMNS, val_share=0.2).fingerprint())
    prints.add(Tables(f"{tmp_path}/t.tsv", None, None, COLUMNS, lists={"label": ","}).fingerprint())
    assert len(prints) == 4


def test_shares_that_do_not_fit() -> None:
    with pytest.raises(ConfigurationError, match=r"data\.val_share=0.1 and data\.val=v are both given"):
        Tables("t", "v", None, COLUMNS, val_share=0.1)
    with pytest.raises(ConfigurationError, match=r"are 1\.1 together; write less than 1"):
        Tables("t", None, None, COLUMNS, val_share=0.6, test_share=0.5)


def test_a_folder_that_is_still_to_be_given() -> None:
    with pytest.raises(DataError, match=r"give data\.root=FOLDER with train\.tsv, dev\.tsv"):
        Tables("train.tsv", None, "dev.tsv", COLUMNS, root=None).fingerprint()


def test_packed_files_are_found(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"text\tlabel\na\tb\n"))
    assert texts(Tables("t.tsv", None, None, COLUMNS, root=str(tmp_path)), "train") == ["a"]


def test_names_for_files_without_a_line_of_names(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("gj04\t1\t\tThe sailors rode.\n")
    names = ["source", "label", "mark", "sentence"]
    corpus = Tables(
        "t.tsv", None, None, {"text": "sentence", "pair": None, "label": "label"}, str(tmp_path), names=names
    )
    assert [row.fields for row in corpus.rows("train")] == [{"text": "The sailors rode.", "label": "1"}]
    with pytest.raises(ConfigurationError, match=r"data\.names has no column 'text'; it has source, label"):
        Tables("t.tsv", None, None, COLUMNS, names=names)


def test_a_missing_label_column_is_one_line(tmp_path: Path) -> None:
    table(tmp_path)
    with pytest.raises(DataError, match=r"t\.tsv has no column 'polarity'; its columns are: text, label"):
        list(Tables(f"{tmp_path}/t.tsv", None, None, {"text": "text", "label": "polarity"}).rows("train"))


def lists(path: Path) -> Iterator[str]:
    for row in read_rows(path, COLUMNS, Dropped(), {"label": ";"}):
        yield row.fields["label"]


def test_fields_of_several_values(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("text\tlabel\na\tx; y z ;\nb\t\nc\tx\n")
    assert list(lists(tmp_path / "t.tsv")) == ['["x", "y z"]', "[]", '["x"]']
    rows = [{"text": "a", "label": ["x;1", 2]}, {"text": "b", "label": []}, {"text": "c", "label": "p;q"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"text": "d", "label": None}])) + "\n")
    assert list(lists(tmp_path / "t.jsonl")) == ['["x;1", "2"]', "[]", '["p", "q"]']


def test_lines_of_label_and_text(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"NUM:date When was it ?\nDESC:def What is caf\xe9 ?\nNUM:only\n\n")
    corpus = LabelledLines("t", root=str(tmp_path), encoding="latin-1", until=":")
    found = [(row.fields["label"], row.fields["text"], row.origin) for row in corpus.rows("train")]
    assert found == [("NUM", "When was it ?", "t:1"), ("DESC", "What is café ?", "t:2")]
    assert corpus.dropped == {"empty": 2}
    fine = LabelledLines("t", root=str(tmp_path))
    assert [row.fields["label"] for row in fine.rows("train")] == ["NUM:date"]
    assert fine.dropped == {"not UTF-8 text": 1, "empty": 2}
    assert fine.fingerprint() != corpus.fingerprint()


def test_lists_of_intents(tmp_path: Path) -> None:
    content = {"train": [["say hi", "greet"], ["", "greet"], ["x"]], "val": [["pay", "bill"]], "note": 1}
    (tmp_path / "d.json").write_text(json.dumps(content))
    corpus = Clinc150(str(tmp_path), "d.json", val=None, test="val")
    assert corpus.splits() == ("train", "test")
    assert [row.fields for row in corpus.rows("train")] == [{"text": "say hi", "label": "greet"}]
    assert [row.origin for row in corpus.rows("test")] == ["d.json:val:1"]
    assert corpus.dropped == {"not a text and its intent": 2}
    with pytest.raises(DataError, match="has no list under the key 'note'; its keys are: train, val, note"):
        list(Clinc150(str(tmp_path), "d.json", train="note").rows("train"))
    (tmp_path / "d.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        list(Clinc150(str(tmp_path), "d.json").rows("train"))
