"""Questions whose answers are spans of a passage, in windows of the passage.

Axes: N windows, Q questions.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Int

from etude.data.base import DataSettings, PlannedData
from etude.data.cache import Ragged, cached
from etude.data.loader import Slice, pad, token_mask
from etude.data.prepare import Corpus, Prepared, Split, prepare
from etude.growing import RaggedWriter
from etude.tokenization.base import Tokenizer
from etude.tokenization.windows import SPECIAL, Windows
from etude.types import IGNORED, Facts, Question, QuestionBatch

FORMAT = 1
"""Version of the stored files; folders of another version are not read."""

WHOLE = 1 << 31
"""More tokens than any passage has: passages are stored whole, and cut into windows when a batch is made."""

TOKENIZED_AT_ONCE = 500
"""Passages that are tokenized together."""


@dataclass(frozen=True)
class AnswerSpans:
    """The characters of the tokens of a split's passages, and the tokens of its answers.

    Attributes:
        offsets: For each passage, the first and one past the last character of each of its tokens, pair after pair.
        spans: First and last token of each question's first answer; -1 where it has none.
        exact: Whether the answer begins and ends where tokens do; if not, the span includes those tokens whole.
    """

    offsets: Ragged
    spans: Int[np.ndarray, "N 2"]
    exact: Bool[np.ndarray, " N"]

    def only(self, rows: Int[np.ndarray, " n"]) -> AnswerSpans:
        """Return the spans of some of the questions, in the given order."""
        return AnswerSpans(self.offsets.only(rows), self.spans[rows], self.exact[rows])


def locate_answers(prepared: Prepared, cache: Path) -> dict[str, AnswerSpans]:
    """Return the answer spans of each split, from the cache if they are there.

    Args:
        prepared: A corpus with the fields `context` and `answers` as texts.
        cache: Folder of prepared data.

    Raises:
        StorageError: If the cache cannot be written.
    """

    def build(folder: Path) -> None:
        for name, split in prepared.splits.items():
            (folder / name).mkdir()
            _write_spans(split, prepared.tokenizer, folder / name)

    folder = cached(Path(cache).expanduser() / "answers", f"{FORMAT}-{prepared.fingerprint}", build)
    return {
        name: AnswerSpans(
            Ragged(folder / name / "offsets", np.int32),
            np.load(folder / name / "spans.npy"),
            np.load(folder / name / "exact.npy"),
        )
        for name in prepared.splits
    }


def token_span(offsets: Int[np.ndarray, "n 2"], start: int, end: int) -> tuple[int, int] | None:
    """Return the first and the last token with characters of a range; None if no token has any.

    Args:
        offsets: First and one past the last character of each token, in the order of the text.
        start: First character of the range.
        end: One past its last character.
    """
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else None


def _write_spans(split: Split, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the answer spans of a split into its folder."""
    passages, answers = split.texts["context"], split.texts["answers"]
    spans, exact = np.empty((len(passages), 2), np.int64), np.empty(len(passages), bool)
    with RaggedWriter(folder / "offsets", np.int32) as writer:
        for start in range(0, len(passages), TOKENIZED_AT_ONCE):
            texts = passages[start : start + TOKENIZED_AT_ONCE]
            for row, (_, pairs) in enumerate(tokenizer.encode_with_offsets(texts), start):
                offsets = np.array(pairs, np.int64).reshape(-1, 2)
                writer.append(offsets.ravel().tolist())
                spans[row], exact[row] = _first_answer(json.loads(answers[row]), offsets)
    np.save(folder / "spans.npy", spans)
    np.save(folder / "exact.npy", exact)


def _first_answer(
    answers: dict[str, Sequence[str] | Sequence[int]], offsets: Int[np.ndarray, "n 2"]
) -> tuple[tuple[int, int], bool]:
    """Return the first and the last token of a question's first answer, and whether they are exactly the answer."""
    if not answers["text"]:
        return (-1, -1), True
    start = int(answers["answer_start"][0])
    end = start + len(str(answers["text"][0]))
    span = token_span(offsets, start, end)
    if span is None:
        return (-1, -1), False
    return span, bool(offsets[span[0], 0] == start and offsets[span[1], 1] == end)


class QuestionWindows:
    """The windows of a split's questions as batches.

    Attributes:
        questions: [N] question of each window.
        starts: [N] token of the passage that each window starts at.
        lengths: [N] tokens.
        counts: [N] ones: each window has a loss.

    Args:
        split: The prepared split.
        spans: Its answer spans.
        facts: The special ids.
        windows: How passages are cut into windows.
        left_out: Questions without windows.
    """

    def __init__(
        self, split: Split, spans: AnswerSpans, facts: Facts, windows: Windows, left_out: Bool[np.ndarray, " Q"]
    ) -> None:
        self._split, self._spans, self._facts, self._windows = split, spans.spans, facts, windows
        questions, passages = _lengths(split)
        numbers = np.where(left_out, 0, windows.numbers(questions, passages))
        self.questions = np.repeat(np.arange(len(split)), numbers)
        first = np.repeat(np.cumsum(numbers) - numbers, numbers)
        self.starts = (np.arange(len(first)) - first) * windows.stride
        questions, passages = questions[self.questions], passages[self.questions]
        part = np.minimum(windows.rooms(questions), passages - self.starts)
        self.lengths = np.minimum(questions, windows.max_question) + part + SPECIAL
        self.counts = np.ones(len(self.lengths), np.int64)

    def batch(self, part: Slice) -> QuestionBatch:
        """Return the padded batch of a slice."""
        questions, origins = self.questions[part.examples], self.starts[part.examples]
        windows = [self._window(question, start) for question, start in zip(questions, origins, strict=True)]
        rows, fronts = [row for row, _ in windows], np.array([front for _, front in windows])
        span = self._spans[questions] - origins[:, None]
        room = np.array([len(row) - 1 for row in rows]) - fronts
        inside = (span[:, 0] >= 0) & (span[:, 1] < room)
        labels = torch.from_numpy(np.where(inside[:, None], span + fronts[:, None], 0))
        ids = torch.from_numpy(part.examples.astype(np.int64))
        if part.filler:
            labels, ids = torch.full_like(labels, IGNORED), torch.full_like(ids, -1)
        return QuestionBatch(
            pad(rows, self._facts.pad),
            token_mask(rows),
            torch.from_numpy(fronts),
            torch.from_numpy(origins),
            labels[:, 0],
            labels[:, 1],
            part.denominator,
            ids,
            torch.from_numpy(questions),
        )

    def _window(self, question: int, start: int) -> tuple[Int[np.ndarray, " n"], int]:
        """Return the ids of a window, and the position at which the passage begins in it."""
        tokens, facts = self._split.tokens, self._facts
        return self._windows.window(
            tokens["question"][question], tokens["context"][question], start, facts.bos, facts.eos
        )


class QuestionData(PlannedData):
    """Questions from a corpus with the fields `question`, `context`, `answers` and `id`.

    An example is a window; a limit counts questions. A question whose answer no window has whole is left out of training,
    since its windows would teach that there is no answer.

    Args:
        corpus: Source of the questions.
        max_length: Longest window in tokens, special tokens included.
        stride: As in `Windows`.
        max_question: As in `Windows`.
        settings: As in `PlannedData`.

    Raises:
        ConfigurationError: If the windows do not fit together.
    """

    BATCH: ClassVar[str] = "QuestionBatch"

    def __init__(
        self, corpus: Corpus, max_length: int, stride: int, max_question: int, *, settings: DataSettings
    ) -> None:
        super().__init__(corpus, max_length, settings=settings)
        self.windows = Windows(max_length, stride, max_question)
        self._all_spans: dict[str, AnswerSpans] = {}

    def read(self) -> Prepared:
        """Return the tokenized questions and passages; what they lose to windows is counted with the dropped rows."""
        prepared = prepare(
            self.corpus,
            self.settings.tokenizer,
            text_fields=("question", "context"),
            max_length=WHOLE,
            overflow="truncate",
            cache=self.settings.cache,
            fields_as_text=("answers", "id"),
        )
        self._all_spans = locate_answers(prepared, self.settings.cache)
        dropped = {name: {**prepared.dropped[name], **self._lost(prepared, name)} for name in prepared.splits}
        return replace(prepared, dropped=dropped)

    def _lost(self, prepared: Prepared, name: str) -> dict[str, int]:
        """Return the number of questions of a split that lose something to the windows, by what they lose."""
        split, spans = prepared.splits[name], self._all_spans[name]
        affected = {
            "with a question that was cut": _lengths(split)[0] > self.windows.max_question,
            "with an answer that begins or ends inside a token, taken whole": ~spans.exact,
            "with an answer that no window has whole": self._in_no_window(split, spans),
        }
        return {reason: int(rows.sum()) for reason, rows in affected.items() if rows.any()}

    def _in_no_window(self, split: Split, spans: AnswerSpans) -> Bool[np.ndarray, " Q"]:
        """Return which questions have an answer that no window has whole."""
        answered = (spans.spans[:, 0] >= 0) | ~spans.exact
        return answered & (self.windows.holding(*_lengths(split), spans.spans) < 0)

    def examples(self, split: Split, *, training: bool) -> QuestionWindows:
        """Return the windows of the questions of a split."""
        spans = next(self.spans[name] for name, other in self.selected.items() if other is split)
        left_out = self._in_no_window(split, spans) & training
        return QuestionWindows(split, spans, self.facts, self.windows, left_out)

    @functools.cached_property
    def spans(self) -> dict[str, AnswerSpans]:
        """The answer spans of each split, within the limit."""
        selected = {}
        for name, split in self.prepared.splits.items():
            rows, spans = self.selection(name, len(split)), self._all_spans[name]
            selected[name] = spans if rows is None else spans.only(rows)
        return selected

    def text(self, split: str, field: str, example: int, epoch: int = 0) -> str:
        """Return a field of the question of a window."""
        return super().text(split, field, int(self._windows(split).questions[example]), epoch)

    def question(self, split: str, number: int) -> Question:
        """Return a question of a split."""
        read_from = "train" if self.settings.limit.overfit else split
        texts = self.selected[read_from].texts
        return Question(
            name=texts["id"][number],
            text=texts["question"][number],
            passage=texts["context"][number],
            offsets=self.spans[read_from].offsets[number].reshape(-1, 2),
            answers=tuple(json.loads(texts["answers"][number])["text"]),
        )

    @property
    def facts(self) -> Facts:
        """The vocabulary and the special ids; question and passage are two segments."""
        tokenizer = self.tokenizer
        return Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask, segments=2)

    def describe(self) -> dict[str, Any]:
        """Add the number of questions that have windows."""
        counts = {name: len(np.unique(self._windows(name).questions)) for name in self.splits}
        return {**super().describe(), "questions": counts}

    def _windows(self, split: str) -> QuestionWindows:
        return cast(QuestionWindows, self.splits[split])


def _lengths(split: Split) -> tuple[Int[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
    """Return the lengths of a split's questions and of its passages, in tokens."""
    return split.tokens["question"].lengths, split.tokens["context"].lengths
