"""Samples of a validation: what a model has made beside what it should have made, with the differences marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from sacrebleu.metrics.chrf import CHRF

SHOWN = 100
"""Largest number of samples on the page."""

WORDS = 2_000
"""Words of a text up to which differences are marked: the time of a comparison grows with their square."""

TEXTS = {"output": "reference", "answer": "wanted", "guessed": "hidden"}
"""Columns of texts that a model has made, and those of what it should have made."""

LABELS = {"prediction": "label", "predictions": "labels"}
"""The same of labels, which are right or wrong."""

Kind = Literal["same", "missing", "extra"]

# Scripts that write no spaces are compared by letter.
_WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|\w+|\s+|[^\w\s]")


class Segment(NamedTuple):
    """A part of a text.

    Attributes:
        text: The part.
        kind: `same`, `missing` from the other text, or `extra`, which only the other one lacks.
    """

    text: str
    kind: Kind


@dataclass(frozen=True)
class ShownSamples:
    """Outputs of the last validation.

    Attributes:
        step: Step of the validation.
        columns: Names of the texts, in order of first occurrence.
        rows: The texts of each sample by name, in parts.
        places: Place of each row in the data, from 0.
        scores: chrF of each row's output to its reference; empty where outputs are no texts.
        total: Number of samples in the file; `rows` may hold fewer.
    """

    step: int
    columns: list[str]
    rows: list[dict[str, list[Segment]]]
    places: list[int]
    scores: list[float]
    total: int

    @classmethod
    def of(cls, step: int, samples: Sequence[dict[str, str]]) -> ShownSamples:
        """Return samples as they are shown: those farthest from their reference, or wrong, first.

        Args:
            step: Step of the validation.
            samples: Texts by name.
        """
        columns = list(dict.fromkeys(name for row in samples for name in row))
        shown, total = samples[:SHOWN], len(samples)
        pairs = ((made, wanted) for made, wanted in (TEXTS | LABELS).items() if made in columns and wanted in columns)
        made, wanted = next(pairs, ("", ""))
        if not made:
            rows = [{name: _whole(text) for name, text in row.items()} for row in shown]
            return cls(step, columns, rows, list(range(len(rows))), [], total)
        judge = _chrf if made in TEXTS else _equal
        judged = [judge(row.get(made, ""), row.get(wanted, "")) for row in shown]
        places = sorted(range(len(shown)), key=judged.__getitem__)
        rows = [_marked(shown[place], made, wanted) for place in places]
        return cls(step, columns, rows, places, [judged[place] for place in places] if made in TEXTS else [], total)


def _marked(row: dict[str, str], made: str, wanted: str) -> dict[str, list[Segment]]:
    marked = dict(zip((wanted, made), differences(row.get(wanted, ""), row.get(made, "")), strict=True))
    return {name: marked.get(name, _whole(text)) for name, text in row.items()}


def differences(reference: str, output: str) -> tuple[list[Segment], list[Segment]]:
    """Return two texts in parts: words of the reference that are missing, and words of the output that are extra.

    Joined, the parts are the texts. Texts of more than `WORDS` words are not compared.
    """
    sides = [_WORD.findall(text) for text in (reference, output)]
    if max(map(len, sides)) > WORDS:
        return _whole(reference), _whole(output)
    found: tuple[list[Segment], list[Segment]] = ([], [])
    for tag, *bounds in SequenceMatcher(None, sides[0], sides[1], autojunk=False).get_opcodes():
        parts = ("".join(side[begin:end]) for side, begin, end in zip(sides, bounds[::2], bounds[1::2], strict=True))
        kinds: tuple[Kind, Kind] = ("same", "same") if tag == "equal" else ("missing", "extra")
        for segments, part, kind in zip(found, parts, kinds, strict=True):
            if part:
                segments.append(Segment(part, kind))
    return found


def _whole(text: str) -> list[Segment]:
    return [Segment(text, "same")] if text else []


def _chrf(output: str, reference: str) -> float:
    """Return sacreBLEU's chrF (Popović 2015) of one text, from 0 to 100; equal texts, empty ones too, have 100."""
    if output == reference:
        return 100.0
    score: float = CHRF(eps_smoothing=True).sentence_score(output, [reference]).score
    return score


def _equal(output: str, reference: str) -> float:
    return float(output == reference)
