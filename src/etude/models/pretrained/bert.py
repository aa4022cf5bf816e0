"""Encoders with weights of transformers' BERT, DistilBERT, RoBERTa and their kin, from and to its files.

Axes: D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.hub import PretrainedFiles, open_pretrained
from etude.models.base import BertHead, MaskedLMHead, OutputKind, OutputLayer, Pooler
from etude.models.encoder import Encoder
from etude.models.layers.feed_forward import Activation, FeedForward
from etude.models.layers.positions import Learned
from etude.models.layers.residual import PreNorm
from etude.models.pretrained.encoder_families import BERT, ENCODER_FAMILIES, POSITIONS, SEGMENTS, EncoderFamily
from etude.models.pretrained.heads import load_masked_lm_head, load_pooler, read_output_layer
from etude.models.pretrained.weight_files import (
    check_names,
    check_shapes,
    check_tokenizer,
    read_json,
    read_safetensors,
    say_left_out,
)
from etude.types import Facts

ACTIVATIONS: dict[str, Activation] = {"gelu": F.gelu, "relu": F.relu, "gelu_new": partial(F.gelu, approximate="tanh")}
"""BERT's names of activations."""

UNUSED = (
    "pooler.",
    "cls.",
    "lm_head.",
    "classifier.",
    "pre_classifier.",
    "qa_outputs.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "embeddings.position_ids",
)
"""Beginnings of names that are no part of an encoder: poolers, heads of any task, and the list 0, 1, 2, …"""


class PretrainedEncoder(Encoder):
    """An encoder with the weights of a pretrained model.

    Args:
        family: Whose layout the files have; exports have it again.
        files: Where the weights come from.
        activation: Of the feed-forward layers, as BERT calls it.
        **parts: As `Encoder` takes them.
    """

    def __init__(self, family: EncoderFamily, files: PretrainedFiles, activation: str, **parts: Any) -> None:
        layer = partial(FeedForward, activation=ACTIVATIONS[activation])
        super().__init__(**parts, positions=Learned, residual=family.residual, feed_forward_layer=layer)
        self.family, self.files = family, files
        self._activation = F.gelu if family.gelu_head else ACTIVATIONS[activation]

    def masked_lm_head(self) -> MaskedLMHead:
        """Return the head that the files have, or a new one.

        Raises:
            ConfigurationError: If it has an output matrix of its own, or parts of another shape.
            DataError: If the files are missing.
        """
        eps = float(cast(nn.LayerNorm, self.embedding_norm).eps)
        head = BertHead(self.width, self.embedding.num_embeddings, self._activation, eps)
        load_masked_lm_head(head, self.files, self.family)
        return head

    def pooler(self) -> Pooler:
        """Return the pooler that the files have, or a new one.

        BERT has it from its second task; RoBERTa's kin and DistilBERT have it where the files are a sequence classifier's.

        Raises:
            ConfigurationError: If it is of another shape.
            DataError: If the files are missing.
        """
        pooler = Pooler(self.width, self.family.pooler.activation)
        load_pooler(pooler, self.files, self.family)
        return pooler

    def output_layer(self, kind: OutputKind) -> OutputLayer | None:
        """Return the last layer of the files, where they are those of a model with such outputs."""
        return read_output_layer(self.files, kind, self.width, self.family.pooler.output)


def pretrained_encoder(
    facts: Facts, name: str, dropout: float = 0.1, attention_dropout: float = 0.0, activation_dropout: float = 0.0
) -> Encoder:
    """Build a pretrained encoder (BERT, DistilBERT, RoBERTa, XLM-R, RoBERTa-PreLayerNorm) and load its weights.

    Args:
        facts: The tokenizer's vocabulary, which must be the weights', and how many texts an example has; a family
            that has no vectors for a second text, such as RoBERTa, tells them apart by the tokens between them alone.
        name: A folder, a package, or a name in the hub, with config.json and model.safetensors.
        dropout: As in `Encoder`.
        attention_dropout: As in `Encoder`.
        activation_dropout: As in `Encoder`; BERT and its kin have none.

    Raises:
        ConfigurationError: If the model is none of these, its weights are not those of its config.json, or the tokenizer
            is another's.
        DataError: If the files are missing or unreadable.
    """
    files = open_pretrained(name)
    config = read_json(files)
    family = _family(config, name)
    sizes = _sizes(config, family, name)
    check_tokenizer(facts, config, name)
    weights = family.plain_names(read_safetensors(files))
    offset = _offset(config, family)
    told_apart = len(weights[SEGMENTS]) if family.segments and SEGMENTS in weights else 1
    encoder = PretrainedEncoder(
        family,
        files,
        sizes["activation"],
        facts=facts if told_apart >= facts.segments else replace(facts, segments=1),
        **{part: sizes[part] for part in ("width", "heads", "layers", "feed_forward")},
        dropout=dropout,
        attention_dropout=attention_dropout,
        activation_dropout=activation_dropout,
        max_length=sizes["max_length"] - offset,
        norm=partial(nn.LayerNorm, eps=family.norm_eps or config.get("layer_norm_eps", 1e-12)),
    )
    from_bert(encoder, weights, files, family, offset)
    return encoder


def from_bert(
    encoder: Encoder, weights: Mapping[str, Tensor], files: PretrainedFiles, family: EncoderFamily, offset: int = 0
) -> None:
    """Load weights by the names of a family into an encoder; says which tensors it leaves out.

    Args:
        encoder: With `Learned` positions and the family's residual connections, of the weights' sizes.
        weights: By the family's names, without its prefix.
        files: Where the weights come from.
        family: Whose names they are.
        offset: Rows of the table of positions before that of position 0.

    Raises:
        ConfigurationError: If tensors are missing, left over, or of another shape.
    """
    name = files.name
    given = {key: tensor for key, tensor in weights.items() if not key.startswith(UNUSED)}
    names = family.tensor_names(len(encoder.layers))
    if encoder.segments is not None:
        names["segments.weight"] = (SEGMENTS,)
    expected = {part for parts in names.values() for part in parts} | ({SEGMENTS} if family.segments else set())
    check_names(given.keys(), expected, name)
    given[POSITIONS] = given[POSITIONS][offset:]
    if family.segments and encoder.segments is None:
        given[POSITIONS] = given[POSITIONS] + given[SEGMENTS][0]
    state = {ours: torch.cat([given[part] for part in parts]) for ours, parts in names.items()}
    check_shapes(state, encoder.state_dict(), names, name)
    encoder.load_state_dict(state)
    say_left_out(files, weights.keys() - given.keys())


def to_bert(encoder: Encoder, family: EncoderFamily = BERT, pad: int = 0) -> dict[str, Tensor]:
    """Return an encoder's weights by a family's names, for a model without a pooler.

    For BERT that is `BertModel(config, add_pooling_layer=False)`. With `type_vocab_size=1`, where examples are single
    texts, the vector of the only segment is zero, since it is a part of the positions'. Rows of the table of positions
    before that of position 0 are zero.

    Args:
        encoder: The encoder.
        family: Whose names.
        pad: Id of padding, after which a family with an offset counts positions.

    Raises:
        ConfigurationError: If the family cannot hold the encoder.
    """
    layers = [part for layer in encoder.layers for part in (layer.attention_residual, layer.feed_forward)]
    kinds = {type(part) for part in (encoder.positions, encoder.embedding_norm, *layers)}
    foreign = kinds - {Learned, family.residual, nn.LayerNorm, FeedForward}
    if foreign:
        residual = "pre_norm" if family.residual is PreNorm else "post_norm"
        raise ConfigurationError(
            f"{family.title} has Learned positions, {family.residual.__name__}, LayerNorm and FeedForward; this encoder "
            f"has {', '.join(sorted(part.__name__ for part in foreign))}; train with model/positions=learned "
            f"model/residual={residual} model/norm=layer model/feed_forward=gelu"
        )
    state, weights = encoder.state_dict(), dict[str, Tensor]()
    for ours, parts in family.tensor_names(len(encoder.layers)).items():
        pieces = state[ours].chunk(len(parts))
        weights.update((part, piece.clone()) for part, piece in zip(parts, pieces, strict=True))
    if family.segments:
        weights[SEGMENTS] = segment_vectors(encoder)
    if family.offset:
        table = weights[POSITIONS]
        weights[POSITIONS] = torch.cat([table.new_zeros(pad + 1, encoder.width), table])
    return weights


def segment_vectors(encoder: Encoder) -> Float[Tensor, "segments D"]:
    """Return what an encoder adds to the tokens of each segment besides their positions' vectors."""
    if encoder.segments is None:
        return encoder.embedding.weight.new_zeros(1, encoder.width)
    return encoder.segments.weight.detach().clone()


def _family(config: Mapping[str, Any], name: str) -> EncoderFamily:
    """Return the family of a config.json, and refuse what a native encoder has not."""
    if config.get("model_type") not in ENCODER_FAMILIES:
        raise ConfigurationError(
            f"{name} has model_type = {config.get('model_type')!r}; a native encoder has one of "
            f"{', '.join(ENCODER_FAMILIES)}; set model=huggingface, or another model.name"
        )
    family = ENCODER_FAMILIES[config["model_type"]]
    wanted = {
        "position_embedding_type": ("absolute",),
        family.sizes["activation"]: tuple(ACTIVATIONS),
        "is_decoder": (False,),
    }
    for key, accepted in wanted.items():
        if config.get(key, accepted[0]) not in accepted:
            raise ConfigurationError(
                f"{name} has {key} = {config[key]!r}; a native encoder has {' or '.join(map(str, accepted))}; "
                "set model=huggingface, or another model.name"
            )
    return family


def _sizes(config: Mapping[str, Any], family: EncoderFamily, name: str) -> dict[str, Any]:
    """Return the sizes of an encoder by our names.

    Raises:
        ConfigurationError: If config.json lacks one.
    """
    sizes = {ours: config.get(theirs) for ours, theirs in family.sizes.items()}
    sizes["activation"] = sizes["activation"] or "gelu"
    needed = ("vocabulary", "width", "heads", "layers", "feed_forward", "max_length")
    absent = [family.sizes[ours] for ours in needed if not isinstance(sizes[ours], int)]
    if absent or (family.offset and not isinstance(config.get("pad_token_id"), int)):
        raise ConfigurationError(f"config.json of {name} has no {', '.join(absent) or 'pad_token_id'}; write it there")
    return sizes


def _offset(config: Mapping[str, Any], family: EncoderFamily) -> int:
    """Return the rows of a table of positions before that of position 0."""
    return config["pad_token_id"] + 1 if family.offset else 0
