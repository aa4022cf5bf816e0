"""Attention as pixels, for trackers that show images: the mean of the heads, a square for each weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from etude.report.inspection import InspectedAttention

LEAST, SIDE = 2, 12
"""Pixels of a square's side, at least, and where there is room."""

LARGEST = 512
"""Pixels of an image's side up to which squares are as large as can be."""

DARKEST = np.array([31, 78, 121], np.float64)
"""Colour of a weight of one; zero is white."""


def heat_map(attention: InspectedAttention) -> UInt8[np.ndarray, "height width 3"]:
    """Return the mean weights of the heads as an image: a row for each token that attends, a column for each attended to.

    The darkest square is the largest weight of the image.
    """
    weights: Float[np.ndarray, "Q L"] = np.asarray(attention.weights, dtype=np.float64).mean(axis=0)
    share = (weights / max(float(weights.max(initial=0.0)), np.finfo(np.float64).tiny))[..., None]
    pixels = np.rint(255 - share * (255 - DARKEST)).astype(np.uint8)
    side = max(LEAST, min(SIDE, LARGEST // max(weights.shape)))
    return pixels.repeat(side, axis=0).repeat(side, axis=1)


def pad_to_largest(images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[UInt8[np.ndarray, "height width 3"]]:
    """Pad images with white, to the right and below, since W&B shows all images of a step in the size of the first."""
    height, width = (max((image.shape[axis] for image in images), default=0) for axis in (0, 1))
    missing = [(height - image.shape[0], width - image.shape[1]) for image in images]
    return [
        np.pad(image, ((0, below), (0, right), (0, 0)), constant_values=255)
        for image, (below, right) in zip(images, missing, strict=True)
    ]


def caption(attention: InspectedAttention) -> str:
    """Return a line under an image: which attention it is, and its tokens."""
    return f"{attention.name}: {' '.join(attention.rows)} ← {' '.join(attention.columns)}"
