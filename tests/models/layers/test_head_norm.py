"""The norm of queries and keys: worked by hand, blind to scale, in single precision."""

from __future__ import annotations

import pytest
import torch

from etude.models.layers.head_norm import EPS, HeadNorm

N, P, H, K = 5, 2, 3, 7


def test_worked_by_hand() -> None:
    """(3, 4) has a mean square of 12.5; the second part has gains of 10 and 100."""
    norm = HeadNorm(2, parts=2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 1.0, 10.0, 100.0]))
    out = norm(torch.tensor([3.0, 4.0]).expand(1, 2, 1, 2)).flatten().tolist()
    root = 12.5**0.5
    assert out == pytest.approx([3 / root, 4 / root, 30 / root, 400 / root], rel=1e-6)


def test_heads_share_the_gain_of_their_part() -> None:
    norm, x = HeadNorm(K, P), torch.randn(N, P, H, K)
    torch.nn.init.normal_(norm.weight)
    plain = x / (x.square().mean(dim=3, keepdim=True) + EPS).sqrt() * norm.weight.unflatten(0, (P, 1, K))
    torch.testing.assert_close(norm(x), plain)
    order = torch.randperm(H)
    assert torch.equal(norm(x[:, :, order]), norm(x)[:, :, order])


def test_scale_is_lost_and_the_gain_is_a_vector() -> None:
    norm, x = HeadNorm(K, P), torch.randn(N, P, H, K, dtype=torch.float64)
    torch.testing.assert_close(norm(1000 * x), norm(x), rtol=1e-4, atol=0)
    assert norm.weight.dim() == 1  # a matrix would decay


def test_sixteen_bits_are_normalised_in_single_precision_and_rounded_once() -> None:
    norm, x = HeadNorm(K, P), torch.randn(N, P, H, K).bfloat16()
    assert torch.equal(norm(x), norm(x.float()).bfloat16())
    assert norm(x.double()).dtype == torch.float64
