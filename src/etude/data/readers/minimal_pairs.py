"""Minimal pairs: two sentences of which one is better, as in BLiMP (Warstadt et al. 2020). No line is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from etude.data.readers.sources import read_lines, text_of
from etude.errors import DataError

GOOD, BAD = "sentence_good", "sentence_bad"
"""Names of the two sentences, as BLiMP has them."""

PHENOMENA = ("phenomenon", "linguistics_term", "UID")
"""Names under which a pair may tell its phenomenon; the first that is there counts. BLiMP has the last two."""

LONGEST = 1 << 20
"""Bytes of a line."""


class MinimalPair(NamedTuple):
    """One pair.

    Attributes:
        good: The sentence that should be likelier.
        bad: The other one.
        phenomenon: What they differ in; empty if the file does not say.
        origin: File and line, for messages.
    """

    good: str
    bad: str
    phenomenon: str
    origin: str


def read_minimal_pairs(path: Path) -> list[MinimalPair]:
    """Read pairs from JSON lines or from TSV, plain or .gz.

    A line of JSON has `sentence_good` and `sentence_bad`, and may have one of `PHENOMENA`. TSV has the same names in its first
    line, or, without such a line, the good sentence, the bad one, and perhaps the phenomenon.

    Raises:
        DataError: If the file cannot be read, or one of its lines is no pair.
    """
    kinds = {".jsonl": _json_pairs, ".tsv": _tsv_pairs}
    kind = kinds.get(Path(path.name.removesuffix(".gz")).suffix)
    if kind is None:
        raise DataError(f"{path} is of no known kind: pairs are in a .jsonl or a .tsv file, plain or .gz")
    pairs = list(kind(path))
    if not pairs:
        raise DataError(f"{path} has no pair")
    return pairs


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield origin and text of each line that is not blank."""
    for number, line in enumerate(read_lines(path, LONGEST), 1):
        origin, text = f"{path.name}:{number}", text_of(line)
        if text is None:
            raise DataError(f"{origin} is not UTF-8 text; write it as UTF-8")
        if text.strip():
            yield origin, text


def _json_pairs(path: Path) -> Iterator[MinimalPair]:
    for origin, text in _lines(path):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{origin} is not JSON; a line is an object with {GOOD} and {BAD}") from error
        if not isinstance(values, dict):
            raise DataError(f"{origin} is not an object; a line is an object with {GOOD} and {BAD}")
        yield _pair(values, origin)


def _tsv_pairs(path: Path) -> Iterator[MinimalPair]:
    names: list[str] | None = None
    for origin, text in _lines(path):
        cells = [cell.strip() for cell in text.split("\t")]
        if names is None:
            names = cells if {GOOD, BAD} <= set(cells) else [GOOD, BAD, PHENOMENA[0]][: max(2, len(cells))]
            if names is cells:
                continue
        if len(cells) != len(names):
            raise DataError(f"{origin} has {len(cells)} columns, not {len(names)}; write good, tab, bad")
        yield _pair(dict(zip(names, cells, strict=True)), origin)


def _pair(values: Mapping[str, Any], origin: str) -> MinimalPair:
    for name in (GOOD, BAD):
        text = values.get(name)
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{origin} has no text under {name!r}; a pair has {GOOD} and {BAD}")
        if not text.isprintable() and text_of(text.encode("utf-8", "surrogatepass")) is None:
            raise DataError(f"{origin} has half of a surrogate pair under {name!r}; write whole characters")
    told = next((values[name] for name in PHENOMENA if values.get(name)), "")
    return MinimalPair(values[GOOD].strip(), values[BAD].strip(), str(told).strip(), origin)
