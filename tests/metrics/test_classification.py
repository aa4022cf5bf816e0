from __future__ import annotations

import pytest
import torch

from etude.metrics.classification import accuracy, confusion, macro_f1
from etude.types import IGNORED

# Rows by (label, prediction): (0, 0) three times, (0, 1) twice, (1, 1) five times, (2, 0) once; class 3 does not occur.
LABELS = torch.tensor([0] * 5 + [1] * 5 + [2])
PREDICTIONS = torch.tensor([0, 0, 0, 1, 1] + [1] * 5 + [0])


def test_worked_by_hand() -> None:
    assert accuracy(PREDICTIONS, LABELS, 4) == pytest.approx(8 / 11)
    # F1 = 2 · right / (of this class + given this class)
    assert macro_f1(PREDICTIONS, LABELS, 4) == pytest.approx((2 * 3 / (5 + 4) + 2 * 5 / (5 + 7) + 0) / 3)
    expected = torch.tensor([[3, 2, 0, 0], [0, 5, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert torch.equal(confusion(PREDICTIONS, LABELS, 4), expected)


def test_ignored_rows_do_not_count() -> None:
    labels = torch.cat([LABELS, torch.full((7,), IGNORED)])
    predictions = torch.cat([PREDICTIONS, torch.arange(7) % 4])
    assert accuracy(predictions, labels, 4) == accuracy(PREDICTIONS, LABELS, 4)
    assert macro_f1(predictions, labels, 4) == macro_f1(PREDICTIONS, LABELS, 4)
    assert torch.equal(confusion(predictions, labels, 4), confusion(PREDICTIONS, LABELS, 4))


def test_order_does_not_matter() -> None:
    order = torch.randperm(11, generator=torch.Generator().manual_seed(2))
    assert macro_f1(PREDICTIONS[order], LABELS[order], 4) == macro_f1(PREDICTIONS, LABELS, 4)
