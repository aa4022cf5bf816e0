"""Residual connections: where the norm stands."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.nn.residual import PostNorm, PreNorm


def double(x: Tensor) -> Tensor:
    return 2 * x


def test_pre_norm_adds_the_sublayer_of_the_norm() -> None:
    x = torch.randn(5, 7)
    torch.testing.assert_close(PreNorm(width=7, dropout=0.0)(x, double), x + 2 * F.layer_norm(x, (7,)))


def test_post_norm_normalises_the_sum() -> None:
    x = torch.randn(5, 7)
    torch.testing.assert_close(PostNorm(width=7, dropout=0.0)(x, double), F.layer_norm(3 * x, (7,)))


def test_the_sublayer_is_dropped_out_and_the_input_is_not() -> None:
    x = torch.full((101, 7), 5.0)
    torch.manual_seed(1)
    out = PreNorm(width=7, dropout=0.5)(x, torch.ones_like)
    assert sorted(out.unique().tolist()) == [5.0, 7.0]


def test_eps_reaches_the_norm_and_the_final_norm() -> None:
    x = torch.randn(5, 7) * 1e-3
    small, large = (PostNorm(width=7, dropout=0.0, eps=eps)(x, double) for eps in (1e-12, 1.0))
    torch.testing.assert_close(small, F.layer_norm(3 * x, (7,), eps=1e-12))
    torch.testing.assert_close(large, F.layer_norm(3 * x, (7,), eps=1.0))
    final = PreNorm(width=7, dropout=0.0, eps=0.25).final_norm()
    assert isinstance(final, nn.LayerNorm)
    assert final.eps == 0.25


def test_a_post_norm_stack_ends_as_it_is() -> None:
    assert isinstance(PostNorm(width=7, dropout=0.0).final_norm(), nn.Identity)
