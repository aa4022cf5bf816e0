"""Encoders with weights in BERT's layout of names, from and to Hugging Face's files.

Axes: D model width, V vocabulary.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from etude.errors import ConfigurationError, DataError
from etude.models.encoder import Encoder
from etude.nn.feed_forward import Activation, FeedForward
from etude.nn.positions import Learned
from etude.nn.residual import PostNorm
from etude.pretrained_files import PretrainedFiles, open_pretrained
from etude.types import Facts

ACTIVATIONS: dict[str, Activation] = {"gelu": F.gelu, "relu": F.relu, "gelu_new": partial(F.gelu, approximate="tanh")}
"""BERT's names of activations."""

UNUSED = ("pooler.", "cls.", "embeddings.position_ids")
"""Beginnings of names that an encoder has no use for: heads of pretraining, and the list 0, 1, 2, …"""

SEGMENTS = "embeddings.token_type_embeddings.weight"
"""BERT's vectors for first and second text. Where segments are not told apart, the first is a part of every position's."""

EMBEDDINGS = {
    "embedding.weight": ("embeddings.word_embeddings.weight",),
    "positions.embedding.weight": ("embeddings.position_embeddings.weight",),
    "embedding_norm.weight": ("embeddings.LayerNorm.weight",),
    "embedding_norm.bias": ("embeddings.LayerNorm.bias",),
}
"""Tensors here, and those in BERT that they are made of."""

LAYER = {
    "attention.query_key_value": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output": ("attention.output.dense",),
    "attention_residual.norm": ("attention.output.LayerNorm",),
    "feed_forward.inner": ("intermediate.dense",),
    "feed_forward.outer": ("output.dense",),
    "feed_forward_residual.norm": ("output.LayerNorm",),
}
"""Modules of a layer here, and those in BERT that they are made of; each has a weight and a bias."""


def pretrained_encoder(facts: Facts, name: str, dropout: float = 0.1, segments: int = 1) -> Encoder:
    """Build the encoder of a pretrained BERT and load its weights.

    Args:
        facts: The tokenizer's vocabulary, which must be the weights'.
        name: A folder, a package, or a name in the hub, with config.json and model.safetensors.
        dropout: As in `Encoder`; attention probabilities are not dropped out.
        segments: As in `Encoder`: 1, or as many as the weights tell apart.

    Raises:
        ConfigurationError: If the model is no BERT, its weights are not those of its config.json, or the tokenizer is
            another's.
        DataError: If the files are missing or unreadable.
    """
    files = open_pretrained(name)
    config = _bert_config(read_json(files), name)
    if facts.vocabulary != config["vocab_size"]:
        raise ConfigurationError(
            f"the tokenizer has {facts.vocabulary} ids, the weights of {name} have {config['vocab_size']}: "
            f"it is not their tokenizer; set tokenizer=pretrained tokenizer.name={name}"
        )
    encoder = _bert_encoder(facts, config, dropout, segments)
    from_bert(encoder, read_safetensors(files), name)
    return encoder


def read_safetensors(files: PretrainedFiles) -> dict[str, Tensor]:
    """Return the tensors of a pretrained model's model.safetensors.

    Raises:
        DataError: If there is none, or it is broken.
    """
    if not files.has("model.safetensors") and files.has("pytorch_model.bin"):
        raise DataError(
            f"{files.name} has its weights as pytorch_model.bin, a pickle, which may run code and is never loaded; "
            "save them again as model.safetensors, for example with transformers' save_pretrained"
        )
    path = files.path("model.safetensors")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read {path} as safetensors: {error}; fetch it again") from error


def read_json(files: PretrainedFiles, file: str = "config.json") -> dict[str, Any]:
    """Return the object in a pretrained model's JSON file.

    Raises:
        DataError: If there is none, or it is no object.
    """
    try:
        config = json.loads(files.read(file))
    except ValueError as error:
        raise DataError(f"{file} of {files.name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise DataError(f"{file} of {files.name} is not an object but {type(config).__name__}")
    return config


def from_bert(encoder: Encoder, weights: dict[str, Tensor], name: str) -> None:
    """Load the weights of a Hugging Face BertModel, or of a model built on one, into an encoder.

    Args:
        encoder: With `Learned` positions and `PostNorm`, of the weights' sizes.
        weights: By Hugging Face's names, those of the first TensorFlow checkpoints included.
        name: What the user called the model, for messages.

    Raises:
        ConfigurationError: If tensors are missing, left over, or of another shape.
    """
    given = {_modern(key): tensor for key, tensor in weights.items()}
    given = {key: tensor for key, tensor in given.items() if not key.startswith(UNUSED)}
    names = bert_names(encoder)
    expected = {SEGMENTS, *(part for parts in names.values() for part in parts)}
    if given.keys() != expected:
        missing, extra = (
            ", ".join(sorted(keys)) or "none" for keys in (expected - given.keys(), given.keys() - expected)
        )
        raise ConfigurationError(f"the weights of {name} are not its config.json's; missing: {missing}; extra: {extra}")
    if encoder.segment_embedding is None:
        positions = "embeddings.position_embeddings.weight"
        given[positions] = given[positions] + given[SEGMENTS][0]
    state = {ours: torch.cat([given[part] for part in parts]) for ours, parts in names.items()}
    for ours, tensor in encoder.state_dict().items():
        if state[ours].shape != tensor.shape:
            raise ConfigurationError(
                f"the weights of {name} are not its config.json's: {', '.join(names[ours])} give "
                f"{list(state[ours].shape)}, which should be {list(tensor.shape)}"
            )
    encoder.load_state_dict(state)


def to_bert(encoder: Encoder) -> dict[str, Tensor]:
    """Return an encoder's weights by Hugging Face's names, for a BertModel of its segments without a pooler.

    That is `BertModel(config, add_pooling_layer=False)` with `type_vocab_size` set to the encoder's `segments`. The
    vector of the only segment is zero, since it is a part of the positions'.

    Raises:
        ConfigurationError: If BERT cannot hold the encoder.
    """
    layers = [part for layer in encoder.layers for part in (layer.attention_residual, layer.feed_forward)]
    kinds = {type(part) for part in (encoder.positions, encoder.embedding_norm, *layers)}
    foreign = kinds - {Learned, PostNorm, nn.LayerNorm, FeedForward}
    if foreign:
        raise ConfigurationError(
            f"BERT has Learned positions, PostNorm, LayerNorm and FeedForward; this encoder has "
            f"{', '.join(sorted(part.__name__ for part in foreign))}; train with model/positions=learned "
            "model/residual=post_norm model/norm=layer model/feed_forward=gelu"
        )
    state, weights = encoder.state_dict(), {SEGMENTS: encoder.embedding.weight.new_zeros(1, encoder.width)}
    for ours, parts in bert_names(encoder).items():
        pieces = state[ours].chunk(len(parts))
        weights.update((part, piece.clone()) for part, piece in zip(parts, pieces, strict=True))
    return weights


def bert_names(encoder: Encoder) -> dict[str, tuple[str, ...]]:
    """Return, for each tensor of an encoder, the tensors of BERT whose rows it is made of."""
    segments = {} if encoder.segment_embedding is None else {"segment_embedding.weight": (SEGMENTS,)}
    layers = {
        f"layers.{index}.{ours}.{kind}": tuple(f"encoder.layer.{index}.{part}.{kind}" for part in parts)
        for index in range(len(encoder.layers))
        for ours, parts in LAYER.items()
        for kind in ("weight", "bias")
    }
    return EMBEDDINGS | segments | layers


def _modern(name: str) -> str:
    return (
        name.removeprefix("bert.")
        .replace("LayerNorm.gamma", "LayerNorm.weight")
        .replace("LayerNorm.beta", "LayerNorm.bias")
    )


def _bert_config(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Refuse what is not BERT's architecture."""
    wanted = {"model_type": ("bert",), "position_embedding_type": ("absolute",), "hidden_act": tuple(ACTIVATIONS)}
    for key, accepted in wanted.items():
        if config.get(key, accepted[0]) not in accepted:
            raise ConfigurationError(
                f"{name} has {key} = {config[key]!r}; an encoder has {' or '.join(accepted)}; set another model.name"
            )
    return config


def _bert_encoder(facts: Facts, config: dict[str, Any], dropout: float, segments: int) -> Encoder:
    """Build the encoder that a config.json of BERT describes."""
    return Encoder(
        facts,
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        layers=config["num_hidden_layers"],
        feed_forward=config["intermediate_size"],
        dropout=dropout,
        max_length=config["max_position_embeddings"],
        positions=Learned,
        norm=partial(nn.LayerNorm, eps=config.get("layer_norm_eps", 1e-12)),
        residual=PostNorm,
        feed_forward_layer=partial(FeedForward, activation=ACTIVATIONS[config.get("hidden_act", "gelu")]),
        segments=segments,
    )
