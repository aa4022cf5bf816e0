"""ESM in transformers: the one encoder there that has rotary positions, and LayerNorm before each sublayer, as etude's own has.

It was made for proteins (Lin et al. 2023), and its configuration lets it read anything.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.encoder import Encoder
from etude.models.layers.positions import Rotary
from etude.types import Facts


def check_for_esm(encoder: Encoder, activation: str) -> None:
    """Refuse an encoder with parts that ESM does not have.

    Args:
        encoder: An encoder with rotary positions.
        activation: transformers' name of its activation.

    Raises:
        ConfigurationError: If its activation is not GELU, or it tells the texts of a pair apart.
    """
    if activation != "gelu":
        raise ConfigurationError(
            f"Esm, the encoder of transformers with rotary positions, has no activation but gelu, and this one {activation}; "
            "train with model/feed_forward=gelu, or with model/positions=learned"
        )
    if encoder.segments is not None:
        raise ConfigurationError(
            "Esm, the encoder of transformers with rotary positions, does not tell the texts of a pair apart; "
            "train with model/positions=learned"
        )


def esm_buffers(encoder: Encoder) -> dict[str, Tensor]:
    """Return what the class has besides an encoder's weights: frequencies, and zeros for its head for contacts of proteins."""
    first: Any = encoder.layers[0]
    head_width = first.attention.head_width
    heads = encoder.width // head_width
    pairs = torch.arange(0, head_width, 2, dtype=torch.float)
    return {
        "rotary_embeddings.inv_freq": 1.0 / (_base(encoder) ** (pairs / head_width)),
        "contact_head.regression.weight": torch.zeros(1, len(encoder.layers) * heads),
        "contact_head.regression.bias": torch.zeros(1),
    }


def esm_config(encoder: Encoder, facts: Facts) -> dict[str, Any]:
    """Return the entries of config.json that make ESM this kind of encoder."""
    return {
        "position_embedding_type": "rotary",
        "rope_theta": _base(encoder),
        "emb_layer_norm_before": True,
        "token_dropout": False,
        "mask_token_id": facts.mask if facts.mask >= 0 else None,
    }


def _base(encoder: Encoder) -> float:
    return float(cast(Rotary, encoder.positions).base)
