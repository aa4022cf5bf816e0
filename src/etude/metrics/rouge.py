"""ROUGE (Lin 2004) by rouge-score, the reimplementation of the original script that papers report.

Its tokens are runs of a-z and 0-9 in lower case: it is meant for English.

Axes: N rows, R references of a row, P parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float64
from rouge_score.rouge_scorer import RougeScorer

from etude.metrics.score import Statistics, mean_of_rows

TYPES = {"1": "rouge1", "2": "rouge2", "l": "rougeL", "lsum": "rougeLsum"}
"""Part -> its name in rouge-score."""

Choice = Callable[[Float64[np.ndarray, "R P"]], Float64[np.ndarray, " P"]]


class ROUGE:
    """F1 of n-grams (1, 2) and of longest common subsequences (l; lsum: line by line), from 0 to 100, mean over rows.

    Args:
        stem: Whether Porter's stemmer removes the endings of English words, as in papers.
        several: Score of a row with several references: for each part the `best` one; for all parts that of the
            reference `closest` by ROUGE-1 (Cachola et al. 2020, SciTLDR); or the `mean` over references.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("1", "2", "l", "lsum")

    def __init__(self, stem: bool = True, several: Literal["best", "closest", "mean"] = "best") -> None:
        self._scorer = RougeScorer(list(TYPES.values()), use_stemmer=stem)
        choices: dict[str, Choice] = {"best": _best, "closest": _closest, "mean": _mean}
        self._choice = choices[several]
        self._settings = f"several:{several}|stat:f1|stem:{'yes' if stem else 'no'}|version:{version('rouge-score')}"

    def statistics(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Statistics]:
        """Return the F1 of each row, for each part."""
        values = np.array([self._row(output, row) for output, row in zip(outputs, references, strict=True)])
        counts = {len(row) for row in references}
        signature = f"nrefs:{counts.pop() if len(counts) == 1 else 'var'}|{self._settings}"
        return {
            part: mean_of_rows(column, signature, (0, 100)) for part, column in zip(self.PARTS, values.T, strict=True)
        }

    def _row(self, output: str, references: Sequence[str]) -> Float64[np.ndarray, " P"]:
        scores = [self._scorer.score(reference, output) for reference in references]
        return self._choice(np.array([[100 * score[name].fmeasure for name in TYPES.values()] for score in scores]))


def _best(values: Float64[np.ndarray, "R P"]) -> Float64[np.ndarray, " P"]:
    return values.max(axis=0)


def _closest(values: Float64[np.ndarray, "R P"]) -> Float64[np.ndarray, " P"]:
    return values[values[:, 0].argmax()]


def _mean(values: Float64[np.ndarray, "R P"]) -> Float64[np.ndarray, " P"]:
    return values.mean(axis=0)
