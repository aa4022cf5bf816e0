"""Files of minimal pairs, with each defect that such files have."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from etude.data.readers.minimal_pairs import MinimalPair, read_minimal_pairs
from etude.errors import DataError


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_json_lines_as_blimp_has_them(tmp_path: Path) -> None:
    line = {
        "sentence_good": " Ann sleeps.",
        "sentence_bad": "Ann sleep.",
        "linguistics_term": "agreement",
        "UID": "x_1",
    }
    content = json.dumps(line) + "\n\n" + json.dumps({**line, "linguistics_term": None}) + "\r\n"
    expected = [
        MinimalPair("Ann sleeps.", "Ann sleep.", "agreement", "a.jsonl:1"),
        MinimalPair("Ann sleeps.", "Ann sleep.", "x_1", "a.jsonl:3"),
    ]
    assert read_minimal_pairs(written(tmp_path, "a.jsonl", content)) == expected
    packed = gzip.compress(content.encode())
    again = read_minimal_pairs(written(tmp_path, "a.jsonl.gz", packed))
    assert [pair[:3] for pair in again] == [pair[:3] for pair in expected]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a b\tb a\n", [("a b", "b a", "")]),
        ("a b\tb a\torder\nc\td\torder\n", [("a b", "b a", "order"), ("c", "d", "order")]),
        ("sentence_bad\tphenomenon\tsentence_good\nx\tp\ty\n", [("y", "x", "p")]),
        ("sentence_good\tsentence_bad\tpairID\ny\tx\t3\n", [("y", "x", "")]),
    ],
)
def test_tsv_with_names_and_without(tmp_path: Path, content: str, expected: list[tuple[str, str, str]]) -> None:
    assert [pair[:3] for pair in read_minimal_pairs(written(tmp_path, "a.tsv", content))] == expected


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "x", r"a.txt is of no known kind: pairs are in a .jsonl or a .tsv file"),
        ("a.tsv", "\n \n", "a.tsv has no pair"),
        ("a.tsv", "sentence_good\tsentence_bad\n", "a.tsv has no pair"),
        ("a.tsv", "a\tb\nc\n", "^a.tsv:2 has 1 columns, not 2; write good, tab, bad$"),
        ("a.tsv", "one\n", "^a.tsv:1 has 1 columns, not 2"),
        ("a.tsv", "a\tb\tc\td\n", "^a.tsv:1 has 4 columns, not 3"),
        ("a.tsv", "a\t \n", "^a.tsv:1 has 1 columns, not 2"),
        ("a.tsv", "a\t \tp\n", "^a.tsv:1 has no text under 'sentence_bad'"),
        ("a.tsv", b"a\t\xff\n", "^a.tsv:1 is not UTF-8 text"),
        ("a.jsonl", "{", "^a.jsonl:1 is not JSON; a line is an object with sentence_good and sentence_bad$"),
        ("a.jsonl", "[1]", "^a.jsonl:1 is not an object"),
        ("a.jsonl", '{"sentence_good": "a"}', "^a.jsonl:1 has no text under 'sentence_bad'"),
        ("a.jsonl", '{"sentence_good": "a", "sentence_bad": 3}', "^a.jsonl:1 has no text under 'sentence_bad'"),
        ("a.jsonl", '{"sentence_good": "a", "sentence_bad": "\\ud83d"}', "^a.jsonl:1 has half of a surrogate pair"),
    ],
)
def test_what_is_no_pair_is_one_line(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as raised:
        read_minimal_pairs(written(tmp_path, name, content))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.tsv"):
        read_minimal_pairs(tmp_path / "nowhere.tsv")
