"""Exact match and F1 of answers, as the SQuAD 2.0 reference script computes them (Rajpurkar et al. 2016, 2018).

An empty text means that there is no answer. torchmetrics' SQuAD returns no scores of single rows, needs a reference for
each question, and counts references that are nothing but articles and punctuation, which the script does not.

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
    """Return an answer in lower case, without punctuation, articles and extra white space."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def normalised_references(references: Sequence[str]) -> list[str]:
    """Return the normalised reference answers that are not empty, or a single empty one."""
    return [text for text in map(normalised, references) if text] or [""]


def exact(answer: str, reference: str) -> float:
    """Return 1 if two normalised answers are equal, else 0."""
    return float(answer == reference)


def f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall of the words that two normalised answers share."""
    words, reference_words = answer.split(), reference.split()
    if not words or not reference_words:
        return float(words == reference_words)
    same = sum((Counter(words) & Counter(reference_words)).values())
    return 2 * same / (len(words) + len(reference_words))


class _AnswerMetric(ABC):
    """A mean over rows of the best value among the references, from 0 to 100; also over questions with and without answer."""

    PARTS: ClassVar[tuple[str, ...]] = ("", "has_answer", "no_answer")

    def statistics(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Statistics]:
        """Return the value of each row: over all rows, over those with an answer, and over those without, if there are any.

        Args:
            outputs: Predicted answer of each row; empty for no answer.
            references: Reference answers of each row; only empty ones where the passage has no answer.
        """
        values = np.array([self.value(output, row) for output, row in zip(outputs, references, strict=True)])
        answerable = np.array([any(row) for row in references])
        parts = {"": np.ones(len(values), bool), "has_answer": answerable, "no_answer": ~answerable}
        return {
            part: mean_of_rows(values, "nrefs:var|squad:2.0", (0, 100), rows)
            for part, rows in parts.items()
            if rows.any()
        }

    def value(self, output: str, references: Sequence[str]) -> float:
        """Return the value of an answer, from 0 to 100."""
        answer = normalised(output)
        return 100 * max(self._compare(answer, reference) for reference in normalised_references(references))

    @staticmethod
    @abstractmethod
    def _compare(answer: str, reference: str) -> float:
        """Return the value of a normalised answer given one normalised reference, from 0 to 1."""


class AnswerExactMatch(_AnswerMetric):
    """The share of answers that equal a reference, in percent."""

    _compare = staticmethod(exact)


class AnswerF1(_AnswerMetric):
    """The mean F1 of the words of answer and reference, in percent."""

    _compare = staticmethod(f1)


def best_null_threshold(differences: Sequence[float], answered: Sequence[float], silent: Sequence[float]) -> float:
    """Return the threshold of the no-answer difference up to which questions are answered for the largest sum of values.

    Of equally good thresholds it is the largest, so that as many questions as possible are answered, and midway between
    two differences.

    Args:
        differences: Score of no answer less that of the best answer, for each question; inf where none is possible.
        answered: Value of each question if it is answered.
        silent: Value of each question if it is not.

    Returns:
        The threshold; inf: answer all, -inf: answer none.
    """
    order = np.argsort(np.asarray(differences), kind="stable")
    ascending = np.asarray(differences, np.float32)[order]
    gains = (np.asarray(answered, np.float64) - np.asarray(silent, np.float64))[order]
    totals = np.concatenate(([0.0], np.cumsum(gains)))
    # Questions with equal differences are answered together or not at all.
    cuts = np.concatenate(([True], ascending[1:] != ascending[:-1], [True]))
    best = len(ascending) - int(np.where(cuts, totals, -math.inf)[::-1].argmax())
    if best in (0, len(ascending)):
        return -math.inf if best == 0 else math.inf
    below, above = ascending[best - 1], ascending[best]
    middle = np.float32(below + (above - below) / 2)
    return float(middle if middle < above else below)
