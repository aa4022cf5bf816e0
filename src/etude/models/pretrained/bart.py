"""Encoder-decoders with weights of transformers' MarianMT, Pegasus and BART, from and to its files.

Axes: B rows, S source length, T target length, N source tokens, M target tokens, D model width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.hub import PretrainedFiles
from etude.models.layers.feed_forward import Activation, FeedForward
from etude.models.layers.positions import Learned, Sinusoidal, sinusoids
from etude.models.layers.residual import Residual
from etude.models.layers.unpad import Unpadding
from etude.models.pretrained.base import NativePretrainedModel
from etude.models.pretrained.encoder_decoder_families import (
    ACTIVATIONS,
    BIAS,
    COPIES,
    ENCODER_DECODER_FAMILIES,
    POSITIONS,
    SHARED,
    SIDES,
    EncoderDecoderFamily,
    tensor_names,
)
from etude.models.pretrained.skeleton import PretrainedSkeleton
from etude.models.pretrained.weight_files import check_names, check_shapes, read_native_config, read_safetensors
from etude.models.seq2seq import Seq2Seq
from etude.types import Facts

SIZES = ("d_model", "encoder_attention_heads", "encoder_layers", "decoder_layers", "encoder_ffn_dim")
EQUAL = (("decoder_attention_heads", "encoder_attention_heads"), ("decoder_ffn_dim", "encoder_ffn_dim"))
"""Keys of sizes that must be equal, since both stacks of a native model share them."""


class Bart(Seq2Seq):
    """An encoder-decoder in native modules, with positions for each side and a bias of the logits.

    Args:
        facts: The vocabulary size.
        width: D.
        heads: Number of heads, a divisor of D.
        encoder_layers: Number of encoder layers.
        decoder_layers: Number of decoder layers.
        feed_forward: Inner width of the feed-forward layers.
        dropout: Dropout rate of the embeddings and of each sublayer's output.
        max_length: Largest number of tokens in a source or a target.
        family: Kind of norms and positions.
        activation: Activation of the feed-forward layers.
        scaled: Whether embeddings are multiplied by √D.
        attention_dropout: As in `Seq2Seq`.
        activation_dropout: As in `Seq2Seq`.

    Raises:
        ConfigurationError: If the heads do not divide the width, or the dropout rate is not a probability below 1.
    """

    logit_bias: Float[Tensor, " V"]
    files: PretrainedFiles | None = None
    """The pretrained model's files, if the weights are pretrained."""

    def __init__(
        self,
        facts: Facts,
        width: int,
        heads: int,
        encoder_layers: int,
        decoder_layers: int,
        feed_forward: int,
        dropout: float,
        max_length: int,
        family: EncoderDecoderFamily,
        activation: Activation,
        scaled: bool,
        attention_dropout: float = 0.0,
        activation_dropout: float | None = None,
    ) -> None:
        sizes = (width, heads, encoder_layers, decoder_layers, feed_forward, dropout, max_length)
        layer = partial(FeedForward, activation=activation)
        super().__init__(
            facts,
            *sizes,
            attention_dropout=attention_dropout,
            activation_dropout=activation_dropout,
            positions=Learned,
            residual=family.residual,
            feed_forward_layer=layer,
        )
        self.scale = math.sqrt(width) if scaled else 1.0
        self.target_positions = Learned(width, max_length)
        for positions in (self.positions, self.target_positions):
            positions.requires_grad_(family.trained_positions)
        norms = (nn.LayerNorm(width) if family.embedding_norm else nn.Identity() for _ in SIDES)
        self.encoder_embedding_norm, self.decoder_embedding_norm = norms
        self.register_buffer("logit_bias", torch.zeros(facts.vocabulary))

    @property
    def stages(self) -> list[tuple[nn.Module, ...]]:
        """The model's parts from input to output; the first includes the positions and norms of both sides."""
        embeddings, *layers = super().stages
        norms = (self.encoder_embedding_norm, self.decoder_embedding_norm)
        return [(*embeddings, self.target_positions, *norms), *layers]

    @property
    def output_bias(self) -> Float[Tensor, " V"]:
        """The bias of the logits, which is not trained."""
        return self.logit_bias

    def embed_source(self, tokens: Int[Tensor, " N"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return the encoder's input."""
        x = self.embedding.source(tokens) * self.scale + self.positions(positions)
        return self.dropout(self.encoder_embedding_norm(x))

    def embed_target(self, tokens: Int[Tensor, " N"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return the decoder's input, with positions and a norm of its own."""
        x = self.embedding.target(tokens) * self.scale + self.target_positions(positions)
        return self.dropout(self.decoder_embedding_norm(x))

    def embed_both(
        self, src: Int[Tensor, "B S"], tgt: Int[Tensor, "B T"], source: Unpadding, target: Unpadding
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "M D"]]:
        """Return the encoder's and the decoder's input at the real tokens."""
        embedded = self.embed_source(source.unpad(src), source.positions)
        return embedded, self.embed_target(target.unpad(tgt), target.positions)


@dataclass(frozen=True)
class PretrainedBart(NativePretrainedModel):
    """A pretrained encoder-decoder like BART: MarianMT, Pegasus, BART. Takes what `NativePretrainedModel` does."""

    def build(self, facts: Facts, interface: type[nn.Module], saved: PretrainedSkeleton | None = None) -> Bart:
        """Build the model and load its weights, as `PretrainedModel.build` says."""
        files, name = self.files(saved), self.name
        config = read_native_config(files)
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
            self.dropout,
            max_length=config["max_position_embeddings"],
            family=family,
            activation=ACTIVATIONS[config["activation_function"]],
            scaled=bool(config.get("scale_embedding", False)),
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
        )
        _load(model, family, read_safetensors(files), name)
        model.files = files
        return model


def from_bart(weights: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Return tensors by their native names.

    Args:
        weights: Tensors by their names in transformers, with all that `names` lists.
        names: Names of the parts of each native tensor.
    """
    return {native: torch.cat([weights[part] for part in parts]) for native, parts in names.items()}


def position_tables(model: Seq2Seq) -> list[Float[Tensor, "max_length D"]]:
    """Return the vectors that the encoder and the decoder add at each position.

    Raises:
        ConfigurationError: If the model's positions are not such vectors.
    """
    target = model.target_positions if isinstance(model, Bart) else model.positions
    tables = []
    for positions in (model.positions, target):
        if not isinstance(positions, Sinusoidal | Learned):
            raise ConfigurationError(
                f"only Sinusoidal and Learned positions can be exported, not {type(positions).__name__}"
            )
        table = positions.table if isinstance(positions, Sinusoidal) else positions.embedding.weight
        tables.append(table.detach().clone())
    return tables


def to_bart(model: Seq2Seq) -> tuple[EncoderDecoderFamily, dict[str, Tensor]]:
    """Return a model's weights by their names in transformers, and the family that computes the same with them.

    Raises:
        ConfigurationError: If no family of `ENCODER_DECODER_FAMILIES` has all parts of the model.
    """
    state = model.state_dict()
    family = _family_of(model, state)
    if model.logit_cap is not None:
        raise ConfigurationError(
            f"{family.architecture} has no cap of its logits, and this model has; write to=onnx, or train with "
            "model.logit_cap=null"
        )
    if model.memory_norm is not None:
        raise ConfigurationError(
            f"{family.architecture} has no norm of queries and keys, and this model has; write to=onnx, or train with "
            "model.query_key_norm=false"
        )
    names = tensor_names(len(model.encoder), len(model.decoder), family)
    separate = ("positions.", "target_positions.", "logit_bias")
    strange = [name for name in state if name not in names and not name.startswith(separate)]
    missing = [name for name in names if name not in state]
    if strange or missing:
        raise ConfigurationError(
            f"{family.architecture} has no place for {', '.join((strange or missing)[:4])} of this model; it has LayerNorm, "
            "two-layer feed-forward layers and one shared embedding"
        )
    weights: dict[str, Tensor] = {}
    for native, parts in names.items():
        pieces = state[native].chunk(len(parts))
        weights.update((part, piece.clone()) for part, piece in zip(parts, pieces, strict=True))
    for side, table in zip(SIDES, position_tables(model), strict=True):
        front = table.new_zeros(family.offset, model.width)
        weights[POSITIONS.format(side=side)] = torch.cat([front, table])
    bias = model.output_bias
    weights[BIAS] = weights[SHARED].new_zeros(1, model.vocabulary) if bias is None else bias.clone()[None]
    return family, weights


def _family_of(model: Seq2Seq, state: Mapping[str, Tensor]) -> EncoderDecoderFamily:
    """Return the family with the model's kind of residual connections and embeddings."""
    layers = [*model.encoder, *model.decoder]
    kinds = {type(module) for layer in layers for module in layer.children() if isinstance(module, Residual)}
    normed = "encoder_embedding_norm.weight" in state
    for family in ENCODER_DECODER_FAMILIES.values():
        if kinds == {family.residual} and normed == family.embedding_norm:
            return family
    raise ConfigurationError(
        f"no encoder-decoder of transformers has {' and '.join(sorted(kind.__name__ for kind in kinds))}; those that "
        "etude writes have PreNorm (Pegasus) or PostNorm (MarianMT)"
    )


def _family(config: Mapping[str, Any], name: str) -> EncoderDecoderFamily:
    """Return the family of a config.json, and refuse anything that a native model does not have."""
    if config.get("model_type") not in ENCODER_DECODER_FAMILIES:
        raise ConfigurationError(
            f"{name} has model_type = {config.get('model_type')!r}; a native translator has one of "
            f"{', '.join(ENCODER_DECODER_FAMILIES)}; set model=huggingface, or another model.name"
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
    return ENCODER_DECODER_FAMILIES[config["model_type"]]


def _load(model: Bart, family: EncoderDecoderFamily, weights: Mapping[str, Tensor], name: str) -> None:
    """Load weights by their names in transformers.

    Raises:
        ConfigurationError: If tensors are missing, extra, or of another shape.
    """
    tensors = _merge_copies(_prefixed(weights), name)
    tensors.setdefault(BIAS, torch.zeros(1, model.vocabulary))
    tables = [POSITIONS.format(side=side) for side in SIDES]
    if not family.trained_positions:
        for table in tables:
            tensors.setdefault(table, marian_sinusoids(model.width, model.max_length))
    names = tensor_names(len(model.encoder), len(model.decoder), family)
    expected = {BIAS, *tables, *(part for parts in names.values() for part in parts)}
    check_names(tensors.keys(), expected, name)
    state = from_bart(tensors, names)
    for positions, table in zip(("positions", "target_positions"), tables, strict=True):
        state[f"{positions}.embedding.weight"] = tensors[table][family.offset :]
    state["logit_bias"] = tensors[BIAS].flatten()
    check_shapes(state, model.state_dict(), names, name)
    model.load_state_dict(state)


def _prefixed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a bare model by the names of a model with an output layer."""
    bare = ("shared.", "encoder.", "decoder.")
    return {f"model.{key}" if key.startswith(bare) else key: tensor for key, tensor in weights.items()}


def _merge_copies(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors with a single copy of the shared matrix.

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


def marian_sinusoids(width: int, max_length: int) -> Tensor:
    """Return sinusoids [max_length, D] in the order of Marian: the sines of all wavelengths, then the cosines."""
    table = sinusoids(width, max_length)
    return torch.cat([table[:, 0::2], table[:, 1::2]], dim=1)
