"""Encoders with weights of transformers' BERT, DistilBERT, RoBERTa and their kin, from and to its files.

Axes: D model width, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.models.encoder import Encoder
from etude.models.encoder_families import BERT, ENCODER_FAMILIES, POSITIONS, SEGMENTS, EncoderFamily, HeadNames
from etude.models.kept import KeptFiles, files_of_heads
from etude.models.text_encoder import BertHead, MaskedLMHead, Pooler
from etude.models.weights import check_names, check_tokenizer, read_json, read_safetensors, say_left_out
from etude.nn.feed_forward import Activation, FeedForward
from etude.nn.positions import Learned
from etude.nn.residual import PreNorm
from etude.pretrained_files import PretrainedFiles, open_pretrained
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

_log = logging.getLogger(__name__)


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
        given = _plain_names(read_safetensors(files_of_heads(self.files)), self.family)
        weights = head_weights(given, self.family.head)
        if weights is None:
            if not isinstance(self.files, KeptFiles):
                _log.info("%s has no head of a masked language model: a new one is drawn", self.files.name)
            return head
        (embedding,) = self.family.tensor_names(0)["embedding.weight"]
        matrix = given.get(self.family.head.matrix)
        if matrix is not None and not torch.equal(matrix, given[embedding]):
            raise ConfigurationError(
                f"{self.files.name} has other values in {self.family.head.matrix} than in the embedding, which a native "
                "model has in both places; set model=huggingface"
            )
        _check_shapes(weights, head.state_dict(), {ours: (ours,) for ours in weights}, self.files.name)
        head.load_state_dict(weights)
        return head

    def pooler(self) -> Pooler:
        """Return the pooler that the files have, or a new one.

        BERT has it from its second task; RoBERTa's kin and DistilBERT have it where the files are a sequence classifier's.

        Raises:
            ConfigurationError: If it is of another shape.
            DataError: If the files are missing.
        """
        names = self.family.pooler
        pooler = Pooler(self.width, names.activation)
        given = _plain_names(read_safetensors(files_of_heads(self.files)), self.family)
        parts = {f"dense.{kind}": (f"{names.dense}.{kind}",) for kind in ("weight", "bias")}
        if not all(theirs in given for (theirs,) in parts.values()):
            if not isinstance(self.files, KeptFiles):
                _log.info("%s has no pooler: a new one is drawn", self.files.name)
            return pooler
        weights = {ours: given[theirs] for ours, (theirs,) in parts.items()}
        _check_shapes(weights, pooler.state_dict(), parts, self.files.name)
        pooler.load_state_dict(weights)
        return pooler


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
    weights = _plain_names(read_safetensors(files), family)
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
    _check_shapes(state, encoder.state_dict(), names, name)
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


def head_weights(weights: Mapping[str, Tensor], names: HeadNames) -> dict[str, Tensor] | None:
    """Return the weights of a `BertHead` by its own names; None where they are not all there."""
    parts = {"transform": names.transform, "norm": names.norm}
    theirs = {f"{ours}.{kind}": f"{part}.{kind}" for ours, part in parts.items() for kind in ("weight", "bias")}
    theirs["bias"] = next((bias for bias in names.bias if bias in weights), names.bias[0])
    found = {ours: weights[part] for ours, part in theirs.items() if part in weights}
    return found if len(found) == len(theirs) else None


def _check_shapes(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]], name: str
) -> None:
    for ours, tensor in wanted.items():
        if state[ours].shape != tensor.shape:
            raise ConfigurationError(
                f"the weights of {name} are not its config.json's: {', '.join(names[ours])} give "
                f"{list(state[ours].shape)}, which should be {list(tensor.shape)}"
            )


def _plain_names(weights: Mapping[str, Tensor], family: EncoderFamily) -> dict[str, Tensor]:
    """Return the tensors without the family's prefix, and norms by the names of today, not of TensorFlow."""
    return {
        name.removeprefix(family.prefix)
        .replace("LayerNorm.gamma", "LayerNorm.weight")
        .replace("LayerNorm.beta", "LayerNorm.bias"): tensor
        for name, tensor in weights.items()
    }


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
