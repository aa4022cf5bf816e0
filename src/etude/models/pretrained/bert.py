"""Encoders with weights of transformers' BERT, DistilBERT and RoBERTa families, from and to its files.

Axes: D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.hub import PretrainedFiles
from etude.models.base import BertHead, MaskedLMHead, OutputKind, OutputLayer, Pooler
from etude.models.encoder import Encoder
from etude.models.layers.feed_forward import Activation, FeedForward, SquaredReLU
from etude.models.layers.head_norm import HeadNorm
from etude.models.layers.positions import Learned
from etude.models.layers.residual import PreNorm
from etude.models.pretrained.base import NativePretrainedModel
from etude.models.pretrained.encoder_families import BERT, ENCODER_FAMILIES, POSITIONS, TYPE_EMBEDDINGS, EncoderFamily
from etude.models.pretrained.heads import load_masked_lm_head, load_pooler, read_output_layer
from etude.models.pretrained.skeleton import PretrainedSkeleton
from etude.models.pretrained.weight_files import (
    check_names,
    check_shapes,
    check_tokenizer,
    log_unused,
    read_native_config,
    read_safetensors,
)
from etude.types import Facts

ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu2": SquaredReLU(),
}
"""Activations by their names in config.json."""

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
"""Prefixes of tensors that are not part of an encoder: poolers, heads of any task, and the list 0, 1, 2, …"""


class PretrainedEncoder(Encoder):
    """An encoder with the weights of a pretrained model.

    Args:
        family: Family of the files, and of exports.
        files: The pretrained model's files.
        activation: BERT's name of the feed-forward layers' activation.
        **parts: Arguments of `Encoder`.
    """

    def __init__(self, family: EncoderFamily, files: PretrainedFiles, activation: str, **parts: Any) -> None:
        layer = partial(FeedForward, activation=ACTIVATIONS[activation])
        super().__init__(**parts, positions=Learned, residual=family.residual, feed_forward_layer=layer)
        self.family, self.files = family, files
        self._activation = F.gelu if family.gelu_head else ACTIVATIONS[activation]

    def masked_lm_head(self) -> MaskedLMHead:
        """Return the head in the files, or a new one.

        Raises:
            ConfigurationError: If the head has an output matrix of its own, or parts of another shape.
            DataError: If the files are missing.
        """
        eps = float(cast(nn.LayerNorm, self.embedding_norm).eps)
        head = BertHead(self.width, self.embedding.num_embeddings, self._activation, eps)
        load_masked_lm_head(head, self.files, self.family)
        return head

    def pooler(self) -> Pooler:
        """Return the pooler in the files, or a new one.

        BERT's comes from its second pretraining task; the others have one if the files are a sequence classifier's.

        Raises:
            ConfigurationError: If the pooler has another shape.
            DataError: If the files are missing.
        """
        pooler = Pooler(self.width, self.family.pooler.activation)
        load_pooler(pooler, self.files, self.family)
        return pooler

    def output_layer(self, kind: OutputKind) -> OutputLayer | None:
        """Return the output layer in the files, if they are those of a model with such outputs."""
        return read_output_layer(self.files, kind, self.width, self.family.pooler.output)


@dataclass(frozen=True)
class PretrainedBert(NativePretrainedModel):
    """A pretrained encoder like BERT: BERT, DistilBERT, RoBERTa, XLM-R, RoBERTa-PreLayerNorm.

    Takes what `NativePretrainedModel` does. These models have no dropout inside feed-forward layers by default.
    """

    def build(
        self, facts: Facts, interface: type[nn.Module], saved: PretrainedSkeleton | None = None
    ) -> PretrainedEncoder:
        """Build the encoder and load its weights, as `PretrainedModel.build` says.

        A family without embeddings for a second token type, such as RoBERTa, tells the texts of a pair apart only by the
        tokens between them, whatever number of texts the facts state.
        """
        files, name = self.files(saved), self.name
        config = read_native_config(files)
        family = _family(config, name)
        sizes = _sizes(config, family, name)
        check_tokenizer(facts, config, name)
        weights = family.plain_names(read_safetensors(files))
        offset = _offset(config, family)
        token_types = len(weights[TYPE_EMBEDDINGS]) if family.token_types and TYPE_EMBEDDINGS in weights else 1
        encoder = PretrainedEncoder(
            family,
            files,
            sizes["activation"],
            facts=facts if token_types >= facts.segments else replace(facts, segments=1),
            **{part: sizes[part] for part in ("width", "heads", "layers", "feed_forward")},
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
            max_length=sizes["max_length"] - offset,
            norm=partial(nn.LayerNorm, eps=family.norm_eps or config.get("layer_norm_eps", 1e-12)),
        )
        from_bert(encoder, weights, files, family, offset)
        return encoder


def from_bert(
    encoder: Encoder, weights: Mapping[str, Tensor], files: PretrainedFiles, family: EncoderFamily, offset: int = 0
) -> None:
    """Load weights by the names of a family into an encoder, and log the tensors that are not used.

    Args:
        encoder: An encoder of the weights' sizes, with `Learned` positions and the family's residual connections.
        weights: Tensors by the family's names, without its prefix.
        files: The pretrained model's files.
        family: Family of the names.
        offset: Number of rows before that of position 0 in the table of positions.

    Raises:
        ConfigurationError: If tensors are missing, extra, or of another shape.
    """
    name = files.name
    tensors = {key: tensor for key, tensor in weights.items() if not key.startswith(UNUSED)}
    names = family.tensor_names(len(encoder.layers))
    if encoder.segments is not None:
        names["segments.weight"] = (TYPE_EMBEDDINGS,)
    expected = {part for parts in names.values() for part in parts} | (
        {TYPE_EMBEDDINGS} if family.token_types else set()
    )
    check_names(tensors.keys(), expected, name)
    tensors[POSITIONS] = tensors[POSITIONS][offset:]
    if family.token_types and encoder.segments is None:
        tensors[POSITIONS] = tensors[POSITIONS] + tensors[TYPE_EMBEDDINGS][0]
    state = {native: torch.cat([tensors[part] for part in parts]) for native, parts in names.items()}
    check_shapes(state, encoder.state_dict(), names, name)
    encoder.load_state_dict(state)
    log_unused(files, weights.keys() - tensors.keys())


def to_bert(encoder: Encoder, family: EncoderFamily = BERT, pad: int = 0) -> dict[str, Tensor]:
    """Return an encoder's weights by a family's names, for a model without a pooler.

    For BERT that is `BertModel(config, add_pooling_layer=False)`. If examples are single texts (`type_vocab_size=1`), the
    embedding of the only token type is zero, since it is part of the positions' vectors. Rows before that of position 0
    in the table of positions are zero.

    Args:
        encoder: The encoder.
        family: Family of the names.
        pad: Token id of padding, after which a family with an offset counts positions.

    Raises:
        ConfigurationError: If the family cannot hold the encoder.
    """
    if any(isinstance(part, HeadNorm) for part in encoder.modules()):
        raise ConfigurationError(
            f"{family.title} has no norm of queries and keys, and this encoder has; train with model.query_key_norm=false"
        )
    layers = [part for layer in encoder.layers for part in (layer.attention_residual, layer.feed_forward)]
    kinds = {type(part) for part in (encoder.positions, encoder.embedding_norm, *layers)}
    foreign = kinds - {family.positions, family.residual, nn.LayerNorm, FeedForward}
    if foreign:
        residual = "pre_norm" if family.residual is PreNorm else "post_norm"
        positions = family.positions.__name__
        raise ConfigurationError(
            f"{family.title} has {positions} positions, {family.residual.__name__}, LayerNorm and FeedForward; this encoder "
            f"has {', '.join(sorted(part.__name__ for part in foreign))}; train with "
            f"model/positions={positions.lower()} model/residual={residual} model/norm=layer model/feed_forward=gelu"
        )
    state, weights = encoder.state_dict(), dict[str, Tensor]()
    for native, parts in family.tensor_names(len(encoder.layers)).items():
        pieces = state[native].chunk(len(parts))
        weights.update((part, piece.clone()) for part, piece in zip(parts, pieces, strict=True))
    if family.token_types:
        weights[TYPE_EMBEDDINGS] = token_type_embeddings(encoder)
    if family.offset:
        table = weights[POSITIONS]
        weights[POSITIONS] = torch.cat([table.new_zeros(pad + 1, encoder.width), table])
    return weights


def token_type_embeddings(encoder: Encoder) -> Float[Tensor, "types D"]:
    """Return an encoder's embeddings of token types; zeros if the only one is part of the positions' vectors."""
    if encoder.segments is None:
        return encoder.embedding.weight.new_zeros(1, encoder.width)
    return encoder.segments.weight.detach().clone()


def _family(config: Mapping[str, Any], name: str) -> EncoderFamily:
    """Return the family of a config.json, and refuse anything that a native encoder does not have."""
    if config.get("model_type") not in ENCODER_FAMILIES:
        raise ConfigurationError(
            f"{name} has model_type = {config.get('model_type')!r}; a native encoder has one of "
            f"{', '.join(ENCODER_FAMILIES)}; set model=huggingface, or another model.name"
        )
    family = ENCODER_FAMILIES[config["model_type"]]
    supported = {
        "position_embedding_type": ("absolute",),
        family.sizes["activation"]: tuple(ACTIVATIONS),
        "is_decoder": (False,),
    }
    for key, accepted in supported.items():
        if config.get(key, accepted[0]) not in accepted:
            raise ConfigurationError(
                f"{name} has {key} = {config[key]!r}; a native encoder has {' or '.join(map(str, accepted))}; "
                "set model=huggingface, or another model.name"
            )
    return family


def _sizes(config: Mapping[str, Any], family: EncoderFamily, name: str) -> dict[str, Any]:
    """Return the sizes of an encoder by their native names.

    Raises:
        ConfigurationError: If config.json lacks a size.
    """
    sizes = {native: config.get(key) for native, key in family.sizes.items()}
    sizes["activation"] = sizes["activation"] or "gelu"
    needed = ("vocabulary", "width", "heads", "layers", "feed_forward", "max_length")
    absent = [family.sizes[size] for size in needed if not isinstance(sizes[size], int)]
    if absent or (family.offset and not isinstance(config.get("pad_token_id"), int)):
        raise ConfigurationError(f"config.json of {name} has no {', '.join(absent) or 'pad_token_id'}; write it there")
    return sizes


def _offset(config: Mapping[str, Any], family: EncoderFamily) -> int:
    """Return the number of rows before that of position 0 in the table of positions."""
    return config["pad_token_id"] + 1 if family.offset else 0
