"""Pictures of attention: every weight has its pixel, and comes back from the block of weights."""

from __future__ import annotations

import base64
import gzip
import io

import numpy as np
import pytest
from PIL import Image

from etude.metrics.attention_head import HeadSummary
from etude.report.attention_pictures import SCALE, SHADES, packed_weights, picture, shown_attention
from etude.report.inspection import Alignment, InspectedAttention, Inspection

HEAD = HeadSummary(**dict.fromkeys(("entropy", "distance", "diagonal", "previous", "next", "first", "last"), 0.0))


def weights_in(packed: str) -> np.ndarray:
    """Weights as the page's program reads them."""
    planes = np.frombuffer(gzip.decompress(base64.b64decode(packed)), np.uint8)
    low, high = planes.reshape(2, -1).astype(int)
    return (low + 256 * high) / SCALE


def test_weights_come_back_to_three_digits() -> None:
    weights = np.random.default_rng(1).dirichlet(np.ones(7), size=5)
    np.testing.assert_allclose(weights_in(packed_weights(weights.ravel())), weights.ravel(), atol=0.5 / SCALE + 1e-12)
    assert weights_in(packed_weights(np.array([0.0, 1.0, np.nan]))).tolist() == [0.0, 1.0, 0.0]


def test_a_picture_has_a_pixel_for_each_weight_and_shows_more_the_more_it_is() -> None:
    weights = np.array([[0.0, 0.01, 0.25], [0.5, 1.0, np.nan]])
    data = picture(weights).removeprefix("data:image/png;base64,")
    opacity = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))[..., 3]
    wanted = np.rint((SHADES - 1) * np.sqrt(np.nan_to_num(weights))) * 255 / (SHADES - 1)
    assert opacity.shape == (2, 3) and opacity.tolist() == np.rint(wanted).astype(int).tolist()


def test_each_view_knows_its_place_and_says_its_strongest_links() -> None:
    first, second = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.5, 0.5], [0.0, 1.0]])
    attention = InspectedAttention("cross", ["x", "y"], ["a", "b"], [first.tolist(), second.tolist()], [HEAD, HEAD])
    inspection = Inspection("a b", "x y", False, [attention, attention], Alignment("cross", ["a"], ["x"], []))
    shown = shown_attention([inspection])
    ((_, maps),) = shown.texts
    views = [view for one in maps for view in one.views]
    assert [view.name for view in views] == ["mean", "1", "2"] * 2 and [view.at for view in views] == [
        0,
        4,
        8,
        12,
        16,
        20,
    ]
    values = weights_in(shown.weights)
    assert values[4:8].tolist() == first.ravel().tolist() and values[8:12].tolist() == second.ravel().tolist()
    assert views[1].strongest == "x → a 0.90, y → b 0.80, y → a 0.20" and views[1].label == "cross, head 1"
    assert shown.sizes == [2]


def test_nothing_to_show_is_nothing() -> None:
    assert shown_attention([]).texts == [] and weights_in(shown_attention([]).weights).size == 0


@pytest.mark.parametrize("size", [1, 47])
def test_a_picture_is_small(size: int) -> None:
    assert len(picture(np.full((size, size), 1 / size))) < 700
