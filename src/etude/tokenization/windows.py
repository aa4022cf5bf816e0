"""Overlapping windows of a passage, each with the question, for passages that are longer than a model's input.

Axes: N questions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from etude.errors import ConfigurationError

SPECIAL = 3
"""Tokens of a window besides question and passage: bos before the question, eos after each."""


@dataclass(frozen=True)
class Windows:
    """The windows of a question and a passage: bos question eos part-of-the-passage eos (Devlin et al. 2019, section 4.2).

    Attributes:
        max_length: Most tokens of a window.
        stride: Tokens of the passage from the start of one window to that of the next.
        max_question: Most tokens of a question; a longer one is truncated.

    Raises:
        ConfigurationError: If tokens of a passage would be in no window, or the stride is not positive.
    """

    max_length: int
    stride: int
    max_question: int

    def __post_init__(self) -> None:
        if self.stride < 1 or self.max_question < 1:
            raise ConfigurationError(
                f"data.stride = {self.stride} and data.max_question = {self.max_question} must be at least 1"
            )
        least = self.max_length - SPECIAL - self.max_question
        if self.stride > least:
            raise ConfigurationError(
                f"data.stride = {self.stride} leaves out tokens of the passage: with data.max_length = {self.max_length} and "
                f"data.max_question = {self.max_question} a window has {least} of them at least; write a smaller stride"
            )

    def rooms(self, questions: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Return the tokens that a window has room for besides each question, given the questions' lengths."""
        return self.max_length - SPECIAL - np.minimum(questions, self.max_question)

    def numbers(self, questions: Int[np.ndarray, " N"], passages: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Return the number of windows of each passage, given the lengths: as few as include all of its tokens.

        Window k starts at token k · stride. A passage without tokens has one window.
        """
        rest = np.maximum(passages - self.rooms(questions), 0)
        return 1 + -(-rest // self.stride)

    def holding(
        self, questions: Int[np.ndarray, " N"], passages: Int[np.ndarray, " N"], spans: Int[np.ndarray, "N 2"]
    ) -> Int[np.ndarray, " N"]:
        """Return a window that includes the whole of each span, given by its first and last token; -1: there is none."""
        # Of the windows that start before the span, the last one ends last.
        window = np.minimum(spans[:, 0] // self.stride, self.numbers(questions, passages) - 1)
        end = window * self.stride + self.rooms(questions)
        return np.where((spans[:, 0] >= 0) & (spans[:, 1] < end), window, -1)

    def window(
        self, question: Int[np.ndarray, " q"], passage: Int[np.ndarray, " p"], start: int, bos: int, eos: int
    ) -> tuple[Int[np.ndarray, " n"], int]:
        """Return the ids of the window that starts at a token of the passage, and that token's position in the window."""
        truncated = question[: self.max_question]
        part = passage[start : start + int(self.rooms(np.array(len(question))))]
        ids = np.concatenate(([bos], truncated, [eos], part, [eos])).astype(np.int64)
        return ids, len(truncated) + 2
