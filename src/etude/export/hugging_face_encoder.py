"""Encoders for transformers: BERT for PostNorm, RobertaPreLayerNorm for PreNorm, with the task's own head.

Axes: B texts, L positions, D model width, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from etude.errors import ConfigurationError
from etude.export.hugging_face_files import (
    activation_name,
    load_peer,
    logits_of,
    prove_tokenizer,
    write_model,
    write_tokenizer,
)
from etude.export.proof import BATCH, Examples, Padded, largest_difference
from etude.models.encoder import Encoder
from etude.models.pretrained import EMBEDDINGS, LAYER, SEGMENTS, to_bert
from etude.nn.encoder_layer import EncoderLayer
from etude.nn.feed_forward import FeedForward
from etude.nn.positions import Learned
from etude.nn.residual import PreNorm
from etude.tasks.base import Task
from etude.tasks.classification import Classification, mean_of_real
from etude.tasks.masked_lm import MaskedLM

PRE_NORMS = {
    "attention_residual.norm": ("attention.LayerNorm",),
    "feed_forward_residual.norm": ("intermediate.LayerNorm",),
}
"""Where RobertaPreLayerNorm has the norms of a layer; the rest is BERT's."""


class HuggingFaceEncoder:
    """config.json, model.safetensors and the tokenizer's files of a classifier or a masked language model.

    No sequence classifier of transformers is one linear layer on a mean of states. So a classifier is written as a token
    classifier with that layer: the mean of its logits over real tokens (or those of the first token) are the run's.
    """

    def write(self, examples: Examples, folder: Path) -> None:
        """Write the model into an empty folder."""
        task, encoder = examples.task, _encoder(examples.task)
        pre_norm = all(isinstance(layer.attention_residual, PreNorm) for layer in encoder.layers)
        body = pre_norm_weights(encoder, task.facts.pad) if pre_norm else to_bert(encoder)
        prefix, architecture = ("roberta_prelayernorm", "RobertaPreLayerNorm") if pre_norm else ("bert", "Bert")
        head, suffix = _head(task, pre_norm)
        weights = {f"{prefix}.{name}": tensor for name, tensor in body.items()} | head
        config = _config(task, encoder, pre_norm) | {"architectures": [architecture + suffix]}
        write_model(folder, "roberta-prelayernorm" if pre_norm else "bert", config, weights)
        write_tokenizer(folder, examples.tokenizer, encoder.max_length, starts=True)

    def prove(self, examples: Examples, folder: Path) -> dict[str, Any]:
        """Compare ids, and logits on padded batches."""
        task = examples.task
        auto = "AutoModelForMaskedLM" if isinstance(task, MaskedLM) else "AutoModelForTokenClassification"
        peer = load_peer(folder, auto)
        room = _encoder(task).max_length - 2
        rows = [[task.facts.bos, *ids[:room], task.facts.eos] for ids in examples.tokenizer.encode(examples.texts)]
        largest = 0.0
        for start in range(0, len(rows), BATCH):
            batch = Padded(rows[start : start + BATCH], task.facts.pad)
            with torch.no_grad():
                theirs = logits_of(peer(input_ids=batch.tokens, attention_mask=batch.mask.long()))
                ours = _logits(task, batch.tokens, batch.mask)
            if isinstance(task, Classification):
                theirs = task.pool(theirs, batch.mask)
            else:
                ours, theirs = ours[batch.mask], theirs[batch.mask]
            largest = max(largest, largest_difference(ours, theirs, "logits"))
        found = {
            "class": type(peer).__name__,
            "tokenizer": prove_tokenizer(folder, examples.tokenizer, examples.texts, starts=True),
            "logits": {"texts": len(rows), "largest_difference": largest},
        }
        if isinstance(task, Classification):
            mean = task.pool is mean_of_real
            found["use"] = f"class logits = {'mean over real tokens' if mean else 'first token'} of the token logits"
        return found


def pre_norm_weights(encoder: Encoder, pad: int) -> dict[str, Tensor]:
    """Return an encoder's weights by the names of a RobertaPreLayerNormModel without a pooler.

    Its table of positions has `pad` + 1 rows before that of position 0.

    Raises:
        ConfigurationError: If the encoder has parts that the class has not.
    """
    if not isinstance(encoder.positions, Learned):
        raise ConfigurationError(
            f"RobertaPreLayerNorm has Learned positions, and this encoder {type(encoder.positions).__name__}; train with "
            "model/positions=learned"
        )
    names: dict[str, tuple[str, ...]] = dict(EMBEDDINGS)
    for index in range(len(encoder.layers)):
        for ours, parts in (LAYER | PRE_NORMS).items():
            for kind in ("weight", "bias"):
                names[f"layers.{index}.{ours}.{kind}"] = tuple(f"encoder.layer.{index}.{part}.{kind}" for part in parts)
    names |= {f"norm.{kind}": (f"LayerNorm.{kind}",) for kind in ("weight", "bias")}
    state = encoder.state_dict()
    if state.keys() != names.keys():
        strange = ", ".join(sorted(state.keys() ^ names.keys())[:4])
        raise ConfigurationError(f"RobertaPreLayerNorm and this encoder differ in {strange}: it cannot be exported")
    weights = {SEGMENTS: encoder.embedding.weight.new_zeros(1, encoder.width)}
    for ours, parts in names.items():
        pieces = state[ours].chunk(len(parts))
        weights.update((part, piece.clone()) for part, piece in zip(parts, pieces, strict=True))
    positions = "embeddings.position_embeddings.weight"
    weights[positions] = torch.cat([weights[positions].new_zeros(pad + 1, encoder.width), weights[positions]])
    return weights


def _encoder(task: Task) -> Encoder:
    """Return the task's encoder, which a task with an encoder is known to have."""
    return cast(Classification | MaskedLM, task).model


def _head(task: Task, pre_norm: bool) -> tuple[dict[str, Tensor], str]:
    """Return the head's weights and the end of its class's name."""
    if isinstance(task, Classification):
        return {"classifier.weight": task.head.weight, "classifier.bias": task.head.bias}, "ForTokenClassification"
    task = cast(MaskedLM, task)
    names = ("dense", "layer_norm", "bias") if pre_norm else ("transform.dense", "transform.LayerNorm", "bias")
    dense, norm, bias = (f"{'lm_head' if pre_norm else 'cls.predictions'}.{name}" for name in names)
    parts = {dense: task.transform, norm: task.norm}
    weights: dict[str, Tensor] = {
        f"{name}.{kind}": tensor for name, module in parts.items() for kind, tensor in module.named_parameters()
    }
    return weights | {bias: task.bias}, "ForMaskedLM"


def _config(task: Task, encoder: Encoder, pre_norm: bool) -> dict[str, Any]:
    """Return the arguments of the config."""
    facts, first = task.facts, cast(EncoderLayer, encoder.layers[0])
    feed_forward = cast(FeedForward, first.feed_forward)
    labels = {"id2label": dict(enumerate(facts.classes)), "label2id": {name: i for i, name in enumerate(facts.classes)}}
    return {
        "vocab_size": facts.vocabulary,
        "hidden_size": encoder.width,
        "num_hidden_layers": len(encoder.layers),
        "num_attention_heads": encoder.width // first.attention.head_width,
        "intermediate_size": feed_forward.inner.out_features,
        "hidden_act": activation_name(feed_forward.activation),
        "hidden_dropout_prob": encoder.dropout.probability,
        "attention_probs_dropout_prob": first.attention.attend.dropout.probability,
        "max_position_embeddings": encoder.max_length + (facts.pad + 1 if pre_norm else 0),
        "type_vocab_size": encoder.segments,
        "layer_norm_eps": encoder.embedding_norm.eps,
        **{f"{name}_token_id": getattr(facts, name) for name in ("pad", "bos", "eos")},
        **(labels if facts.classes else {}),
    }


def _logits(task: Task, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B ..."]:
    """Return the run's own logits: [B, C] of classes, or [B, L, V] of tokens."""
    if isinstance(task, Classification):
        return task.logits(tokens, mask)
    task = cast(MaskedLM, task)
    hidden = task.norm(F.gelu(task.transform(task.model(tokens, mask))))
    return F.linear(hidden, task.model.embedding.weight, task.bias)
