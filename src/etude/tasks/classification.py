"""Classification of texts by an encoder and one linear layer.

Axes: B examples, N real tokens, D model width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from etude.errors import ConfigurationError
from etude.losses.cross_entropy import label_smoothed_cross_entropy
from etude.metrics.classification import accuracy, macro_f1
from etude.metrics.score import Score
from etude.models.flops import encoder_flops
from etude.models.text_encoder import TextEncoder
from etude.nn.dropout import Dropout
from etude.tasks.attention import Attention, encoder_attention, readable
from etude.tasks.base import Schedule, Task
from etude.tasks.sums import Row
from etude.tokenization.tokenizer import Tokenizer
from etude.types import IGNORED, ClassificationBatch, Facts


class Classification(Task):
    """Cross-entropy over classes.

    Args:
        facts: Vocabulary, special ids and classes.
        model: The encoder.
        optimizer: Makes the optimizer of groups of parameters.
        scheduler: The learning rate's course.
        pooling: `mean` of the states of real tokens, or the state of the `first` one.
        head_dropout: Dropout on the pooled state.
        label_smoothing: ε of Szegedy et al. 2016, section 7; only in training.
        gradient_clip: Largest norm of the gradient; None: not clipped.
    """

    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/accuracy", "val/macro_f1")
    BATCH: ClassVar[str] = "ClassificationBatch"
    model: TextEncoder

    def __init__(
        self,
        facts: Facts,
        model: TextEncoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        pooling: Literal["mean", "first"] = "mean",
        head_dropout: float = 0.1,
        label_smoothing: float = 0.0,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(facts, model, optimizer, scheduler, gradient_clip)
        if len(facts.classes) < 2:
            raise ConfigurationError(f"classification needs two classes or more; the data has {facts.classes}")
        self.pool = {"mean": mean_of_real, "first": first_token}[pooling]
        self.label_smoothing = label_smoothing
        self.dropout = Dropout(head_dropout)
        self.head = nn.Linear(model.width, len(facts.classes))

    def pooled(self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """Return one state for each text."""
        return self.dropout(self.pool(self.model(tokens, mask), mask))

    def logits(self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B C"]:
        """Return the unnormalised log-probabilities of the classes."""
        return self.head(self.pooled(tokens, mask)).float()

    def loss(self, batch: ClassificationBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the cross-entropy summed over examples, smoothed in training only."""
        pooled = self.pooled(batch.tokens, batch.mask)
        smoothing = self.label_smoothing if self.training else 0.0
        return label_smoothed_cross_entropy(pooled, self.head.weight, batch.labels, smoothing, bias=self.head.bias)

    def training_flops(
        self, lengths: Int[np.ndarray, " N"], counts: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"] | None:
        """Return the operations of training on each text once."""
        flops = encoder_flops(self.model, lengths)
        if flops is None:
            return None
        flops.multiply(self.head.weight, counts)
        return flops.total

    def judge(self, batch: ClassificationBatch, split: str) -> tuple[Float[Tensor, ""], Int[Tensor, ""], list[Row]]:
        """Return label, predicted class and its probability for each text."""
        logits = self.logits(batch.tokens, batch.mask)
        loss_sum = F.cross_entropy(logits, batch.labels, reduction="sum", ignore_index=IGNORED)
        probability, guesses = logits.softmax(dim=1).max(dim=1)
        columns = (batch.ids.tolist(), batch.labels.tolist(), guesses.tolist(), probability.tolist())
        rows = [
            {"id": example, "label": label, "prediction": guess, "probability": sure}
            for example, label, guess, sure in zip(*columns, strict=True)
        ]
        return loss_sum, (batch.labels != IGNORED).sum(), rows

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        """Return accuracy and the unweighted mean of the classes' F1."""
        labels = torch.tensor([row["label"] for row in rows])
        predictions = torch.tensor([row["prediction"] for row in rows])
        classes = len(self.facts.classes)
        return {
            "accuracy": Score(accuracy(predictions, labels, classes)),
            "macro_f1": Score(macro_f1(predictions, labels, classes)),
        }

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return text, label, prediction and probability."""
        classes = self.facts.classes
        return {
            "text": self.texts.text(split, "text", row["id"]),
            "label": classes[row["label"]],
            "prediction": classes[row["prediction"]],
            "probability": f"{row['probability']:.3f}",
        }

    @property
    def text_limit(self) -> int:
        """Two fewer than the model's positions: special tokens stand around a text."""
        return self.model.max_length - 2

    @torch.no_grad()
    def predict_texts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
        """Return `label<tab>probability` for each text."""
        rows = [
            torch.tensor([self.facts.bos, *ids[: self.text_limit], self.facts.eos]) for ids in tokenizer.encode(texts)
        ]
        tokens = pad_sequence(rows, batch_first=True, padding_value=self.facts.pad)
        mask = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True)
        probability, guesses = self.logits(tokens.to(self.device), mask.to(self.device)).softmax(dim=1).max(dim=1)
        found = zip(guesses.tolist(), probability.tolist(), strict=True)
        return [f"{self.facts.classes[guess]}\t{sure:.4f}" for guess, sure in found]

    def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
        """Return the encoder's attention; as `ShowsAttention` says."""
        ids = readable("text", text, tokenizer, self.model.max_length - 2)
        return encoder_attention(self.model, [self.facts.bos, *ids, self.facts.eos], target)


def mean_of_real(states: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B D"]:
    """Return the mean of the states at real tokens."""
    weights = mask.to(states.dtype)
    return torch.einsum("bld,bl->bd", states, weights) / weights.sum(dim=1, keepdim=True)


def first_token(states: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B D"]:
    """Return the state of the token that starts each text."""
    return states[:, 0]
