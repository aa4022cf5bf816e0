"""Encoder-decoders like BART in transformers: the names of their tensors and sizes, and their differences.

Axes: D model width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F

from etude.models.layers.feed_forward import Activation, SquaredReLU
from etude.models.layers.residual import PostNorm, PreNorm, Residual

SHARED = "model.shared.weight"
POSITIONS = "model.{side}.embed_positions.weight"
BIAS = "final_logits_bias"
SIDES = ("encoder", "decoder")

COPIES = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
"""Other names of the shared matrix in some files."""

ATTENTION = {"query_key_value": ("q_proj", "k_proj", "v_proj"), "output": ("out_proj",)}

LAYERS = {
    "encoder": {
        **{f"attention.{native}": tuple(f"self_attn.{part}" for part in parts) for native, parts in ATTENTION.items()},
        "attention_residual.norm": ("self_attn_layer_norm",),
        "feed_forward.inner": ("fc1",),
        "feed_forward.outer": ("fc2",),
        "feed_forward_residual.norm": ("final_layer_norm",),
    },
    "decoder": {
        **{
            f"self_attention.{native}": tuple(f"self_attn.{part}" for part in parts)
            for native, parts in ATTENTION.items()
        },
        "self_residual.norm": ("self_attn_layer_norm",),
        "cross_attention.query": ("encoder_attn.q_proj",),
        "cross_attention.output": ("encoder_attn.out_proj",),
        "cross_residual.norm": ("encoder_attn_layer_norm",),
        "feed_forward.inner": ("fc1",),
        "feed_forward.outer": ("fc2",),
        "feed_forward_residual.norm": ("final_layer_norm",),
    },
}
"""Native modules of a layer, and the modules of BART that they consist of; each has a weight and a bias."""


ACTIVATIONS: dict[str, Activation] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "swish": F.silu,
    "silu": F.silu,
    "relu2": SquaredReLU(),
}
"""Names of activations in config.json."""


@dataclass(frozen=True)
class EncoderDecoderFamily:
    """The differences between model types like BART.

    Attributes:
        model_type: The type's name in config.json.
        architecture: Its class in transformers.
        residual: Kind of residual connection; with `PreNorm` there is another norm at the end of each stack.
        embedding_norm: Whether embeddings are normalised.
        offset: Number of rows before that of position 0 in a table of positions.
        trained_positions: Whether positions are trained; otherwise they are sinusoids, which a file may omit.
    """

    model_type: str
    architecture: str
    residual: type[Residual]
    embedding_norm: bool = False
    offset: int = 0
    trained_positions: bool = False


ENCODER_DECODER_FAMILIES = {
    family.model_type: family
    for family in (
        EncoderDecoderFamily("marian", "MarianMTModel", PostNorm),
        EncoderDecoderFamily("pegasus", "PegasusForConditionalGeneration", PreNorm),
        EncoderDecoderFamily("bart", "BartForConditionalGeneration", PostNorm, True, offset=2, trained_positions=True),
    )
}


def module_names(encoder_layers: int, decoder_layers: int, family: EncoderDecoderFamily) -> dict[str, tuple[str, ...]]:
    """Return, for each module of a native model, the family's modules whose rows it concatenates."""
    names = {
        f"{side}.{index}.{native}": tuple(f"model.{side}.layers.{index}.{part}" for part in parts)
        for side, count in zip(SIDES, (encoder_layers, decoder_layers), strict=True)
        for index in range(count)
        for native, parts in LAYERS[side].items()
    }
    attention = "model.decoder.layers.{}.encoder_attn.{}_proj"
    names["memory"] = tuple(attention.format(index, part) for index in range(decoder_layers) for part in "kv")
    if family.residual is PreNorm:
        names |= {f"{side}_norm": (f"model.{side}.layer_norm",) for side in SIDES}
    if family.embedding_norm:
        names |= {f"{side}_embedding_norm": (f"model.{side}.layernorm_embedding",) for side in SIDES}
    return names


def tensor_names(encoder_layers: int, decoder_layers: int, family: EncoderDecoderFamily) -> dict[str, tuple[str, ...]]:
    """Return, for each tensor of a native model but positions and bias, the family's tensors that it concatenates."""
    modules = module_names(encoder_layers, decoder_layers, family)
    tensors = {
        f"{native}.{kind}": tuple(f"{part}.{kind}" for part in parts)
        for native, parts in modules.items()
        for kind in ("weight", "bias")
    }
    return {"embedding.weight": (SHARED,), **tensors}
