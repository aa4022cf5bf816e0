"""Files that lie: whatever is on the disk, reading it ends in values of the asked type or in one line, and soon."""

from __future__ import annotations

import json
import math
import os
import re
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from etude import untrusted
from etude.untrusted import (
    BrokenFileError,
    check_name,
    decode_json,
    inside,
    read_bytes,
    read_json,
    read_json_lines,
    read_plain_yaml,
    read_text,
    read_yaml,
)

ADVICE = "put it back"

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: Annotated[int, Meta(ge=0)]
    name: str | None = None


class Whole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    step: int
    files: dict[str, Part]
    scores: list[float]
    pair: Annotated[list[int], Meta(min_length=2, max_length=2)]


SOUND = {"step": 1, "files": {"a/b.c": {"size": 3, "name": None}, "b": {"size": 4}}, "scores": [0.5, 2], "pair": [1, 2]}


def refused(action: Callable[[], Any], *words: str) -> BrokenFileError:
    """The error of something that must be refused in one line with these words."""
    with pytest.raises(BrokenFileError) as caught:
        action()
    message = str(caught.value)
    assert message.isprintable() and len(message) < 700, message
    assert message.endswith(f"; {ADVICE}") and caught.value.exit_code == 65
    for word in words:
        assert word in message, (word, message)
    return caught.value


# What is not a file


def test_a_pipe_that_nobody_writes_to_does_not_hold_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    refused(lambda: read_json(tmp_path / "a.json", Whole, ADVICE), "a.json is a named pipe, not a file")
    refused(lambda: read_json_lines(tmp_path / "a.json", Whole, ADVICE), "is a named pipe")
    refused(lambda: read_yaml(tmp_path / "a.json", ADVICE), "is a named pipe")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom", "/dev/null", "/dev/tty"])
def test_a_link_to_a_device_is_not_followed_into_it(tmp_path: Path, device: str) -> None:
    (tmp_path / "a.json").symlink_to(device)
    refused(lambda: read_bytes(tmp_path / "a.json", ADVICE), "a.json")
    refused(lambda: read_json_lines(tmp_path / "a.json", Whole, ADVICE), "a.json")


def test_folders_sockets_loops_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        refused(lambda: read_bytes(tmp_path / "socket", ADVICE), "socket cannot be read")
    refused(lambda: read_bytes(tmp_path / "folder", ADVICE), "folder is a folder, not a file")
    refused(lambda: read_bytes(tmp_path / "loop", ADVICE), "loop cannot be read")
    refused(lambda: read_bytes(tmp_path / "absent", ADVICE), "absent cannot be read: No such file or directory")
    refused(lambda: read_bytes(tmp_path / "a\0b", ADVICE), "is not the name of a file")
    refused(lambda: read_bytes(tmp_path / ("a" * 300), ADVICE), "cannot be read: File name too long")


def test_a_sparse_file_of_terabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(1 << 40)
    refused(lambda: read_json(tmp_path / "a.json", Whole, ADVICE), "has 1,099,511,627,776 bytes, more than the")
    refused(lambda: read_json_lines(tmp_path / "a.json", Whole, ADVICE), "bytes, more than the")
    refused(lambda: read_yaml(tmp_path / "a.json", ADVICE), "bytes, more than the")


def test_a_file_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    monkeypatch.setattr(untrusted, "_check_regular", lambda *_: None)
    refused(lambda: read_bytes(tmp_path / "a", ADVICE, most=4), "a grows beyond the 4 bytes")
    assert read_bytes(tmp_path / "a", ADVICE, most=5) == b"12345"


# Names


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "a/../../b", "..", ".", "", "a//b", "a/", "a\0b", "./a"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    refused(lambda: inside(tmp_path, name, tmp_path / "index.json", ADVICE), "index.json", "not the name of a file")
    refused(lambda: check_name(name, "index.json of it", ADVICE), "index.json of it", "not the name of a file")


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to("..")
    (folder / "round").symlink_to("round")
    (folder / "in").symlink_to("inner")
    for name in ("out", "up/secret", "up", "round"):
        refused(partial(inside, folder, name, folder / "manifest.json", ADVICE), "manifest.json", "leads out of")
    assert inside(folder, "in/a", folder, ADVICE) == folder / "in/a"
    (tmp_path / "elsewhere").symlink_to(folder)  # the folder itself may be anywhere
    assert inside(tmp_path / "elsewhere", "in/a", folder, ADVICE) == tmp_path / "elsewhere/in/a"


# JSON


@given(PLAIN)
def test_plain_values_come_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    for ascii_only in (True, False):
        path.write_text(json.dumps(value, ensure_ascii=ascii_only), encoding="utf-8")
        found: Any = read_json(path, Any, ADVICE)
        assert repr(found) == repr(value)  # since NaN is not equal to itself


def test_numbers_that_are_not_finite_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**SOUND, "scores": [math.nan, math.inf]}))
    assert repr(read_json(tmp_path / "a.json", Whole, ADVICE).scores) == "[nan, inf]"


@given(st.binary(max_size=60))
def test_any_bytes_are_the_type_or_one_line(content: bytes) -> None:
    refused(lambda: decode_json(content, Whole, "a.json", ADVICE), "a.json")


def test_every_truncation_is_one_line() -> None:
    text = json.dumps(SOUND).encode()
    assert decode_json(text, Whole, "a.json", ADVICE).step == 1
    for length in range(len(text)):
        refused(partial(decode_json, text[:length], Whole, "a.json", ADVICE), "a.json is not JSON")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": "1"}, "step is a text, not a whole number"),
        ({"step": True}, "step is true or false, not a whole number"),
        ({"step": 1.0}, "step is a number, not a whole number"),
        ({"step": None}, "step is null, not a whole number"),
        ({"files": []}, "files is a list, not an object"),
        ({"files": {"a": {"size": 1}, "b": {"size": "1"}, "c": {"size": 2}}}, "files['b'].size is a text, not a whole"),
        ({"files": {"a": {"size": 1}, "b": {}, "c": {"size": 2}}}, "files['b'].size is missing"),
        ({"files": {"a": {"size": -1}}}, "files['a'].size is a number that is not >= 0"),
        ({"files": {"a": {"size": 1, "name": 2}}}, "files['a'].name is a whole number, not a text or null"),
        ({"files": {"a": {"size": 1, "other": 2}}}, "files['a'].other is not a key that this version of etude writes"),
        ({"scores": [1, 2, "3"]}, "scores[2] is a text, not a number"),
        ({"pair": [1]}, "pair has a length that is not >= 2"),
        ({"pair": [1, 2, 3]}, "pair has a length that is not <= 2"),
        ({"\x1b[31mred\n": 1}, r"\x1b[31mred\n is not a key that this version of etude writes"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], said: str) -> None:
    refused(lambda: decode_json(json.dumps({**SOUND, **change}).encode(), Whole, "a.json", ADVICE), f"a.json: {said}")


@pytest.mark.parametrize(
    ("text", "said"), [("[1]", "a list"), ('"a"', "a text"), ("null", "null"), ("3", "a whole num")]
)
def test_another_kind_of_document_is_one_line(text: str, said: str) -> None:
    refused(lambda: decode_json(text.encode(), Whole, "a.json", ADVICE), f"a.json is {said}", "not an object; ")


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from([1, {"size": "x"}, {"size": 1, "no": 1}, {}]))
def test_keys_of_any_text_are_named_in_one_line(key: str, part: Any) -> None:
    for values in ({**SOUND, "files": {"fine": {"size": 1}, key: part}}, {**SOUND, f"{key}!": 1}):
        refused(partial(decode_json, json.dumps(values).encode(), Whole, "a.json", ADVICE), "a.json")


@pytest.mark.parametrize("key", ["x` - at `$.files[...].y", "` - at `$.step.a.b[3]", "a`, got `b` - at `$[...]"])
def test_keys_that_look_like_the_end_of_a_message_are_one_line(key: str) -> None:
    for values in ({**SOUND, key: 1}, {**SOUND, "files": {key: {"size": 1, key: 1}}}):
        refused(partial(decode_json, json.dumps(values).encode(), Whole, "a.json", ADVICE), "a.json")


def test_one_wrong_value_of_many_thousands_is_found_at_once() -> None:
    files: dict[str, Any] = {str(number): {"size": number} for number in range(50_000)}
    files["31337"] = {"size": None}
    text = json.dumps({**SOUND, "files": files}).encode()
    refused(lambda: decode_json(text, Whole, "a.json", ADVICE), "files['31337'].size is null")


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("levels", [100, 100_000])
def test_deep_nesting_is_one_line(opening: str, levels: int) -> None:
    refused(lambda: decode_json(opening.encode() * levels, Whole, "a.json", ADVICE), "is nested more than 64 levels")


def test_brackets_in_texts_do_not_nest() -> None:
    text = json.dumps(['["\\', "{" * 500, "\\", '"[[', *[[]] * 100])
    assert len(decode_json(text.encode(), list[Any], "a.json", ADVICE)) == 104
    deepest = "[" * 64 + "]" * 64
    decode_json(deepest.encode(), list[Any], "a.json", ADVICE)
    refused(lambda: decode_json(f"[{deepest}]".encode(), list[Any], "a.json", ADVICE), "nested")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"step": 1, "step": 2}', "has the key 'step' twice"),
        ('{"files": {"a\\n": 1, "a\\n": 1}}', r"has the key 'a\n' twice"),
        ('{"step": ' + "9" * 5000 + "}", "is not JSON"),
        ('"\\ud800"', "has a half of a surrogate pair"),
        ("\ufeff{}", "is not JSON"),
    ],
)
def test_repeated_keys_numbers_without_end_and_broken_texts(text: str, said: str) -> None:
    refused(lambda: decode_json(text.encode(), dict[str, Any], "a.json", ADVICE), said)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'{"a": "\xff"}')
    refused(lambda: read_text(tmp_path / "a", ADVICE), "a is not UTF-8 at byte 8")
    refused(lambda: read_json(tmp_path / "a", dict[str, Any], ADVICE), "a is not UTF-8 at byte 8")
    refused(lambda: decode_json('{"a": 1}'.encode("utf-16"), dict[str, Any], "a", ADVICE), "a is not UTF-8")


# JSON lines


def test_lines_are_read_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"size": 1}\n{"size": 2, "name": "\u2028"}\n')
    assert read_json_lines(path, Part, ADVICE) == [Part(1), Part(2, "\u2028")]
    path.write_text('{"size": 1}\n{"size": "2"}\n')
    refused(lambda: read_json_lines(path, Part, ADVICE), "a.jsonl, line 2: size is a text, not a whole number")
    path.write_text('{"size": 1}\n\n')
    refused(lambda: read_json_lines(path, Part, ADVICE), "a.jsonl, line 2 is not JSON")
    path.write_text('{"size": 1}\n{"size": 2}')
    refused(lambda: read_json_lines(path, Part, ADVICE), "a.jsonl, line 2 is cut short")
    path.write_text("")
    assert read_json_lines(path, Part, ADVICE) == []


def test_a_line_without_end_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "DOCUMENT", 1000)
    (tmp_path / "a").write_bytes(b"1\n" + b" " * 5000 + b"\n")
    refused(lambda: read_json_lines(tmp_path / "a", Any, ADVICE), "a, line 2 is longer than the 1,000")


# YAML


def yaml(tmp_path: Path, text: str) -> str:
    (tmp_path / "a.yaml").write_text(text)
    return read_yaml(tmp_path / "a.yaml", ADVICE)


def test_plain_yaml_is_given_back(tmp_path: Path) -> None:
    text = "a: 1\nb:\n- x\n- {c: null}\nd: 'no'\n"
    assert yaml(tmp_path, text) == text


LAUGHS = "a: &a [lol]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "line 1 has an anchor or alias"),
        ("a: &x 1\n", "line 1 has an anchor or alias"),
        ("a: *x\n", "line 1 has an anchor or alias"),
        ("a: 1\nb: !!python/object/apply:os.system ['true']\n", "line 2 has the tag"),
        ("a: !!binary AAAA\n", "line 1 has the tag"),
        ("a: " + "[" * 100_000, " nest"),
        ("a: " + "{b: " * 100_000, "is nested more than 64 levels deep"),
        ("".join(" " * level + "a:\n" for level in range(1000)), "is nested more than 64 levels deep"),
        ("- a\n" * 60_000, "has more than 50,000 values"),
        ("a: 1\n---\nb: 2\n", "begins a second document"),
        ("a: 1\n b: 2\n", "is not YAML (line 2: mapping values are not allowed"),
        ("a: '", "is not YAML (line 1: "),
        ("a: \x00", "is not YAML"),
        ("a: [1\n", "is not YAML"),
    ],
)
def test_yaml_that_explodes_runs_or_breaks_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    refused(lambda: yaml(tmp_path, text), "a.yaml", said)


def test_yaml_is_refused_without_libyaml_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml as library

    monkeypatch.delattr(library, "CSafeLoader", raising=False)
    for text in (LAUGHS, "a: " + "[" * 100_000, "a: '"):
        refused(partial(yaml, tmp_path, text), "a.yaml")


def plain_yaml(tmp_path: Path, text: str) -> str:
    (tmp_path / "a.yaml").write_text(text)
    return read_plain_yaml(tmp_path / "a.yaml", ADVICE)


@pytest.mark.parametrize(
    "text", [LAUGHS, "a: &x 1\n", "a: *x\n", "a: !!binary AAAA\n", "a: " + "[" * 100_000, "- a\n" * 60_000]
)
def test_yaml_that_explodes_is_refused_by_its_characters_too(tmp_path: Path, text: str) -> None:
    refused(lambda: plain_yaml(tmp_path, text), "a.yaml")


@settings(max_examples=200, deadline=None)
@given(text=st.text("ab -?:[{]},\n&*!%.'#|", max_size=90) | st.integers(1, 80).map(lambda depth: "- " * depth + "a"))
def test_what_looks_plain_is_what_is_checked(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("yaml")
    try:
        assert plain_yaml(folder, text) == text
    except BrokenFileError:
        return
    try:
        yaml(folder, text)
    except BrokenFileError as error:
        assert error.problem.startswith("is not YAML")  # which whoever parses it finds


def test_the_message_has_the_form_of_the_house() -> None:
    error = refused(lambda: decode_json(b'{"step": "1"}', Whole, "RUN/manifest.json", ADVICE))
    assert re.fullmatch(r"RUN/manifest\.json: step is a text, not a whole number; put it back", str(error))
