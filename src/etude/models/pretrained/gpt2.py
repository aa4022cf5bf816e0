"""Decoders with weights in GPT-2's layout of names, from and to Hugging Face's files.

Axes: D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.hub import PretrainedFiles, open_pretrained
from etude.models.decoder import CausalLayer, Decoder
from etude.models.layers.feed_forward import FeedForward
from etude.models.layers.positions import Learned
from etude.models.layers.residual import PreNorm
from etude.models.pretrained.bert import ACTIVATIONS
from etude.models.pretrained.weight_files import check_tokenizer, read_json, read_safetensors
from etude.types import Facts

PREFIX = "transformer."
OUTPUT = "lm_head.weight"
"""The embedding's other name, where a file has it."""

UNUSED = (".attn.bias", ".attn.masked_bias")
"""Ends of names of what older files hold besides weights: which position may attend to which."""

OUTER = {
    "embedding.weight": "wte.weight",
    "positions.embedding.weight": "wpe.weight",
    "norm.weight": "ln_f.weight",
    "norm.bias": "ln_f.bias",
}
"""Tensors here, and those of GPT-2."""

NORMS = {"attention_residual.norm": "ln_1", "feed_forward_residual.norm": "ln_2"}
"""Norms of a layer here, and those of GPT-2."""

LINEAR = {
    "attention.query_key_value": "attn.c_attn",
    "attention.output": "attn.c_proj",
    "feed_forward.inner": "mlp.c_fc",
    "feed_forward.outer": "mlp.c_proj",
}
"""Linear layers of a layer here, and those of GPT-2, whose matrices are stored [inputs, outputs]."""

FIXED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
    "activation_function": ("gelu_new", *ACTIVATIONS),
}
"""What config.json may say; the first is GPT-2's default."""


class PretrainedDecoder(Decoder):
    """A decoder with the weights of a pretrained model.

    Args:
        files: Where the weights come from.
        **parts: As `Decoder` takes them.
    """

    def __init__(self, files: PretrainedFiles, **parts: Any) -> None:
        super().__init__(**parts)
        self.files = files


def pretrained_gpt2(
    facts: Facts, name: str, dropout: float = 0.1, attention_dropout: float = 0.0, activation_dropout: float = 0.0
) -> Decoder:
    """Build a pretrained GPT-2 and load its weights.

    Args:
        facts: The tokenizer's vocabulary and special ids, which must be the weights'.
        name: A folder, a package, or a name in the hub, with config.json and model.safetensors.
        dropout: As in `Decoder`.
        attention_dropout: As in `Decoder`.
        activation_dropout: As in `Decoder`; GPT-2 has none.

    Raises:
        ConfigurationError: If the model is no GPT-2, its weights are not those of its config.json, or the tokenizer is
            another's.
        DataError: If the files are missing or unreadable.
    """
    files = open_pretrained(name)
    config = _checked(read_json(files), name)
    check_tokenizer(facts, config, name)
    activation = ACTIVATIONS[config.get("activation_function", "gelu_new")]
    decoder = PretrainedDecoder(
        files,
        facts=facts,
        width=config["n_embd"],
        heads=config["n_head"],
        layers=config["n_layer"],
        feed_forward=config.get("n_inner") or 4 * config["n_embd"],
        dropout=dropout,
        attention_dropout=attention_dropout,
        activation_dropout=activation_dropout,
        max_length=config["n_positions"],
        positions=Learned,
        norm=partial(nn.LayerNorm, eps=config.get("layer_norm_epsilon", 1e-5)),
        residual=PreNorm,
        feed_forward_layer=partial(FeedForward, activation=activation),
    )
    from_gpt2(decoder, read_safetensors(files), name)
    return decoder


def from_gpt2(decoder: Decoder, weights: Mapping[str, Tensor], name: str) -> None:
    """Load the weights of a Hugging Face GPT2LMHeadModel, or of the bare GPT2Model, into a decoder.

    Args:
        decoder: With `Learned` positions and `PreNorm`, of the weights' sizes.
        weights: By Hugging Face's names.
        name: What the user called the model, for messages.

    Raises:
        ConfigurationError: If tensors are missing, left over, or of another shape, or the output's matrix is not the
            embedding's.
    """
    given = {key.removeprefix(PREFIX): tensor for key, tensor in weights.items() if not key.endswith(UNUSED)}
    output, names = given.pop(OUTPUT, None), gpt2_names(decoder)
    if given.keys() != set(names.values()):
        expected = set(names.values())
        missing, extra = (
            ", ".join(sorted(keys)) or "none" for keys in (expected - given.keys(), given.keys() - expected)
        )
        raise ConfigurationError(f"the weights of {name} are not its config.json's; missing: {missing}; extra: {extra}")
    if output is not None and not torch.equal(output, given["wte.weight"]):
        raise ConfigurationError(
            f"{name} has other values in {OUTPUT} than in wte.weight; a decoder has one matrix for both"
        )
    state = {ours: _turned(ours, given[theirs]) for ours, theirs in names.items()}
    for ours, tensor in decoder.state_dict().items():
        if state[ours].shape != tensor.shape:
            raise ConfigurationError(
                f"the weights of {name} are not its config.json's: {names[ours]} gives {list(state[ours].shape)}, "
                f"which should be {list(tensor.shape)}"
            )
    decoder.load_state_dict(state)


def to_gpt2(decoder: Decoder) -> dict[str, Tensor]:
    """Return a decoder's weights by Hugging Face's names, for a GPT2LMHeadModel of `gpt2_config`.

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
        PREFIX + theirs: _turned(ours, state[ours]).clone(memory_format=torch.contiguous_format)
        for ours, theirs in names.items()
    }


def _check_parts(decoder: Decoder) -> None:
    """Refuse parts that GPT-2 has not, and say which choices give its own."""
    layers = cast(list[CausalLayer], list(decoder.layers))
    parts: dict[str, tuple[type[nn.Module], set[type[nn.Module]]]] = {
        "model/positions=learned": (Learned, {type(decoder.positions)}),
        "model/residual=pre_norm": (PreNorm, {type(layer.attention_residual) for layer in layers}),
        "model/norm=layer": (nn.LayerNorm, {type(layer.attention_residual.norm) for layer in layers}),
        "model/feed_forward=gelu": (FeedForward, {type(layer.feed_forward) for layer in layers}),
    }
    foreign = {choice: kinds - {known} for choice, (known, kinds) in parts.items() if kinds != {known}}
    if foreign:
        names = ", ".join(sorted(kind.__name__ for kinds in foreign.values() for kind in kinds))
        raise ConfigurationError(
            f"GPT-2, the only decoder of transformers that is written, has no {names}; train with {' '.join(foreign)}"
        )


def gpt2_config(decoder: Decoder, facts: Facts) -> dict[str, Any]:
    """Return what config.json says of a decoder that `to_gpt2` takes.

    Raises:
        ConfigurationError: If GPT-2 has no such activation.
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
    """Return, for each tensor of a decoder, the one of GPT-2, without the prefix of a model with an output layer."""
    layers = {
        f"layers.{index}.{ours}.{kind}": f"h.{index}.{theirs}.{kind}"
        for index in range(len(decoder.layers))
        for ours, theirs in (NORMS | LINEAR).items()
        for kind in ("weight", "bias")
    }
    return OUTER | layers


def _turned(ours: str, tensor: Tensor) -> Tensor:
    """Return the tensor as the other side stores it: the matrices of linear layers are transposed."""
    return tensor.T if ours.endswith(tuple(f"{layer}.weight" for layer in LINEAR)) else tensor


def _activation_name(feed_forward: FeedForward) -> str:
    probe = torch.linspace(-4, 4, 97)  # a function, a module and a partial application may be one activation
    for name, known in ACTIVATIONS.items():
        if torch.equal(feed_forward.activation(probe), known(probe)):
            return name
    raise ConfigurationError(
        f"only the activations {', '.join(ACTIVATIONS)} can be written, not {feed_forward.activation}; "
        "train with model/feed_forward=gelu"
    )


def _checked(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Refuse what is not GPT-2's architecture, or does not say its sizes."""
    for key, accepted in FIXED.items():
        if config.get(key, accepted[0]) not in accepted:
            raise ConfigurationError(
                f"{name} has {key} = {config[key]!r}; model=gpt2 reads {' or '.join(map(str, dict.fromkeys(accepted)))}; "
                "set another model.name"
            )
    absent = [key for key in ("vocab_size", "n_embd", "n_head", "n_layer", "n_positions") if config.get(key) is None]
    if absent:
        raise ConfigurationError(f"config.json of {name} has no {', '.join(absent)}; write it there")
    return config
