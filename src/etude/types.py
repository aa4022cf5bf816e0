"""Types that data modules return and tasks take: batches, facts and questions. `data/` and `tasks/` share nothing else.

Axes: B examples, S source positions, T target positions, L positions. Masks are True at real tokens.
Batches are named tuples, since Lightning moves those to a device field by field. A filler is the batch of a micro-batch for
which a step has no example: it counts for nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

IGNORED = -100
"""Label of a position without a loss."""


@dataclass(frozen=True)
class Facts:
    """What a model must know of the data; saved with the run as `facts.json`.

    Attributes:
        vocabulary: Number of token ids.
        pad: Id of padding.
        bos: Id that starts a sequence.
        eos: Id that ends a sequence.
        mask: Id of the mask token; -1 if the tokenizer has none.
        classes: Names of the classes, in the order of their ids; empty if there are none.
        segments: Number of texts of an example, which the model distinguishes: 1, or 2 for pairs.
        center: Mean of the training labels if they are numbers, else 0.
        scale: Standard deviation of the training labels if they are numbers, else 1.
        source_vocabulary: Number of token ids of sources with a vocabulary of their own; None: all texts share one.
        turn_end: Id that ends what the assistant says in a conversation; -1 where there are no conversations.
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
    turn_end: int = -1

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
        step_count: Target tokens of the whole step, over ranks and micro-batches: the denominator of the loss.
        ids: Indices of the examples; -1 in a filler.
    """

    source: Int[Tensor, "B S"]
    source_mask: Bool[Tensor, "B S"]
    inputs: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]
    target_mask: Bool[Tensor, "B T"]
    step_count: float
    ids: Int[Tensor, " B"]


class MaskedLMBatch(NamedTuple):
    """One micro-batch of texts with some tokens masked.

    Attributes:
        tokens: Input ids, some of them replaced.
        mask: True at real tokens.
        labels: Original id of each token that was chosen for prediction, `IGNORED` elsewhere.
        step_count: Predicted tokens of the whole step, over ranks and micro-batches: the denominator of the loss.
        ids: Indices of the examples; -1 in a filler.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    labels: Int[Tensor, "B L"]
    step_count: float
    ids: Int[Tensor, " B"]


class CausalLMBatch(NamedTuple):
    """One micro-batch of texts of which every token is predicted from those before it.

    Attributes:
        tokens: Input ids: bos and a document, or parts of documents.
        mask: True at real tokens; padding is at the end of a row.
        labels: Id that follows each token, eos after a document; `IGNORED` at padding, and at tokens that are only context.
        documents: Document of each token, counted in its row, -1 at padding; None if no row has several.
        step_count: Labels of the whole step, over ranks and micro-batches: the denominator of the loss.
        ids: Indices of the examples; -1 in a filler.
        text_bytes: Bytes in UTF-8 of the documents that begin in each row, as they were read.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    labels: Int[Tensor, "B L"]
    documents: Int[Tensor, "B L"] | None
    step_count: float
    ids: Int[Tensor, " B"]
    text_bytes: Int[Tensor, " B"]


class ConversationBatch(CausalLMBatch):
    """The same of conversations, whole ones, several of them in a row.

    `labels` are `IGNORED` everywhere but before the tokens that the assistant has written, and `text_bytes` are those of
    what it has written. `documents` keeps the conversations of a row apart.
    """

    __slots__ = ()


class ClassificationBatch(NamedTuple):
    """One micro-batch of texts, or pairs of texts, with one class each.

    Attributes:
        tokens: Input ids; of a pair, those of both texts, each ending in eos.
        mask: True at real tokens.
        labels: Class ids; `IGNORED` in a filler.
        step_count: Examples of the whole step, over ranks and micro-batches, or the sum of their weights: the denominator
            of the loss.
        ids: Indices of the examples; -1 in a filler.
        segments: 0 at tokens of the first text of a pair, 1 at those of the second; None if there are no pairs.
        weights: Factor of each example's loss in training, 0 in a filler; None: one each.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    labels: Shaped[Tensor, "B ..."]
    step_count: float
    ids: Int[Tensor, " B"]
    segments: Int[Tensor, "B L"] | None = None
    weights: Float[Tensor, " B"] | None = None


class MultilabelBatch(ClassificationBatch):
    """The same with any number of classes each: `labels` are [B, C], 1.0 at an example's classes and 0.0 elsewhere."""

    __slots__ = ()


class RegressionBatch(ClassificationBatch):
    """The same with one number each: `labels` are [B] floats."""

    __slots__ = ()


class TokenClassificationBatch(NamedTuple):
    """One micro-batch of sentences, or of parts of long ones, with one class for each word.

    Attributes:
        tokens: Input ids.
        mask: True at real tokens.
        labels: Class of each word at its first token; `IGNORED` elsewhere, and in a filler.
        step_count: Words of the whole step, over ranks and micro-batches: the denominator of the loss.
        ids: Indices of the parts; -1 in a filler.
        sentences: Index of each part's sentence.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    labels: Int[Tensor, "B L"]
    step_count: float
    ids: Int[Tensor, " B"]
    sentences: Int[Tensor, " B"]


class QuestionBatch(NamedTuple):
    """One micro-batch of windows: bos question eos part-of-the-passage eos.

    Attributes:
        tokens: Input ids.
        mask: True at real tokens.
        fronts: Position in each window at which the part of the passage begins.
        origins: Index in the passage of the token at that position.
        starts: Position of the first token of the answer; 0, that of bos, if the window does not include all of it;
            `IGNORED` in a filler.
        ends: Position of the last token of the answer, likewise.
        step_count: Windows of the whole step, over ranks and micro-batches: the denominator of the loss.
        ids: Indices of the windows; -1 in a filler.
        questions: Index of each window's question.
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
class Exchange:
    """The last exchange of a conversation.

    Attributes:
        prompt: Ids of the conversation up to the assistant's answer, opened for it.
        question: What was said before the answer; empty if nothing was.
        answer: What the assistant said.
    """

    prompt: list[int]
    question: str
    answer: str


@dataclass(frozen=True)
class Question:
    """A question about a passage, as it was read.

    Attributes:
        name: Id of the question in its file; empty if it has none.
        text: The question.
        passage: The passage, unchanged.
        offsets: First and one past the last character of each token of the passage.
        answers: Reference answers; none if the passage has no answer.
    """

    name: str
    text: str
    passage: str
    offsets: Int[np.ndarray, "n 2"]
    answers: tuple[str, ...] = ()


Batch = (
    TranslationBatch | MaskedLMBatch | CausalLMBatch | ClassificationBatch | TokenClassificationBatch | QuestionBatch
)
