"""Sequence-to-sequence models with weights in Hugging Face's files: MarianMT, Pegasus, BART, and what etude exports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from etude.errors import ConfigurationError
from etude.hub import open_pretrained
from etude.models.layers.positions import sinusoids
from etude.models.pretrained.bart import (
    ACTIVATIONS,
    BIAS,
    COPIES,
    FAMILIES,
    POSITIONS,
    SHARED,
    SIDES,
    Bart,
    Family,
    from_bart,
    tensor_names,
)
from etude.models.pretrained.weight_files import check_names, read_json, read_safetensors
from etude.types import Facts

SIZES = ("d_model", "encoder_attention_heads", "encoder_layers", "decoder_layers", "encoder_ffn_dim")
EQUAL = (("decoder_attention_heads", "encoder_attention_heads"), ("decoder_ffn_dim", "encoder_ffn_dim"))
"""Sizes that both stacks of a native model share."""


def pretrained_seq2seq(
    facts: Facts, name: str, dropout: float = 0.1, attention_dropout: float = 0.0, activation_dropout: float = 0.0
) -> Bart:
    """Build a pretrained MarianMT, Pegasus or BART and load its weights.

    Args:
        facts: The tokenizer's vocabulary, which must be the weights'.
        name: A folder, a package, or a name in the hub, with config.json and model.safetensors.
        dropout: As in `Seq2Seq`.
        attention_dropout: As in `Seq2Seq`.
        activation_dropout: As in `Seq2Seq`; config.json's is not taken.

    Raises:
        ConfigurationError: If the model is none of these, its weights are not those of its config.json, or the
            tokenizer is another's.
        DataError: If the files are missing or unreadable.
    """
    files = open_pretrained(name)
    config = read_json(files)
    family = _family(config, name)
    if facts.vocabulary != config["vocab_size"]:
        raise ConfigurationError(
            f"the tokenizer has {facts.vocabulary} ids, the weights of {name} have {config['vocab_size']}: "
            f"it is not their tokenizer; set tokenizer=pretrained tokenizer.name={name}"
        )
    width, heads, encoder_layers, decoder_layers, feed_forward = (config[key] for key in SIZES)
    model = Bart(
        facts,
        width,
        heads,
        encoder_layers,
        decoder_layers,
        feed_forward,
        dropout,
        max_length=config["max_position_embeddings"],
        family=family,
        activation=ACTIVATIONS[config["activation_function"]],
        scaled=bool(config.get("scale_embedding", False)),
        attention_dropout=attention_dropout,
        activation_dropout=activation_dropout,
    )
    _load(model, family, read_safetensors(files), name)
    model.files = files
    return model


def _family(config: Mapping[str, Any], name: str) -> Family:
    """Return the family of a config.json, and refuse what a native model has not."""
    if config.get("model_type") not in FAMILIES:
        raise ConfigurationError(
            f"{name} has model_type = {config.get('model_type')!r}; a native translator has one of "
            f"{', '.join(FAMILIES)}; set model=huggingface, or another model.name"
        )
    needed = (*SIZES, *(key for key, _ in EQUAL), "vocab_size", "max_position_embeddings", "activation_function")
    absent = [key for key in needed if config.get(key) is None]
    if absent:
        raise ConfigurationError(f"config.json of {name} has no {', '.join(absent)}; write it there")
    for key, other in EQUAL:
        if config[key] != config[other]:
            raise ConfigurationError(
                f"{name} has {key} = {config[key]} and {other} = {config[other]}; both stacks must have the same"
            )
    if config["activation_function"] not in ACTIVATIONS:
        raise ConfigurationError(
            f"{name} has activation_function = {config['activation_function']!r}; known: {', '.join(ACTIVATIONS)}"
        )
    for key in ("tie_word_embeddings", "share_encoder_decoder_embeddings"):
        if config.get(key) is False:
            raise ConfigurationError(
                f"{name} has {key} = false; a native model has one matrix for both sides and output"
            )
    return FAMILIES[config["model_type"]]


def _load(model: Bart, family: Family, weights: Mapping[str, Tensor], name: str) -> None:
    """Load weights by Hugging Face's names.

    Raises:
        ConfigurationError: If tensors are missing, left over, or of another shape.
    """
    given = _one_shared(_prefixed(weights), name)
    given.setdefault(BIAS, torch.zeros(1, model.vocabulary))
    tables = [POSITIONS.format(side=side) for side in SIDES]
    if not family.trained_positions:
        for table in tables:
            given.setdefault(table, halves(model.width, model.max_length))
    names = tensor_names(len(model.encoder), len(model.decoder), family)
    expected = {BIAS, *tables, *(part for parts in names.values() for part in parts)}
    check_names(given.keys(), expected, name)
    state = from_bart(given, names)
    for ours, table in zip(("positions", "target_positions"), tables, strict=True):
        state[f"{ours}.embedding.weight"] = given[table][family.offset :]
    state["logit_bias"] = given[BIAS].flatten()
    for ours, tensor in model.state_dict().items():
        if state[ours].shape != tensor.shape:
            raise ConfigurationError(
                f"the weights of {name} are not its config.json's: {', '.join(names.get(ours, (ours,)))} give "
                f"{list(state[ours].shape)}, which should be {list(tensor.shape)}"
            )
    model.load_state_dict(state)


def _prefixed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by the names of a model with an output layer, where they are of the bare model."""
    bare = ("shared.", "encoder.", "decoder.")
    return {f"model.{key}" if key.startswith(bare) else key: tensor for key, tensor in weights.items()}


def _one_shared(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Keep the shared matrix once.

    Raises:
        ConfigurationError: If its copies differ.
    """
    present = [key for key in (SHARED, *COPIES) if key in weights]
    if present:
        first = weights[present[0]]
        different = [key for key in present if not torch.equal(weights[key], first)]
        if different:
            raise ConfigurationError(
                f"{name} has other values in {different[0]} than in {present[0]}; a native model has one matrix for both"
            )
        weights = {key: tensor for key, tensor in weights.items() if key not in present} | {SHARED: first}
    return weights


def halves(width: int, max_length: int) -> Tensor:
    """Return the sinusoids as Marian has them [max_length, D]: the sines of all wavelengths, then the cosines."""
    table = sinusoids(width, max_length)
    return torch.cat([table[:, 0::2], table[:, 1::2]], dim=1)
