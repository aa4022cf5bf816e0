"""What attention does about distances: the papers' formulas, and nothing but distances."""

from __future__ import annotations

import cmath

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.layers.attention import SelfAttention, record_attention
from etude.models.layers.key_value_cache import KeyValueCache
from etude.models.layers.positions import ALiBi, Rotary
from etude.models.layers.relative_positions import LinearBias, Relative, Rotation, slopes
from etude.models.layers.unpad import Unpadding

WIDTH, HEADS, LENGTH = 24, 3, 11
KINDS = {
    "none": Relative(),
    "rotary": Rotary(width=WIDTH, heads=HEADS, max_length=LENGTH).relative,
    "alibi": ALiBi(width=WIDTH, heads=HEADS, max_length=LENGTH).relative,
}
EACH = pytest.mark.parametrize("kind", KINDS)


def test_rotation_is_multiplication_of_complex_numbers() -> None:
    """A head as K/2 complex numbers x_i + j x_(i + K/2), turned by p base^(-2i/K): element by element."""
    half, base, x = 4, 100.0, torch.randn(5, 3, 2, 8, dtype=torch.float64)
    positions = torch.tensor([0, 1, 6, 6, 2])
    turned = Rotation(2 * half, 7, base).double().rotate(x, positions)
    assert torch.equal(turned[:, 2], x[:, 2])
    for token, position in enumerate(positions.tolist()):
        for pair in range(half):
            number = complex(x[token, 1, 1, pair], x[token, 1, 1, pair + half])
            expected = number * cmath.exp(1j * position * base ** (-2 * pair / (2 * half)))
            found = complex(turned[token, 1, 1, pair], turned[token, 1, 1, pair + half])
            assert abs(found - expected) < 1e-6


def test_rotation_is_that_of_llama() -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = pytest.importorskip("transformers").LlamaConfig(hidden_size=WIDTH, num_attention_heads=HEADS)
    positions = torch.arange(LENGTH)[None]
    x = torch.randn(LENGTH, 3, HEADS, WIDTH // HEADS)
    query, key = (x[None, :, part].transpose(1, 2) for part in (0, 1))
    angles = llama.LlamaRotaryEmbedding(config)(x, positions)
    expected = [states[0].transpose(0, 1) for states in llama.apply_rotary_pos_emb(query, key, *angles)]
    ours = KINDS["rotary"].rotate(x, positions[0])
    torch.testing.assert_close(ours[:, 0], expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[:, 1], expected[1], rtol=1e-5, atol=1e-5)


@given(first=st.integers(0, 40), second=st.integers(0, 40), shift=st.integers(0, 40))
@settings(max_examples=30)
def test_a_rotated_product_depends_on_the_distance_alone(first: int, second: int, shift: int) -> None:
    rotation, x = Rotation(8, 81).double(), torch.randn(2, 3, 1, 8, dtype=torch.float64)

    def product(*positions: int) -> Tensor:
        turned = rotation.rotate(x, torch.tensor(positions))
        return turned[0, 0, 0] @ turned[1, 1, 0]

    torch.testing.assert_close(product(first, second), product(first + shift, second + shift), rtol=0, atol=1e-5)


def test_slopes_are_the_papers() -> None:
    """Section 3: for 8 heads 1/2, 1/4, … 1/256; for 16 the geometric sequence that starts at 2^(-1/2)."""
    assert slopes(8).tolist() == [2.0**-power for power in range(1, 9)]
    torch.testing.assert_close(slopes(16), torch.tensor([2 ** (-power / 2) for power in range(1, 17)]))
    torch.testing.assert_close(slopes(3), torch.tensor([2.0**-4, 2.0**-8, 2.0**-2]))
    assert slopes(1).tolist() == [2.0**-8]


def test_bias_worked_by_hand() -> None:
    """Two heads have slopes 1/16 and 1/256. Padding between two tokens is not a distance."""
    layout = Unpadding.from_mask(torch.tensor([[True, False, True], [True, True, True]]))
    bias = LinearBias(2).bias(layout)
    assert (bias[0, 0] * -16)[[0, 0, 2], [0, 2, 0]].tolist() == [0, 1, 1]
    assert (bias[1, 1] * -256).tolist() == [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    assert (LinearBias(2).bias_next(3)[0, :, 0] * -256).tolist() == [[32, 16, 0], [2, 1, 0]]


@EACH
def test_steps_equal_the_whole(kind: str) -> None:
    rows = 2
    attention = SelfAttention(WIDTH, HEADS, causal=True, relative=KINDS[kind])
    x = torch.randn(rows, LENGTH, WIDTH)
    whole = attention(x.flatten(0, 1), Unpadding.from_mask(torch.ones(rows, LENGTH, dtype=torch.bool)))
    past = KeyValueCache(torch.empty(rows, 0, 2, HEADS, WIDTH // HEADS))
    steps = [attention.step(x[:, position], past) for position in range(LENGTH)]
    torch.testing.assert_close(torch.stack(steps, dim=1).flatten(0, 1), whole, rtol=1e-5, atol=1e-5)


@EACH
@pytest.mark.parametrize("causal", [False, True])
def test_a_row_is_the_same_alone_and_with_padding_anywhere(kind: str, causal: bool) -> None:
    attention, x = SelfAttention(WIDTH, HEADS, causal, relative=KINDS[kind]), torch.randn(2, 5, WIDTH)
    mask = torch.tensor([[False, True, False, True, True], [True, True, True, False, True]])
    out = attention(x[mask], Unpadding.from_mask(mask))
    alone = [attention(row[real], Unpadding.from_mask(real[real][None])) for row, real in zip(x, mask, strict=True)]
    torch.testing.assert_close(out, torch.cat(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["rotary", "alibi"])
def test_order_matters_to_those_that_act(kind: str) -> None:
    x, layout = torch.randn(4, WIDTH), Unpadding.from_mask(torch.ones(1, 4, dtype=torch.bool))
    order = torch.tensor([2, 0, 3, 1])
    for name, same in ((kind, False), ("none", True)):
        attention = SelfAttention(WIDTH, HEADS, relative=KINDS[name])
        assert torch.allclose(attention(x, layout)[order], attention(x[order], layout), atol=1e-5) is same


@EACH
def test_recorded_weights_give_the_output(kind: str) -> None:
    layout = Unpadding.from_mask(torch.tensor([[True, True, True], [True, True, False]]))
    attention, x = SelfAttention(WIDTH, HEADS, causal=True, relative=KINDS[kind]), torch.randn(5, WIDTH)
    with record_attention(torch.nn.ModuleDict({"only": attention})) as maps:
        out = attention(x, layout)
    values = layout.pad(attention.query_key_value(x)[:, 2 * WIDTH :]).view(2, 3, HEADS, -1).transpose(1, 2)
    mixed = layout.unpad((maps["only"] @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention.output(mixed), out, rtol=1e-5, atol=1e-6)


def test_half_precision_keeps_its_type() -> None:
    x = torch.randn(4, 3, HEADS, WIDTH // HEADS, dtype=torch.bfloat16)
    assert KINDS["rotary"].rotate(x, torch.arange(4)).dtype == torch.bfloat16


def test_nothing_is_trained_or_saved() -> None:
    for module in KINDS.values():
        assert not module.state_dict()
        assert not list(module.parameters())


def test_an_odd_head_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"model.width / model.heads = 7 is odd, .* try another model.heads"):
        Rotary(width=21, heads=3, max_length=5)
