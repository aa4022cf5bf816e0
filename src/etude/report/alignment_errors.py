"""Word alignments from attention, and their error rate on hand-aligned sentences.

In deep decoders the attention of the step that reads a target word aligns better than that of the step that predicts it
(Chen et al. 2020, "Accurate word alignment induction from neural machine translation"); in the two-layer decoder that was
measured here it was the other way round. Both are therefore measured, and words are aligned where they are predicted.

Axes: Q tokens that attend, L tokens attended to, T and S their words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor

from etude.errors import ConfigurationError, DataError
from etude.metrics.head_summary import head_summaries
from etude.metrics.word_alignment import (
    Gold,
    Links,
    align,
    alignment_error_rate,
    by_words,
    diagonal,
    word_of_each,
    words,
)
from etude.tasks.attention_maps import Attention, AttentionMap, ShowsAttention
from etude.tokenization.base import Tokenizer
from etude.untrusted import BrokenFileError, read_json

_ADVICE = 'write a list of objects such as {"source": "…", "target": "…", "sure": "0-1 1-0", "possible": ""}'
_Links = Annotated[str, Meta(pattern=r"^\s*([0-9]{1,9}-[0-9]{1,9}(\s+|$))*$")]


@dataclass(frozen=True)
class AlignedPair:
    """A hand-aligned pair of sentences.

    Attributes:
        source: Source sentence.
        target: Target sentence.
        gold: Sure and possible links between their `words`.
    """

    source: str
    target: str
    gold: Gold


class _Row(msgspec.Struct, frozen=True):
    source: str
    target: str
    sure: _Links
    possible: _Links


def read_alignments(path: Path) -> list[AlignedPair]:
    """Read a JSON list of objects with `source`, `target`, `sure` and `possible`.

    Links are written as `0-3 1-0`: the indices of a source and a target word, from 0, where punctuation marks are words.

    Raises:
        DataError: If the file is missing or malformed; the message says where.
    """
    rows = read_json(path, list[_Row], _ADVICE)
    if not rows:
        raise BrokenFileError(path, "has no pairs", _ADVICE)
    return [_pair(row, f"{path}, pair {number}") for number, row in enumerate(rows, start=1)]


def _pair(row: _Row, where: str) -> AlignedPair:
    sure, possible = (
        frozenset((int(first), int(second)) for first, second in (link.split("-") for link in links.split()))
        for links in (row.sure, row.possible)
    )
    limits = len(words(row.source)), len(words(row.target))
    outside = [link for link in sorted(sure | possible) if link[0] >= limits[0] or link[1] >= limits[1]]
    if outside:
        first, second = outside[0]
        raise BrokenFileError(
            where,
            f"has {limits[0]} source and {limits[1]} target words, and links {first}-{second}",
            "count words from 0, punctuation marks among them",
        )
    return AlignedPair(row.source, row.target, Gold(sure, sure | possible))


def word_weights(
    attention_map: AttentionMap, weights: Float[Tensor, "Q L"], tokenizer: Tokenizer, reading: bool = False
) -> Float[Tensor, "T S"]:
    """Return attention weights between words instead of tokens.

    Args:
        attention_map: The map whose tokens the weights belong to.
        weights: Weights of a head, or their mean over heads.
        tokenizer: Tokenizer of the run.
        reading: Whether to take a word's row from the step that reads it, one after the step that predicts it.
    """
    owners, sources = (
        word_of_each(tokenizer.of(field).pieces(ids))
        for field, ids in zip(attention_map.fields, (attention_map.rows, attention_map.columns), strict=True)
    )
    return by_words(weights.roll(-1, dims=0) if reading else weights, owners, sources)


def alignment_errors(
    task: ShowsAttention, tokenizer: Tokenizer, pairs: Sequence[AlignedPair], symmetric: bool = False
) -> dict[str, Any]:
    """Measure the alignment error rate (AER) of each attention from target to source.

    Args:
        task: The task, in evaluation mode.
        tokenizer: Tokenizer of the run.
        pairs: Hand-aligned sentences.
        symmetric: Whether to align symmetrically, as in `align`.

    Returns:
        Numbers of `sentences`, of `sure` links, and of `possible` ones, the sure among them; `diagonal`, the AER of aligning
        without a model; and `layers`, which has for each attention by name its mean `entropy` and, for the step that
        predicts a word (`predicting`) and the next one, which reads it (`reading`), the AER of the `mean` of the heads and
        of each of the `heads`.

    Raises:
        ConfigurationError: If the task has no cross-attention.
        DataError: If the tokenizer changes the words of a sentence.
    """
    attentions = [task.look_inside(pair.source, pair.target, tokenizer) for pair in pairs]
    for pair, attention in zip(pairs, attentions, strict=True):
        _check_words(pair, attention, tokenizer)
    gold = [pair.gold for pair in pairs]
    names = [layer.name for layer in attentions[0].maps if layer.cross]
    if not names:
        raise ConfigurationError(f"alignments: {type(task).__name__} has no attention from a target to a source")
    baseline = [diagonal(len(words(pair.source)), len(words(pair.target))) for pair in pairs]
    layers = {}
    for name in names:
        maps = [next(layer for layer in attention.maps if layer.name == name) for attention in attentions]
        layers[name] = _layer_errors(maps, gold, tokenizer, symmetric)
    return {
        "sentences": len(pairs),
        "sure": sum(len(links.sure) for links in gold),
        "possible": sum(len(links.possible) for links in gold),
        "diagonal": round(alignment_error_rate(baseline, gold), 4),
        "layers": layers,
    }


def _check_words(pair: AlignedPair, attention: Attention, tokenizer: Tokenizer) -> None:
    for field, text, ids in (
        ("source", pair.source, attention.source),
        ("target", pair.target, attention.target or ()),
    ):
        read = "".join(tokenizer.of(field).pieces(ids))
        if len(words(read)) != len(words(text)):
            raise DataError(f"alignments: the tokenizer reads {text!r} as {read!r}, whose words are not those aligned")


def _layer_errors(
    maps: Sequence[AttentionMap], gold: Sequence[Gold], tokenizer: Tokenizer, symmetric: bool
) -> dict[str, Any]:
    errors: dict[str, Any] = {}
    for name, reading in (("predicting", False), ("reading", True)):
        # The mean of the heads first, then each of them.
        candidates = [torch.cat([layer.weights.mean(dim=0, keepdim=True), layer.weights]) for layer in maps]
        rates = []
        for head in range(candidates[0].shape[0]):
            links: list[Links] = [
                align(word_weights(layer, weights[head], tokenizer, reading), symmetric)
                for layer, weights in zip(maps, candidates, strict=True)
            ]
            rates.append(round(alignment_error_rate(links, gold), 4))
        errors[name] = {"mean": rates[0], "heads": rates[1:]}
    entropies = [head.entropy for layer in maps for head in head_summaries(layer.weights)]
    return {"entropy": round(sum(entropies) / len(entropies), 4), **errors}
