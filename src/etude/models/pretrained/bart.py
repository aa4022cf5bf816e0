"""Encoder-decoders of BART's family in Hugging Face's layout of names: MarianMT, Pegasus, BART.

They differ in where their norms and positions are (`FAMILIES`); the layers' names are the same.

Axes: D model width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.hub import PretrainedFiles
from etude.models.layers.feed_forward import Activation, FeedForward
from etude.models.layers.positions import Learned, Sinusoidal
from etude.models.layers.residual import PostNorm, PreNorm, Residual
from etude.models.layers.unpad import Unpadding
from etude.models.seq2seq import Seq2Seq
from etude.types import Facts

SHARED = "model.shared.weight"
POSITIONS = "model.{side}.embed_positions.weight"
BIAS = "final_logits_bias"
SIDES = ("encoder", "decoder")

COPIES = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
"""Other names of the shared matrix, where a file has them."""

ATTENTION = {"query_key_value": ("q_proj", "k_proj", "v_proj"), "output": ("out_proj",)}

LAYERS = {
    "encoder": {
        **{f"attention.{ours}": tuple(f"self_attn.{part}" for part in parts) for ours, parts in ATTENTION.items()},
        "attention_residual.norm": ("self_attn_layer_norm",),
        "feed_forward.inner": ("fc1",),
        "feed_forward.outer": ("fc2",),
        "feed_forward_residual.norm": ("final_layer_norm",),
    },
    "decoder": {
        **{f"self_attention.{ours}": tuple(f"self_attn.{part}" for part in parts) for ours, parts in ATTENTION.items()},
        "self_residual.norm": ("self_attn_layer_norm",),
        "cross_attention.query": ("encoder_attn.q_proj",),
        "cross_attention.output": ("encoder_attn.out_proj",),
        "cross_residual.norm": ("encoder_attn_layer_norm",),
        "feed_forward.inner": ("fc1",),
        "feed_forward.outer": ("fc2",),
        "feed_forward_residual.norm": ("final_layer_norm",),
    },
}
"""Modules of a layer here, and those in BART that they are made of; each has a weight and a bias."""


ACTIVATIONS: dict[str, Activation] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "swish": F.silu,
    "silu": F.silu,
}
"""Names of activations in config.json."""


@dataclass(frozen=True)
class Family:
    """What sets a model type of the family apart.

    Attributes:
        model_type: Its name in config.json.
        architecture: Its class in transformers.
        residual: Where norms are; one before each sublayer has another at the end of each stack.
        embedding_norm: Whether embeddings are normalised.
        offset: Rows of a table of positions before that of position 0.
        trained_positions: Whether positions are trained; otherwise they are sinusoids, which a file may leave out.
    """

    model_type: str
    architecture: str
    residual: type[Residual]
    embedding_norm: bool = False
    offset: int = 0
    trained_positions: bool = False


FAMILIES = {
    family.model_type: family
    for family in (
        Family("marian", "MarianMTModel", PostNorm),
        Family("pegasus", "PegasusForConditionalGeneration", PreNorm),
        Family("bart", "BartForConditionalGeneration", PostNorm, True, offset=2, trained_positions=True),
    )
}


class Bart(Seq2Seq):
    """A model of the family in native modules: both sides have positions of their own, and logits a bias.

    Args:
        facts: The vocabulary's size.
        width: D.
        heads: Heads of each attention, a divisor of D.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        feed_forward: Inner width of the feed-forward layers.
        dropout: On embeddings and on what each sublayer adds.
        max_length: The most tokens of a source or target.
        family: Where norms and positions are.
        activation: Of the feed-forward layers.
        scaled: Whether embeddings are multiplied by √D.
        attention_dropout: As in `Seq2Seq`.
        activation_dropout: As in `Seq2Seq`.

    Raises:
        ConfigurationError: If the heads do not divide the width, or the dropout is no probability below 1.
    """

    logit_bias: Float[Tensor, " V"]
    files: PretrainedFiles | None = None
    """Where the weights come from, if they were pretrained."""

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
        family: Family,
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
        """Its parts from the input to the output; the first has what is added to embeddings on both sides."""
        embeddings, *layers = super().stages
        norms = (self.encoder_embedding_norm, self.decoder_embedding_norm)
        return [(*embeddings, self.target_positions, *norms), *layers]

    @property
    def output_bias(self) -> Float[Tensor, " V"]:
        """What is added to the logits; it is not trained."""
        return self.logit_bias

    def embed_source(self, tokens: Int[Tensor, " N"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return what the encoder reads."""
        x = self.embedding.source(tokens) * self.scale + self.positions(positions)
        return self.dropout(self.encoder_embedding_norm(x))

    def embed_target(self, tokens: Int[Tensor, " N"], positions: Int[Tensor, " #N"]) -> Float[Tensor, "N D"]:
        """Return what the decoder reads: its positions, and its norm, are its own."""
        x = self.embedding.target(tokens) * self.scale + self.target_positions(positions)
        return self.dropout(self.decoder_embedding_norm(x))

    def embed_both(
        self, src: Int[Tensor, "B S"], tgt: Int[Tensor, "B T"], source: Unpadding, target: Unpadding
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "M D"]]:
        """Return what encoder and decoder read of the real tokens."""
        embedded = self.embed_source(source.pack(src), source.positions)
        return embedded, self.embed_target(target.pack(tgt), target.positions)


def position_tables(model: Seq2Seq) -> list[Float[Tensor, "max_length D"]]:
    """Return the vectors that the encoder and the decoder add at each position.

    Raises:
        ConfigurationError: If the model's positions are no such vectors.
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


def module_names(encoder_layers: int, decoder_layers: int, family: Family) -> dict[str, tuple[str, ...]]:
    """Return, for each module of a native model, the modules of the family whose rows it is made of."""
    names = {
        f"{side}.{index}.{ours}": tuple(f"model.{side}.layers.{index}.{part}" for part in parts)
        for side, count in zip(SIDES, (encoder_layers, decoder_layers), strict=True)
        for index in range(count)
        for ours, parts in LAYERS[side].items()
    }
    attention = "model.decoder.layers.{}.encoder_attn.{}_proj"
    names["memory"] = tuple(attention.format(index, part) for index in range(decoder_layers) for part in "kv")
    if family.residual is PreNorm:
        names |= {f"{side}_norm": (f"model.{side}.layer_norm",) for side in SIDES}
    if family.embedding_norm:
        names |= {f"{side}_embedding_norm": (f"model.{side}.layernorm_embedding",) for side in SIDES}
    return names


def tensor_names(encoder_layers: int, decoder_layers: int, family: Family) -> dict[str, tuple[str, ...]]:
    """Return, for each tensor of a native model, those of the family that it is made of; positions and bias left out."""
    modules = module_names(encoder_layers, decoder_layers, family)
    tensors = {
        f"{ours}.{kind}": tuple(f"{part}.{kind}" for part in parts)
        for ours, parts in modules.items()
        for kind in ("weight", "bias")
    }
    return {"embedding.weight": (SHARED,), **tensors}


def from_bart(weights: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Return tensors by their names here.

    Args:
        weights: By Hugging Face's names; all of those that `names` lists.
        names: What each tensor is made of.
    """
    return {ours: torch.cat([weights[part] for part in parts]) for ours, parts in names.items()}


def to_bart(model: Seq2Seq) -> tuple[Family, dict[str, Tensor]]:
    """Return a model's weights by Hugging Face's names, and the family that computes the same with them.

    Raises:
        ConfigurationError: If no family of `FAMILIES` has all parts of the model.
    """
    state = model.state_dict()
    family = _family_of(model, state)
    names = tensor_names(len(model.encoder), len(model.decoder), family)
    own = ("positions.", "target_positions.", "logit_bias")
    strange = [name for name in state if name not in names and not name.startswith(own)]
    missing = [name for name in names if name not in state]
    if strange or missing:
        raise ConfigurationError(
            f"{family.architecture} has no place for {', '.join((strange or missing)[:4])} of this model; it has LayerNorm, "
            "two-layer feed-forward layers and one shared embedding"
        )
    weights: dict[str, Tensor] = {}
    for ours, parts in names.items():
        pieces = state[ours].chunk(len(parts))
        weights.update((part, piece.clone()) for part, piece in zip(parts, pieces, strict=True))
    for side, table in zip(SIDES, position_tables(model), strict=True):
        front = table.new_zeros(family.offset, model.width)
        weights[POSITIONS.format(side=side)] = torch.cat([front, table])
    bias = model.output_bias
    weights[BIAS] = weights[SHARED].new_zeros(1, model.vocabulary) if bias is None else bias.clone()[None]
    return family, weights


def _family_of(model: Seq2Seq, state: Mapping[str, Tensor]) -> Family:
    """Find the family with the model's kind of residual connection and of embeddings."""
    layers = [*model.encoder, *model.decoder]
    kinds = {type(module) for layer in layers for module in layer.children() if isinstance(module, Residual)}
    normed = "encoder_embedding_norm.weight" in state
    for family in FAMILIES.values():
        if kinds == {family.residual} and normed == family.embedding_norm:
            return family
    raise ConfigurationError(
        f"no encoder-decoder of transformers has {' and '.join(sorted(kind.__name__ for kind in kinds))}; those that "
        "etude writes have PreNorm (Pegasus) or PostNorm (MarianMT)"
    )
