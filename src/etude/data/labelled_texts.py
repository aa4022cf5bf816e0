"""Labelled texts and pairs of texts: the common part of classification, multilabel and regression data.

Axes: N examples, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int, Shaped

from etude.data.base import DataSettings, PlannedData
from etude.data.loader import MixableExamples, Slice, framed, pad, token_mask
from etude.data.prepare import Corpus, Prepared, Split, prepare
from etude.data.readers.labels import Labels
from etude.errors import DataError
from etude.types import IGNORED, ClassificationBatch, Facts

logger = logging.getLogger(__name__)


class LabelledText(NamedTuple):
    """A text or a pair as a batch needs it.

    Attributes:
        texts: Ids of each text, special tokens included.
        label: Its target, a number or [C].
        weight: Factor of its loss; None: one.
    """

    texts: list[Int[np.ndarray, " n"]]
    label: Shaped[np.ndarray, ...]
    weight: np.float32 | None


class LabelledTexts(MixableExamples):
    """The texts or pairs of a split as batches.

    A text is read as `bos text eos`, a pair as `bos text eos pair eos` (Devlin et al. 2019, section 3).

    Attributes:
        lengths: [N] tokens, special ones included.
        counts: [N] share of each example in the denominator of its step's loss: one, or its weight.

    Args:
        split: The tokenized split.
        labels: [N] or [N, C] targets, of the type that batches have.
        facts: The special ids.
        kind: Type of the batches.
        weights: [N] factor of each example's loss; None: one each.
    """

    def __init__(
        self,
        split: Split,
        labels: Shaped[np.ndarray, "N ..."],
        facts: Facts,
        kind: type[ClassificationBatch] = ClassificationBatch,
        weights: Float[np.ndarray, " N"] | None = None,
    ) -> None:
        self._fields = list(split.tokens.values())
        self._labels = labels
        self._weights = None if weights is None else weights.astype(np.float32)
        self._facts = facts
        self._kind = kind
        self.lengths = sum((field.lengths for field in self._fields), np.full(len(labels), 1 + len(self._fields)))
        # The single-precision weights of the batches, to be summed in double precision.
        self.counts = np.ones(len(labels), np.int64) if self._weights is None else self._weights.astype(np.float64)

    def rows(self, examples: Int[np.ndarray, " n"], epoch: int) -> list[LabelledText]:
        """Return the ids of each text or pair, its label and its weight."""
        weights = [None] * len(examples) if self._weights is None else self._weights[examples]
        return [
            LabelledText(self._texts(int(example)), self._labels[example], weight)
            for example, weight in zip(examples, weights, strict=True)
        ]

    def collate(self, rows: Sequence[LabelledText], part: Slice) -> ClassificationBatch:
        """Return the padded batch of some texts or pairs."""
        joined = [np.concatenate(row.texts) for row in rows]
        labels = torch.from_numpy(np.stack([row.label for row in rows]))
        ids = torch.from_numpy(part.examples.astype(np.int64))
        weights = (
            None if self._weights is None else torch.from_numpy(np.array([row.weight for row in rows], np.float32))
        )
        if part.filler:
            labels, ids = torch.full_like(labels, IGNORED), torch.full_like(ids, -1)
            weights = None if weights is None else torch.zeros_like(weights)
        segments = None
        if len(self._fields) > 1:
            segments = pad([np.repeat(np.arange(len(row.texts)), list(map(len, row.texts))) for row in rows], 0)
        return self._kind(
            pad(joined, self._facts.pad), token_mask(joined), labels, part.denominator, ids, segments, weights
        )

    def _texts(self, example: int) -> list[Int[np.ndarray, " n"]]:
        """Return the ids of each text of an example, special tokens included."""
        facts = self._facts
        return [
            framed(field[example], None if place else facts.bos, facts.eos) for place, field in enumerate(self._fields)
        ]


class LabelledData(PlannedData):
    """Texts from a corpus with the fields `text` and `label`, and `pair` where two texts are read together.

    A longer text is truncated, of a pair the longer text, and counted.

    Attributes:
        LABELS: Reader of the labels.
        LABEL_TYPE: Type of the labels in a batch.

    Args:
        corpus: Source of the rows.
        max_length: Most tokens of an example, special tokens included.
        pair: Column of the second text of a pair; None: there are no pairs.
        settings: As in `PlannedData`.
    """

    LABELS: ClassVar[type[Labels]]
    LABEL_TYPE: ClassVar[npt.DTypeLike]

    def __init__(self, corpus: Corpus, max_length: int, pair: str | None = None, *, settings: DataSettings) -> None:
        super().__init__(corpus, max_length, settings=settings)
        self.text_fields = ("text",) if pair is None else ("text", "pair")

    def read(self) -> Prepared:
        """Return the tokenized corpus with its labels."""
        return prepare(
            self.corpus,
            self.settings.tokenizer,
            text_fields=self.text_fields,
            label_field="label",
            labels=self.LABELS,
            max_length=self.max_length - 1 - len(self.text_fields),  # room for bos, and eos after each text
            overflow="truncate" if len(self.text_fields) == 1 else "truncate_longer",
            cache=self.settings.cache,
        )

    def labels(self, split: Split) -> Shaped[np.ndarray, "N ..."]:
        """Return the labels of a split, of the type that batches have."""
        if split.labels is None:
            raise DataError("the corpus has no column 'label'")
        return np.asarray(split.labels, self.LABEL_TYPE)

    @property
    def facts(self) -> Facts:
        """The vocabulary, the special ids, the classes, and the number of texts of an example."""
        tokenizer = self.tokenizer
        special = (tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask)
        return Facts(tokenizer.vocabulary, *special, self.prepared.classes, segments=len(self.text_fields))

    def _warn_of_missing_classes(self, present: npt.NDArray[np.bool_]) -> None:
        """Warn of classes that `limit.train` leaves without an example: they cannot be learnt."""
        classes = self.prepared.classes
        missing = [name for name, is_present in zip(classes, present, strict=True) if not is_present]
        if missing:
            names = ", ".join(missing[:8]) + (", …" if len(missing) > 8 else "")
            logger.warning("%d of %d classes have no example in training: %s", len(missing), len(classes), names)
