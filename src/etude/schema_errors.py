"""The errors of msgspec, worded to begin with the field that does not fit."""

from __future__ import annotations

import re
from typing import Any

import msgspec

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
_SAID = re.compile(r"(?P<problem>.*?)(?: - at (?P<key>`key` in )?`(?P<path>\$.*)`)?", re.DOTALL)
_WRONG_TYPE = re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<found>[^`]+)`")
_WRONG_LENGTH = re.compile(r"Expected `array` of length (?P<wanted>\d+), got (?P<found>\d+)")
_OUT_OF_RANGE = re.compile(r"Expected `\w+` (?P<of>of length )?(?P<range>[<>]=? \S+)")
_WRONG_FORM = re.compile(r"Expected `str` matching regex .*", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<key>.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>.*)`", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|(\[\.\.\.\])")
_LONGEST_NAME = 80


def shown(text: str) -> str:
    """Return a text of a stranger as it can stand in a line: whatever steers a terminal escaped, and not too long."""
    safe = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text[:_LONGEST_NAME])
    return safe + ("…" if len(text) > _LONGEST_NAME else "")


def in_words(error: str, values: Any, kind: Any) -> str:
    """Return what msgspec says of values that are not of a type, as a sentence that begins with the field.

    Args:
        error: What it says.
        values: The values, plain; they are taken to pieces.
        kind: The type.
    """
    said = _SAID.fullmatch(error)
    problem, path = (said["problem"], said["path"] or "") if said else (error, "")
    field = _field(path, values, kind)
    if said and said["key"]:
        field = f"a key of {field}"
    if found := _MISSING.fullmatch(problem):
        return f"{_join(field, found['key'])} is missing"
    if found := _UNKNOWN.fullmatch(problem):
        return (
            f"{_join(field, shown(found['key']))} is not a key that this version of etude writes: "
            "another version made it, or it was edited"
        )
    if found := _WRONG_TYPE.fullmatch(problem):
        wanted = " or ".join(_TYPES.get(name, name) for name in found["wanted"].split(" | "))
        return f"{field} is {_TYPES.get(found['found'], found['found'])}, not {wanted}".lstrip()
    if found := _WRONG_LENGTH.fullmatch(problem):
        values_found = "1 value" if found["found"] == "1" else f"{found['found']} values"
        return f"{field} has {values_found}, not {found['wanted']}".lstrip()
    if found := _OUT_OF_RANGE.fullmatch(problem):
        return f"{field} {'has a length' if found['of'] else 'is a number'} that is not {found['range']}".lstrip()
    if _WRONG_FORM.fullmatch(problem):
        return f"{field} has the wrong form".lstrip()
    return f"{field}: {problem}" if field else problem


def _join(field: str, key: str) -> str:
    return f"{field}.{key}" if field else key


def _field(path: str, values: Any, kind: Any) -> str:
    """Return a path in msgspec's words, `$.files[...].size`, in ours: `files['state.json'].size`.

    It leaves the keys of mappings out. Which one it is, is found by leaving out half of them again and again. A path that
    the values do not have (a key can look like a part of what msgspec says) ends where they do.
    """
    try:
        return _walk(path, values, kind)
    except (KeyError, IndexError, TypeError, AttributeError, StopIteration):
        return shown(path.removeprefix("$."))


def _walk(path: str, values: Any, kind: Any) -> str:
    field, here = "", values
    for name, index, any_key in _STEP.findall(path):
        if any_key:
            key = _key_at_fault(here, values, kind)
            field, here = f"{field}['{shown(key)}']", here[key]
        elif index:
            field, here = f"{field}[{index}]", here[int(index)]
        else:
            field, here = _join(field, name), here[name]
    return field


def _key_at_fault(mapping: Any, values: Any, kind: Any) -> str:
    """Return the key of a mapping inside values at which these are not of a type; leaves only that key in it."""
    if not isinstance(mapping, dict):
        raise TypeError("a key that looks like a path leads to something other than a mapping")
    said = _complaint(values, kind)
    left = dict(mapping)
    while len(left) > 1:
        half = dict(list(left.items())[: len(left) // 2])
        mapping.clear()
        mapping.update(half)
        left = half if _complaint(values, kind) == said else {key: left[key] for key in left if key not in half}
    mapping.clear()
    mapping.update(left)
    return next(iter(left))


def _complaint(values: Any, kind: Any) -> str:
    try:
        msgspec.convert(values, kind, strict=True)
    except msgspec.ValidationError as error:
        return str(error)
    return ""
