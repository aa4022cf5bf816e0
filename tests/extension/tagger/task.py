"""Tagging by an encoder and one linear layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etude.metrics.score import Score
from etude.models.encoder import Encoder
from etude.models.losses.cross_entropy import label_smoothed_cross_entropy
from etude.optim.schedules import Schedule
from etude.tasks.base import Task
from etude.tasks.prediction import Output, Prediction
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.types import IGNORED, Facts


class Tagging(Task):
    """Cross-entropy at the first token of each word."""

    MODEL: ClassVar[type[nn.Module]] = Encoder
    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/accuracy")
    BATCH: ClassVar[str] = "TaggingBatch"
    model: Encoder

    def __init__(
        self,
        facts: Facts,
        model: Encoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(facts, model, optimizer, scheduler, gradient_clip)
        self.head = nn.Linear(model.width, len(facts.classes))

    def forward(self, batch: Any) -> Tensor:
        return self.head(self.model(batch.tokens, batch.mask))

    def loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        hidden = self.model.hidden(batch.tokens, batch.mask)
        return label_smoothed_cross_entropy(hidden, self.head.weight, batch.labels[batch.mask], bias=self.head.bias)

    def judge(self, batch: Any, split: str) -> tuple[Tensor, Tensor, list[Row]]:
        guesses = self.forward(batch).argmax(dim=-1)
        wanted = batch.labels != IGNORED
        hits = ((guesses == batch.labels) & wanted).sum(dim=1)
        columns = (batch.ids.tolist(), hits.tolist(), wanted.sum(dim=1).tolist())
        rows = [{"id": i, "hits": hit, "words": words} for i, hit, words in zip(*columns, strict=True)]
        return *self.loss(batch), rows

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        return {"accuracy": Score(sum(row["hits"] for row in rows) / sum(row["words"] for row in rows))}

    def sample(self, row: Row, split: str) -> dict[str, str]:
        return {"text": self.data.text(split, "text", row["id"]), "hits": str(row["hits"])}

    @torch.no_grad()
    def predictions(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prediction]:
        return [Prediction((Output(self._tags(tokenizer.encode(text.split()))),)) for text in texts]

    def _tags(self, words: Sequence[Sequence[int]]) -> str:
        ids = [self.facts.bos, *(token for word in words for token in word), self.facts.eos]
        tokens = torch.tensor([ids], device=self.device)
        guesses = self.head(self.model(tokens, torch.ones_like(tokens, dtype=torch.bool)))[0].argmax(dim=-1).tolist()
        starts = accumulate((len(word) for word in words[:-1]), initial=1)
        return " ".join(self.facts.classes[guesses[start]] for start in starts) if words else ""
