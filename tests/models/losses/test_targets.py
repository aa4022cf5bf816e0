"""Losses of one decision an example: sums that add up however a batch is cut, equal to torch's and to what hand says."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.models.losses.targets import binary_cross_entropy, squared_error, weighted_cross_entropy
from etude.types import IGNORED


def drawn(rows: int, classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, classes, generator=source, dtype=torch.float64)
    labels = torch.randint(classes, (rows,), generator=source)
    return logits, labels, torch.rand(rows, generator=source, dtype=torch.float64)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(0, 9), st.sampled_from([0.0, 0.1]))
def test_weighted_sums_add_up(rows: int, cut: int, smoothing: float) -> None:
    logits, labels, weights = drawn(rows, 4)
    total, count = weighted_cross_entropy(logits, labels, weights, smoothing)
    parts = [
        weighted_cross_entropy(logits[part], labels[part], weights[part], smoothing)
        for part in (slice(cut), slice(cut, None))
    ]
    torch.testing.assert_close(total, parts[0][0] + parts[1][0])
    torch.testing.assert_close(count, parts[0][1] + parts[1][1])


def test_weights_of_classes_are_those_of_torch() -> None:
    logits, labels, _ = drawn(11, 3)
    each = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    total, count = weighted_cross_entropy(logits, labels, each[labels])
    torch.testing.assert_close(total / count, F.cross_entropy(logits, labels, weight=each))


def test_ignored_examples_have_no_part() -> None:
    logits, labels, weights = drawn(5, 3)
    logits.requires_grad_()
    labels[2], weights[2] = IGNORED, 0.0
    total, count = weighted_cross_entropy(logits, labels, weights)
    (gradient,) = torch.autograd.grad(total, logits)
    assert not gradient[2].any() and gradient[1].any()
    torch.testing.assert_close(count, weights.sum())


def test_several_classes_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [9.0, 9.0]])
    total, count = binary_cross_entropy(logits, torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([True, False]))
    # -log 1/2 and -log 1/4, of which the mean is over classes
    assert float(total) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert int(count) == 1


def test_squared_error_by_hand() -> None:
    total, count = squared_error(
        torch.tensor([1.0, 2.0, 7.0]), torch.tensor([3.0, 2.5, -100.0]), torch.tensor([True, True, False])
    )
    assert float(total) == pytest.approx(4.25) and int(count) == 2
