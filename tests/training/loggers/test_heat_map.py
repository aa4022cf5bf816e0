"""Attention as pixels: each weight is a square, the largest the darkest, white is none."""

from __future__ import annotations

import numpy as np
import pytest

from etude.metrics.attention_head import HeadSummary
from etude.report.inspection import InspectedAttention
from etude.training.loggers.heat_map import DARKEST, LEAST, SIDE, caption, heat_map, pad_to_largest


def inspected(weights: list[list[list[float]]]) -> InspectedAttention:
    rows, columns = len(weights[0]), len(weights[0][0])
    head = HeadSummary(*(0.0 for _ in HeadSummary.__dataclass_fields__))
    names = ([f"r{row}" for row in range(rows)], [f"c{column}" for column in range(columns)])
    return InspectedAttention("encoder.0", *names, weights, [head] * len(weights))


def test_a_weight_is_a_square_of_the_mean_of_the_heads() -> None:
    image = heat_map(inspected([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]))
    assert image.shape == (2 * SIDE, 3 * SIDE, 3) and image.dtype == np.uint8
    corner = image[::SIDE, ::SIDE]
    assert (image == corner.repeat(SIDE, 0).repeat(SIDE, 1)).all()
    assert corner[0, 0].tolist() == DARKEST.tolist()
    assert (corner[:, 2] == 255).all()
    assert corner[0, 0].sum() < corner[1, 1].sum() < corner[1, 0].sum() < 3 * 255


@pytest.mark.parametrize(("size", "side"), [(400, LEAST), (100, 5), (3, SIDE)])
def test_large_maps_have_small_squares(size: int, side: int) -> None:
    assert heat_map(inspected([np.full((1, size), 1 / size).tolist()])).shape == (side, size * side, 3)


def test_weights_of_zero_are_white() -> None:
    assert (heat_map(inspected([[[0.0, 0.0]]])) == 255).all()


def test_padded_images_hold_the_images_and_white() -> None:
    """W&B shows a step's images in the size of the first, and warns on stderr where they differ."""
    maps = [heat_map(inspected([[[0.2] * columns] * rows])) for rows, columns in ((2, 3), (5, 1), (1, 4))]
    images = pad_to_largest(maps)
    assert {image.shape for image in images} == {(5 * SIDE, 4 * SIDE, 3)}
    for image, small in zip(images, maps, strict=True):
        height, width, _ = small.shape
        assert (image[:height, :width] == small).all()
        assert (image[height:] == 255).all() and (image[:, width:] == 255).all()
    assert pad_to_largest([]) == []


def test_the_caption_names_the_tokens() -> None:
    assert caption(inspected([[[0.5, 0.5]]])) == "encoder.0: r0 ← c0 c1"
