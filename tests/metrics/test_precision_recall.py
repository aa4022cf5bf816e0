"""Precision and recall: as torchmetrics has them, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_average_precision, binary_precision_recall_curve

from etude.metrics.precision_recall import precision_recall


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40))
def test_it_is_what_torchmetrics_computes(rows: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([one / 8 for one, _ in rows]), np.array([one for _, one in rows])
    found = precision_recall(scores, positive)
    if not positive.any():
        assert found is None
        return
    assert found is not None
    pair = torch.from_numpy(scores), torch.from_numpy(positive).long()
    precision, recall, thresholds = (one.numpy() for one in binary_precision_recall_curve(*pair))
    # The reference goes the other way, and ends with a point that has no threshold.
    np.testing.assert_allclose(found.precision, precision[-2::-1], rtol=1e-6)
    np.testing.assert_allclose(found.recall, recall[-2::-1], rtol=1e-6)
    np.testing.assert_allclose(found.thresholds, thresholds[::-1])
    assert found.average_precision == pytest.approx(float(binary_average_precision(*pair)), abs=1e-6)


def test_by_hand() -> None:
    found = precision_recall(np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, False, True, True]))
    assert found is not None
    assert found.thresholds.tolist() == [0.9, 0.8, 0.1]
    assert found.precision.tolist() == [1.0, pytest.approx(2 / 3), 0.75]
    assert found.recall.tolist() == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]
    assert found.at_recall(0.5) == pytest.approx((0.8, 2 / 3))
    assert found.at_recall(1.0) == pytest.approx((0.1, 0.75))
    assert found.points(2) == [(0.9, 1.0, pytest.approx(1 / 3)), (0.1, 0.75, 1.0)]
    assert len(found.points(50)) == 3
