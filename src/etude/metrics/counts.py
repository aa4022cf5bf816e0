"""What F1 is computed from: of each class, whether a row is rightly given it, is given it, and has it.

Axes: N rows, C classes, K = 3 C counts of a row.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64


def class_counts(given: Bool[np.ndarray, "N C"], true: Bool[np.ndarray, "N C"]) -> Float64[np.ndarray, "N K"]:
    """Return what is counted of each row: rightly given classes, given ones, true ones.

    Args:
        given: Classes that were predicted.
        true: Those that are right.
    """
    return np.concatenate([given & true, given, true], axis=1).astype(np.float64)


def summed_counts(total: Float64[np.ndarray, " K"]) -> Float64[np.ndarray, "3 C"]:
    """Return the sums of `class_counts` over rows: rightly given, given and true ones of each class."""
    return total.reshape(3, -1)


def f1_of_each(counts: Float64[np.ndarray, "3 C"]) -> Float64[np.ndarray, " C"]:
    """Return F1 of each class, 2 · right / (given + true); 0 for a class that no row has or is given."""
    right, given, true = counts
    return 2 * right / np.maximum(given + true, 1)
