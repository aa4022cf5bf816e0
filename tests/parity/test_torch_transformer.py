"""Against torch's own attention, layers and whole Transformer, with the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.models.layers.attention import CrossAttention, SelfAttention
from etude.models.layers.encoder_layer import EncoderLayer
from etude.models.layers.feed_forward import FeedForward
from etude.models.layers.residual import PostNorm, PreNorm, Residual
from etude.models.layers.unpad import Unpadding
from etude.models.seq2seq import DecoderLayer, Seq2Seq
from etude.types import Facts

B, S, T, WIDTH, HEADS, INNER, VOCABULARY = 3, 7, 5, 22, 2, 31, 29
SOURCE_MASK = torch.arange(S) < torch.tensor([[7], [4], [2]])
TARGET_MASK = torch.arange(T) < torch.tensor([[3], [5], [1]])
CAUSAL = torch.ones(T, T, dtype=torch.bool).triu(1)
ATTENTION, TRANSFORM = partial(SelfAttention, WIDTH, HEADS), partial(FeedForward, WIDTH, INNER, 0.0)
BOTH_NORMS = pytest.mark.parametrize(("residual", "norm_first"), [(PreNorm, True), (PostNorm, False)])


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def shuffled(module: nn.Module) -> nn.Module:
    """Draw every parameter, biases and norms too, so that none is at a value that hides a mistake."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def copy(source: nn.Module, destination: nn.Module) -> None:
    destination.load_state_dict(source.state_dict())


def copy_self_attention(theirs: nn.MultiheadAttention, ours: SelfAttention) -> None:
    ours.query_key_value.load_state_dict({"weight": theirs.in_proj_weight, "bias": theirs.in_proj_bias})
    copy(theirs.out_proj, ours.output)


def copy_feed_forward(theirs: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer, ours: FeedForward) -> None:
    copy(theirs.linear1, ours.inner)
    copy(theirs.linear2, ours.outer)


def copy_encoder_layer(theirs: nn.TransformerEncoderLayer, ours: EncoderLayer) -> None:
    copy_self_attention(theirs.self_attn, ours.attention)
    copy(theirs.norm1, ours.attention_residual.norm)
    copy_feed_forward(theirs, cast(FeedForward, ours.feed_forward))
    copy(theirs.norm2, ours.feed_forward_residual.norm)


def copy_decoder_layer(theirs: nn.TransformerDecoderLayer, ours: DecoderLayer) -> None:
    copy_self_attention(theirs.self_attn, ours.self_attention)
    cross = theirs.multihead_attn
    query = {"weight": cross.in_proj_weight[:WIDTH], "bias": cross.in_proj_bias[:WIDTH]}
    ours.cross_attention.query.load_state_dict(query)
    copy(cross.out_proj, ours.cross_attention.output)
    copy(theirs.norm1, ours.self_residual.norm)
    copy(theirs.norm2, ours.cross_residual.norm)
    copy(theirs.norm3, ours.feed_forward_residual.norm)
    copy_feed_forward(theirs, cast(FeedForward, ours.feed_forward))


def memory_projection(theirs: nn.MultiheadAttention, states: Tensor) -> tuple[Tensor, Tensor]:
    projected = F.linear(states, theirs.in_proj_weight[WIDTH:], theirs.in_proj_bias[WIDTH:])
    keys, values = projected.view(B, S, 2, HEADS, -1).permute(2, 0, 3, 1, 4)
    return keys, values


@pytest.mark.parametrize("causal", [False, True])
def test_multi_head_attention(causal: bool) -> None:
    theirs = cast(nn.MultiheadAttention, shuffled(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)))
    ours = SelfAttention(WIDTH, HEADS, causal=causal)
    copy_self_attention(theirs, ours)
    x, layout = torch.randn(B, T, WIDTH), Unpadding.from_mask(TARGET_MASK)
    expected, _ = theirs(
        x, x, x, key_padding_mask=~TARGET_MASK, attn_mask=CAUSAL if causal else None, need_weights=False
    )
    close(ours(layout.unpad(x), layout), expected[TARGET_MASK])


@BOTH_NORMS
def test_encoder_layer(residual: Callable[..., Residual], norm_first: bool) -> None:
    theirs = cast(
        nn.TransformerEncoderLayer,
        shuffled(nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, 0.0, batch_first=True, norm_first=norm_first)),
    )
    ours = EncoderLayer(ATTENTION, TRANSFORM, partial(residual, width=WIDTH, dropout=0.0))
    copy_encoder_layer(theirs, ours)
    x, layout = torch.randn(B, S, WIDTH), Unpadding.from_mask(SOURCE_MASK)
    close(ours(layout.unpad(x), layout), theirs(x, src_key_padding_mask=~SOURCE_MASK)[SOURCE_MASK])


@BOTH_NORMS
def test_decoder_layer(residual: Callable[..., Residual], norm_first: bool) -> None:
    theirs = cast(
        nn.TransformerDecoderLayer,
        shuffled(nn.TransformerDecoderLayer(WIDTH, HEADS, INNER, 0.0, batch_first=True, norm_first=norm_first)),
    )
    causal, cross = partial(ATTENTION, causal=True), partial(CrossAttention, WIDTH, HEADS)
    ours = DecoderLayer(causal, cross, TRANSFORM, partial(residual, width=WIDTH, dropout=0.0))
    copy_decoder_layer(theirs, ours)
    x, memory = torch.randn(B, T, WIDTH), torch.randn(B, S, WIDTH)
    source, target = Unpadding.from_mask(SOURCE_MASK), Unpadding.from_mask(TARGET_MASK)
    expected = theirs(
        x,
        memory,
        tgt_mask=CAUSAL,
        tgt_key_padding_mask=~TARGET_MASK,
        memory_key_padding_mask=~SOURCE_MASK,
    )
    states = ours(target.unpad(x), target, memory_projection(theirs.multihead_attn, memory), source.key_mask)
    close(states, expected[TARGET_MASK])


def torch_transformer(norm_first: bool) -> nn.Transformer:
    """Return torch's Transformer; after post-norm layers it has no further norm, as in the paper."""
    layer = {"d_model": WIDTH, "nhead": HEADS, "dim_feedforward": INNER, "dropout": 0.0, "batch_first": True}
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(**layer, norm_first=norm_first),  # type: ignore[arg-type]
        2,
        norm=nn.LayerNorm(WIDTH) if norm_first else None,
        enable_nested_tensor=False,
    )
    decoder = nn.TransformerDecoder(
        nn.TransformerDecoderLayer(**layer, norm_first=norm_first),  # type: ignore[arg-type]
        3,
        norm=nn.LayerNorm(WIDTH) if norm_first else None,
    )
    whole = nn.Transformer(WIDTH, HEADS, custom_encoder=encoder, custom_decoder=decoder, batch_first=True)
    return cast(nn.Transformer, shuffled(whole))


@BOTH_NORMS
def test_whole_transformer_with_its_gradients(residual: Callable[..., Residual], norm_first: bool) -> None:
    theirs = torch_transformer(norm_first)
    ours = Seq2Seq(Facts(VOCABULARY, 0, 1, 2), WIDTH, HEADS, 2, 3, INNER, 0.0, 11, residual=residual)
    for source_layer, layer in zip(theirs.encoder.layers, ours.encoder, strict=True):
        copy_encoder_layer(cast(nn.TransformerEncoderLayer, source_layer), cast(EncoderLayer, layer))
    crosses = []
    for target_layer, layer in zip(theirs.decoder.layers, ours.decoder, strict=True):
        copy_decoder_layer(cast(nn.TransformerDecoderLayer, target_layer), cast(DecoderLayer, layer))
        crosses.append(cast(nn.TransformerDecoderLayer, target_layer).multihead_attn)
    memory = {
        "weight": torch.cat([cross.in_proj_weight[WIDTH:] for cross in crosses]),
        "bias": torch.cat([cross.in_proj_bias[WIDTH:] for cross in crosses]),
    }
    ours.memory.load_state_dict(memory)
    if norm_first:
        copy(cast(nn.Module, theirs.encoder.norm), ours.encoder_norm)
        copy(cast(nn.Module, theirs.decoder.norm), ours.decoder_norm)
    theirs, ours = theirs.double(), ours.double()
    source, target = torch.randint(3, VOCABULARY, (B, S)), torch.randint(3, VOCABULARY, (B, T))

    embedding = ours.output_weight.detach().clone().requires_grad_()
    table = cast(Tensor, ours.positions.table)
    embedded = [embedding[ids] * math.sqrt(WIDTH) + table[: ids.shape[1]] for ids in (source, target)]
    states = theirs(
        *embedded,
        tgt_mask=CAUSAL,
        src_key_padding_mask=~SOURCE_MASK,
        tgt_key_padding_mask=~TARGET_MASK,
        memory_key_padding_mask=~SOURCE_MASK,
    )
    expected = (states @ embedding.T)[TARGET_MASK]
    logits = ours(source, target, SOURCE_MASK, TARGET_MASK)[TARGET_MASK]
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)

    (gradient,) = torch.autograd.grad(expected.sin().sum(), embedding)
    torch.testing.assert_close(
        torch.autograd.grad(logits.sin().sum(), ours.output_weight)[0], gradient, rtol=1e-8, atol=1e-8
    )
