"""Texts for causal language models: every token is predicted exactly once an epoch, whatever the texts' lengths.

In training, the documents follow each other in an order drawn for each epoch and are cut into blocks of full length. A
block may hold several: the batch's `documents` keeps them apart, so that none is context of another. In evaluation, each
document is read alone, in windows.

Axes: N examples, M documents, L positions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import numpy as np
import torch
from jaxtyping import Int

from etude.data.base import DataSettings, PlannedData
from etude.data.loader import MixableExamples, Slice, framed, pad, token_mask
from etude.data.order.document_rows import ROWS, DocumentRow
from etude.data.prepare import Corpus, Prepared, Split, prepare
from etude.data.sizes import ShuffleName
from etude.errors import ConfigurationError
from etude.seeding import mix
from etude.types import IGNORED, CausalLMBatch, Facts

WHOLE = 1 << 62
"""More tokens than any document has: documents are stored whole."""

REMEMBERED = 4
"""Epochs whose order of the documents is kept."""


class Piece(NamedTuple):
    """A part of a document of n tokens, as a range of its n + 1 predictions: one of each token, the last of its end.

    Attributes:
        document: Index of the document.
        begin: First prediction that is read.
        start: First prediction that counts; those before it are context.
        stop: One past the last prediction.
    """

    document: int
    begin: int
    start: int
    stop: int


class TokenArrays(Protocol):
    """Arrays of ids, each of a document."""

    @property
    def lengths(self) -> Int[np.ndarray, " M"]:
        """Tokens of each document."""
        ...

    def __getitem__(self, document: int, /) -> Int[np.ndarray, " n"]:
        """Return the ids of a document."""
        ...


class DocumentTexts(NamedTuple):
    """Documents as they are stored.

    Attributes:
        tokens: Their ids.
        text_bytes: [M] bytes of the text of each.
    """

    tokens: TokenArrays
    text_bytes: Int[np.ndarray, " M"]

    @classmethod
    def of(cls, split: Split) -> DocumentTexts:
        """Return the documents of a prepared split."""
        return cls(split.tokens["text"], split.texts["text"].content.lengths)


class ReadPieces(NamedTuple):
    """The pieces of an example, one after the other.

    Attributes:
        inputs: [n] ids that the model reads.
        labels: [n] ids that it has to predict.
        numbers: [n] number of the piece that each belongs to.
        text_bytes: Bytes of the documents that begin here.
    """

    inputs: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    numbers: Int[np.ndarray, " n"]
    text_bytes: int


class ReadTexts(MixableExamples):
    """Examples whose rows are texts, or pieces of texts, one after the other.

    Args:
        facts: The special ids.
    """

    BATCH: ClassVar[type[CausalLMBatch]] = CausalLMBatch
    """Type of the batches."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    def collate(self, rows: Sequence[ReadPieces], part: Slice) -> CausalLMBatch:
        """Return the padded batch of some examples."""
        inputs = [row.inputs for row in rows]
        ids = torch.from_numpy(part.examples.astype(np.int64))
        text_bytes = torch.tensor([row.text_bytes for row in rows])
        targets = pad([row.labels for row in rows], IGNORED)
        if part.filler:
            targets, ids = torch.full_like(targets, IGNORED), torch.full_like(ids, -1)
            text_bytes = torch.zeros_like(text_bytes)
        several = any(row.numbers[-1] for row in rows)
        documents = pad([row.numbers for row in rows], -1) if several else None
        tokens, mask = pad(inputs, self.facts.pad), token_mask(inputs)
        return self.BATCH(tokens, mask, targets, documents, part.denominator, ids, text_bytes)


class Documents(ReadTexts):
    """The documents of a split as batches.

    Attributes:
        sizes: [M] predictions of each document: its tokens and its end.
        lengths: [N] tokens that the model reads of each example.
        counts: [N] predictions of each example that count.

    Args:
        texts: The documents.
        facts: The special ids.
    """

    lengths: Int[np.ndarray, " N"]
    counts: Int[np.ndarray, " N"]

    def __init__(self, texts: DocumentTexts, facts: Facts) -> None:
        super().__init__(facts)
        self._tokens, self._bytes = texts
        self.sizes = self._tokens.lengths + 1

    @abstractmethod
    def pieces(self, example: int, epoch: int) -> list[Piece]:
        """Return the pieces of an example in an epoch, at least one."""

    def rows(self, examples: Int[np.ndarray, " n"], epoch: int) -> list[ReadPieces]:
        """Return the pieces of each example, and their ids and labels."""
        return [self._read(int(example), epoch) for example in examples]

    def _read(self, example: int, epoch: int) -> ReadPieces:
        pieces = self.pieces(example, epoch)
        begun = [piece.document for piece in pieces if piece.start == 0]
        return ReadPieces(*self._row(pieces), _numbered(pieces), sum(int(self._bytes[document]) for document in begun))

    def tokens(self, example: int, epoch: int) -> Int[np.ndarray, " n"]:
        """Return the ids that the model reads of an example in an epoch."""
        return self._row(self.pieces(example, epoch))[0]

    def _row(self, pieces: Sequence[Piece]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Return the ids that the model reads of the pieces, one after the other, and those that it has to predict."""
        inputs, labels = [], []
        for piece in pieces:
            ids = self._ids(piece)
            inputs.append(ids[:-1])
            labels.append(np.where(np.arange(piece.begin, piece.stop) < piece.start, IGNORED, ids[1:]))
        return np.concatenate(inputs), np.concatenate(labels)

    def _ids(self, piece: Piece) -> Int[np.ndarray, " n+1"]:
        """Return a piece's ids in the sequence bos, document, eos: each of the first n predicts the next one."""
        tokens = self._tokens[piece.document]
        ends = piece.stop > len(tokens)
        inner = tokens[max(piece.begin - 1, 0) : piece.stop]
        return framed(inner, None if piece.begin else self.facts.bos, self.facts.eos if ends else None)


def _numbered(row: Sequence[Piece]) -> Int[np.ndarray, " n"]:
    """Return for each position the number of its piece in the row."""
    return np.repeat(np.arange(len(row)), [piece.stop - piece.begin for piece in row])


class _Order(NamedTuple):
    """The order of the documents in an epoch.

    Attributes:
        row: The documents, one after the other.
        first: Prediction that the first block begins with; those before it come last.
    """

    row: DocumentRow
    first: int


class Blocks(Documents):
    """Documents in a row, cut into blocks of full length: only the last block of an epoch may be shorter.

    The order of the documents and the place of the first cut are pure functions of (seed, epoch). So every epoch has the
    same number of blocks and cuts a document at other places, even a single one. Of what comes before a cut, only the
    last token is context of what comes after it.

    Args:
        texts: The documents.
        facts: The special ids.
        max_length: L, tokens of a block.
        seed: Seed of the run.
        shuffle: How the documents are put into a row: `batch.shuffle`.
    """

    def __init__(self, texts: DocumentTexts, facts: Facts, max_length: int, seed: int, shuffle: ShuffleName) -> None:
        super().__init__(texts, facts)
        self._max_length = max_length
        self._seed = seed
        self._shuffle = shuffle
        self._total = int(self.sizes.sum())
        starts = np.arange(0, self._total, max_length)
        self.lengths = np.minimum(max_length, self._total - starts)
        self.counts = self.lengths
        self._orders: dict[int, _Order] = {}

    def pieces(self, example: int, epoch: int) -> list[Piece]:
        """Return the pieces of a block."""
        order, pieces = self._order(epoch), []
        place = (order.first + example * self._max_length) % self._total
        left = int(self.lengths[example])
        while left:
            document, end = order.row.at(place)
            start = place - end + int(self.sizes[document])
            stop = min(start + left, int(self.sizes[document]))
            pieces.append(Piece(document, start, start, stop))
            left -= stop - start
            place = (place + stop - start) % self._total
        return pieces

    def _order(self, epoch: int) -> _Order:
        """Return the order of an epoch; the last ones are remembered."""
        if epoch not in self._orders:
            self._orders = dict([*self._orders.items()][1 - REMEMBERED :])
            row = ROWS[self._shuffle](self.sizes, mix("documents", self._seed, epoch))
            first = mix("first cut", self._seed, epoch) % min(self._max_length, self._total)
            self._orders[epoch] = _Order(row, first)
        return self._orders[epoch]


class DocumentWindows(Documents):
    """Each document alone, in windows of at most full length, each a stride after the one before.

    All predictions of a document's first window count, and those of each further window that no earlier one has counted.
    So every prediction counts once and, except for the first L of a document, has at least L - stride tokens of context.

    Args:
        texts: The documents.
        facts: The special ids.
        max_length: L, the most tokens of a window.
        stride: Predictions that each further window adds.
    """

    def __init__(self, texts: DocumentTexts, facts: Facts, max_length: int, stride: int) -> None:
        super().__init__(texts, facts)
        further = -(-np.maximum(self.sizes - max_length, 0) // stride)
        self._document = np.repeat(np.arange(len(self.sizes)), further + 1)
        number = np.arange(len(self._document)) - np.repeat(np.cumsum(further + 1) - further - 1, further + 1)
        sizes = self.sizes[self._document]
        self._start = np.where(number == 0, 0, max_length + (number - 1) * stride)
        self._stop = np.minimum(max_length + number * stride, sizes)
        self._begin = np.maximum(self._stop - max_length, 0)
        self.lengths = self._stop - self._begin
        self.counts = self._stop - self._start

    def pieces(self, example: int, epoch: int) -> list[Piece]:
        """Return the one piece of a window, the same in every epoch."""
        columns = (self._document, self._begin, self._start, self._stop)
        return [Piece(*(int(column[example]) for column in columns))]


class CausalLMData(PlannedData):
    """Documents from a corpus with the field `text`, in blocks for training and in windows for evaluation.

    A limit counts documents.

    Args:
        corpus: Source of the documents.
        max_length: Most tokens that are read at once.
        stride: Tokens from one window of an evaluation to the next: the smaller, the more context a prediction has, and
            the longer an evaluation takes. None: `max_length`, so that no token is read twice.
        settings: As in `PlannedData`.

    Raises:
        ConfigurationError: If the stride is not from 1 to `max_length`.
    """

    BATCH: ClassVar[str] = "CausalLMBatch"

    def __init__(self, corpus: Corpus, max_length: int, stride: int | None = None, *, settings: DataSettings) -> None:
        super().__init__(corpus, max_length, settings=settings)
        self.stride = max_length if stride is None else stride
        if not 1 <= self.stride <= max_length:
            raise ConfigurationError(
                f"data.stride={stride} is not from 1 to data.max_length={max_length}: a larger one would leave tokens out"
            )

    def read(self) -> Prepared:
        """Return the tokenized documents, whole."""
        return prepare(
            self.corpus,
            self.settings.tokenizer,
            text_fields=("text",),
            max_length=WHOLE,
            overflow="truncate",
            cache=self.settings.cache,
        )

    def examples(self, split: Split, *, training: bool) -> Documents:
        """Return the documents of a split, in blocks for training, else in windows."""
        texts = DocumentTexts.of(split)
        if training:
            return Blocks(texts, self.facts, self.max_length, self.settings.seed, self.settings.batch.shuffle)
        return DocumentWindows(texts, self.facts, self.max_length, self.stride)

    @property
    def facts(self) -> Facts:
        """The vocabulary and the special ids."""
        tokenizer = self.tokenizer
        return Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask)

    def text(self, split: str, field: str, example: int, epoch: int = 0) -> str:
        """Return the text of a block in an epoch, or of a window, decoded from its ids."""
        examples = cast(Documents, self.splits[split])
        return self.decode([examples.tokens(example, epoch).tolist()])[0]

    def describe(self) -> dict[str, Any]:
        """Add the number of documents, and the stride of an evaluation."""
        return {**super().describe(), "documents": self.documents(), "stride": self.stride}

    def documents(self) -> dict[str, int]:
        """Return the number of documents of each split."""
        return {name: len(cast(Documents, examples).sizes) for name, examples in self.splits.items()}
