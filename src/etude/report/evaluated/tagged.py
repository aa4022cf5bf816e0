"""Sentences with marked words, prepared for a page: what was labelled beside what was predicted, and scores of each kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

COLOURS = 4
"""Number of colours; kinds are told apart by their letters too, since there may be more of them."""


class TextPart(NamedTuple):
    """A part of a sentence.

    Attributes:
        text: Its words.
        letters: What is written beside it: the beginning of its kind; empty if it is not marked.
        kind: Its kind.
        colour: Number of the kind's colour.
        told: What is wrong about it, in words; empty if nothing is.
    """

    text: str
    letters: str = ""
    kind: str = ""
    colour: int = 0
    told: str = ""


class KindScores(NamedTuple):
    """The scores of the spans of a kind, and how many there are."""

    kind: str
    labelled: int
    predicted: int
    right: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class MarkedSentences:
    """Sentences as they are shown.

    Attributes:
        kinds: Each kind with its letters and the number of its colour.
        rows: The parts of each sentence as labelled, and as predicted.
    """

    kinds: list[tuple[str, str, int]]
    rows: list[tuple[list[TextPart], list[TextPart]]]


def marked_sentences(tagged: Sequence[Mapping[str, Any]]) -> MarkedSentences:
    """Return the sentences of an evaluation's `details["tagged"]` as they are shown.

    Marks that are outside of a sentence, or overlap an earlier one, are left out: a file may say anything.
    """
    found = {mark[2] for row in tagged for side in ("labels", "predictions") for mark in row[side]}
    letters = beginnings(sorted(found))
    kinds = {kind: (text, number % COLOURS) for number, (kind, text) in enumerate(letters.items())}
    rows = []
    for row in tagged:
        words = [str(word) for word in row["words"]]
        labels, predictions = (_in_order(row[side], len(words)) for side in ("labels", "predictions"))
        rows.append(
            (
                list(_parts(words, labels, kinds, set(predictions), "missed")),
                list(_parts(words, predictions, kinds, set(labels), "wrong")),
            )
        )
    return MarkedSentences([(kind, *shown) for kind, shown in kinds.items()], rows)


def beginnings(kinds: Sequence[str]) -> dict[str, str]:
    """Return the shortest beginning of each kind that no other has, in capitals; the whole kind if there is none."""
    shown = {}
    for kind in kinds:
        others = [other.upper() for other in kinds if other != kind]
        sizes = range(1, len(kind) + 1)
        upper = kind.upper()
        unique = (upper[:size] for size in sizes if not any(other.startswith(upper[:size]) for other in others))
        shown[kind] = next(unique, upper)
    return shown


def _in_order(marks: Sequence[Sequence[Any]], words: int) -> list[tuple[int, int, str]]:
    """Return the marks that fit, in the order of the words."""
    kept: list[tuple[int, int, str]] = []
    for start, end, kind in sorted((int(mark[0]), int(mark[1]), str(mark[2])) for mark in marks):
        if start < end <= words and (not kept or start >= kept[-1][1]):
            kept.append((start, end, kind))
    return kept


def _parts(
    words: Sequence[str],
    marks: Sequence[tuple[int, int, str]],
    kinds: Mapping[str, tuple[str, int]],
    others: set[tuple[int, int, str]],
    told: str,
) -> Iterator[TextPart]:
    place = 0
    for mark in marks:
        start, end, kind = mark
        if start > place:
            yield TextPart(" ".join(words[place:start]))
        letters, colour = kinds[kind]
        yield TextPart(" ".join(words[start:end]), letters, kind, colour, "" if mark in others else told)
        place = end
    if place < len(words):
        yield TextPart(" ".join(words[place:]))


def kind_scores(spans: Mapping[str, Mapping[str, int]]) -> list[KindScores]:
    """Return precision, recall and F1 of each kind of an evaluation's `details["spans"]`, from 0 to 1."""
    found = []
    for kind, counts in spans.items():
        labelled, predicted, right = (counts.get(name, 0) for name in ("labelled", "predicted", "right"))
        precision, recall = (right / total if total else 0.0 for total in (predicted, labelled))
        both = labelled + predicted
        found.append(KindScores(kind, labelled, predicted, right, precision, recall, 2 * right / both if both else 0.0))
    return found
