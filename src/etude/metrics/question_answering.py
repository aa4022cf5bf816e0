"""Exact match and F1 of answers, as the SQuAD 2.0 reference script computes them (Rajpurkar et al. 2016, 2018).

An empty text says that there is no answer. torchmetrics' SQuAD gives no values of single rows, needs a wanted answer to
each question, and counts wanted answers of nothing but articles and punctuation, which the script does not.

Axes: N rows.
"""

from __future__ import annotations

import math
import re
import string
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from etude.metrics.score import Statistics, mean_of_rows

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """Return an answer in lower case without punctuation, articles and needless white space."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def wanted(references: Sequence[str]) -> list[str]:
    """Return the normalised answers that count, of which there is an empty one if there is no other."""
    return [text for text in map(normalised, references) if text] or [""]


def exact(answer: str, reference: str) -> float:
    """Return 1 if two normalised answers are equal, else 0."""
    return float(answer == reference)


def f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall of the words that two normalised answers share."""
    given, gold = answer.split(), reference.split()
    if not given or not gold:
        return float(given == gold)
    same = sum((Counter(given) & Counter(gold)).values())
    return 2 * same / (len(given) + len(gold))


class _AnswerMetric(ABC):
    """A mean over rows, from 0 to 100, of what is best among the wanted answers; also over questions of each kind."""

    PARTS: ClassVar[tuple[str, ...]] = ("", "has_answer", "no_answer")

    def statistics(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Statistics]:
        """Return the value of each row: of all, and of those that have an answer and have none, as far as there are any.

        Args:
            outputs: An answer for each row; empty: none.
            references: The wanted answers of each row; nothing but empty ones where the passage has none.
        """
        values = np.array([self.value(output, row) for output, row in zip(outputs, references, strict=True)])
        answerable = np.array([any(row) for row in references])
        chosen = {"": np.ones(len(values), bool), "has_answer": answerable, "no_answer": ~answerable}
        return {
            part: mean_of_rows(values, "nrefs:var|squad:2.0", (0, 100), rows)
            for part, rows in chosen.items()
            if rows.any()
        }

    def value(self, output: str, references: Sequence[str]) -> float:
        """Return the value of an answer, from 0 to 100."""
        return 100 * max(self._compare(normalised(output), reference) for reference in wanted(references))

    @staticmethod
    @abstractmethod
    def _compare(answer: str, reference: str) -> float:
        """Return the value of a normalised answer beside one wanted answer, from 0 to 1."""


class AnswerExactMatch(_AnswerMetric):
    """How many answers are a wanted one, in percent."""

    _compare = staticmethod(exact)


class AnswerF1(_AnswerMetric):
    """The mean F1 of words, in percent."""

    _compare = staticmethod(f1)


def best_null_threshold(differences: Sequence[float], answered: Sequence[float], silent: Sequence[float]) -> float:
    """Return the threshold up to which questions are answered, so that the sum of their values is largest.

    Of equally good ones it is the largest: what may be answered is. It lies in the middle between two differences, as far
    from both as it can.

    Args:
        differences: For each question, the score of no answer less that of the best answer; inf where none is possible.
        answered: The value of each question if it is answered.
        silent: Its value if it is not.

    Returns:
        A threshold; inf: answer all, -inf: answer none.
    """
    order = np.argsort(np.asarray(differences), kind="stable")
    known = np.asarray(differences, np.float32)[order]
    gains = (np.asarray(answered, np.float64) - np.asarray(silent, np.float64))[order]
    totals = np.concatenate(([0.0], np.cumsum(gains)))
    # Questions of equal differences are answered together or not at all.
    cuts = np.concatenate(([True], known[1:] != known[:-1], [True]))
    best = len(known) - int(np.where(cuts, totals, -math.inf)[::-1].argmax())
    if best in (0, len(known)):
        return -math.inf if best == 0 else math.inf
    below, above = known[best - 1], known[best]
    middle = np.float32(below + (above - below) / 2)
    return float(middle if middle < above else below)
