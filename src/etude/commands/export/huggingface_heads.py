"""Heads of tasks with an encoder in transformers: classes, weights, configuration, and the logits to compare.

Axes: B texts, L positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from etude.commands.export.huggingface_files import logits_of
from etude.commands.export.passing_pooler import last_norm, passed_on
from etude.commands.export.proof import Padded, ProofTexts
from etude.models.base import BertHead, TextEncoder
from etude.models.encoder import Encoder
from etude.models.pooling import First
from etude.models.pretrained.encoder_families import EncoderFamily
from etude.models.pretrained.heads import ARCHITECTURES
from etude.models.wrapped.wrapped_encoder import WrappedEncoder
from etude.tasks.base import Task
from etude.tasks.classification import Classification
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.multilabel import Multilabel
from etude.tasks.pooled import Pooled
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.regression import Regression
from etude.tasks.token_classification import TokenClassification
from etude.tokenization.truncation import cut_within, joined

WITH_ENCODER = (Classification, Multilabel, Regression, TokenClassification, QuestionAnswering, MaskedLM)
"""Tasks with an encoder that can be exported."""

PROBLEMS = {
    Classification: "single_label_classification",
    Multilabel: "multi_label_classification",
    Regression: "regression",
}
"""Problem types of sequence classifiers in transformers, by task."""


def encoder_of(task: Task) -> TextEncoder:
    """Return the encoder of a task that is known to have one."""
    return cast(TextEncoder, task.model)


def class_ending(task: Task) -> str:
    """Return the ending of the name of the class in transformers.

    No sequence classifier of transformers is a linear layer on the mean of the states. A task that takes it is exported as a
    token classifier: the mean of its logits over real tokens are those of the run.
    """
    if isinstance(task, QuestionAnswering):
        return ARCHITECTURES["span"]
    if isinstance(task, TokenClassification):
        return ARCHITECTURES["token"]
    if isinstance(task, Pooled):
        return ARCHITECTURES["text" if is_text_classifier(task) else "token"]
    return "ForMaskedLM"


def is_text_classifier(task: Pooled) -> bool:
    """Whether a task is exported as a sequence classifier.

    It is if it has a pooler, or if a pooler can be written that passes the first state on. What stands before the outputs of
    a wrapped model differs from one architecture to the next.
    """
    if task.pooler is not None:
        return True
    return isinstance(task.pooling, First) and not isinstance(encoder_of(task), WrappedEncoder)


def head_config(task: Task) -> dict[str, Any]:
    """Return the entries of config.json for the head: names of its outputs, and the problem type."""
    if isinstance(task, QuestionAnswering):
        return {"num_labels": 2}
    if not isinstance(task, Pooled | TokenClassification):
        return {}
    names = task.facts.classes or ["value"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    if isinstance(task, TokenClassification) or not is_text_classifier(task):
        return labels
    problem = next(name for task_class, name in PROBLEMS.items() if isinstance(task, task_class))
    return labels | {"problem_type": problem}


def output_layer(task: Pooled) -> dict[str, Tensor]:
    """Return weight and bias of the last layer, scaled to the unit of the data for regression."""
    weights: dict[str, Tensor] = {"weight": task.head.weight, "bias": task.head.bias}
    if isinstance(task, Regression):
        weights = {name: tensor * task.facts.scale for name, tensor in weights.items()}
        weights["bias"] = weights["bias"] + task.facts.center
    return weights


def head_weights(task: Task, family: EncoderFamily) -> dict[str, Tensor]:
    """Return the weights of the head by their names in a family."""
    if isinstance(task, QuestionAnswering):
        return _named({"qa_outputs": task.head})
    if isinstance(task, TokenClassification):
        return _named({"classifier": task.head})
    if isinstance(task, Pooled):
        return text_head_weights(task, family) if is_text_classifier(task) else _of("classifier", output_layer(task))
    head, head_names = cast(BertHead, cast(MaskedLM, task).head), family.head
    modules: dict[str, nn.Module] = {head_names.transform: head.transform, head_names.norm: head.norm}
    return _named(modules) | {head_names.bias[0]: head.bias}


def text_head_weights(task: Pooled, family: EncoderFamily) -> dict[str, Tensor]:
    """Return the weights of a sequence classifier behind the first state: those of its pooler and of its outputs."""
    names = family.pooler
    if task.pooler is None:
        dense, output = passed_on(output_layer(task), names.activation, last_norm(cast(Encoder, encoder_of(task))))
    else:
        dense, output = dict(task.pooler.dense.named_parameters()), output_layer(task)
    return _of(f"{family.prefix if names.inside else ''}{names.dense}", dense) | _of(names.output, output)


def _of(module: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{module}.{kind}": tensor for kind, tensor in weights.items()}


def _named(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{name}.{kind}": tensor for name, module in modules.items() for kind, tensor in module.named_parameters()}


@dataclass(frozen=True)
class EncodedRows:
    """A padded batch of texts or pairs, as the run and transformers both read it.

    Attributes:
        tokens: Ids.
        mask: True at real tokens.
        segments: Token type ids; None if the encoder has none.
        starts: Position of the first token of each second text.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    segments: Int[Tensor, "B L"] | None
    starts: Int[Tensor, " B"]


def whole_rows(examples: ProofTexts) -> list[list[list[int]]]:
    """Return the ids of the one or two texts of each example, without truncation."""
    texts = [examples.texts, examples.references] if examples.references else [examples.texts]
    return [list(ids) for ids in zip(*map(examples.tokenizer.encode, texts), strict=True)]


def encode_rows(task: Task, rows: Sequence[Sequence[Sequence[int]]]) -> EncodedRows:
    """Return some examples as a batch, truncated to the model's length."""
    encoder, facts = encoder_of(task), task.facts
    truncated = [cut_within(texts, encoder.max_length - 1 - len(texts)) for texts in rows]
    batch = Padded([joined(texts, facts.bos, facts.eos) for texts in truncated], facts.pad)
    starts = torch.tensor([len(texts[0]) + 2 for texts in truncated])
    in_second = torch.arange(batch.tokens.shape[1]) >= starts[:, None]
    segments = (in_second & batch.mask).long() if encoder.has_token_types else None
    return EncodedRows(batch.tokens, batch.mask, segments, starts)


def both_logits(
    task: Task, peer: nn.Module, batch: EncodedRows
) -> tuple[Float[Tensor, "*outputs"], Float[Tensor, "*outputs"]]:
    """Return the logits of the run and of the exported model, wherever the run has any."""
    types = {} if batch.segments is None else {"token_type_ids": batch.segments}
    with torch.no_grad():
        output = peer(input_ids=batch.tokens, attention_mask=batch.mask.long(), **types)
        if isinstance(task, QuestionAnswering):
            starts, ends, _ = task.logits(batch.tokens, batch.mask, batch.starts)
            logits, peer_logits = torch.stack([starts, ends]), torch.stack([output.start_logits, output.end_logits])
            return logits[logits.isfinite()], peer_logits[logits.isfinite()].float()
        if isinstance(task, TokenClassification):
            return task.logits(task.model(batch.tokens, batch.mask)[batch.mask]), logits_of(output)[batch.mask]
        if isinstance(task, Pooled):
            logits, peer_logits = task.logits(batch.tokens, batch.mask, batch.segments), logits_of(output)
            if isinstance(task, Regression):
                logits = logits * task.facts.scale + task.facts.center
            return logits, peer_logits if is_text_classifier(task) else task.pooling.of(peer_logits, batch.mask)
        task = cast(MaskedLM, task)
        logits = task.logits(task.head(task.model(batch.tokens, batch.mask)[batch.mask]))
        return logits, logits_of(output)[batch.mask]
