"""Export of encoders with the task's head to transformers: pretrained ones in their family, others by their norms."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from etude.commands.export.huggingface_files import (
    activation_name,
    load_peer,
    prove_tokenizer,
    write_model,
    write_tokenizer,
)
from etude.commands.export.huggingface_heads import (
    both_logits,
    class_ending,
    encode_rows,
    encoder_of,
    head_config,
    head_weights,
    is_text_classifier,
    whole_rows,
)
from etude.commands.export.proof import BATCH, ProofTexts, largest_difference
from etude.models.encoder import Encoder
from etude.models.layers.encoder_layer import EncoderLayer
from etude.models.layers.feed_forward import FeedForward
from etude.models.layers.positions import Rotary
from etude.models.layers.residual import PreNorm
from etude.models.pretrained.bert import PretrainedEncoder, to_bert
from etude.models.pretrained.encoder_families import BERT, ESM, PRE_NORM, EncoderFamily
from etude.models.pretrained.esm import check_for_esm, esm_buffers, esm_config
from etude.tasks.base import Task
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.pooled import Pooled
from etude.tokenization.truncation import joined


class HuggingFaceEncoder:
    """Writes config.json, model.safetensors and the files of the tokenizer of a task with an encoder."""

    def write(self, examples: ProofTexts, folder: Path) -> None:
        """Write the model into an empty folder."""
        task, encoder = examples.task, cast(Encoder, encoder_of(examples.task))
        family = family_of(encoder)
        body, config = to_bert(encoder, family, task.facts.pad), _config(task, encoder, family)
        if family is ESM:
            check_for_esm(encoder, config[family.sizes["activation"]])
            body, config = body | esm_buffers(encoder), config | esm_config(encoder, task.facts)
        weights = {f"{family.prefix}{name}": tensor for name, tensor in body.items()} | head_weights(task, family)
        config["architectures"] = [family.title + class_ending(task)]
        write_model(folder, family.model_type, config, weights)
        write_encoder_tokenizer(folder, examples)

    def prove(self, examples: ProofTexts, folder: Path) -> dict[str, Any]:
        """Compare ids, and logits on padded batches."""
        task = examples.task
        peer = load_peer(folder, f"AutoModel{class_ending(task)}")
        rows = whole_rows(examples)
        largest = 0.0
        for start in range(0, len(rows), BATCH):
            batch = encode_rows(task, rows[start : start + BATCH])
            largest = max(largest, largest_difference(*both_logits(task, peer, batch), "logits"))
        expected = [joined(texts, task.facts.bos, task.facts.eos) for texts in rows]
        proof: dict[str, Any] = {
            "class": type(peer).__name__,
            "tokenizer": prove_tokenizer(folder, examples.tokenizer, examples.texts, expected, examples.references),
            "logits": {"texts": len(rows), "largest_difference": largest},
        }
        if isinstance(task, Pooled) and not is_text_classifier(task):
            proof["use"] = f"class logits = {task.pooling.DESCRIPTION} of the token logits"
        return proof


def write_encoder_tokenizer(folder: Path, examples: ProofTexts) -> None:
    """Write the tokenizer with the special tokens and pairs of an encoder."""
    encoder, pairs = encoder_of(examples.task), bool(examples.references)
    write_tokenizer(
        folder,
        examples.tokenizer,
        encoder.max_length,
        before=(examples.task.facts.bos,),
        after=(examples.task.facts.eos,),
        pairs=pairs,
        types=pairs and encoder.has_token_types,
        masks=isinstance(examples.task, MaskedLM),
    )


def family_of(encoder: Encoder) -> EncoderFamily:
    """Return the family of an encoder: that of its pretrained weights, else the one that its norms allow."""
    if isinstance(encoder, PretrainedEncoder):
        return encoder.family
    if not all(isinstance(layer.attention_residual, PreNorm) for layer in encoder.layers):
        return BERT
    return ESM if isinstance(encoder.positions, Rotary) else PRE_NORM


def _config(task: Task, encoder: Encoder, family: EncoderFamily) -> dict[str, Any]:
    """Return the arguments of the config."""
    facts, first = task.facts, cast(EncoderLayer, encoder.layers[0])
    feed_forward = cast(FeedForward, first.feed_forward)
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
        **{family.sizes[name]: value for name, value in sizes.items()},
        **({"type_vocab_size": facts.segments if encoder.has_token_types else 1} if family.token_types else {}),
        **({"layer_norm_eps": encoder.embedding_norm.eps} if family.norm_eps is None else {}),
        **{f"{name}_token_id": getattr(facts, name) for name in ("pad", "bos", "eos")},
        **head_config(task),
    }
