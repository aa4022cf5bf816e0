"""Residual connections: where the norm stands."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.models.layers.residual import Norm, PostNorm, PreNorm


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


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, partial(nn.LayerNorm, eps=0.25)])
def test_the_norm_is_the_given_one_at_the_end_too(norm: Norm) -> None:
    x = torch.randn(5, 7)
    post = PostNorm(width=7, dropout=0.0, norm=norm)
    torch.testing.assert_close(post(x, double), norm(7)(3 * x))
    pre = PreNorm(width=7, dropout=0.0, norm=norm)
    torch.testing.assert_close(pre(x, double), x + 2 * norm(7)(x))
    torch.testing.assert_close(pre.final_norm()(x), norm(7)(x))
    assert pre.final_norm() is not pre.norm


def test_a_post_norm_stack_ends_as_it_is() -> None:
    assert isinstance(PostNorm(width=7, dropout=0.0).final_norm(), nn.Identity)
