"""The labels of the demo of token classification: what reviewers put in quotation marks and brackets."""

from __future__ import annotations

import pytest

from etude.data.corpora.review_mentions import tagged

MARKED = {
    'I saw "The Old Dark House." Then I slept.': {"The Old Dark House": "title"},
    "the sheriff (John Wayne) shoots": {"John Wayne": "person"},
    'He said "No way, man" to him': {},
    'in "Alien" and "Aliens (again)"': {"Alien": "title"},
    "my uncle (a kind man) left (Maybe)": {},
    '"Jaws", with (Roy Scheider)': {"Jaws": "title", "Roy Scheider": "person"},
    'the "African American" and "10 Things I Hate About You"': {
        "African American": "title",  # nobody is right everywhere: the marks are the labels
        "10 Things I Hate About You": "title",
    },
}


@pytest.mark.parametrize(("sentence", "expected"), MARKED.items())
def test_marks_become_tags_and_go(sentence: str, expected: dict[str, str]) -> None:
    words, tags = tagged(sentence)
    found: dict[str, str] = {}
    for word, tag in zip(words, tags, strict=True):
        if tag.startswith("B-"):
            found[word] = tag[2:]
        elif tag.startswith("I-"):
            name = list(found)[-1]
            found[f"{name} {word}"] = found.pop(name)
    assert found == expected
    for name in expected:
        assert f'"{name}' not in " ".join(words) and f"({name}" not in " ".join(words)


def test_words_and_punctuation_stay_in_order() -> None:
    assert tagged('It\'s "Jaws." Well, (Roy Scheider) wins!') == (
        ["It's", "Jaws", ".", "Well", ",", "Roy", "Scheider", "wins", "!"],
        ["O", "B-title", "O", "O", "O", "B-person", "I-person", "O", "O"],
    )
