"""How training data is put into a random order: by an order that is stored, or by one that is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Int, Real

from etude.data.order.document_rows import DocumentRow, KeyedRow, StoredRow
from etude.data.order.keyed_plan import KeyedPlan
from etude.data.plan import Counts, EpochPlan, Plan
from etude.data.sizes import BatchSize


class Shuffle(ABC):
    """Makes the orders of an epoch."""

    @abstractmethod
    def plan(
        self,
        lengths: Int[np.ndarray, "N ..."],
        *,
        seed: int,
        epoch: int,
        batch: BatchSize,
        counts: Real[np.ndarray, " N"] | Counts,
    ) -> EpochPlan:
        """Plan an epoch; the arguments are those of `Plan.make`."""

    @abstractmethod
    def documents(self, sizes: Int[np.ndarray, " M"], key: int) -> DocumentRow:
        """Put documents of some sizes into a row."""


class StoredShuffle(Shuffle):
    """Orders that are stored: at any batch size, with or without pools."""

    def plan(
        self,
        lengths: Int[np.ndarray, "N ..."],
        *,
        seed: int,
        epoch: int,
        batch: BatchSize,
        counts: Real[np.ndarray, " N"] | Counts,
    ) -> EpochPlan:
        """Plan an epoch."""
        return Plan.make(lengths, seed=seed, epoch=epoch, batch=batch, counts=counts, shuffle=True)

    def documents(self, sizes: Int[np.ndarray, " M"], key: int) -> DocumentRow:
        """Put documents of some sizes into a row."""
        return StoredRow(sizes, key)


class KeyedShuffle(Shuffle):
    """Orders that are computed, a pool at a time: for data of any size."""

    def plan(
        self,
        lengths: Int[np.ndarray, "N ..."],
        *,
        seed: int,
        epoch: int,
        batch: BatchSize,
        counts: Real[np.ndarray, " N"] | Counts,
    ) -> EpochPlan:
        """Plan an epoch; the batch needs a pool."""
        counts_of = counts.__getitem__ if isinstance(counts, np.ndarray) else counts
        return KeyedPlan.make(lengths, seed=seed, epoch=epoch, batch=batch, counts=counts_of)

    def documents(self, sizes: Int[np.ndarray, " M"], key: int) -> DocumentRow:
        """Put documents of some sizes into a row."""
        return KeyedRow(sizes, key)
