"""A trained task whose probabilities another one learns from."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from etude.models.losses.distillation import Distillation, DistilledLoss
from etude.models.losses.labelled_states import LabelledStates


class PredictsLabels(Protocol):
    """A task that predicts tokens or classes."""

    def labelled_states(self, batch: Any) -> LabelledStates:
        """Return the states of a batch that its loss is computed from."""
        ...


class Teacher:
    """A trained task, frozen and in evaluation mode.

    It is no `nn.Module`, so that a task that holds one has no more parameters for it, and no more tensors in its checkpoints.

    Attributes:
        task: The trained task.
        distillation: The loss that compares a student with it.

    Args:
        task: The trained task, which is frozen.
        distillation: As above.
    """

    def __init__(self, task: Any, distillation: Distillation) -> None:
        module: nn.Module = task
        self.task: Any = module.eval().requires_grad_(False)
        self.distillation = distillation

    def loss(self, student: PredictsLabels, batch: Any) -> DistilledLoss:
        """Return the loss of a student for a batch, which both read."""
        own = student.labelled_states(batch)
        first = next(iter(self.task.parameters()))
        if (first.device, first.dtype) != (own.hidden.device, own.weight.dtype):
            self.task.to(own.hidden.device, own.weight.dtype)
        with torch.no_grad():
            taught: LabelledStates = self.task.labelled_states(batch)
        return self.distillation(own, taught)
