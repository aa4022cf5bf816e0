"""What data gives and tasks take: batches, facts and questions. The only thing that `data/` and `tasks/` share.

Axes: B examples, S source positions, T target positions, L positions. Masks are True at real tokens.
Batches are named tuples, since Lightning moves those to a device field by field.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
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
        segments: Texts that make up one example, told apart by the model: 1, or 2 for pairs.
        center: Mean of the numbers that training asks for; 0 where it asks for none.
        scale: Their standard deviation; 1 where it asks for none.
        source_vocabulary: Number of token ids of sources that have a vocabulary of their own; None: all share one.
    """

    vocabulary: int
    pad: int
    bos: int
    eos: int
    mask: int = -1
    classes: tuple[str, ...] = ()
    segments: int = 1
    center: float = 0.0
    scale: float = 1.0
    source_vocabulary: int | None = None

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
    step_count: float
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
    step_count: float
    ids: Int[Tensor, " B"]


class CausalLMBatch(NamedTuple):
    """One micro-batch of texts whose every token is predicted from those before it.

    Attributes:
        tokens: Ids that the model reads: bos, then a document; or a part of one.
        mask: True at real tokens; padding stands at the end of a row.
        labels: The id that follows each of them, eos after a document; `IGNORED` at padding, and at tokens that only are
            the context of others.
        documents: Which document of its row each token belongs to, -1 at padding; None where no row has several.
        step_count: Labels of the whole step that count, over ranks and micro-batches.
        ids: Which examples these are.
        text_bytes: Length in UTF-8 of the documents, as they were read, that begin in each row.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    labels: Int[Tensor, "B L"]
    documents: Int[Tensor, "B L"] | None
    step_count: float
    ids: Int[Tensor, " B"]
    text_bytes: Int[Tensor, " B"]


class ClassificationBatch(NamedTuple):
    """One micro-batch of texts, or pairs of texts, with a class each.

    Attributes:
        tokens: Ids; of a pair, those of both texts, each ending in eos.
        mask: True at real tokens.
        labels: Class ids; `IGNORED` for an example that only fills an empty micro-batch.
        step_count: Examples of the whole step, over ranks and micro-batches, or their weights' sum: the loss's denominator.
        ids: Which examples these are; -1 for one that only fills.
        segments: 0 at tokens of the first text of a pair, 1 at those of the second; None where there are no pairs.
        weights: What the loss of each example is multiplied by in training, 0 for one that only fills; None: by one.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    labels: Shaped[Tensor, "B ..."]
    step_count: float
    ids: Int[Tensor, " B"]
    segments: Int[Tensor, "B L"] | None = None
    weights: Float[Tensor, " B"] | None = None


class MultilabelBatch(ClassificationBatch):
    """The same with several classes each: `labels` are [B, C], 1.0 at the classes of an example and 0.0 elsewhere."""

    __slots__ = ()


class RegressionBatch(ClassificationBatch):
    """The same with a number each: `labels` are [B] floats."""

    __slots__ = ()


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
    step_count: float
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


Batch = TranslationBatch | MaskedLMBatch | CausalLMBatch | ClassificationBatch | QuestionBatch
