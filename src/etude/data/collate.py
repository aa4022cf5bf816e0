"""Ragged rows of ids to padded tensors.

Axes: B examples, L positions, n positions of one row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


def pad(rows: Sequence[Int[np.ndarray, " n"]], value: int) -> Int[Tensor, "B L"]:
    """Stack rows [n] into [B, L], L the longest n, with `value` behind the shorter ones."""
    grid = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for line, row in zip(grid, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(grid)


def real(rows: Sequence[Int[np.ndarray, " n"]]) -> Bool[Tensor, "B L"]:
    """Return the mask [B, L] of `pad(rows)`: True where a row has a token."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])


def framed(row: Int[np.ndarray, " n"], before: int | None, after: int | None) -> Int[np.ndarray, " m"]:
    """Return a row of ids [n] as int64 with one id before and one after it, each left out where None."""
    start = [] if before is None else [before]
    end = [] if after is None else [after]
    return np.concatenate((start, row, end)).astype(np.int64)
