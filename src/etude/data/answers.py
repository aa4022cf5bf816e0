"""Where the wanted answers are among the tokens of their passages: found once, and kept beside the prepared texts.

Axes: N questions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from etude.data.cache import Ragged, RaggedWriter, cached
from etude.data.prepare import Prepared, Split
from etude.tokenization.tokenizer import Tokenizer

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
