"""Small tasks to fine-tune."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from etude.models.encoder import Encoder
from etude.models.layers.residual import PostNorm
from etude.optim.schedules import Constant
from etude.tasks.classification import Classification
from etude.types import ClassificationBatch, Facts

FACTS = Facts(vocabulary=23, pad=0, bos=1, eos=2, classes=("a", "b", "c"))
LAYERS = 3


@pytest.fixture
def task() -> Classification:
    """A classifier with dropout on a BERT of three layers."""
    torch.manual_seed(5)
    schedule: Any = Constant()  # frozen, which a protocol's attributes cannot say
    encoder = Encoder(FACTS, 12, 3, LAYERS, 20, dropout=0.1, max_length=9, residual=PostNorm)
    return Classification(FACTS, encoder, partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.5), schedule)


@pytest.fixture
def batch() -> ClassificationBatch:
    """Three texts of 7, 4 and 2 tokens."""
    mask = torch.arange(7) < torch.tensor([[7], [4], [2]])
    tokens = torch.randint(3, 23, mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    return ClassificationBatch(
        tokens=tokens, mask=mask, labels=torch.tensor([0, 2, 1]), step_count=3, ids=torch.arange(3)
    )
