"""Reading that survives a folder that lies: a file is what its schema says, or one line says what is wrong with it.

Folders are copied, cut short, edited, made by other versions and passed on by strangers. What is read here can neither
hang (a FIFO, a device), fill the memory (`/dev/zero`, a sparse file, YAML aliases), end in a traceback (a wrong type, a
missing key, nesting without end), nor lead out of its folder (`..`, a link). Whatever is wrong becomes a
`BrokenFileError`: the file, the field, and what to do.

The counterpart of `etude.atomic`, which writes.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from etude.errors import DataError
from etude.schema_errors import in_words, shown

DOCUMENT = 64 << 20
"""Bytes of a JSON document, and of a line of JSON lines, at most."""

LINES = 2 << 30
"""Bytes of a file of JSON lines at most."""

YAML = 1 << 20
"""Bytes of a YAML file at most."""

ANY_SIZE = 1 << 62
"""Bytes of a file whose content is not held in memory."""

DEPTH = 64
"""How deep objects and lists are nested in each other at most."""

YAML_VALUES = 50_000
"""Keys and values of a YAML file at most."""

_OF_THE_FILE = ("is ", "has ", "cannot ", "grows ")
_STARTS = ("MappingStartEvent", "SequenceStartEvent")
_ENDS = ("MappingEndEvent", "SequenceEndEvent")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_MARKS = re.compile(rf"[&*!%]|^(?:---|\.\.\.)|^[-?: \t]{{{DEPTH // 4}}}", re.MULTILINE)
_TEXTS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_WEIGHT = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}

Kind = TypeVar("Kind")


class BrokenFileError(DataError):
    """A stored file is missing, or not what etude would have written.

    Args:
        path: The file, with its line where it has several.
        problem: What is wrong, beginning with the field, or with what the file itself is, has or cannot.
        advice: What to do.
    """

    def __init__(self, path: Path | str, problem: str, advice: str) -> None:
        super().__init__(f"{path}{'' if problem.startswith(_OF_THE_FILE) else ':'} {problem}; {advice}")
        self.path = path
        self.problem = problem

    @property
    def is_of_the_file(self) -> bool:
        """Whether the problem says what the file itself is or has, and names no field."""
        return self.problem.startswith(_OF_THE_FILE)


# Files


def check_name(name: str, said_by: Path | str, advice: str) -> None:
    """Refuse a name that a file gives for another file of its folder, and that leads out of it, links apart.

    Takes what `inside` does.

    Raises:
        BrokenFileError: If it is absolute, or has a part that is empty, `.` or `..`.
    """
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise BrokenFileError(said_by, f"'{shown(name)}' is not the name of a file in its folder", advice)


def inside(folder: Path, name: str, said_by: Path, advice: str) -> Path:
    """Return the path of a name that a file gives for another file of its folder.

    Args:
        folder: What the name may not lead out of, by `..`, as an absolute path or by a link.
        name: Parts separated by `/`.
        said_by: The file that gives the name, for messages.
        advice: What to do about a broken file.

    Raises:
        BrokenFileError: If it leads out of the folder, or is not the name of a file.
    """
    check_name(name, said_by, advice)
    path = folder / name
    if (
        "/" not in name and not path.is_symlink()
    ):  # many files are read of many runs, and resolving takes longer than reading
        return path
    try:
        within = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a link to itself: RuntimeError before Python 3.13
        within = False
    if not within:
        raise BrokenFileError(said_by, f"'{shown(name)}' leads out of {folder}", advice)
    return path


@contextmanager
def opened(path: Path, advice: str, most: int) -> Iterator[BufferedReader]:
    """Open a regular file of limited size for reading; neither a pipe without a writer nor a device can hold this up.

    Args:
        path: The file.
        advice: What to do about a broken file.
        most: Bytes that it may have.

    Raises:
        BrokenFileError: If it cannot be opened or read, is larger, or no regular file.
    """
    try:
        # O_NONBLOCK: opening a pipe waits for its writer otherwise. What was opened is looked at, not what has the name.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            _check_regular(os.fstat(descriptor), path, advice, most)
            yield file
    except IsADirectoryError as error:
        raise BrokenFileError(path, "is a folder, not a file", advice) from error
    except OSError as error:
        raise BrokenFileError(path, f"cannot be read: {error.strerror or error}", advice) from error
    except ValueError as error:
        if "null byte" not in str(error):
            raise
        raise BrokenFileError(shown(str(path)), "is not the name of a file", advice) from error


def _check_regular(state: os.stat_result, path: Path, advice: str, most: int) -> None:
    if not stat.S_ISREG(state.st_mode):
        kind = _KINDS.get(stat.S_IFMT(state.st_mode), "something else")
        raise BrokenFileError(path, f"is {kind}, not a file", advice)
    if state.st_size > most:
        raise BrokenFileError(path, f"has {state.st_size:,} bytes, more than the {most:,} that it can have", advice)


def read_bytes(path: Path, advice: str, most: int = DOCUMENT) -> bytes:
    """Return the content of a regular file of limited size; takes what `opened` does.

    Raises:
        BrokenFileError: As `opened` does.
    """
    with opened(path, advice, most) as file:
        content = file.read(most + 1)
    if content is None or len(content) > most:
        raise BrokenFileError(path, f"grows beyond the {most:,} bytes that it can have", advice)
    return content


def read_text(path: Path, advice: str, most: int = DOCUMENT) -> str:
    """Return the content of a regular file in UTF-8; takes what `opened` does.

    Raises:
        BrokenFileError: As `opened` does, and if it is not UTF-8.
    """
    return _text(read_bytes(path, advice, most), path, advice)


def _text(content: bytes, where: Path | str, advice: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BrokenFileError(where, f"is not UTF-8 at byte {error.start + 1}", advice) from error


# JSON


def read_json(path: Path, kind: type[Kind], advice: str, most: int = DOCUMENT) -> Kind:
    """Return the content of a JSON file as a type.

    Args:
        path: The file.
        kind: A `msgspec.Struct`, or a type of plain values such as `dict[str, float]`. Nothing is converted: a text is no
            number, and a number with a point is no whole one. NaN and Infinity are numbers.
        advice: What to do about a broken file.
        most: Bytes that it may have.

    Raises:
        BrokenFileError: If it cannot be read, or is not of this type; names the field.
    """
    return decode_json(read_bytes(path, advice, most), kind, path, advice)


def read_json_lines(path: Path, kind: type[Kind], advice: str, most: int = LINES) -> list[Kind]:
    """Return the lines of a file that holds JSON in each; takes what `read_json` does.

    Raises:
        BrokenFileError: If it cannot be read, or a line is not of this type; names line and field.
    """
    rows = []
    with opened(path, advice, most) as file:
        number = 0
        while line := file.readline(DOCUMENT + 1):
            number += 1
            where = f"{path}, line {number}"
            if len(line) > DOCUMENT:
                raise BrokenFileError(where, f"is longer than the {DOCUMENT:,} bytes that it can have", advice)
            if not line.endswith(b"\n"):
                raise BrokenFileError(where, "is cut short: the file does not end with a line's end", advice)
            rows.append(decode_json(line, kind, where, advice))
    return rows


def decode_json(content: bytes, kind: type[Kind], where: Path | str, advice: str, depth: int = DEPTH) -> Kind:
    """Return JSON as a type; see `read_json`.

    Args:
        content: The JSON, in UTF-8.
        kind: The type.
        where: What messages begin with.
        advice: What to do about a broken file.
        depth: How deep objects and lists are nested in each other at most.

    Raises:
        BrokenFileError: If it is not JSON of this type.
    """
    return convert(_parsed(content, where, advice, depth), kind, where, advice)


def convert(values: Any, kind: type[Kind], where: Path | str, advice: str) -> Kind:
    """Return plain values as a type; see `decode_json`.

    Raises:
        BrokenFileError: If they are not of this type.
    """
    try:
        return msgspec.convert(values, kind, strict=True)
    except msgspec.ValidationError as error:
        raise BrokenFileError(where, in_words(str(error), values, kind), advice) from error


class _RepeatedKeyError(ValueError):
    """A JSON object has a key twice."""


def _parsed(content: bytes, where: Path | str, advice: str, depth: int) -> Any:
    """Return JSON as plain values.

    Python's own parser, since msgspec's knows no NaN, which scores and losses can be, and takes the last of two values
    of the same key.
    """
    if _depth(content, depth) > depth:
        raise BrokenFileError(where, f"is nested more than {depth} levels deep", advice)
    text = _text(content, where, advice)
    try:
        values = json.loads(text, object_pairs_hook=_object)
        if "\\u" in text:
            json.dumps(values, ensure_ascii=False).encode()
    except _RepeatedKeyError as error:
        raise BrokenFileError(where, str(error), advice) from error
    except UnicodeEncodeError as error:
        raise BrokenFileError(where, "has a half of a surrogate pair, which is not text", advice) from error
    except (ValueError, RecursionError) as error:
        raise BrokenFileError(where, f"is not JSON ({' '.join(str(error).split())})", advice) from error
    return values


def _depth(content: bytes, most: int) -> int:
    """Return how deep brackets outside of texts are nested; an upper bound where there are few."""
    bound = content.count(b"[") + content.count(b"{")
    if bound <= most:
        return bound
    brackets = _TEXTS.sub(b"", content).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_WEIGHT.__getitem__, brackets)), default=0)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _RepeatedKeyError(f"has the key '{shown(repeated)}' twice")
    return values


# YAML


def read_yaml(path: Path, advice: str, most: int = YAML) -> str:
    """Return the text of a YAML file that holds plain values only: whoever parses it is safe.

    Args:
        path: The file.
        advice: What to do about a broken file.
        most: Bytes that it may have.

    Raises:
        BrokenFileError: If it cannot be read; if it is not YAML, or has aliases, which can stand for more values than there
            is memory, tags, several documents, too many values or too deep a nesting.
    """
    # Imported here: what reads only JSON does not need it.
    import yaml

    text = read_text(path, advice, most)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        problem = _yaml_problem(yaml.parse(text, Loader=loader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BrokenFileError(path, f"is not YAML ({yaml_reason(error)})", advice) from error
    if problem:
        raise BrokenFileError(path, problem, advice)
    return text


def read_plain_yaml(path: Path, advice: str) -> str:
    """Return the text of a YAML file as `read_yaml` does, in a fraction of the time where its characters show that it is safe.

    What is returned may still turn out not to be YAML when it is parsed.

    Raises:
        BrokenFileError: As `read_yaml` does.
    """
    text = read_text(path, advice, YAML)
    # No anchor, alias, tag or second document without one of these characters; no more values than characters; and no
    # more than two levels, a mapping and a list, begin at each column that a line's indentation and dashes reach.
    plain = len(text) <= YAML_VALUES and not _MARKS.search(text) and text.count("[") + text.count("{") <= DEPTH // 2
    return text if plain else read_yaml(path, advice)


def yaml_reason(error: Exception) -> str:
    """Return what a YAML parser says, in one line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is not None and problem:
        return f"line {mark.line + 1}: {shown(problem)}"
    return shown(" ".join(str(error).split()))


def _yaml_problem(events: Iterator[Any]) -> str | None:
    """Return why a YAML file is refused, reading no further than to there; None if it is not."""
    depth = documents = 0
    for count, event in enumerate(events):
        name, line = type(event).__name__, event.start_mark.line + 1
        depth += (name in _STARTS) - (name in _ENDS)
        documents += name == "DocumentStartEvent"
        if name == "AliasEvent" or getattr(event, "anchor", None) is not None:
            return f"line {line} has an anchor or alias, which etude never writes"
        if getattr(event, "tag", None) is not None:
            return f"line {line} has the tag '{shown(event.tag)}', which etude never writes"
        if depth > DEPTH:
            return f"line {line} is nested more than {DEPTH} levels deep"
        if count > YAML_VALUES:
            return f"has more than {YAML_VALUES:,} values"
        if documents > 1:
            return f"line {line} begins a second document"
    return None
