"""What classification in all its forms shares: an encoder, one state for each example, and a linear layer on it.

Axes: B examples, L positions, D model width, O outputs.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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
from etude.tasks.attention_maps import Attention, encoder_attention, readable
from etude.tasks.base import Schedule, Task
from etude.tasks.pooling import POOLINGS, PoolingName
from etude.tasks.prediction import Output, Prediction, RecordAnswer
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.tokenization.truncation import cut_within, joined
from etude.types import ClassificationBatch, Facts

LARGEST_ERRORS = 20
"""The most errors that an evaluation tells the texts of."""

_log = logging.getLogger(__name__)


class _Read(NamedTuple):
    """One example as the encoder reads it.

    Attributes:
        ids: Ids, special ones included.
        segments: Which text each belongs to.
        cut: Whether a text lost its end.
    """

    ids: list[int]
    segments: list[int]
    cut: bool


class Pooled(Task):
    """An encoder reads a text, or two of them; a linear layer reads the mean of its states, or the first one.

    Args:
        facts: Vocabulary, special ids, and how many texts an example has.
        model: The encoder.
        optimizer: Makes the optimizer of groups of parameters.
        scheduler: The learning rate's course.
        outputs: Numbers that the linear layer makes.
        pooling: `mean` of the states of real tokens, the state of the `first` one, or that state through a `pooler`.
        head_dropout: Dropout on the pooled state.
        gradient_clip: Largest norm of the gradient; None: not clipped.
    """

    model: TextEncoder

    def __init__(
        self,
        facts: Facts,
        model: TextEncoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        outputs: int,
        pooling: PoolingName = "mean",
        head_dropout: float = 0.1,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(facts, model, optimizer, scheduler, gradient_clip)
        self.pooling = POOLINGS[pooling]
        self.pooler = model.pooler() if pooling == "pooler" else None
        self.dropout = Dropout(head_dropout)
        self.head = nn.Linear(model.width, outputs)
        given = model.output_layer(self.output_kind)
        if given is not None:
            self._begin_with(given)

    @property
    def output_kind(self) -> OutputKind:
        """Of what the last layer is in transformers: of a text if a pooler stands before it, else of its tokens."""
        return "token" if self.pooler is None else "text"

    def _begin_with(self, given: OutputLayer) -> None:
        rows = self.rows_of(given)
        if rows is None:
            ours = ", ".join(self.facts.classes) or "a number"
            _log.info("%s has a head for %s, not for %s: a new one is drawn", given.model, ", ".join(given.names), ours)
        else:
            _log.info("the head is that of %s", given.model)
            self.head.load_state_dict(dict(zip(("weight", "bias"), rows, strict=True)))

    def rows_of(self, given: OutputLayer) -> tuple[Tensor, Tensor] | None:
        """Return weight and bias for this task's outputs, from those of a pretrained model; None: it has others."""
        if sorted(given.names) != sorted(self.facts.classes):
            return None
        order = [given.names.index(name) for name in self.facts.classes]
        return given.weight[order], given.bias[order]

    def pooled(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], segments: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B D"]:
        """Return one state for each example."""
        states = self.pooling.encoded(self.model, tokens, mask, segments)
        return self.dropout(states if self.pooler is None else self.pooler(states))

    def logits(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], segments: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B O"]:
        """Return the outputs of the linear layer, in single precision at least."""
        outputs = self.head(self.pooled(tokens, mask, segments))
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))

    def logits_of(self, batch: ClassificationBatch) -> Float[Tensor, "B O"]:
        """Return the outputs for a batch."""
        return self.logits(batch.tokens, batch.mask, batch.segments)

    def training_flops(
        self, lengths: Int[np.ndarray, " N"], counts: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"] | None:
        """Return the operations of training on each example once; None: the encoder is another library's."""
        ones = np.ones_like(lengths)
        flops = encoder_flops(self.model, lengths, self.pooling.states_read(lengths))
        if flops is None:
            return None
        flops.multiply(self.head.weight, ones)
        if self.pooler is not None:
            flops.multiply(self.pooler.dense.weight, ones)
        return flops.total

    # What is predicted of texts that somebody types

    @property
    def fields(self) -> tuple[str, ...]:
        """The texts of an example, by name: `text`, and `pair` where there are two."""
        return ("text", "pair")[: self.facts.segments]

    @abstractmethod
    def describe_outputs(self, outputs: Float[Tensor, "B O"]) -> list[tuple[str, dict[str, Any]]]:
        """Return, for each example, the answer as a line of text, and as values by name."""

    @torch.no_grad()
    def answer_records(self, records: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> list[RecordAnswer]:
        """Return the answer to each record of texts, as `AnswersRecords` says."""
        read = self._read([[record[field] for field in self.fields] for record in records], tokenizer)
        described = self.describe_outputs(self._outputs(read))
        return [RecordAnswer(values, one.cut) for one, (_, values) in zip(read, described, strict=True)]

    @torch.no_grad()
    def predictions(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prediction]:
        """Return the answer to each line: a text, or a text, a tab and the text of its pair.

        Raises:
            DataError: If a line has no tab where pairs are read.
        """
        read = self._read([self._parts(text) for text in texts], tokenizer)
        described = self.describe_outputs(self._outputs(read))
        return [Prediction((Output(line),), one.cut) for one, (line, _) in zip(read, described, strict=True)]

    def predict_texts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
        """Return the answer to each line as text."""
        return [prediction.outputs[0].text for prediction in self.predictions(texts, tokenizer)]

    def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
        """Return the encoder's attention to a text, or to a text and its pair, the target; as `ShowsAttention` says."""
        room = self.model.max_length - 1 - self.facts.segments
        if self.facts.segments == 1 or target is None:
            ids = readable("text", text, tokenizer, room)
            return encoder_attention(self.model, [self.facts.bos, *ids, self.facts.eos], target)
        first = readable("text", text, tokenizer, room - 1)
        second = readable("pair", target, tokenizer, room - len(first))
        one = self._framed([first, second])
        return encoder_attention(self.model, one.ids, None, one.segments)

    def _parts(self, line: str) -> list[str]:
        if self.facts.segments == 1:
            return [line]
        text, tab, pair = line.partition("\t")
        if not tab:
            raise DataError(
                f"the line {line[:60]!r} has no tab, but this run reads pairs: write text, tab, pair; or format=jsonl"
            )
        return [text, pair]

    def _read(self, examples: Sequence[Sequence[str]], tokenizer: Tokenizer) -> list[_Read]:
        """Encode the texts of each example, and cut them as the training data is cut."""
        columns = [tokenizer.encode(column) for column in zip(*examples, strict=True)]
        return [self._framed(list(ids)) for ids in zip(*columns, strict=True)]

    def _framed(self, texts: list[list[int]]) -> _Read:
        facts, room = self.facts, self.model.max_length - 1 - self.facts.segments
        cut = cut_within(texts, room)
        segments = [place for place, text in enumerate(cut) for _ in (*text, facts.eos)]
        return _Read(joined(cut, facts.bos, facts.eos), [0, *segments], cut != texts)

    def _outputs(self, read: Sequence[_Read]) -> Float[Tensor, "B O"]:
        tokens = pad_sequence([torch.tensor(one.ids) for one in read], batch_first=True, padding_value=self.facts.pad)
        mask = pad_sequence([torch.ones(len(one.ids), dtype=torch.bool) for one in read], batch_first=True)
        segments = None
        if self.facts.segments > 1:
            segments = pad_sequence([torch.tensor(one.segments) for one in read], batch_first=True).to(self.device)
        return self.logits(tokens.to(self.device), mask.to(self.device), segments)

    def texts_of(self, row: Row, split: str) -> dict[str, str]:
        """Return the texts of a row as they were read."""
        return {field: self.texts.text(split, field, row["id"]) for field in self.fields}
