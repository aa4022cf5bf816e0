"""Base of all tasks that classify or score texts: an encoder, one state per example, and a linear layer on it.

Axes: B examples, L positions, D model width, O outputs.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from etude.errors import DataError
from etude.models.base import OutputKind, OutputLayer, TextEncoder
from etude.models.layers.dropout import Dropout
from etude.models.model_flops import encoder_flops
from etude.models.pooling import POOLINGS, PoolingName
from etude.optim.schedules import Schedule
from etude.tasks.attention_maps import Attention, encode_whole, encoder_attention
from etude.tasks.base import Task
from etude.tasks.prediction import Output, Prediction, RecordAnswer
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.tokenization.truncation import cut_within, joined
from etude.types import ClassificationBatch, Facts

LARGEST_ERRORS = 20
"""Largest number of errors whose texts an evaluation reports."""

_log = logging.getLogger(__name__)


class _EncodedExample(NamedTuple):
    """One example as the encoder reads it.

    Attributes:
        ids: Ids, special ones included.
        segments: Token type id of each: the index of its text.
        cut: Whether a text was truncated.
    """

    ids: list[int]
    segments: list[int]
    cut: bool


class Pooled(Task):
    """An encoder reads a text, or a pair; a linear layer reads the mean of its states, or the first one.

    Args:
        facts: Vocabulary, special ids, and the number of texts of an example.
        model: The encoder.
        optimizer: Makes the optimizer from groups of parameters.
        scheduler: Learning rate schedule.
        outputs: Number of outputs of the linear layer.
        pooling: `mean` of the states of real tokens, the state of the `first`, or that state through a `pooler`.
        head_dropout: Dropout on the pooled state.
        gradient_clip: Largest norm of the gradient; None: not clipped.
    """

    MODEL: ClassVar[type[nn.Module]] = TextEncoder
    model: TextEncoder

    def __init__(
        self,
        facts: Facts,
        model: TextEncoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        outputs: int,
        pooling: PoolingName = "first",
        head_dropout: float = 0.1,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(facts, model, optimizer, scheduler, gradient_clip)
        self.pooling = POOLINGS[pooling]
        self.pooler = model.pooler() if pooling == "pooler" else None
        self.dropout = Dropout(head_dropout)
        self.head = nn.Linear(model.width, outputs)
        pretrained = model.output_layer(self.output_kind)
        if pretrained is not None:
            self._start_from(pretrained)

    @property
    def output_kind(self) -> OutputKind:
        """The head of transformers that this one is saved as: one of texts behind a pooler, else one of tokens."""
        return "token" if self.pooler is None else "text"

    def _start_from(self, pretrained: OutputLayer) -> None:
        rows = self.rows_of(pretrained)
        if rows is None:
            outputs = ", ".join(self.facts.classes) or "a number"
            names = ", ".join(pretrained.names)
            _log.info("%s has a head for %s, not for %s: a new one is drawn", pretrained.model, names, outputs)
        else:
            _log.info("the head is that of %s", pretrained.model)
            self.head.load_state_dict(dict(zip(("weight", "bias"), rows, strict=True)))

    def rows_of(self, pretrained: OutputLayer) -> tuple[Tensor, Tensor] | None:
        """Return the rows of a pretrained head, weight and bias, for this task's outputs; None: its outputs are others."""
        return pretrained.rows_for(self.facts.classes)

    def pooled(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], segments: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B D"]:
        """Return one state per example."""
        states = self.pooling.encoded(self.model, tokens, mask, segments)
        return self.dropout(states if self.pooler is None else self.pooler(states))

    def logits(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], segments: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B O"]:
        """Return the outputs of the linear layer, in at least single precision."""
        outputs = self.head(self.pooled(tokens, mask, segments))
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))

    def forward(self, batch: ClassificationBatch) -> Float[Tensor, "B O"]:
        """Return the outputs of the linear layer for a batch: logits of classes, or a standardized number."""
        return self.logits(batch.tokens, batch.mask, batch.segments)

    def answers(self, batch: ClassificationBatch) -> list[Row]:
        """Return the answer to each example, as values by name (see `describe_outputs`)."""
        described = self.describe_outputs(self.forward(batch))
        return [{"id": example, **values} for example, (_, values) in zip(batch.ids.tolist(), described, strict=True)]

    def training_flops(
        self, lengths: Int[np.ndarray, " N"], counts: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"] | None:
        """Return the operations of training on each example once; None: unknown, the encoder is another library's."""
        ones = np.ones_like(lengths)
        flops = encoder_flops(self.model, lengths, self.pooling.states_read(lengths))
        if flops is None:
            return None
        flops.add_product(self.head.weight, ones)
        if self.pooler is not None:
            flops.add_product(self.pooler.dense.weight, ones)
        return flops.total

    # Predictions for texts that are not part of the data

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the texts of an example: `text`, and `pair` if there are two."""
        return ("text", "pair")[: self.facts.segments]

    @abstractmethod
    def describe_outputs(self, outputs: Float[Tensor, "B O"]) -> list[tuple[str, dict[str, Any]]]:
        """Return the answer to each example as a line of text, and as values by name."""

    @torch.no_grad()
    def answer_records(self, records: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> list[RecordAnswer]:
        """Return the answer to each record of texts (see `AnswersRecords`)."""
        examples = self._encode([[record[field] for field in self.fields] for record in records], tokenizer)
        answers = zip(examples, self._described(examples), strict=True)
        return [RecordAnswer(values, example.cut) for example, (_, values) in answers]

    @torch.no_grad()
    def predictions(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prediction]:
        """Return the answer to each line: a text, or a text, a tab and the text of its pair.

        Raises:
            DataError: If the task reads pairs and a line has no tab.
        """
        examples = self._encode([self._parts(text) for text in texts], tokenizer)
        answers = zip(examples, self._described(examples), strict=True)
        return [Prediction((Output(line),), example.cut) for example, (line, _) in answers]

    def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
        """Return the encoder's attention to a text, or to a text and its pair, the target (see `ShowsAttention`)."""
        room = self.model.max_length - 1 - self.facts.segments
        if self.facts.segments == 1 or target is None:
            ids = encode_whole("text", text, tokenizer, room)
            return encoder_attention(self.model, [self.facts.bos, *ids, self.facts.eos], target)
        first = encode_whole("text", text, tokenizer, room - 1)
        second = encode_whole("pair", target, tokenizer, room - len(first))
        example = self._framed([first, second])
        return encoder_attention(self.model, example.ids, None, example.segments)

    def _parts(self, line: str) -> list[str]:
        if self.facts.segments == 1:
            return [line]
        text, tab, pair = line.partition("\t")
        if not tab:
            raise DataError(
                f"the line {line[:60]!r} has no tab, but this run reads pairs: write text, tab, pair; or format=jsonl"
            )
        return [text, pair]

    def _encode(self, examples: Sequence[Sequence[str]], tokenizer: Tokenizer) -> list[_EncodedExample]:
        """Encode the texts of each example, and truncate them as the training data is truncated."""
        columns = [tokenizer.encode(column) for column in zip(*examples, strict=True)]
        return [self._framed(list(ids)) for ids in zip(*columns, strict=True)]

    def _framed(self, texts: list[list[int]]) -> _EncodedExample:
        facts, room = self.facts, self.model.max_length - 1 - self.facts.segments
        cut = cut_within(texts, room)
        segments = [place for place, text in enumerate(cut) for _ in (*text, facts.eos)]
        return _EncodedExample(joined(cut, facts.bos, facts.eos), [0, *segments], cut != texts)

    def _described(self, examples: Sequence[_EncodedExample]) -> list[tuple[str, dict[str, Any]]]:
        """Return the answer to each example, as text and as values."""
        return self.describe_outputs(self._outputs(examples)) if examples else []

    def _outputs(self, examples: Sequence[_EncodedExample]) -> Float[Tensor, "B O"]:
        ids = [torch.tensor(example.ids) for example in examples]
        tokens = pad_sequence(ids, batch_first=True, padding_value=self.facts.pad)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in ids], batch_first=True)
        segments = None
        if self.facts.segments > 1:
            rows = [torch.tensor(example.segments) for example in examples]
            segments = pad_sequence(rows, batch_first=True).to(self.device)
        return self.logits(tokens.to(self.device), mask.to(self.device), segments)

    def texts_of(self, row: Row, split: str) -> dict[str, str]:
        """Return the texts of a row as they were read."""
        return {field: self.data.text(split, field, row["id"]) for field in self.fields}
