"""The smallest task: one weight, which batches do not matter to."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from etude.optim.schedules import Constant
from etude.tasks.base import Task
from etude.tasks.running_sums import Row
from etude.types import Facts


class OneWeight(Task):
    """A task whose loss is the square of its weight."""

    def __init__(self) -> None:
        super().__init__(Facts(7, 0, 1, 2), nn.Linear(1, 1, bias=False), partial(torch.optim.SGD, lr=0.1), Constant())

    def loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.get_parameter("model.weight").square().sum(), torch.tensor(1)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self.loss(batch)[0]

    def judge(self, batch: Any, split: str) -> tuple[Tensor, Tensor, list[Row]]:
        return *self.loss(batch), []

    def sample(self, row: Row, split: str) -> dict[str, str]:
        return {}
