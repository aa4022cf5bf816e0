"""Tagging by an encoder and one linear layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from etude.metrics.score import Score
from etude.models.encoder import Encoder
from etude.models.losses.cross_entropy import label_smoothed_cross_entropy
from etude.tasks.base import Schedule, Task
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.types import IGNORED, Facts


class Tagging(Task):
    """Cross-entropy at the first token of each word."""

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

    def loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        hidden = self.model.hidden(batch.tokens, batch.mask)
        return label_smoothed_cross_entropy(hidden, self.head.weight, batch.labels[batch.mask], bias=self.head.bias)

    def judge(self, batch: Any, split: str) -> tuple[Tensor, Tensor, list[Row]]:
        guesses = self.head(self.model(batch.tokens, batch.mask)).argmax(dim=-1)
        wanted = batch.labels != IGNORED
        hits = ((guesses == batch.labels) & wanted).sum(dim=1)
        columns = (batch.ids.tolist(), hits.tolist(), wanted.sum(dim=1).tolist())
        rows = [{"id": i, "hits": hit, "words": words} for i, hit, words in zip(*columns, strict=True)]
        return *self.loss(batch), rows

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        return {"accuracy": Score(sum(row["hits"] for row in rows) / sum(row["words"] for row in rows))}

    def sample(self, row: Row, split: str) -> dict[str, str]:
        return {"text": self.texts.text(split, "text", row["id"]), "hits": str(row["hits"])}

    def predict_texts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
        return ["" for _ in texts]
