"""Decoders with weights of transformers' GPT-2, from and to its files.

Axes: D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.hub import PretrainedFiles
from etude.models.decoder import CausalLayer, Decoder
from etude.models.layers.feed_forward import FeedForward
from etude.models.layers.positions import Learned
from etude.models.layers.residual import PreNorm
from etude.models.pretrained.base import NativePretrainedModel
from etude.models.pretrained.bert import ACTIVATIONS
from etude.models.pretrained.skeleton import PretrainedSkeleton
from etude.models.pretrained.weight_files import check_names, check_tokenizer, read_native_config, read_safetensors
from etude.types import Facts

PREFIX = "transformer."
OUTPUT = "lm_head.weight"
"""Another name of the embedding in some files."""

UNUSED = (".attn.bias", ".attn.masked_bias")
"""Suffixes of the causal masks that older files hold besides the weights."""

OUTER = {
    "embedding.weight": "wte.weight",
    "positions.embedding.weight": "wpe.weight",
    "norm.weight": "ln_f.weight",
    "norm.bias": "ln_f.bias",
}
"""Native tensors outside the layers, and those of GPT-2."""

NORMS = {"attention_residual.norm": "ln_1", "feed_forward_residual.norm": "ln_2"}
"""Native norms of a layer, and those of GPT-2."""

LINEAR = {
    "attention.query_key_value": "attn.c_attn",
    "attention.output": "attn.c_proj",
    "feed_forward.inner": "mlp.c_fc",
    "feed_forward.outer": "mlp.c_proj",
}
"""Native linear layers of a layer, and those of GPT-2, whose matrices are stored as [inputs, outputs]."""

SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
    "activation_function": ("gelu_new", *ACTIVATIONS),
}
"""Supported values in config.json; the first is GPT-2's default."""


class PretrainedDecoder(Decoder):
    """A decoder with the weights of a pretrained model.

    Args:
        files: The pretrained model's files.
        **parts: Arguments of `Decoder`.
    """

    def __init__(self, files: PretrainedFiles, **parts: Any) -> None:
        super().__init__(**parts)
        self.files = files


@dataclass(frozen=True)
class PretrainedGPT2(NativePretrainedModel):
    """A pretrained GPT-2. Takes what `NativePretrainedModel` does; GPT-2 has no dropout inside feed-forward layers."""

    def build(
        self, facts: Facts, interface: type[nn.Module], saved: PretrainedSkeleton | None = None
    ) -> PretrainedDecoder:
        """Build the decoder and load its weights, as `PretrainedModel.build` says."""
        files, name = self.files(saved), self.name
        config = _checked(read_native_config(files), name)
        check_tokenizer(facts, config, name)
        activation = ACTIVATIONS[config.get("activation_function", "gelu_new")]
        decoder = PretrainedDecoder(
            files,
            facts=facts,
            width=config["n_embd"],
            heads=config["n_head"],
            layers=config["n_layer"],
            feed_forward=config.get("n_inner") or 4 * config["n_embd"],
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
            max_length=config["n_positions"],
            positions=Learned,
            norm=partial(nn.LayerNorm, eps=config.get("layer_norm_epsilon", 1e-5)),
            residual=PreNorm,
            feed_forward_layer=partial(FeedForward, activation=activation),
        )
        from_gpt2(decoder, read_safetensors(files), name)
        return decoder


def from_gpt2(decoder: Decoder, weights: Mapping[str, Tensor], name: str) -> None:
    """Load the weights of a transformers GPT2LMHeadModel, or of the bare GPT2Model, into a decoder.

    Args:
        decoder: A decoder of the weights' sizes, with `Learned` positions and `PreNorm`.
        weights: Tensors by their names in transformers.
        name: The user's name of the model, for messages.

    Raises:
        ConfigurationError: If tensors are missing, extra, or of another shape, or the output matrix is not the embedding.
    """
    tensors = {key.removeprefix(PREFIX): tensor for key, tensor in weights.items() if not key.endswith(UNUSED)}
    output, names = tensors.pop(OUTPUT, None), gpt2_names(decoder)
    check_names(tensors.keys(), names.values(), name)
    if output is not None and not torch.equal(output, tensors["wte.weight"]):
        raise ConfigurationError(
            f"{name} has other values in {OUTPUT} than in wte.weight; a decoder has one matrix for both"
        )
    state = {native: _transposed(native, tensors[other]) for native, other in names.items()}
    for native, tensor in decoder.state_dict().items():
        if state[native].shape != tensor.shape:
            raise ConfigurationError(
                f"the weights of {name} are not its config.json's: {names[native]} gives {list(state[native].shape)}, "
                f"which should be {list(tensor.shape)}"
            )
    decoder.load_state_dict(state)


def to_gpt2(decoder: Decoder) -> dict[str, Tensor]:
    """Return a decoder's weights by their names in transformers, for a GPT2LMHeadModel of `gpt2_config`.

    Raises:
        ConfigurationError: If GPT-2 cannot hold the decoder.
    """
    _check_parts(decoder)
    state, names = decoder.state_dict(), gpt2_names(decoder)
    different = ", ".join(sorted(state.keys() ^ names.keys()))
    if different:
        raise ConfigurationError(
            f"GPT-2 and this decoder do not have the same tensors: {different}; "
            "train with model/norm=layer model/feed_forward=gelu"
        )
    return {
        PREFIX + other: _transposed(native, state[native]).clone(memory_format=torch.contiguous_format)
        for native, other in names.items()
    }


def _check_parts(decoder: Decoder) -> None:
    """Refuse parts that GPT-2 does not have, naming the choices that give its own."""
    layers = cast(list[CausalLayer], list(decoder.layers))
    parts: dict[str, tuple[type, set[type]]] = {
        "model/positions=learned": (Learned, {type(decoder.positions)}),
        "model/residual=pre_norm": (PreNorm, {type(layer.attention_residual) for layer in layers}),
        "model/norm=layer": (nn.LayerNorm, {type(layer.attention_residual.norm) for layer in layers}),
        "model/feed_forward=gelu": (FeedForward, {type(layer.feed_forward) for layer in layers}),
        "model.query_key_norm=false": (type(None), {type(layer.attention.query_key_norm) for layer in layers}),
    }
    foreign = {
        choice: {kind.__name__ for kind in kinds - {own}} for choice, (own, kinds) in parts.items() if kinds != {own}
    }
    if decoder.logit_cap is not None:
        foreign["model.logit_cap=null"] = {"logit_cap"}
    if foreign:
        names = ", ".join(sorted(name for kinds in foreign.values() for name in kinds))
        raise ConfigurationError(
            f"GPT-2, the only decoder of transformers that is written, has no {names}; train with {' '.join(foreign)}"
        )


def gpt2_config(decoder: Decoder, facts: Facts) -> dict[str, Any]:
    """Return the config.json of a decoder that `to_gpt2` accepts.

    Raises:
        ConfigurationError: If GPT-2 does not have the decoder's activation.
    """
    first = cast(CausalLayer, decoder.layers[0])
    feed_forward = cast(FeedForward, first.feed_forward)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": decoder.vocabulary,
        "n_positions": decoder.max_length,
        "n_embd": decoder.width,
        "n_layer": len(decoder.layers),
        "n_head": decoder.heads,
        "n_inner": feed_forward.inner.out_features,
        "activation_function": _activation_name(feed_forward),
        "layer_norm_epsilon": cast(nn.LayerNorm, decoder.norm).eps,
        "resid_pdrop": decoder.dropout.probability,
        "embd_pdrop": decoder.dropout.probability,
        "attn_pdrop": first.attention.attend.dropout.probability,
        "pad_token_id": facts.pad,
        "bos_token_id": facts.bos,
        "eos_token_id": facts.eos,
        "tie_word_embeddings": True,
    }


def gpt2_names(decoder: Decoder) -> dict[str, str]:
    """Return GPT-2's name of each tensor of a decoder, without the prefix of a model with an output layer."""
    layers = {
        f"layers.{index}.{native}.{kind}": f"h.{index}.{other}.{kind}"
        for index in range(len(decoder.layers))
        for native, other in (NORMS | LINEAR).items()
        for kind in ("weight", "bias")
    }
    return OUTER | layers


def _transposed(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor in the other layout, in which the matrices of linear layers are transposed."""
    return tensor.T if name.endswith(tuple(f"{layer}.weight" for layer in LINEAR)) else tensor


def _activation_name(feed_forward: FeedForward) -> str:
    probe = torch.linspace(-4, 4, 97)  # a function, a module and a partial application may be one activation
    for name, activation in ACTIVATIONS.items():
        if torch.equal(feed_forward.activation(probe), activation(probe)):
            return name
    raise ConfigurationError(
        f"only the activations {', '.join(ACTIVATIONS)} can be written, not {feed_forward.activation}; "
        "train with model/feed_forward=gelu"
    )


def _checked(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Refuse a config that is not GPT-2's, or that lacks sizes."""
    for key, accepted in SUPPORTED.items():
        if config.get(key, accepted[0]) not in accepted:
            raise ConfigurationError(
                f"{name} has {key} = {config[key]!r}; model=gpt2 reads {' or '.join(map(str, dict.fromkeys(accepted)))}; "
                "set another model.name"
            )
    absent = [key for key in ("vocab_size", "n_embd", "n_head", "n_layer", "n_positions") if config.get(key) is None]
    if absent:
        raise ConfigurationError(f"config.json of {name} has no {', '.join(absent)}; write it there")
    return config
