"""What a sweep and its members store of themselves comes back as it was, and what is damaged is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.sweeps.sweep_documents import (
    MEMBER,
    SWEEP,
    Attempt,
    CodeState,
    MemberDocument,
    SweepDocument,
    read_member,
    read_sweep,
    write_document,
)
from etude.untrusted import BrokenFileError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LABELS = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
PLAIN = st.recursive(LABELS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
COUNTS = st.integers(0, 10**6)
ATTEMPTS = st.builds(Attempt, ended=st.floats(0, 1e12), code=st.integers(-64, 255), reason=TEXT, step=COUNTS)
CODE = CodeState(commit=None, changes=None, sources={"etude": "0a"}, packages={"torch": "2.11", "ray": None})
SWEEPS = st.builds(
    SweepDocument,
    command=st.lists(TEXT, max_size=3),
    extra=st.none() | TEXT,
    identity=st.dictionaries(TEXT, PLAIN, max_size=3),
    metric=st.none() | TEXT,
    mode=st.sampled_from(["min", "max"]),
    threads=st.integers(1, 64),
    code=st.just(CODE),
)
MEMBERS = st.builds(
    MemberDocument,
    number=COUNTS,
    trial=COUNTS,
    stage=TEXT,
    start=st.none() | COUNTS,
    seed=st.none() | st.integers(-5, 2**53),
    assignment=st.dictionaries(TEXT, LABELS, max_size=4),
    words=st.lists(TEXT, max_size=3),
    config=st.dictionaries(TEXT, PLAIN, max_size=3),
    attempts=st.lists(ATTEMPTS, max_size=2),
)

SWEEP_VALUES: dict[str, Any] = {
    "command": ["seed=1,2"],
    "extra": None,
    "identity": {"seed": 1},
    "metric": "val/loss",
    "mode": "min",
    "threads": 1,
    "code": {"commit": None, "changes": None, "sources": {}, "packages": {}},
}
MEMBER_VALUES: dict[str, Any] = {
    "number": 0,
    "trial": 0,
    "stage": "",
    "start": None,
    "seed": None,
    "assignment": {"seed": 1},
    "words": ["seed=1"],
    "config": {},
    "attempts": [],
}


@settings(max_examples=40)
@given(document=SWEEPS)
def test_a_sweep_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, document: SweepDocument) -> None:
    folder = tmp_path_factory.mktemp("sweep")
    write_document(folder, document)
    assert repr(read_sweep(folder)) == repr(document)
    assert [path.name for path in folder.iterdir()] == [SWEEP]


@settings(max_examples=40)
@given(document=MEMBERS)
def test_a_member_comes_back_with_the_types_of_its_labels(
    tmp_path_factory: pytest.TempPathFactory, document: MemberDocument
) -> None:
    folder = tmp_path_factory.mktemp("member")
    write_document(folder, document)
    assert repr(read_member(folder)) == repr(document)
    assert [path.name for path in folder.iterdir()] == [MEMBER]


def test_writing_again_replaces_the_file(tmp_path: Path) -> None:
    (tmp_path / MEMBER).write_text(json.dumps(MEMBER_VALUES))
    before = read_member(tmp_path)
    attempt = Attempt(ended=1.5, code=-9, reason="it was killed", step=3)
    write_document(tmp_path, MemberDocument(**{**before.plain(), "attempts": [attempt]}))
    assert read_member(tmp_path).attempts == [attempt]
    assert json.loads((tmp_path / MEMBER).read_text()) == {**MEMBER_VALUES, "attempts": [attempt.plain()]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 0}, "threads"),
        ({"threads": "1"}, "threads is a text, not a whole number"),
        ({"command": "seed=1"}, "command"),
        ({"identity": []}, "identity"),
        ({"mode": None}, "mode"),
        ({"code": {"commit": None}}, "code"),
        ({"another": 1}, "another"),
    ],
    ids=str,
)
def test_a_damaged_sweep_is_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    (tmp_path / SWEEP).write_text(json.dumps(SWEEP_VALUES))
    assert read_sweep(tmp_path).plain() == SWEEP_VALUES
    (tmp_path / SWEEP).write_text(json.dumps(SWEEP_VALUES | change))
    with pytest.raises(BrokenFileError) as caught:
        read_sweep(tmp_path)
    assert str(tmp_path / SWEEP) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(MEMBER_VALUES))
def test_a_member_without_one_of_its_keys_is_one_line(tmp_path: Path, key: str) -> None:
    (tmp_path / MEMBER).write_text(json.dumps({name: value for name, value in MEMBER_VALUES.items() if name != key}))
    with pytest.raises(BrokenFileError, match=f"{key} is missing") as caught:
        read_member(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"number": -1}, {"assignment": {"a": [1]}}, {"attempts": [{"code": 1}]}], ids=str)
def test_a_member_of_another_form_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / MEMBER).write_text(json.dumps(MEMBER_VALUES | change))
    with pytest.raises(BrokenFileError, match=next(iter(change))):
        read_member(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"command": ['])
def test_what_is_no_document_is_one_line(tmp_path: Path, text: str) -> None:
    for name, read in ((SWEEP, read_sweep), (MEMBER, read_member)):
        with pytest.raises(BrokenFileError):
            read(tmp_path)
        (tmp_path / name).write_text(text)
        with pytest.raises(BrokenFileError) as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)
        assert "sweep.name=NAME" in str(caught.value)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.json").write_text(json.dumps(SWEEP_VALUES))
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / SWEEP).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BrokenFileError):
        read_sweep(tmp_path / "sweep")
