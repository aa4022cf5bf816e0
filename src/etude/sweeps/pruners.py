"""Pruners: which members end before their budget is spent. One is chosen in `conf/pruner/`.

They judge the score of each validation by those of other trials at the same validation; Optuna's pruners decide.
"""

from __future__ import annotations

from typing import Annotated

import optuna
from msgspec import Meta, Struct
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner

Count = Annotated[int, Meta(ge=0)]


class NoPruner(Struct, frozen=True, tag="none", forbid_unknown_fields=True):
    """Every member spends its budget."""

    def pruner(self) -> BasePruner:
        """Return the pruner that never prunes."""
        return optuna.pruners.NopPruner()


class Median(Struct, frozen=True, tag="median", forbid_unknown_fields=True):
    """A member ends whose best score so far is worse than the median of other trials at the same validation.

    Attributes:
        startup: So many trials spend their budget before any is judged.
        warmup: So many validations of each trial are not judged.
    """

    startup: Count = 4
    warmup: Count = 1

    def pruner(self) -> BasePruner:
        """Return Optuna's pruner."""
        return MedianPruner(n_startup_trials=self.startup, n_warmup_steps=self.warmup)


class Hyperband(Struct, frozen=True, tag="hyperband", forbid_unknown_fields=True):
    """Successive halving in several brackets, each with another patience (Li et al. 2018).

    Attributes:
        minimum: The first validation at which a member may end.
        reduction: Of so many members that are judged together, one goes on.
    """

    minimum: Annotated[int, Meta(ge=1)] = 1
    reduction: Annotated[int, Meta(ge=2)] = 3

    def pruner(self) -> BasePruner:
        """Return Optuna's pruner; the largest number of validations is that of the first trial that spends its budget."""
        return HyperbandPruner(min_resource=self.minimum, max_resource="auto", reduction_factor=self.reduction)


Pruner = NoPruner | Median | Hyperband
