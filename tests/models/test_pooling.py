"""Pooling: means over real tokens, by hand; padding counts for nothing; what is read is what is said to be read."""

from __future__ import annotations

import numpy as np
import torch

from etude.models.pooling import POOLINGS

STATES = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [99.0, 99.0]], [[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]]])
MASK = torch.tensor([[True, True, False], [True, True, True]])


def test_the_mean_is_over_real_tokens() -> None:
    assert torch.equal(POOLINGS["mean"].of(STATES, MASK), torch.tensor([[2.0, 3.0], [7.0, 8.0]]))


def test_the_first_is_the_state_of_the_token_that_starts_the_text() -> None:
    for name in ("first", "pooler"):
        assert torch.equal(POOLINGS[name].of(STATES, MASK), torch.tensor([[1.0, 2.0], [5.0, 6.0]]))


def test_states_that_are_read() -> None:
    lengths = np.array([3, 5])
    assert POOLINGS["mean"].states_read(lengths) is lengths
    assert POOLINGS["first"].states_read(lengths) is None
