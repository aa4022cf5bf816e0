"""Encoders for transformers, with the task's own head: pretrained ones as what they were, others by their norms.

Axes: B texts, L positions, D model width, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
from etude.models.encoder_families import BERT, PRE_NORM, EncoderFamily
from etude.models.pretrained import PretrainedEncoder, to_bert
from etude.models.text_encoder import BertHead, TextEncoder
from etude.nn.encoder_layer import EncoderLayer
from etude.nn.feed_forward import FeedForward
from etude.nn.residual import PreNorm
from etude.tasks.base import Task
from etude.tasks.classification import Classification
from etude.tasks.masked_lm import MaskedLM


class HuggingFaceEncoder:
    """config.json, model.safetensors and the tokenizer's files of a classifier or a masked language model.

    No sequence classifier of transformers is one linear layer on a mean of states. So a classifier is written as a token
    classifier with that layer: the mean of its logits over real tokens (or those of the first token) are the run's.
    """

    def write(self, examples: Examples, folder: Path) -> None:
        """Write the model into an empty folder."""
        task, encoder = examples.task, cast(Encoder, encoder_of(examples.task))
        family = family_of(encoder)
        body = to_bert(encoder, family, task.facts.pad)
        head, suffix = _head(task, family)
        weights = {f"{family.prefix}{name}": tensor for name, tensor in body.items()} | head
        config = _config(task, encoder, family) | {"architectures": [family.title + suffix]}
        write_model(folder, family.model_type, config, weights)
        write_tokenizer(folder, examples.tokenizer, encoder.max_length, starts=True)

    def prove(self, examples: Examples, folder: Path) -> dict[str, Any]:
        """Compare ids, and logits on padded batches."""
        task = examples.task
        auto = "AutoModelForMaskedLM" if isinstance(task, MaskedLM) else "AutoModelForTokenClassification"
        peer = load_peer(folder, auto)
        room = encoder_of(task).max_length - 2
        rows = [[task.facts.bos, *ids[:room], task.facts.eos] for ids in examples.tokenizer.encode(examples.texts)]
        largest = 0.0
        for start in range(0, len(rows), BATCH):
            batch = Padded(rows[start : start + BATCH], task.facts.pad)
            with torch.no_grad():
                theirs = logits_of(peer(input_ids=batch.tokens, attention_mask=batch.mask.long()))
                ours = _logits(task, batch.tokens, batch.mask)
            if isinstance(task, Classification):
                theirs = task.pooling.of(theirs, batch.mask)
            else:
                ours, theirs = ours[batch.mask], theirs[batch.mask]
            largest = max(largest, largest_difference(ours, theirs, "logits"))
        found = {
            "class": type(peer).__name__,
            "tokenizer": prove_tokenizer(folder, examples.tokenizer, examples.texts, starts=True),
            "logits": {"texts": len(rows), "largest_difference": largest},
        }
        if isinstance(task, Classification):
            found["use"] = f"class logits = {task.pooling.SAID} of the token logits"
        return found


def encoder_of(task: Task) -> TextEncoder:
    """Return the task's encoder, which a task with an encoder is known to have."""
    return cast(Classification | MaskedLM, task).model


def family_of(encoder: Encoder) -> EncoderFamily:
    """Return the family that an encoder is written as: that of its pretrained weights, else what its norms allow."""
    if isinstance(encoder, PretrainedEncoder):
        return encoder.family
    return PRE_NORM if all(isinstance(layer.attention_residual, PreNorm) for layer in encoder.layers) else BERT


def _head(task: Task, family: EncoderFamily) -> tuple[dict[str, Tensor], str]:
    """Return the head's weights and the end of its class's name."""
    if isinstance(task, Classification):
        return {"classifier.weight": task.head.weight, "classifier.bias": task.head.bias}, "ForTokenClassification"
    head, names = cast(BertHead, cast(MaskedLM, task).head), family.head
    parts = {names.transform: head.transform, names.norm: head.norm}
    weights: dict[str, Tensor] = {
        f"{name}.{kind}": tensor for name, module in parts.items() for kind, tensor in module.named_parameters()
    }
    return weights | {names.bias[0]: head.bias}, "ForMaskedLM"


def _config(task: Task, encoder: Encoder, family: EncoderFamily) -> dict[str, Any]:
    """Return the arguments of the config."""
    facts, first = task.facts, cast(EncoderLayer, encoder.layers[0])
    feed_forward = cast(FeedForward, first.feed_forward)
    labels = {"id2label": dict(enumerate(facts.classes)), "label2id": {name: i for i, name in enumerate(facts.classes)}}
    sizes = {
        "vocabulary": facts.vocabulary,
        "width": encoder.width,
        "layers": len(encoder.layers),
        "heads": encoder.width // first.attention.head_width,
        "feed_forward": feed_forward.inner.out_features,
        "activation": activation_name(feed_forward.activation),
        "dropout": encoder.dropout.probability,
        "attention_dropout": first.attention.attend.dropout.probability,
        "max_length": encoder.max_length + (facts.pad + 1 if family.offset else 0),
    }
    return {
        **{family.sizes[ours]: value for ours, value in sizes.items()},
        **({"type_vocab_size": 1 if encoder.segments is None else facts.segments} if family.segments else {}),
        **({"layer_norm_eps": encoder.embedding_norm.eps} if family.norm_eps is None else {}),
        **{f"{name}_token_id": getattr(facts, name) for name in ("pad", "bos", "eos")},
        **(labels if facts.classes else {}),
    }


def _logits(task: Task, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B ..."]:
    """Return the run's own logits: [B, C] of classes, or [B, L, V] of tokens."""
    if isinstance(task, Classification):
        return task.logits(tokens, mask)
    task = cast(MaskedLM, task)
    return task.logits(task.head(task.model(tokens, mask).flatten(0, 1))).unflatten(0, tokens.shape)
