"""Optimizers whose updates are computed by other optimizers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class DelegatingOptimizer(Optimizer):
    """An optimizer over whose groups and state other optimizers compute the updates.

    Learning rates are set on its groups, and its state is saved and restored, as for any optimizer.
    """

    @abstractmethod
    def _share(self) -> None:
        """Make the other optimizers, over this one's groups and state."""

    @abstractmethod
    def _update(self) -> None:
        """Have them update all parameters that have a gradient."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a stored state: `load_state_dict` replaces groups and state by new ones."""
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Update all parameters that have a gradient.

        Args:
            closure: Computes the loss and the gradients anew.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._update()
        return loss
