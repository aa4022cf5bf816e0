"""Ranking by an encoder and one number for each text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from etude.metrics.score import Score
from etude.models.encoder import Encoder
from etude.optim.schedules import Schedule
from etude.tasks.base import Task
from etude.tasks.prediction import Output, Prediction
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.types import Facts


class Ranking(Task):
    """-log σ(better - worse), so that σ of the difference is the probability of the order (Bradley and Terry 1952)."""

    MODEL: ClassVar[type[nn.Module]] = Encoder
    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/in_order")
    BATCH: ClassVar[str] = "RankingBatch"
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
        self.head = nn.Linear(model.width, 1)

    def worth(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.model.cls_states(tokens, mask))[:, 0]

    def forward(self, batch: Any) -> Tensor:
        return self.worth(batch.better, batch.better_mask) - self.worth(batch.worse, batch.worse_mask)

    def loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        losses = F.softplus(-self.forward(batch))
        return (losses * batch.counted).sum(), batch.counted.sum()

    def judge(self, batch: Any, split: str) -> tuple[Tensor, Tensor, list[Row]]:
        columns = (batch.ids.tolist(), self.forward(batch).tolist())
        rows = [{"id": example, "difference": difference} for example, difference in zip(*columns, strict=True)]
        return *self.loss(batch), rows

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        return {"in_order": Score(sum(row["difference"] > 0 for row in rows) / len(rows))}

    def sample(self, row: Row, split: str) -> dict[str, str]:
        texts = {field: self.data.text(split, field, row["id"]) for field in ("better", "worse")}
        return {**texts, "difference": f"{row['difference']:.3f}"}

    @torch.no_grad()
    def predictions(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prediction]:
        return [Prediction((Output(f"{self._worth_of(ids):.2f}"),)) for ids in tokenizer.encode(list(texts))]

    def _worth_of(self, ids: Sequence[int]) -> float:
        tokens = torch.tensor([[self.facts.bos, *ids, self.facts.eos]], device=self.device)
        return float(self.worth(tokens, torch.ones_like(tokens, dtype=torch.bool)))
