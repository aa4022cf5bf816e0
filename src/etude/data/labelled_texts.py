"""Texts, or pairs of texts, with a label each: what data for classification in all its forms shares.

Axes: N examples.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int, Shaped

from etude.data.base import PlannedData
from etude.data.labels import Labels
from etude.data.loader import Slice, framed, pad, real
from etude.data.prepare import Corpus, Prepared, Split, prepare
from etude.errors import DataError
from etude.types import IGNORED, ClassificationBatch, Facts

_log = logging.getLogger(__name__)


class LabelledTexts:
    """The texts or pairs of a split as batches.

    A text is read as `bos text eos`, a pair as `bos text eos pair eos` (Devlin et al. 2019, section 3).

    Attributes:
        lengths: [N] tokens, special ones included.
        counts: [N] what each example adds to the denominator of its step's loss: one, or its weight.

    Args:
        split: The tokenized split.
        labels: [rows] or [rows, C] what is asked for, of the type that batches have.
        facts: The special ids.
        kind: The type of the batches.
        weights: [rows] what the loss of each example is multiplied by; None: by one.
    """

    def __init__(
        self,
        split: Split,
        labels: Shaped[np.ndarray, "N ..."],
        facts: Facts,
        kind: type[ClassificationBatch] = ClassificationBatch,
        weights: Float[np.ndarray, " N"] | None = None,
    ) -> None:
        rows = len(labels)
        self._fields = list(split.tokens.values())
        self._labels = labels
        self._weights = None if weights is None else weights.astype(np.float32)
        self._facts = facts
        self._kind = kind
        self.lengths = sum((field.lengths[:rows] for field in self._fields), np.full(rows, 1 + len(self._fields)))
        # The sum is over what the losses are multiplied by, in the precision of a sum.
        self.counts = np.ones(rows, np.int64) if self._weights is None else self._weights.astype(np.float64)

    def batch(self, part: Slice) -> ClassificationBatch:
        """Return the padded batch of a slice."""
        parts = [self._parts(int(i)) for i in part.examples]
        rows = [np.concatenate(texts) for texts in parts]
        labels = torch.from_numpy(self._labels[part.examples])
        ids = torch.from_numpy(part.examples.astype(np.int64))
        weights = None if self._weights is None else torch.from_numpy(self._weights[part.examples])
        if part.filler:
            labels, ids = torch.full_like(labels, IGNORED), torch.full_like(ids, -1)
            weights = None if weights is None else torch.zeros_like(weights)
        segments = None
        if len(self._fields) > 1:
            segments = pad([np.repeat(np.arange(len(texts)), list(map(len, texts))) for texts in parts], 0)
        return self._kind(pad(rows, self._facts.pad), real(rows), labels, part.denominator, ids, segments, weights)

    def _parts(self, example: int) -> list[Int[np.ndarray, " n"]]:
        """Return the ids of each text of an example, with those that begin and end it."""
        facts = self._facts
        return [
            framed(field[example], None if place else facts.bos, facts.eos) for place, field in enumerate(self._fields)
        ]


class LabelledData(PlannedData):
    """Texts from a corpus with the fields `text` and `label`, and `pair` where two texts are read together.

    A longer text is cut at its end, of a pair the longer text; both are counted.

    Args:
        corpus: Where the rows come from.
        max_length: Most tokens of an example, special tokens included.
        pair: What the second text of a pair is read from; None: there are no pairs.
        given: As in `PlannedData`.
    """

    LABELS: ClassVar[type[Labels]]
    LABEL_TYPE: ClassVar[npt.DTypeLike]

    def __init__(self, corpus: Corpus, max_length: int, pair: str | None = None, **given: Any) -> None:
        super().__init__(corpus, max_length, **given)
        self.text_fields = ("text",) if pair is None else ("text", "pair")

    def read(self) -> Prepared:
        """Return the tokenized corpus with its labels."""
        return prepare(
            self.corpus,
            self._recipe,
            text_fields=self.text_fields,
            label_field="label",
            labels=self.LABELS,
            max_length=self.max_length - 1 - len(self.text_fields),  # room for bos, and eos behind each text
            overflow="truncate" if len(self.text_fields) == 1 else "truncate_longer",
            cache=self.cache,
        )

    def stored(self, split: Split, rows: int) -> Shaped[np.ndarray, "N ..."]:
        """Return the labels of the first `rows` examples of a split, of the type that batches have."""
        if split.labels is None:
            raise DataError("the corpus has no column 'label'")
        return np.asarray(split.labels[:rows], self.LABEL_TYPE)

    @property
    def facts(self) -> Facts:
        """The vocabulary, the special ids, the classes, and how many texts an example has."""
        tokenizer = self.tokenizer
        special = (tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask)
        return Facts(tokenizer.vocabulary, *special, self.prepared.classes, segments=len(self.text_fields))

    def _say_missing(self, present: npt.NDArray[np.bool_]) -> None:
        """Warn of classes that `limit.train` leaves without an example: they cannot be learnt."""
        classes = self.prepared.classes
        missing = [name for name, there in zip(classes, present, strict=True) if not there]
        if missing:
            shown = ", ".join(missing[:8]) + (", …" if len(missing) > 8 else "")
            _log.warning("%d of %d classes have no example in training: %s", len(missing), len(classes), shown)
