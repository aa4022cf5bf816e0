"""What the heads of tasks with an encoder are in transformers: classes, weights, configuration, and outputs to compare.

Axes: B texts, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from etude.commands.export.huggingface_files import logits_of
from etude.commands.export.proof import Padded, ProofTexts
from etude.models.base import BertHead, TextEncoder
from etude.models.pretrained.encoder_families import EncoderFamily
from etude.models.pretrained.heads import ARCHITECTURES
from etude.tasks.base import Task
from etude.tasks.classification import Classification
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.multilabel import Multilabel
from etude.tasks.pooled import Pooled
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.regression import Regression
from etude.tokenization.truncation import cut_within, joined

WITH_ENCODER = (Classification, Multilabel, Regression, QuestionAnswering, MaskedLM)
"""The tasks that are written so."""

PROBLEMS = {
    Classification: "single_label_classification",
    Multilabel: "multi_label_classification",
    Regression: "regression",
}
"""What transformers calls what a sequence classifier is trained for."""


def encoder_of(task: Task) -> TextEncoder:
    """Return the task's encoder, which a task with an encoder is known to have."""
    return cast(TextEncoder, task.model)


def class_ending(task: Task) -> str:
    """Return the end of the class's name in transformers.

    No sequence classifier there is one linear layer on a mean of states, or on the first one. So without a pooler a
    token classifier with that layer is written: the mean of its logits over real tokens, or those of the first, are the run's.
    """
    if isinstance(task, QuestionAnswering):
        return ARCHITECTURES["span"]
    return ARCHITECTURES[task.output_kind] if isinstance(task, Pooled) else "ForMaskedLM"


def head_config(task: Task) -> dict[str, Any]:
    """Return what config.json says of the head: names of outputs, and what they are."""
    if isinstance(task, QuestionAnswering):
        return {"num_labels": 2}
    if not isinstance(task, Pooled):
        return {}
    names = task.facts.classes or ["value"]
    said = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    if task.pooler is None:
        return said
    return said | {"problem_type": next(name for kind, name in PROBLEMS.items() if isinstance(task, kind))}


def output_layer(task: Pooled) -> dict[str, Tensor]:
    """Return weight and bias of the last layer, with numbers in the data's own unit."""
    weights: dict[str, Tensor] = {"weight": task.head.weight, "bias": task.head.bias}
    if isinstance(task, Regression):
        weights = {name: tensor * task.facts.scale for name, tensor in weights.items()}
        weights["bias"] = weights["bias"] + task.facts.center
    return weights


def head_weights(task: Task, family: EncoderFamily) -> dict[str, Tensor]:
    """Return the head's weights by a family's names."""
    if isinstance(task, QuestionAnswering):
        return _named({"qa_outputs": task.head})
    if isinstance(task, Pooled):
        names = family.pooler
        output = "classifier" if task.pooler is None else names.output
        weights = {f"{output}.{kind}": tensor for kind, tensor in output_layer(task).items()}
        if task.pooler is None:
            return weights
        return weights | _named({f"{family.prefix if names.inside else ''}{names.dense}": task.pooler.dense})
    head, theirs = cast(BertHead, cast(MaskedLM, task).head), family.head
    return _named({theirs.transform: head.transform, theirs.norm: head.norm}) | {theirs.bias[0]: head.bias}


def _named(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{name}.{kind}": tensor for name, module in modules.items() for kind, tensor in module.named_parameters()}


@dataclass(frozen=True)
class Framed:
    """Texts, or pairs of them, as the run and transformers both read them.

    Attributes:
        tokens: Ids.
        mask: True at real tokens.
        segments: Which text each token belongs to; None: all to the first, or the encoder does not tell them apart.
        fronts: The first token of each second text.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    segments: Int[Tensor, "B L"] | None
    fronts: Int[Tensor, " B"]


def whole_rows(examples: ProofTexts) -> list[list[list[int]]]:
    """Return the ids of each example's one or two texts, as long as they are."""
    texts = [examples.texts, examples.references] if examples.references else [examples.texts]
    return [list(ids) for ids in zip(*map(examples.tokenizer.encode, texts), strict=True)]


def framed(task: Task, rows: Sequence[Sequence[Sequence[int]]]) -> Framed:
    """Return some examples as a batch, cut to what the model reads."""
    encoder, facts = encoder_of(task), task.facts
    cut = [cut_within(texts, encoder.max_length - 1 - len(texts)) for texts in rows]
    batch = Padded([joined(texts, facts.bos, facts.eos) for texts in cut], facts.pad)
    fronts = torch.tensor([len(texts[0]) + 2 for texts in cut])
    behind = torch.arange(batch.tokens.shape[1]) >= fronts[:, None]
    segments = (behind & batch.mask).long() if encoder.has_token_types else None
    return Framed(batch.tokens, batch.mask, segments, fronts)


def both_outputs(
    task: Task, peer: nn.Module, batch: Framed
) -> tuple[Float[Tensor, "*outputs"], Float[Tensor, "*outputs"]]:
    """Return the run's outputs and those of transformers' model where the run has any."""
    types = {} if batch.segments is None else {"token_type_ids": batch.segments}
    with torch.no_grad():
        found = peer(input_ids=batch.tokens, attention_mask=batch.mask.long(), **types)
        if isinstance(task, QuestionAnswering):
            starts, ends, _ = task.logits(batch.tokens, batch.mask, batch.fronts)
            ours, theirs = torch.stack([starts, ends]), torch.stack([found.start_logits, found.end_logits])
            return ours[ours.isfinite()], theirs[ours.isfinite()].float()
        if isinstance(task, Pooled):
            ours, theirs = task.logits(batch.tokens, batch.mask, batch.segments), logits_of(found)
            if isinstance(task, Regression):
                ours = ours * task.facts.scale + task.facts.center
            return ours, theirs if task.pooler is not None else task.pooling.of(theirs, batch.mask)
        task = cast(MaskedLM, task)
        ours = task.logits(task.head(task.model(batch.tokens, batch.mask)[batch.mask]))
        return ours, logits_of(found)[batch.mask]
