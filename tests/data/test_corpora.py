"""Corpora: catalogs are read right, splits are disjoint by what texts say, files that do not fit are refused."""

from __future__ import annotations

import gettext
import io
import json
import struct
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etude.data.corpora import (
    InterfaceTexts,
    Multi30k,
    ParallelFiles,
    Reviews,
    ReviewsText,
    Tables,
    Tatoeba,
    TextFiles,
)
from etude.data.corpora.holdout import normalised, split_of
from etude.data.corpora.interface_texts import PLACEHOLDER
from etude.data.readers.catalogs import json_pairs, mo_pairs, po_pairs
from etude.data.readers.sources import Row
from etude.errors import ConfigurationError, DataError

# Held-out rows


@example(": /", "spaced")
@given(st.text(max_size=200), st.sampled_from(["upper", "title", "spaced", "marked"]))
def test_variants_stay_together(text: str, variant: str) -> None:
    other = {
        "upper": text.casefold(),
        "title": " " + text + " ",
        "spaced": text.replace(" ", "  "),
        "marked": text + "!" if normalised(text).isalnum() else text,
    }[variant]
    shares = {"val": 0.3, "test": 0.3}
    assert split_of(text, shares) == split_of(other, shares)


def test_long_variants_stay_together() -> None:
    """Texts far longer than what decides, one as prose, one wrapped into lines with other punctuation and case."""
    shares = {"val": 0.3, "test": 0.3}
    for number in range(100):
        words = [f"word{number * place}" for place in range(90)]
        assert split_of(" ".join(words), shares) == split_of(",\n    ".join(words).upper(), shares)


def test_shares_are_kept() -> None:
    counts = Counter(split_of(f"text {number}", {"val": 0.1, "test": 0.2}) for number in range(20_000))
    assert counts["val"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert counts["test"] / 20_000 == pytest.approx(0.2, abs=0.01)


def test_the_division_never_moves() -> None:
    """Golden: another hash would put test sentences of earlier runs into training."""
    shares = {"val": 0.3, "test": 0.3}
    found = [split_of(text, shares) for text in ("Save", "Cancel", "Add user", "Öffnen", "?!")]
    assert found == ["val", "val", "val", "train", "test"]


# Catalogs

ENTRIES = {
    "": "Content-Type: text/plain; charset=UTF-8\n",
    "Save": "Sichern",
    "menu\x04Open": "Öffnen",
    "a\0as": "e\0es",
}


def compiled(entries: dict[str, str], order: str = "<") -> bytes:
    """Write a .mo file: header, two tables of (length, offset), then the texts."""
    keys = sorted(entries)
    texts = [text.encode() for text in (*keys, *(entries[key] for key in keys))]
    start = 28 + 8 * len(texts)
    table, body = b"", b""
    for text in texts:
        table += struct.pack(f"{order}2I", len(text), start + len(body))
        body += text + b"\0"
    header = struct.pack(f"{order}7I", 0x950412DE, 0, len(keys), 28, 28 + 8 * len(keys), 0, 0)
    return header + table + body


@pytest.mark.parametrize("order", ["<", ">"])
def test_compiled_catalog(order: str) -> None:
    content = compiled(ENTRIES, order)
    assert sorted(mo_pairs(content)) == [("Open", "Öffnen"), ("Save", "Sichern"), ("a", "e"), ("as", "es")]
    reference = gettext.GNUTranslations(io.BytesIO(content))
    assert reference.gettext("Save") == "Sichern" and reference.pgettext("menu", "Open") == "Öffnen"
    assert reference.ngettext("a", "as", 1) == "e"


def test_no_compiled_catalog() -> None:
    with pytest.raises(ValueError, match="wrong magic number"):
        list(mo_pairs(b"PK\3\4"))


PO = r"""
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\n"

#. a comment with "quotes"
#: file.py:1
#, python-format
msgctxt "menu"
msgid "Open %s"
msgstr "%s öffnen"

#, fuzzy, python-format
msgid "Close %s"
msgstr "%s speichern"

msgid ""
"A long \"text\" "
"on two lines\n"
msgstr ""
"Ein langer „Text“ "
"auf zwei Zeilen\n"

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d Datei"
msgstr[1] "%d Dateien"

msgid "not yet"
msgstr ""

#~ msgid "old"
#~ msgstr "alt"
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_catalog_source(newline: str) -> None:
    assert list(po_pairs(PO.replace("\n", newline))) == [
        ("Open %s", "%s öffnen"),
        ('A long "text" on two lines\n', "Ein langer „Text“ auf zwei Zeilen\n"),
        ("%d file", "%d Datei"),
        ("%d files", "%d Dateien"),
        ("not yet", ""),
    ]


def test_nested_keys() -> None:
    english: dict[str, Any] = {"a": {"b": "one", "c": "two"}, "d": "three", "e": {"f": "x"}, "g": 1}
    german: dict[str, Any] = {"a": {"b": "eins"}, "d": "drei", "e": "y", "g": 1}
    assert list(json_pairs(english, german)) == [("one", "eins"), ("three", "drei")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{name} has {}", ["{name}", "{}"]),
        ("%(user)s of %s, %d and %.1f", ["%(user)s", "%s", "%d", "%.1f"]),
        ("%1 of %2", ["%1", "%2"]),
        ("${HOME} and $x", ["${HOME}", "$x"]),
        ("50 % off, 50 %.", []),
        ("100% sure, 5 % discount", []),
    ],
)
def test_placeholders(text: str, found: list[str]) -> None:
    assert PLACEHOLDER.findall(text) == found


# The corpora in packages


@cache
def interface_texts() -> tuple[InterfaceTexts, dict[str, list[Row]]]:
    corpus = InterfaceTexts()
    return corpus, {split: list(corpus.rows(split)) for split in corpus.splits()}


def test_interface_texts() -> None:
    corpus, rows = interface_texts()
    assert {split: len(found) for split, found in rows.items()} == {"train": 17124, "val": 579, "test": 778}
    sources = [row.fields["source"] for found in rows.values() for row in found]
    assert len(sources) == len(set(sources))
    spoken = [{normalised(row.fields["source"]) for row in found} for found in rows.values()]
    assert not spoken[0] & spoken[1] and not spoken[0] & spoken[2] and not spoken[1] & spoken[2]
    for row in rows["train"]:
        source, target = row.fields["source"], row.fields["target"]
        assert source != target and 0.4 <= len(target) / len(source) <= 3.2
        assert Counter(PLACEHOLDER.findall(source)) == Counter(PLACEHOLDER.findall(target))
        assert source == " ".join(source.split()) and len(source.split()) > 1
    assert corpus.dropped["repeated"] == 5841
    assert corpus.dropped.first["single word"].startswith("homeassistant:homeassistant/components/")


def test_interface_texts_limited_and_reversed() -> None:
    limited = InterfaceTexts(max_words=8, placeholders=False)
    rows = [row for split in ("val", "test") for row in limited.rows(split)]
    assert len(rows) == 435 + 556
    assert max(len(row.fields["source"].split()) for row in rows) == 8
    assert not any(PLACEHOLDER.search(f"{row.fields['source']} {row.fields['target']}") for row in rows)
    whole = {row.fields["source"] for row in interface_texts()[1]["test"]}
    assert {row.fields["source"] for row in limited.rows("test")} <= whole, "a limit must not move rows between splits"
    french = {row.fields["source"] for row in InterfaceTexts("fr", "en").rows("val")}
    assert len(french) > 300 and sum("é" in text for text in french) > 150
    fingerprints = {corpus.fingerprint() for corpus in (limited, InterfaceTexts(), InterfaceTexts("en", "fr"))}
    assert len(fingerprints) == 3


def test_a_pair_is_left_out_for_its_first_fault() -> None:
    refusal = InterfaceTexts(max_words=4, placeholders=False)._refusal
    assert refusal("two words", "zwei Worte") is None
    assert refusal("two {a}", "zwei {b}") == "placeholders differ"
    assert refusal("two {a}", "zwei {a}") == "placeholders"
    assert refusal("two words", "x") == "lengths too different"
    assert refusal("same thing", "same thing") == "not translated"
    assert refusal("a\n\nb c", "a\n\nd e") == "several paragraphs"
    assert refusal("one two three four five", "eins zwei drei vier fünf") == "too many words"
    assert refusal("", "leer") == "empty"


@pytest.mark.parametrize(("source", "target"), [("en", "es"), ("de", "fr"), ("en", "en")])
def test_languages_that_are_not_offered(source: str, target: str) -> None:
    with pytest.raises(ConfigurationError, match=f"from '{source}' to '{target}'"):
        InterfaceTexts(source, target)


def test_reviews_and_their_text_never_meet() -> None:
    reviews = Reviews()
    rows = list(reviews.rows("test"))
    assert len(rows) == 847
    balance = Counter(row.fields["label"] for row in rows)
    assert set(balance) == {"negative", "positive"} and abs(balance["negative"] - balance["positive"]) < 100
    held_out = {row.fields["text"] for row in rows}
    text = ReviewsText()
    documents = [row.fields["text"] for row in text.rows("train")]
    assert len(documents) == 31297
    assert not held_out & set(documents)
    assert not any("<br" in document for document in documents)
    assert text.dropped["held out for sentiment"] > 1500


# One's own files


def write(folder: Path, **files: str | bytes) -> str:
    for name, content in files.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(folder)


TRAIN = {"train": "train"}


def test_parallel_files(tmp_path: Path) -> None:
    root = write(tmp_path, train_en="a\nb\n\n\nc\n", train_de=b"x\n\xff\ny\n\nz\xe2\x80\xa8z\n")
    corpus = ParallelFiles(root, "en", "de", {**TRAIN, "val": "dev"})
    assert corpus.splits() == ("train", "val")
    assert [(row.fields["source"], row.origin) for row in corpus.rows("train")] == [
        ("a", "train.en:1"),
        ("c", "train.en:5"),
    ]
    assert corpus.dropped == {"not UTF-8 text": 1, "empty": 2}


@pytest.mark.parametrize(("left", "right", "counts"), [(3, 1, (3, 1)), (1, 3, (1, 3)), (2, 3, (2, 3))])
def test_misaligned_files_name_both_counts(tmp_path: Path, left: int, right: int, counts: tuple[int, int]) -> None:
    root = write(tmp_path, train_en="a\n" * left, train_de="b\n" * right)
    with pytest.raises(DataError, match=rf"train\.en has {counts[0]} lines but .*train\.de has {counts[1]}"):
        list(ParallelFiles(root, "en", "de", TRAIN).rows("train"))


def test_missing_parallel_file_says_how_to_name_it(tmp_path: Path) -> None:
    root = write(tmp_path, train_en="a\n", train_de="b\n")
    corpus = ParallelFiles(root, "en", "de", {**TRAIN, "test": "test"})
    with pytest.raises(
        DataError, match=r"no test\.en or test\.en\.gz in .*it has: train\.de, train\.en\).*splits\.test=NAME"
    ):
        corpus.fingerprint()


def test_fingerprints_are_of_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, train_en="a\n", train_de="b\n")
    before = [ParallelFiles(str(tmp_path / name), "en", "de", TRAIN).fingerprint() for name in ("a", "b")]
    assert before[0] == before[1]
    write(tmp_path / "b", train_de="c\nd\n")
    assert ParallelFiles(str(tmp_path / "b"), "en", "de", TRAIN).fingerprint() != before[1]


def test_tables(tmp_path: Path) -> None:
    root = write(tmp_path, t_tsv="sentence\tgood\nfine\t1\nbad\t0\n", v_csv="sentence,good\nx,1\n")
    corpus = Tables(f"{root}/t.tsv", f"{root}/v.csv", None, {"text": "sentence", "label": "good"})
    assert corpus.splits() == ("train", "val")
    assert [row.fields for row in corpus.rows("train")][1] == {"text": "bad", "label": "0"}
    other = Tables(f"{root}/t.tsv", f"{root}/v.csv", None, {"text": "sentence", "label": "sentence"})
    assert other.fingerprint() != corpus.fingerprint()


def test_documents_end_at_blank_lines_and_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / ".hidden").write_text("no")
    write(tmp_path, b_txt="one\ntwo\n \n\nthree\n", a_txt=b"first\n\xff\nsecond")
    (tmp_path / "in/c").write_text("four\n")
    corpus = TextFiles(str(tmp_path), val=str(tmp_path / "in"))
    texts = [(row.fields["text"], row.origin) for row in corpus.rows("train")]
    assert texts == [("first\nsecond", "a.txt:1"), ("one\ntwo", "b.txt:1"), ("three", "b.txt:5"), ("four", "c:1")]
    assert corpus.dropped == {"not UTF-8 text": 1}
    assert corpus.splits() == ("train", "val")


def test_a_hundredth_of_the_documents_is_held_out(tmp_path: Path) -> None:
    documents = [f"document {number}" for number in range(3000)]
    corpus = TextFiles([write(tmp_path, t_txt="\n\n".join(documents)) + "/t.txt"])
    val = [row.fields["text"] for row in corpus.rows("val")]
    assert 15 < len(val) < 50
    assert sorted([*val, *(row.fields["text"] for row in corpus.rows("train"))]) == sorted(documents)


def test_another_share_of_the_documents_is_held_out(tmp_path: Path) -> None:
    documents = [f"document {number}" for number in range(60)]
    root = write(tmp_path, t_txt="\n\n".join(documents))
    with pytest.raises(
        DataError, match=r"t\.txt has documents: 60, of which none is in val with data\.val_share=0\.01;"
    ):
        list(TextFiles(f"{root}/t.txt").rows("val"))
    corpus = TextFiles(f"{root}/t.txt", val_share=0.2)
    assert corpus.fingerprint() != TextFiles(f"{root}/t.txt").fingerprint()
    val = [row.fields["text"] for row in corpus.rows("val")]
    assert 4 < len(val) < 24
    assert sorted([*val, *(row.fields["text"] for row in corpus.rows("train"))]) == sorted(documents)
    with pytest.raises(DataError, match=r"none is in train with data\.val_share=0\.999"):
        list(TextFiles(f"{root}/t.txt", val_share=0.999).rows("train"))


def test_long_documents_are_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etude.data.corpora.text_files.LONGEST_DOCUMENT", 10)
    root = write(tmp_path, t_txt="1234567\n" * 7)
    rows = list(TextFiles(f"{root}/t.txt", val=f"{root}/t.txt").rows("train"))
    assert [row.fields["text"].count("\n") + 1 for row in rows] == [2, 2, 2, 1]


def test_one_line_need_not_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etude.data.corpora.text_files.LONGEST_DOCUMENT", 30)
    monkeypatch.setattr("etude.data.corpora.text_files.LONGEST_LINE", 16)
    line = " ".join(f"word{number}" for number in range(50))
    root = write(tmp_path, t_txt=line)
    rows = [row.fields["text"] for row in TextFiles(f"{root}/t.txt", val=f"{root}/t.txt").rows("train")]
    assert max(map(len, rows)) < 60
    assert " ".join(rows).split() == line.split()


def test_empty_files_of_a_folder_are_counted(tmp_path: Path) -> None:
    texts = ["one", "two", "three", "four", "five", "six"]
    corpus = TextFiles(write(tmp_path, a_txt=b"", b_txt="\n\n".join(texts), c_txt=b"\n \n"), val_share=0.5)
    rows = [row.fields["text"] for split in ("train", "val") for row in corpus.rows(split)]
    assert sorted(rows) == sorted(texts)
    assert corpus.dropped["empty file"] == 4, "both splits are read from them"
    assert corpus.dropped.first["empty file"] == "a.txt"


@pytest.mark.parametrize(("content", "message"), [(b"\xff\n\xfe\n", "is not UTF-8 text"), (b"", "is empty")])
def test_unusable_text(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(TextFiles(f"{write(tmp_path, t_txt=content)}/t.txt").rows("train"))


def test_folder_without_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no file to read text from"):
        list(TextFiles(str(tmp_path)).rows("train"))


def test_multi30k_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"cannot fetch .*train\.en\.gz .*give data\.root=FOLDER"):
        Multi30k(None).fingerprint()
    with pytest.raises(DataError, match="Multi30k has no language 'es'"):
        Multi30k(None, "es", "de").fingerprint()


def test_tatoeba_without_a_folder() -> None:
    with pytest.raises(DataError, match=r"give data\.root=FOLDER with deu-eng\.train\.tsv"):
        Tatoeba(None).fingerprint()


def test_all_translations_of_a_sentence_of_tatoeba_are_references_of_one_row(tmp_path: Path) -> None:
    pairs = "Hurry up.\tBeeil dich.\nGo.\tGeh.\nHurry up.\tBeeilt euch.\nHurry up.\tBeeil dich.\n"
    (tmp_path / "deu-eng.train.tsv").write_text(pairs)
    (tmp_path / "deu-eng.valid.tsv").write_text(pairs)
    corpus = Tatoeba(str(tmp_path))
    test = [(row.fields["source"], json.loads(row.fields["references"])) for row in corpus.rows("test")]
    assert test == [("Hurry up.", ["Beeil dich.", "Beeilt euch."]), ("Go.", ["Geh."])]
    train = [(row.fields["target"], json.loads(row.fields["references"])) for row in corpus.rows("train")]
    assert train == [(target, [target]) for target in ("Beeil dich.", "Geh.", "Beeilt euch.", "Beeil dich.")]


@pytest.mark.corpora
def test_tatoeba_and_multi30k(corpus_folder: Path) -> None:
    tatoeba = Tatoeba(str(corpus_folder / "tatoeba-en-de"))
    rows = {split: list(tatoeba.rows(split)) for split in tatoeba.splits()}
    assert {split: len(found) for split, found in rows.items()} == {"train": 164093, "val": 845, "test": 1591}
    multi30k = Multi30k(str(corpus_folder / "multi30k"), "en", "fr")
    assert [sum(1 for _ in multi30k.rows(split)) for split in multi30k.splits()] == [28991, 1014, 1000]
