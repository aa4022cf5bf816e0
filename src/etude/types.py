"""Types that data modules return and tasks take: batches, facts and questions. `data/` and `tasks/` share nothing else.

Axes: B examples, S source positions, T target positions, L positions. Masks are True at real tokens.
Batches are named tuples, since Lightning moves those to a device field by field. A filler is the batch of a micro-batch for
which a step has no example: it counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

IGNORED = -100
"""Label of a position without a loss."""


@dataclass(frozen=True)
class Direction:
    """What stands around the texts of a pair, in one direction of a translation.

    The encoder reads `before_source`, the source, `after_source`. The decoder reads `start`, `before_target` and the target,
    and predicts `before_target`, the target, `after_target`.

    Attributes:
        name: Source and target, such as `en-de`; empty where there is a single direction without language codes.
        start: Id that the decoder starts from.
        after_source: Ids after a source, eos among them.
        after_target: Ids after a target, eos first.
        before_source: Ids before a source: a language code, or the tag of a direction.
        before_target: Ids that each target begins with, such as its language code. A search is given them.
        prefix: Text before each source, such as `translate English to German:`; empty: none.
    """

    name: str
    start: int
    after_source: tuple[int, ...]
    after_target: tuple[int, ...]
    before_source: tuple[int, ...] = ()
    before_target: tuple[int, ...] = ()
    prefix: str = ""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Direction:
        """Rebuild a direction from plain values."""
        plain: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in values.items()}
        return cls(**plain)

    @property
    def source_room(self) -> int:
        """Number of ids around a source."""
        return len(self.before_source) + len(self.after_source)

    @property
    def target_room(self) -> int:
        """Number of ids around a target, as the decoder predicts it."""
        return len(self.before_target) + len(self.after_target)

    def source(self, ids: Iterable[int]) -> list[int]:
        """Return what the encoder reads, given the ids of a source."""
        return [*self.before_source, *ids, *self.after_source]

    def inputs(self, ids: Iterable[int]) -> list[int]:
        """Return what the decoder reads, given the ids of a target."""
        return [self.start, *self.before_target, *ids, *self.after_target[:-1]]

    def labels(self, ids: Iterable[int]) -> list[int]:
        """Return what the decoder predicts, given the ids of a target."""
        return [*self.before_target, *ids, *self.after_target]

    def given(self, ids: Iterable[int]) -> list[int]:
        """Return what the decoder reads of a target that is not yet at its end."""
        return [self.start, *self.before_target, *ids]


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
        directions: Directions of translation; empty where nothing but bos and eos stands around the texts.
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
    directions: tuple[Direction, ...] = ()
    turn_end: int = -1

    @property
    def all_directions(self) -> tuple[Direction, ...]:
        """The directions, or the only one: `source eos` and `bos target eos`."""
        return self.directions or (Direction("", self.bos, after_source=(self.eos,), after_target=(self.eos,)),)

    def to_json(self) -> dict[str, Any]:
        """Return the facts as plain values, without directions and the end of a turn if there are none."""
        left_out = {"directions": (), "turn_end": -1}
        return {key: value for key, value in asdict(self).items() if key not in left_out or value != left_out[key]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Facts:
        """Rebuild facts that `to_json` wrote."""
        directions = tuple(map(Direction.from_json, values.get("directions", ())))
        return cls(**{**values, "classes": tuple(values["classes"]), "directions": directions})


class TranslationBatch(NamedTuple):
    """One micro-batch of sentence pairs.

    Attributes:
        source: Source ids and what stands around them: eos behind them, and language codes where there are some.
        source_mask: True at real source tokens.
        inputs: Decoder inputs: bos, then the target; with language codes, those of `Direction.inputs`.
        labels: The target, then eos; with language codes, those of `Direction.labels`. `IGNORED` at padding.
        target_mask: True at real decoder inputs.
        step_count: Target tokens of the whole step, over ranks and micro-batches: the denominator of the loss.
        ids: Indices of the examples; -1 in a filler.
        directions: Index of each pair's direction in `Facts.directions`; None: there is one.
    """

    source: Int[Tensor, "B S"]
    source_mask: Bool[Tensor, "B S"]
    inputs: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]
    target_mask: Bool[Tensor, "B T"]
    step_count: float
    ids: Int[Tensor, " B"]
    directions: Int[Tensor, " B"] | None = None


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
