"""From the best spans of windows to the answer of a question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from etude.tasks.running_sums import Row
from etude.types import Question

Candidate = tuple[int, int, float]
"""First and last token of the passage, and the score."""


def answers_of(question: Question, windows: Sequence[Row], count: int) -> Row:
    """Bring together what the windows of a question say.

    The score of no answer is the lowest of all windows: where one window has an answer, it counts for nothing that
    others have none (Devlin et al. 2019, section 4.3). A span that several windows have counts once, at its best score.

    Args:
        question: The question.
        windows: Of each window, `null_score` and `spans`, which are candidates.
        count: How many answers are kept.

    Returns:
        `null_score`, and `answers`: text, characters and score of each, the best first.
    """
    best: dict[tuple[int, int], float] = {}
    for first, last, score in (span for window in windows for span in window["spans"]):
        place = int(question.offsets[first, 0]), int(question.offsets[last, 1])
        # A token without a character of its own, such as a lone accent, is no answer.
        if place[0] < place[1]:
            best[place] = max(score, best.get(place, -math.inf))
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:count]
    return {
        "null_score": min(window["null_score"] for window in windows),
        "answers": [
            {"text": question.passage[start:end], "start": start, "end": end, "score": score}
            for (start, end), score in ranked
        ],
    }


def null_difference(row: Row) -> float:
    """Return how much higher the score of no answer is than that of the best one; inf where there is none."""
    return row["null_score"] - row["answers"][0]["score"] if row["answers"] else math.inf


def chosen(row: Row, threshold: float) -> dict[str, Any]:
    """Return text, characters and score of the answer; an empty text if no answer wins by more than the threshold."""
    answers = row["answers"]
    if not answers or null_difference(row) > threshold:
        return {"text": "", "start": None, "end": None, "score": row["null_score"]}
    return dict(answers[0])
