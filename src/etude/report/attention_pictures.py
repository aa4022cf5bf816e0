"""Attention maps as small pictures for a page, and their exact weights for its program.

A picture has a pixel for each weight. The page enlarges it beside the tokens, which needs no program; the program makes the
grid of small pictures out of the same ones, and tells the weight below the pointer from one compressed block.
"""

from __future__ import annotations

import base64
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etude.report.inspection import InspectedAttention, Inspection

SHADES = 16
"""Number of shades of a picture: four bits for each weight."""

COLOUR = (48, 116, 178)
"""Colour of the weight 1, on light and on dark; that of 0 is transparent."""

SCALE = 1000
"""The program has weights as whole multiples of 1 / SCALE."""

STRONGEST = 3
"""Number of links that are said of each map."""

Weights = NDArray[np.float64]


@dataclass(frozen=True)
class ShownView:
    """A head, or the mean of the heads.

    Attributes:
        name: `mean`, or the head's number from 1.
        label: The same in words, with the name of the attention.
        picture: The picture, as a data URI.
        at: Place of its first weight in the block of weights.
        strongest: Its strongest links in words.
    """

    name: str
    label: str
    picture: str
    at: int
    strongest: str


@dataclass(frozen=True)
class ShownMap:
    """An attention of the model: its tokens and views."""

    attention: InspectedAttention
    views: list[ShownView]


@dataclass(frozen=True)
class ShownAttention:
    """The attention to some texts.

    Attributes:
        texts: Each text with the attentions of the model to it.
        weights: All weights for the program, compressed, in base64.
        sizes: The different numbers of rows and columns.
    """

    texts: list[tuple[Inspection, list[ShownMap]]]
    weights: str
    sizes: list[int]


def shown_attention(inspections: Sequence[Inspection]) -> ShownAttention:
    """Return the attention to texts as a page shows it."""
    texts, packed, at = [], [], 0
    sizes: set[int] = set()
    for inspection in inspections:
        maps = []
        for attention in inspection.maps:
            sizes |= {len(attention.rows), len(attention.columns)}
            views = []
            for name, values in attention.views():
                weights = np.asarray(values, dtype=np.float64)
                label = f"{attention.name}, {'the mean of its heads' if name == 'mean' else f'head {name}'}"
                said = _strongest(weights, attention.rows, attention.columns)
                views.append(ShownView(name, label, picture(weights), at, said))
                packed.append(weights.ravel())
                at += weights.size
            maps.append(ShownMap(attention, views))
        texts.append((inspection, maps))
    return ShownAttention(texts, packed_weights(np.concatenate(packed) if packed else np.zeros(0)), sorted(sizes))


def picture(weights: Weights) -> str:
    """Return weights from 0 to 1, [Q, L], as a picture of L × Q pixels: a PNG in a data URI.

    The shade is the square root of the weight: of a hundred tokens that are attended to alike, each is still seen.
    """
    from PIL import Image  # of all pages, only those with attention have pictures

    shades = np.rint((SHADES - 1) * np.sqrt(np.clip(np.nan_to_num(weights), 0.0, 1.0))).astype(np.uint8)
    image = Image.fromarray(shades, mode="P")
    image.putpalette(COLOUR * SHADES)
    opaque = bytes(round(255 * level / (SHADES - 1)) for level in range(SHADES))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", bits=4, transparency=opaque, optimize=False, compress_level=9)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def packed_weights(weights: Weights) -> str:
    """Return weights, [N], for the program: the low bytes of their thousandths, then the high bytes, compressed, in base64.

    Bytes of a kind lie together because they compress better so.
    """
    whole = np.rint(SCALE * np.clip(np.nan_to_num(weights), 0.0, 1.0)).astype("<u2")
    planes = whole.view(np.uint8).reshape(-1, 2).T.tobytes()
    return base64.b64encode(gzip.compress(planes, 9, mtime=0)).decode()


def _strongest(weights: Weights, rows: Sequence[str], columns: Sequence[str]) -> str:
    order = np.argsort(-weights, axis=None, kind="stable")[:STRONGEST]
    places = zip(*np.unravel_index(order, weights.shape), strict=True)
    return ", ".join(f"{rows[row]} → {columns[column]} {weights[row, column]:.2f}" for row, column in places)
