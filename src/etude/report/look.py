"""Looks into a model: its attention to one text, made into what is stored and shown."""

from __future__ import annotations

from dataclasses import asdict

from torch import Tensor

from etude.errors import ConfigurationError
from etude.metrics.attention_head import HeadSummary
from etude.metrics.head_summary import head_summaries
from etude.metrics.word_alignment import align, words
from etude.report.alignment_errors import word_weights
from etude.report.inspection import Alignment, InspectedAttention, Inspection
from etude.tasks.attention_maps import Attention, AttentionMap, ShowsAttention
from etude.tasks.base import Task
from etude.tokenization.base import Tokenizer

DIGITS = 5
"""Decimals of a stored weight."""

MOST_WEIGHTS = 1_000_000
"""Largest number of weights, over all heads, that a page can show."""


def look(
    task: Task,
    tokenizer: Tokenizer,
    text: str,
    target: str | None = None,
    *,
    symmetric: bool = False,
    most: int = MOST_WEIGHTS,
) -> Inspection:
    """Return the attention of a task's model to a text.

    Args:
        task: The task, in evaluation mode.
        tokenizer: Tokenizer of the run.
        text: Text for the encoder.
        target: Text for the decoder; None: the model's own output.
        symmetric: Whether to align symmetrically, as in `align`.
        most: Largest number of weights over all heads.

    Raises:
        ConfigurationError: If the task does not show its attention, or a text does not fit it.
    """
    attention = attention_task(task).look_inside(text, target, tokenizer)
    size = sum(layer.weights.numel() for layer in attention.maps)
    if size > most:
        raise ConfigurationError(
            f"the attention to {len(attention.source)} tokens is {size:,} weights, more than {most:,}; give a shorter text"
        )
    maps = [
        InspectedAttention(
            name=layer.name,
            rows=tokenizer.of(layer.fields[0]).names(layer.rows),
            columns=tokenizer.of(layer.fields[1]).names(layer.columns),
            weights=_rounded(layer.weights),
            heads=[_rounded_summary(head) for head in head_summaries(layer.weights)],
        )
        for layer in attention.maps
    ]
    generated = None if attention.target is None else tokenizer.decode([attention.target])[0]
    alignment = word_alignment(attention, tokenizer, symmetric)
    return Inspection(text, generated if target is None else target, target is not None, maps, alignment)


def attention_task(task: Task) -> ShowsAttention:
    """Return the task if it shows its attention.

    Raises:
        ConfigurationError: If it does not.
    """
    if isinstance(task, ShowsAttention):
        return task
    raise ConfigurationError(
        f"etude inspect does not know how to look into a {type(task).__name__}: it has no look_inside; "
        "translation, masked_lm, causal_lm, classification and token_classification have (command line)"
    )


def _rounded(weights: Tensor) -> list[list[list[float]]]:
    return [[[round(value, DIGITS) for value in row] for row in head] for head in weights.double().tolist()]


def _rounded_summary(head: HeadSummary) -> HeadSummary:
    return HeadSummary(**{name: round(value, DIGITS) for name, value in asdict(head).items()})


def word_alignment(attention: Attention, tokenizer: Tokenizer, symmetric: bool = False) -> Alignment:
    """Return the word alignment by the mean over heads of one attention.

    With a decoder this is the cross-attention of the lowest entropy. Without one it is the last layer's attention, which
    links each word to the other word of the text that it attends to most.
    """
    cross_attentions = [layer for layer in attention.maps if layer.cross]
    layer = min(cross_attentions, key=_entropy) if cross_attentions else attention.maps[-1]
    weights = word_weights(layer, layer.weights.mean(dim=0), tokenizer)
    if not cross_attentions:
        weights = weights.clone().fill_diagonal_(0.0)
    target, source = (
        words("".join(tokenizer.of(field).pieces(ids)))
        for field, ids in zip(layer.fields, (layer.rows, layer.columns), strict=True)
    )
    return Alignment(layer.name, source, target, sorted(align(weights, symmetric)))


def _entropy(layer: AttentionMap) -> float:
    return sum(head.entropy for head in head_summaries(layer.weights))
