"""What data gives and tasks take: batches, facts and questions. The only thing that `data/` and `tasks/` share.

Axes: B examples, S source positions, T target positions, L positions. Masks are True at real tokens.
Batches are named tuples, since Lightning moves those to a device field by field.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

IGNORED = -100
"""The label of a position that no loss is taken at."""


@dataclass(frozen=True)
class Facts:
    """What a model must know of the data; saved with the run as `facts.json`.

    Attributes:
        vocabulary: Number of token ids.
        pad: Id of padding.
        bos: Id that starts a sequence.
        eos: Id that ends a sequence.
        mask: Id of a masked token; -1 where the tokenizer has none.
        classes: Names of the classes, in the order of their ids; empty where there are none.
    """

    vocabulary: int
    pad: int
    bos: int
    eos: int
    mask: int = -1
    classes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the facts as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Facts:
        """Rebuild facts that `to_json` wrote."""
        return cls(**{**values, "classes": tuple(values["classes"])})


class TranslationBatch(NamedTuple):
    """One micro-batch of sentence pairs.

    Attributes:
        source: Source ids, ending in eos.
        source_mask: True at real source tokens.
        inputs: Decoder inputs: bos, then the target.
        labels: The target, then eos; `IGNORED` at padding.
        target_mask: True at real decoder inputs.
        step_count: Target tokens of the whole step, over ranks and micro-batches: the loss's denominator.
        ids: Which examples these are.
    """

    source: Int[Tensor, "B S"]
    source_mask: Bool[Tensor, "B S"]
    inputs: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]
    target_mask: Bool[Tensor, "B T"]
    step_count: int
    ids: Int[Tensor, " B"]


class MaskedLMBatch(NamedTuple):
    """One micro-batch of texts with some tokens hidden.

    Attributes:
        tokens: Ids, some of them replaced.
        mask: True at real tokens.
        labels: The original id where a token was chosen for prediction, `IGNORED` elsewhere.
        step_count: Chosen positions of the whole step, over ranks and micro-batches.
        ids: Which examples these are.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    labels: Int[Tensor, "B L"]
    step_count: int
    ids: Int[Tensor, " B"]


class ClassificationBatch(NamedTuple):
    """One micro-batch of labelled texts.

    Attributes:
        tokens: Ids.
        mask: True at real tokens.
        labels: Class ids; `IGNORED` for an example that only fills an empty micro-batch.
        step_count: Examples of the whole step, over ranks and micro-batches.
        ids: Which examples these are.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    labels: Int[Tensor, " B"]
    step_count: int
    ids: Int[Tensor, " B"]


class QuestionBatch(NamedTuple):
    """One micro-batch of windows: bos question eos part-of-the-passage eos.

    Attributes:
        tokens: Ids.
        mask: True at real tokens.
        fronts: Where the passage's part begins in each window.
        origins: Which token of the passage that is.
        starts: Position of the first token of the answer; 0, that of bos, where the window does not have all of it;
            `IGNORED` for a window that only fills an empty micro-batch.
        ends: Position of its last token, likewise.
        step_count: Windows of the whole step, over ranks and micro-batches.
        ids: Which windows these are.
        questions: Whose windows they are.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    fronts: Int[Tensor, " B"]
    origins: Int[Tensor, " B"]
    starts: Int[Tensor, " B"]
    ends: Int[Tensor, " B"]
    step_count: int
    ids: Int[Tensor, " B"]
    questions: Int[Tensor, " B"]


@dataclass(frozen=True)
class Question:
    """A question about a passage, as it was read.

    Attributes:
        name: Its id in the file that it comes from; empty where it has none.
        text: What is asked.
        passage: The text that it is asked about, to the letter.
        offsets: For each token of the passage, its first character and the one behind its last.
        answers: The wanted answers; none where the passage has none.
    """

    name: str
    text: str
    passage: str
    offsets: Int[np.ndarray, "n 2"]
    answers: tuple[str, ...] = ()


Batch = TranslationBatch | MaskedLMBatch | ClassificationBatch | QuestionBatch
