"""Selection of a question's answer from the best spans of its windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from etude.tasks.running_sums import Row
from etude.types import Question

Candidate = tuple[int, int, float]
"""First and last token of the passage, and the score."""


def merge_windows(question: Question, windows: Sequence[Row], count: int) -> Row:
    """Merge the candidates of the windows of a question.

    The null score (of no answer) is the lowest of all windows: if one window has an answer, it does not matter that the
    others have none (Devlin et al. 2019, section 4.3). A span that several windows have counts once, at its best score.

    Args:
        question: The question.
        windows: `null_score` and `spans`, which are candidates, of each window.
        count: Number of answers to keep.

    Returns:
        `null_score`, and `answers`: text, characters and score of each, the best first.
    """
    best: dict[tuple[int, int], float] = {}
    for first, last, score in (span for window in windows for span in window["spans"]):
        characters = int(question.offsets[first, 0]), int(question.offsets[last, 1])
        # A token without a character of its own, such as a lone accent, is not an answer.
        if characters[0] < characters[1]:
            best[characters] = max(score, best.get(characters, -math.inf))
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:count]
    return {
        "null_score": min(window["null_score"] for window in windows),
        "answers": [
            {"text": question.passage[start:end], "start": start, "end": end, "score": score}
            for (start, end), score in ranked
        ],
    }


def null_margin(row: Row) -> float:
    """Return the null score minus the score of the best answer; inf if there is no answer."""
    return row["null_score"] - row["answers"][0]["score"] if row["answers"] else math.inf


def select_answer(row: Row, threshold: float) -> dict[str, Any]:
    """Return text, characters and score of the answer; an empty text if the null score wins by more than the threshold."""
    answers = row["answers"]
    if not answers or null_margin(row) > threshold:
        return {"text": "", "start": None, "end": None, "score": row["null_score"]}
    return dict(answers[0])
