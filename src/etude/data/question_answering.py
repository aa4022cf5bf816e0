"""Questions whose answers are parts of a passage, in windows of the passage.

Axes: N windows, Q questions.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Int

from etude.data.base import PlannedData
from etude.data.cache import Ragged, RaggedWriter, cached
from etude.data.loader import Slice, pad, real
from etude.data.prepare import Corpus, Prepared, Split, prepare
from etude.data.sizes import BatchSize, Limit
from etude.tokenization.base import Tokenizer, TokenizerRecipe
from etude.tokenization.windows import SPECIAL, Windows
from etude.types import IGNORED, Facts, Question, QuestionBatch

FORMAT = 1
"""Version of what is written; a new one leaves the folders of the old one unread."""

AT_ONCE = 500
"""Passages that are tokenized together."""


@dataclass(frozen=True)
class Located:
    """The tokens of a split's passages as characters, and those of its answers.

    Attributes:
        offsets: For each passage, first and last + 1 character of each of its tokens, one pair after the other.
        spans: First and last token of each question's first answer; -1 where it has none.
        exact: Whether the answer begins and ends where tokens do; otherwise the span has its tokens whole.
    """

    offsets: Ragged
    spans: Int[np.ndarray, "N 2"]
    exact: Bool[np.ndarray, " N"]

    def only(self, chosen: Int[np.ndarray, " n"]) -> Located:
        """Return what is said of some of the questions, in a given order."""
        return Located(self.offsets.only(chosen), self.spans[chosen], self.exact[chosen])


def located(prepared: Prepared, cache: Path) -> dict[str, Located]:
    """Return where the answers of each split are, from the cache or found now.

    Args:
        prepared: A corpus with the fields `context` and `answers` as texts.
        cache: Folder of prepared data.

    Raises:
        StorageError: If the cache cannot be written.
    """

    def build(folder: Path) -> None:
        for name, split in prepared.splits.items():
            (folder / name).mkdir()
            _locate(split, prepared.tokenizer, folder / name)

    folder = cached(Path(cache).expanduser() / "answers", f"{FORMAT}-{prepared.fingerprint}", build)
    return {
        name: Located(
            Ragged(folder / name / "offsets", np.int32),
            np.load(folder / name / "spans.npy"),
            np.load(folder / name / "exact.npy"),
        )
        for name in prepared.splits
    }


def token_span(offsets: Int[np.ndarray, "n 2"], start: int, end: int) -> tuple[int, int] | None:
    """Return the first and the last of the tokens that have characters of a range; None if there is none.

    Args:
        offsets: First and last + 1 character of each token, in the order of the text.
        start: The range's first character.
        end: The character behind its last.
    """
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else None


def _locate(split: Split, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files of a split into its folder."""
    passages, answers = split.texts["context"], split.texts["answers"]
    spans, exact = np.full((len(passages), 2), -1, np.int64), np.ones(len(passages), bool)
    with RaggedWriter(folder / "offsets", np.int32) as writer:
        for start in range(0, len(passages), AT_ONCE):
            texts = passages[start : start + AT_ONCE]
            for row, (_, pairs) in enumerate(tokenizer.encode_with_offsets(texts), start):
                offsets = np.array(pairs, np.int64).reshape(-1, 2)
                writer.append(offsets.ravel().tolist())
                found = _of_first_answer(json.loads(answers[row]), offsets)
                if found is not None:
                    spans[row], exact[row] = found
    np.save(folder / "spans.npy", spans)
    np.save(folder / "exact.npy", exact)


def _of_first_answer(
    answers: dict[str, Sequence[str] | Sequence[int]], offsets: Int[np.ndarray, "n 2"]
) -> tuple[tuple[int, int], bool] | None:
    if not answers["text"]:
        return None
    start = int(answers["answer_start"][0])
    end = start + len(str(answers["text"][0]))
    span = token_span(offsets, start, end)
    if span is None:
        return (-1, -1), False
    return span, bool(offsets[span[0], 0] == start and offsets[span[1], 1] == end)


UNCUT = 1 << 31
"""More tokens than a text has: passages are stored whole, and windows made of them when a batch is."""


class QuestionWindows:
    """The windows of a split's questions as batches.

    Attributes:
        questions: [N] whose windows they are.
        starts: [N] the token of the passage that each starts at.
        lengths: [N] tokens.
        counts: [N] ones: a loss is taken at each window.

    Args:
        split: The prepared split.
        found: Where its answers are.
        rows: How many of its questions are used, the first ones.
        facts: The special ids.
        windows: How they are made.
        left_out: Questions without windows.
    """

    def __init__(
        self, split: Split, found: Located, rows: int, facts: Facts, windows: Windows, left_out: Bool[np.ndarray, " Q"]
    ) -> None:
        self._split, self._spans, self._facts, self._windows = split, found.spans, facts, windows
        asked, read = _lengths(split)
        numbers = np.where(left_out, 0, windows.numbers(asked, read))[:rows]
        self.questions = np.repeat(np.arange(rows), numbers)
        first = np.repeat(np.cumsum(numbers) - numbers, numbers)
        self.starts = (np.arange(len(first)) - first) * windows.stride
        asked, read = asked[self.questions], read[self.questions]
        part = np.minimum(windows.rooms(asked), read - self.starts)
        self.lengths = np.minimum(asked, windows.max_question) + part + SPECIAL
        self.counts = np.ones(len(self.lengths), np.int64)

    def batch(self, part: Slice) -> QuestionBatch:
        """Return the padded batch of a slice."""
        questions, origins = self.questions[part.examples], self.starts[part.examples]
        made = [self._window(question, start) for question, start in zip(questions, origins, strict=True)]
        rows, fronts = [row for row, _ in made], np.array([front for _, front in made])
        span = self._spans[questions] - origins[:, None]
        room = np.array([len(row) - 1 for row in rows]) - fronts
        inside = (span[:, 0] >= 0) & (span[:, 1] < room)
        labels = torch.from_numpy(np.where(inside[:, None], span + fronts[:, None], 0))
        ids = torch.from_numpy(part.examples.astype(np.int64))
        if part.filler:
            labels, ids = torch.full_like(labels, IGNORED), torch.full_like(ids, -1)
        return QuestionBatch(
            pad(rows, self._facts.pad),
            real(rows),
            torch.from_numpy(fronts),
            torch.from_numpy(origins),
            labels[:, 0],
            labels[:, 1],
            part.denominator,
            ids,
            torch.from_numpy(questions),
        )

    def _window(self, question: int, start: int) -> tuple[Int[np.ndarray, " n"], int]:
        tokens, facts = self._split.tokens, self._facts
        return self._windows.window(
            tokens["question"][question], tokens["context"][question], start, facts.bos, facts.eos
        )


class QuestionData(PlannedData):
    """Questions from a corpus with the fields `question`, `context`, `answers` and `id`.

    An example is a window; a limit counts questions. In training, an answer that no window has whole leaves its question
    out, since its windows would teach that there is none.

    Args:
        corpus: Where the questions come from.
        max_length: Longest window in tokens, special tokens included.
        stride: As in `Windows`.
        max_question: As in `Windows`.
        tokenizer: How a tokenizer is made, or the one of an earlier run.
        seed: The run's seed.
        batch: The size of a global batch.
        limit: How much of each split is used.
        cache: Folder of prepared data.
        micro_batches: Slices of each step on each process.
        workers: Processes that make batches.

    Raises:
        ConfigurationError: If the windows do not fit together.
    """

    BATCH: ClassVar[str] = "QuestionBatch"

    def __init__(
        self,
        corpus: Corpus,
        max_length: int,
        stride: int,
        max_question: int,
        *,
        tokenizer: TokenizerRecipe | Tokenizer,
        seed: int,
        batch: BatchSize,
        limit: Limit,
        cache: Path,
        micro_batches: int = 1,
        workers: int = 0,
    ) -> None:
        super().__init__(
            corpus,
            max_length,
            tokenizer=tokenizer,
            seed=seed,
            batch=batch,
            limit=limit,
            cache=cache,
            micro_batches=micro_batches,
            workers=workers,
        )
        self.windows = Windows(max_length, stride, max_question)
        self.found: dict[str, Located] = {}

    def read(self) -> Prepared:
        """Return the tokenized questions and passages; what windows do to them is counted with what was dropped."""
        prepared = prepare(
            self.corpus,
            self._recipe,
            text_fields=("question", "context"),
            max_length=UNCUT,
            overflow="truncate",
            cache=self.cache,
            fields_as_text=("answers", "id"),
        )
        self.found = located(prepared, self.cache)
        dropped = {name: {**prepared.dropped[name], **self._changed(prepared, name)} for name in prepared.splits}
        return dataclasses.replace(prepared, dropped=dropped)

    def _changed(self, prepared: Prepared, name: str) -> dict[str, int]:
        """Return how many questions of a split lose something to the windows, by what they lose."""
        split, found = prepared.splits[name], self.found[name]
        counts = {
            "with a question that was cut": _lengths(split)[0] > self.windows.max_question,
            "with an answer that begins or ends inside a token, taken whole": ~found.exact,
            "with an answer that no window has whole": self._without_window(split, found),
        }
        return {reason: int(rows.sum()) for reason, rows in counts.items() if rows.any()}

    def _without_window(self, split: Split, found: Located) -> Bool[np.ndarray, " Q"]:
        answered = (found.spans[:, 0] >= 0) | ~found.exact
        return answered & (self.windows.holding(*_lengths(split), found.spans) < 0)

    def examples(self, split: Split, rows: int, *, training: bool) -> QuestionWindows:
        """Return the windows of the first `rows` questions of a split."""
        found = next(self.places[name] for name, other in self.used.items() if other is split)
        left_out = self._without_window(split, found) & training
        return QuestionWindows(split, found, rows, self.facts, self.windows, left_out)

    @functools.cached_property
    def places(self) -> dict[str, Located]:
        """Where the answers to the questions that are used are, by split."""
        places = {}
        for name, split in self.prepared.splits.items():
            chosen, found = self.chosen(name, len(split.tokens["question"])), self.found[name]
            places[name] = found if chosen is None else found.only(chosen)
        return places

    def text(self, split: str, field: str, example: int, epoch: int = 0) -> str:
        """Return a field of the question that an example is a window of."""
        return super().text(split, field, int(self._windows(split).questions[example]), epoch)

    def question(self, split: str, number: int) -> Question:
        """Return a question of a split."""
        read_from = "train" if self.limit.overfit else split
        texts = self.used[read_from].texts
        return Question(
            name=texts["id"][number],
            text=texts["question"][number],
            passage=texts["context"][number],
            offsets=self.places[read_from].offsets[number].reshape(-1, 2),
            answers=tuple(json.loads(texts["answers"][number])["text"]),
        )

    @property
    def facts(self) -> Facts:
        """The vocabulary and the special ids; question and passage are two texts."""
        tokenizer = self.tokenizer
        return Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask, segments=2)

    def describe(self) -> dict[str, Any]:
        """Add how many questions the windows are of."""
        counts = {name: len(np.unique(self._windows(name).questions)) for name in self.splits}
        return {**super().describe(), "questions": counts}

    def _windows(self, split: str) -> QuestionWindows:
        return cast(QuestionWindows, self.splits[split])


def _lengths(split: Split) -> tuple[Int[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
    """Return the tokens of questions and of passages."""
    return split.tokens["question"].lengths, split.tokens["context"].lengths
