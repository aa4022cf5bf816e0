"""Readers of translation catalogs: gettext's `.mo` and `.po`, and nested JSON with the same keys in each language.

A plural entry yields two pairs: the singular with the first form, the plural with the last. Python's own `gettext` keeps
no plural messages. The formats are described in GNU gettext's manual (https://www.gnu.org/software/gettext/manual), "MO
Files" and "PO Files".
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

Pair = tuple[str, str]

CONTEXT = "\x04"
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*$')
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def mo_pairs(content: bytes) -> Iterator[Pair]:
    """Yield (message, translation) of a compiled catalog, which has no fuzzy entries.

    Raises:
        ValueError: If the content is not a catalog.
    """
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(content[:4])
    if order is None:
        raise ValueError("no gettext catalog: wrong magic number")
    count, messages, translations = struct.unpack_from(f"{order}3I", content, 8)
    for index in range(count):
        texts = []
        for table in (messages, translations):
            length, start = struct.unpack_from(f"{order}2I", content, table + 8 * index)
            texts.append(content[start : start + length].decode("utf-8"))
        yield from _forms(texts[0].rpartition(CONTEXT)[2].split("\0"), texts[1].split("\0"))


def po_pairs(content: str) -> Iterator[Pair]:
    """Yield (message, translation) of a catalog's source text; fuzzy and obsolete entries are skipped."""
    for block in re.split(r"\n[ \t]*\n", content.replace("\r\n", "\n")):
        entry: dict[str, str] = {}
        keyword = ""
        lines = [line.strip() for line in block.split("\n")]
        if any(line.startswith("#,") and "fuzzy" in line for line in lines):
            continue
        for line in lines:
            quoted = QUOTED.search(line)
            if line.startswith("#") or quoted is None:
                continue
            keyword = line[: quoted.start()].strip() or keyword
            entry[keyword] = entry.get(keyword, "") + _unescaped(quoted[1])
        messages = [entry[key] for key in ("msgid", "msgid_plural") if key in entry]
        yield from _forms(messages, [text for key, text in entry.items() if key.startswith("msgstr")])


def json_pairs(source: Mapping[str, Any], target: Mapping[str, Any]) -> Iterator[Pair]:
    """Yield the texts that two nested objects have under the same keys."""
    for key, value in source.items():
        other = target.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from json_pairs(value, other)
        elif isinstance(value, str) and isinstance(other, str):
            yield value, other


def json_file_pairs(source: bytes, target: bytes) -> Iterator[Pair]:
    """Yield the texts that two JSON files have under the same keys."""
    yield from json_pairs(json.loads(source), json.loads(target))


def _forms(messages: list[str], translations: list[str]) -> Iterator[Pair]:
    """Yield the pairs of one entry, except the header, whose message is empty."""
    if not messages or not messages[0] or not translations:
        return
    yield messages[0], translations[0]
    if len(messages) > 1 and len(translations) > 1:
        yield messages[1], translations[-1]


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: ESCAPES.get(match[1], match[1]), text)
