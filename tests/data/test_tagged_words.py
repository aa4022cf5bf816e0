"""Files of tagged words: columns, CoNLL-U and JSON lines are read, and what is wrong is said with its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.data.corpora import TaggedWords
from etude.errors import DataError

Write = Callable[..., TaggedWords]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a training file, and returns the corpus of it."""

    def written(text: str, name: str = "train.conll", **settings: Any) -> TaggedWords:
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        return TaggedWords(name, root=str(tmp_path), **settings)

    return written


def read(corpus: TaggedWords) -> list[tuple[str, list[str], str]]:
    return [(row.fields["text"], json.loads(row.fields["tags"]), row.origin) for row in corpus.rows("train")]


TWO = [("From here", ["ADP", "ADV"], "train.conll:2"), ("#on", ["X"], "train.conll:6")]


@pytest.mark.parametrize(
    "text",
    [
        "\nFrom\tADP\nhere\tADV\n\t\n\n#on\tX\n",
        "\nFrom ADP\nhere ADV\n\n \n#on X",
        "\ufeff\nFrom  _  ADP\nhere  x  ADV\n\n\n#on  ADV X\n\n",
        "\r\nFrom\tADP\r\nhere\tADV\r\n\r\n\r\n#on\tX\r\n",
    ],
    ids=["tabs", "spaces", "three columns", "DOS"],
)
def test_columns(write: Write, text: str) -> None:
    assert read(write(text)) == TWO


def test_conll_u(write: Write) -> None:
    text = (
        "# sent_id = 1\n1-2\tvámonos\t_\t_\n1\tvamos\tir\tVERB\tx\n2\tnos\tnos\tPRON\tx\n2.1\tse\t_\tVERB\tx\n"
        "3\t10 000\t_\tNUM\tx\n\n"
    )
    corpus = write(text, word_column=1, tag_column=3, number_column=0, comment="#")
    assert read(corpus) == [("vamos nos 10\u00a0000", ["VERB", "PRON", "NUM"], "train.conll:3")]
    assert dict(corpus.dropped) == {"with words that have spaces, now no-break spaces": 1}


def test_json_lines(write: Write) -> None:
    lines = '{"tokens": ["From", "New \\nYork"], "ner": ["O", "B-x"]}\n{"tokens": [], "ner": []}\n'
    corpus = write(lines, "train.jsonl", words_key="tokens", tags_key="ner")
    assert read(corpus) == [("From New\u00a0York", ["O", "B-x"], "train.jsonl:1")]


def test_marks_between_documents_are_no_sentences(write: Write) -> None:
    assert [text for text, _, _ in read(write("-DOCSTART- -X- O O\n\nthe x y O\n\n"))] == ["the"]


def test_what_is_no_text_is_counted(write: Write) -> None:
    corpus = write("the\tO\n\nb\udcffd\tO\n\n")
    assert [text for text, _, _ in read(corpus)] == ["the"]
    assert dict(corpus.dropped) == {"not UTF-8 text": 1} and corpus.dropped.first == {"not UTF-8 text": "train.conll:3"}


WRONG = {
    "no tag": ("the\tO\nsun\n", {}, r"train\.conll:2 has one column, 'sun', and no tag beside it"),
    "an empty tag": ("the\tO\nsun\t\n", {}, r"train\.conll:2 has no tag in column -1, but 2"),
    "no such column": (
        "the\tO\n",
        {"tag_column": 3},
        r"train\.conll:1 has no tag in column 3, but 2: 'the \| O'; write data",
    ),
    "no scheme's tag": ("the\tO\nsun\tNOUN\n", {"scheme": "iob2"}, r"train\.conll:1: the tag 'NOUN' is none of iob2"),
    "a start that is none": (
        "the\tO\nsun\tI-x\n",
        {"scheme": "iob2"},
        r"train\.conll:2 has the tag 'I-x' after 'O', where iob2 has 'B-x'; mend it, or write data\.repair=true",
    ),
    "a first word": (
        "sun\tI-x\n",
        {"scheme": "iobes"},
        r"train\.conll:1 has the tag 'I-x' at the start of a sentence, where",
    ),
    "no JSON": ("{\n", {"name": "train.jsonl"}, r"train\.jsonl:1 is not JSON: .*; mend that line"),
    "no words": (
        '{"tags": []}\n',
        {"name": "train.jsonl"},
        r"train\.jsonl:1 has no list of texts under 'words'; its keys: tags",
    ),
    "numbers": (
        '{"words": ["a"], "tags": [3]}\n',
        {"name": "train.jsonl"},
        r"train\.jsonl:1 has no list of texts under 'tags'",
    ),
    "no object": ("[1]\n", {"name": "train.jsonl"}, "its keys: none, since it is no object"),
    "other numbers": ('{"words": ["a"], "tags": ["O", "O"]}\n', {"name": "train.jsonl"}, "has 1 words and 2 tags"),
    "nothing": ("", {}, r"train\.conll is empty"),
}


@pytest.mark.parametrize(("text", "settings", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_line(write: Write, text: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(write(text, **settings))
    assert "\n" not in str(caught.value)


def test_broken_tags_are_repaired_and_counted_on_demand(write: Write) -> None:
    corpus = write("the\tO\nsun\tI-x\nset\tI-x\n\nthe\tO\n\nold\tI-y\n", scheme="iob2", repair=True)
    assert [tags for _, tags, _ in read(corpus)] == [["O", "B-x", "I-x"], ["O"], ["B-y"]]
    assert dict(corpus.dropped) == {"with tags that iob2 does not have there, rewritten": 2}


def test_the_fingerprint_has_what_changes_the_rows(write: Write) -> None:
    text = "the\tO\n"
    settings: list[dict[str, Any]] = [{}, {"scheme": "iob2"}, {"scheme": "iob2", "repair": True}, {"tag_column": 1}]
    assert len({write(text, **one).fingerprint() for one in settings}) == len(settings)
    assert write(text).fingerprint() != write("the\tX\n").fingerprint()
