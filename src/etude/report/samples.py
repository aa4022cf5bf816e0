"""Samples of a validation: what a model has made beside what it should have made, with the differences marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics.chrf import CHRF

from etude.metrics.text_differences import TEXTS, Segment, differences, whole

SHOWN = 100
"""Largest number of samples on the page."""

LABELS = {"prediction": "label", "predictions": "labels"}
"""The same of labels, which are right or wrong."""


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
            rows = [{name: whole(text) for name, text in row.items()} for row in shown]
            return cls(step, columns, rows, list(range(len(rows))), [], total)
        judge = _chrf if made in TEXTS else _equal
        judged = [judge(row.get(made, ""), row.get(wanted, "")) for row in shown]
        places = sorted(range(len(shown)), key=judged.__getitem__)
        rows = [_marked(shown[place], made, wanted) for place in places]
        return cls(step, columns, rows, places, [judged[place] for place in places] if made in TEXTS else [], total)


def _marked(row: dict[str, str], made: str, wanted: str) -> dict[str, list[Segment]]:
    marked = dict(zip((wanted, made), differences(row.get(wanted, ""), row.get(made, "")), strict=True))
    return {name: marked.get(name, whole(text)) for name, text in row.items()}


def _chrf(output: str, reference: str) -> float:
    """Return sacreBLEU's chrF (Popović 2015) of one text, from 0 to 100; equal texts, empty ones too, have 100."""
    if output == reference:
        return 100.0
    score: float = CHRF(eps_smoothing=True).sentence_score(output, [reference]).score
    return score


def _equal(output: str, reference: str) -> float:
    return float(output == reference)
