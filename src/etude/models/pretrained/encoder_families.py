"""How transformers' encoders of BERT's kind name their tensors and sizes: they differ in little else.

Axes: D model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from etude.models.layers.feed_forward import Activation
from etude.models.layers.residual import PostNorm, PreNorm, Residual

POSITIONS = "embeddings.position_embeddings.weight"
SEGMENTS = "embeddings.token_type_embeddings.weight"
"""BERT's vectors for first and second text. With one text, the first is a part of every position's vector."""

EMBEDDINGS = {
    "embedding.weight": ("embeddings.word_embeddings.weight",),
    "positions.embedding.weight": (POSITIONS,),
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
"""What an encoder is made of, and BERT's keys of it in config.json."""

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
    """The tensors of a masked language model's head.

    Attributes:
        transform: The linear layer.
        norm: The norm.
        bias: Of the logits; the second name is one that files have in its place or besides.
        matrix: From features to logits: the embedding once more, where a file has it.
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
    """The tensors of a sequence classifier between the state of the first token and its outputs.

    Attributes:
        dense: The linear layer of the pooler.
        output: The one behind it.
        activation: Between them.
        inside: Whether the encoder has the pooler itself, so that the encoder's prefix stands before its name.
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
    """What sets a model type apart from BERT.

    Attributes:
        model_type: Its name in config.json.
        title: The beginning of its classes' names in transformers.
        prefix: What stands before the encoder's tensors in a model with a head.
        head: The tensors of a masked language model's head.
        pooler: The tensors of a sequence classifier's.
        residual: Where norms are; one before each sublayer has another at the end of the stack.
        stack: Where the layers are.
        layer: As `LAYER`.
        sizes: As `SIZES`.
        segments: Whether there are vectors for first and second text.
        offset: Whether the table of positions has rows for ids up to that of padding before that of position 0.
        gelu_head: Whether the head's activation is GELU, whatever the layers have.
        norm_eps: Of all norms, where config.json does not say it.
    """

    model_type: str
    title: str
    prefix: str
    head: HeadNames
    pooler: PoolerNames
    residual: type[Residual] = PostNorm
    stack: str = "encoder.layer"
    layer: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: LAYER)
    sizes: Mapping[str, str] = field(default_factory=lambda: SIZES)
    segments: bool = True
    offset: bool = False
    gelu_head: bool = False
    norm_eps: float | None = None

    def tensor_names(self, layers: int) -> dict[str, tuple[str, ...]]:
        """Return, for each tensor of an encoder of so many layers, those of the family whose rows it is made of."""
        names = {
            f"layers.{index}.{ours}.{kind}": tuple(f"{self.stack}.{index}.{part}.{kind}" for part in parts)
            for index in range(layers)
            for ours, parts in self.layer.items()
            for kind in ("weight", "bias")
        }
        last = {f"norm.{kind}": (f"LayerNorm.{kind}",) for kind in ("weight", "bias")}
        return EMBEDDINGS | names | (last if self.residual is PreNorm else {})

    def plain_names(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors without the prefix, and norms by the names of today, not of TensorFlow."""
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
            segments=False,
            norm_eps=1e-12,
        ),
        EncoderFamily("roberta", "Roberta", "roberta.", ROBERTA_HEAD, ROBERTA_POOLER, offset=True, gelu_head=True),
        EncoderFamily(
            "xlm-roberta", "XLMRoberta", "roberta.", ROBERTA_HEAD, ROBERTA_POOLER, offset=True, gelu_head=True
        ),
        PRE_NORM,
    )
}
"""The families, by their model_type."""
