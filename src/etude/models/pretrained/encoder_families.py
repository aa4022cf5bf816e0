"""Encoders like BERT in transformers: the names of their tensors and sizes, and their few differences.

Axes: D model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from etude.models.layers.feed_forward import Activation
from etude.models.layers.positions import Learned, Positions, Rotary
from etude.models.layers.residual import PostNorm, PreNorm, Residual

POSITIONS = "embeddings.position_embeddings.weight"
TYPE_EMBEDDINGS = "embeddings.token_type_embeddings.weight"
"""BERT's embeddings of token types. For single texts, the first is part of every position's vector."""

EMBEDDINGS = {
    "embedding.weight": ("embeddings.word_embeddings.weight",),
    "positions.embedding.weight": (POSITIONS,),
    "embedding_norm.weight": ("embeddings.LayerNorm.weight",),
    "embedding_norm.bias": ("embeddings.LayerNorm.bias",),
}
"""Native tensors, and the tensors of BERT that they consist of."""

ESM_EMBEDDINGS = {
    "embedding.weight": ("embeddings.word_embeddings.weight",),
    "embedding_norm.weight": ("embeddings.layer_norm.weight",),
    "embedding_norm.bias": ("embeddings.layer_norm.bias",),
}
"""The same of ESM, whose rotary positions have no tensors."""

LAYER = {
    "attention.query_key_value": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output": ("attention.output.dense",),
    "attention_residual.norm": ("attention.output.LayerNorm",),
    "feed_forward.inner": ("intermediate.dense",),
    "feed_forward.outer": ("output.dense",),
    "feed_forward_residual.norm": ("output.LayerNorm",),
}
"""Native modules of a layer, and the modules of BERT that they consist of; each has a weight and a bias."""

DISTILBERT_LAYER = {
    "attention.query_key_value": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention.output": ("attention.out_lin",),
    "attention_residual.norm": ("sa_layer_norm",),
    "feed_forward.inner": ("ffn.lin1",),
    "feed_forward.outer": ("ffn.lin2",),
    "feed_forward_residual.norm": ("output_layer_norm",),
}

PRE_NORM_LAYER = LAYER | {
    "attention_residual.norm": ("attention.LayerNorm",),
    "feed_forward_residual.norm": ("intermediate.LayerNorm",),
}

ESM_LAYER = LAYER | {
    "attention_residual.norm": ("attention.LayerNorm",),
    "feed_forward_residual.norm": ("LayerNorm",),
}

SIZES = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "layers": "num_hidden_layers",
    "feed_forward": "intermediate_size",
    "max_length": "max_position_embeddings",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
"""Sizes of an encoder, and BERT's keys in config.json."""

DISTILBERT_SIZES = SIZES | {
    "width": "dim",
    "heads": "n_heads",
    "layers": "n_layers",
    "feed_forward": "hidden_dim",
    "activation": "activation",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
}


@dataclass(frozen=True)
class HeadNames:
    """Names of the tensors of a masked language model's head.

    Attributes:
        transform: The linear layer.
        norm: The norm.
        bias: The bias of the logits; files may use the second name instead or as well.
        matrix: The matrix from features to logits, which is the embedding again, if a file has it.
    """

    transform: str
    norm: str
    bias: tuple[str, str]
    matrix: str


BERT_HEAD = HeadNames(
    "cls.predictions.transform.dense",
    "cls.predictions.transform.LayerNorm",
    ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    "cls.predictions.decoder.weight",
)
ROBERTA_HEAD = HeadNames(
    "lm_head.dense", "lm_head.layer_norm", ("lm_head.bias", "lm_head.decoder.bias"), "lm_head.decoder.weight"
)
DISTILBERT_HEAD = HeadNames(
    "vocab_transform", "vocab_layer_norm", ("vocab_projector.bias", "vocab_projector.bias"), "vocab_projector.weight"
)


@dataclass(frozen=True)
class PoolerNames:
    """Names of the tensors of a sequence classifier between the CLS state and its outputs.

    Attributes:
        dense: The linear layer of the pooler.
        output: The output layer after it.
        activation: Activation between them.
        inside: Whether the pooler is part of the encoder, so that its name has the encoder's prefix.
    """

    dense: str
    output: str
    activation: Activation = torch.tanh
    inside: bool = False


BERT_POOLER = PoolerNames("pooler.dense", "classifier", inside=True)
ROBERTA_POOLER = PoolerNames("classifier.dense", "classifier.out_proj")
DISTILBERT_POOLER = PoolerNames("pre_classifier", "classifier", F.relu)


@dataclass(frozen=True)
class EncoderFamily:
    """The differences of a model type from BERT.

    Attributes:
        model_type: The type's name in config.json.
        title: Prefix of its classes' names in transformers.
        prefix: Prefix of the encoder's tensors in a model with a head.
        head: Tensors of a masked language model's head.
        pooler: Tensors of a sequence classifier's pooler.
        residual: Kind of residual connection; with `PreNorm` there is another norm at the end of the stack.
        stack: Name of the list of layers.
        embeddings: Tensors of the embeddings, as in `EMBEDDINGS`.
        last_norm: Name of the norm at the end of the stack, where there is one.
        positions: Kind of positions.
        layer: Modules of a layer, as in `LAYER`.
        sizes: Keys of sizes, as in `SIZES`.
        token_types: Whether there are embeddings of token types.
        offset: Whether the table of positions begins with rows for the ids up to that of padding.
        gelu_head: Whether the head's activation is GELU, whatever that of the layers is.
        norm_eps: Epsilon of all norms, if config.json does not state it.
    """

    model_type: str
    title: str
    prefix: str
    head: HeadNames
    pooler: PoolerNames
    residual: type[Residual] = PostNorm
    stack: str = "encoder.layer"
    embeddings: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: EMBEDDINGS)
    last_norm: str = "LayerNorm"
    positions: type[Positions] = Learned
    layer: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: LAYER)
    sizes: Mapping[str, str] = field(default_factory=lambda: SIZES)
    token_types: bool = True
    offset: bool = False
    gelu_head: bool = False
    norm_eps: float | None = None

    def tensor_names(self, layers: int) -> dict[str, tuple[str, ...]]:
        """Return, for each tensor of an encoder with that many layers, the family's tensors that it concatenates."""
        names = {
            f"layers.{index}.{native}.{kind}": tuple(f"{self.stack}.{index}.{part}.{kind}" for part in parts)
            for index in range(layers)
            for native, parts in self.layer.items()
            for kind in ("weight", "bias")
        }
        last = {f"norm.{kind}": (f"{self.last_norm}.{kind}",) for kind in ("weight", "bias")}
        return {**self.embeddings} | names | (last if self.residual is PreNorm else {})

    def plain_names(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors by names without the prefix, and without TensorFlow's old names of norms."""
        return {
            name.removeprefix(self.prefix)
            .replace("LayerNorm.gamma", "LayerNorm.weight")
            .replace("LayerNorm.beta", "LayerNorm.bias"): tensor
            for name, tensor in weights.items()
        }


BERT = EncoderFamily("bert", "Bert", "bert.", BERT_HEAD, BERT_POOLER)
PRE_NORM = EncoderFamily(
    "roberta-prelayernorm",
    "RobertaPreLayerNorm",
    "roberta_prelayernorm.",
    ROBERTA_HEAD,
    ROBERTA_POOLER,
    residual=PreNorm,
    layer=PRE_NORM_LAYER,
    offset=True,
    gelu_head=True,
)
ESM = EncoderFamily(
    "esm",
    "Esm",
    "esm.",
    ROBERTA_HEAD,
    ROBERTA_POOLER,
    residual=PreNorm,
    embeddings=ESM_EMBEDDINGS,
    last_norm="encoder.emb_layer_norm_after",
    positions=Rotary,
    layer=ESM_LAYER,
    token_types=False,
    gelu_head=True,
)
"""A family that is written, and not read: its configuration has many choices that a native encoder has not."""

ENCODER_FAMILIES = {
    family.model_type: family
    for family in (
        BERT,
        EncoderFamily(
            "distilbert",
            "DistilBert",
            "distilbert.",
            DISTILBERT_HEAD,
            DISTILBERT_POOLER,
            stack="transformer.layer",
            layer=DISTILBERT_LAYER,
            sizes=DISTILBERT_SIZES,
            token_types=False,
            norm_eps=1e-12,
        ),
        EncoderFamily("roberta", "Roberta", "roberta.", ROBERTA_HEAD, ROBERTA_POOLER, offset=True, gelu_head=True),
        EncoderFamily(
            "xlm-roberta", "XLMRoberta", "roberta.", ROBERTA_HEAD, ROBERTA_POOLER, offset=True, gelu_head=True
        ),
        PRE_NORM,
    )
}
"""Families that are read, by model_type."""
