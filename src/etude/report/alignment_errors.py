"""Word alignments by attention, and their error on sentences that a person has aligned.

In deep decoders a target word's row is better taken where the decoder reads the word than where it predicts it (Chen et
al. 2020, "Accurate word alignment induction from neural machine translation"); in the one decoder of two layers that was
measured it was the other way round. So both are measured, and words are aligned where they are predicted.

Axes: Q tokens that attend, L tokens attended to, T and S their words.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
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


@dataclass(frozen=True)
class AlignedPair:
    """Two sentences and which of their words belong together.

    Attributes:
        source: The first sentence.
        target: The second one.
        gold: The links between their `words`.
    """

    source: str
    target: str
    gold: Gold


def read_alignments(path: Path) -> list[AlignedPair]:
    """Read a JSON list of objects with `source`, `target`, `sure` and `possible`.

    Links are written as `0-3 1-0`: a source word's and a target word's number from 0, punctuation marks being words.

    Raises:
        DataError: If the file is missing or is something else; says where.
    """
    try:
        rows = json.loads(path.read_bytes())
        if not isinstance(rows, list) or not rows:
            raise DataError(f"alignments={path} is no list of sentence pairs; write one object for each pair")
    except (OSError, ValueError) as error:
        raise DataError(f"alignments={path} cannot be read: {' '.join(str(error).split())}") from error
    return [_pair(row, f"alignments={path}, pair {number}") for number, row in enumerate(rows, start=1)]


def _pair(row: Any, where: str) -> AlignedPair:
    try:
        source, target = str(row["source"]), str(row["target"])
        sure, possible = (
            frozenset((int(first), int(second)) for first, second in (link.split("-") for link in row[kind].split()))
            for kind in ("sure", "possible")
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        wanted = '{"source": "…", "target": "…", "sure": "0-1 1-0", "possible": ""}'
        raise DataError(f"{where} is not of the form {wanted}: {type(error).__name__} {error}") from error
    limits = len(words(source)), len(words(target))
    outside = [link for link in sorted(sure | possible) if link[0] >= limits[0] or link[1] >= limits[1]]
    if outside:
        first, second = outside[0]
        raise DataError(f"{where} links {first}-{second}, but has {limits[0]} source and {limits[1]} target words")
    return AlignedPair(source, target, Gold(sure, sure | possible))


def word_weights(
    one: AttentionMap, weights: Float[Tensor, "Q L"], tokenizer: Tokenizer, reading: bool = False
) -> Float[Tensor, "T S"]:
    """Return what the words of a map's rows give to those of its columns.

    Args:
        one: The map, whose tokens count.
        weights: Of a head or of several.
        tokenizer: Of the run.
        reading: Take a word's row where the decoder reads it, one after it predicts it.
    """
    owners, sources = (
        word_of_each(tokenizer.of(field).pieces(ids))
        for field, ids in zip(one.fields, (one.rows, one.columns), strict=True)
    )
    return by_words(weights.roll(-1, dims=0) if reading else weights, owners, sources)


def alignment_errors(
    task: ShowsAttention, tokenizer: Tokenizer, pairs: Sequence[AlignedPair], symmetric: bool = False
) -> dict[str, Any]:
    """Measure the alignment error rate (AER) of each attention from target to source.

    Args:
        task: With the model, in evaluation mode.
        tokenizer: Of the run.
        pairs: Sentences and links by hand.
        symmetric: As in `align`.

    Returns:
        `diagonal`, the AER without a model; and for each attention by its name its mean `entropy` and, where a word is
        taken as the decoder is `predicting` or `reading` it, the AER of the mean of the heads and of each of `heads`.

    Raises:
        ConfigurationError: If the task has no such attention.
        DataError: If the tokenizer makes other words of a sentence.
    """
    seen = [task.look_inside(pair.source, pair.target, tokenizer) for pair in pairs]
    for pair, one in zip(pairs, seen, strict=True):
        _check_words(pair, one, tokenizer)
    gold = [pair.gold for pair in pairs]
    names = [one.name for one in seen[0].maps if one.cross]
    if not names:
        raise ConfigurationError(f"alignments: {type(task).__name__} has no attention from a target to a source")
    guess = [diagonal(len(words(pair.source)), len(words(pair.target))) for pair in pairs]
    layers = {}
    for name in names:
        maps = [next(one for one in attention.maps if one.name == name) for attention in seen]
        layers[name] = _layer_errors(maps, gold, tokenizer, symmetric)
    return {
        "sentences": len(pairs),
        "sure": sum(len(one.sure) for one in gold),
        "possible": sum(len(one.possible) for one in gold),
        "diagonal": round(alignment_error_rate(guess, gold), 4),
        "layers": layers,
    }


def _check_words(pair: AlignedPair, seen: Attention, tokenizer: Tokenizer) -> None:
    for field, text, ids in (("source", pair.source, seen.source), ("target", pair.target, seen.target or ())):
        read = "".join(tokenizer.of(field).pieces(ids))
        if len(words(read)) != len(words(text)):
            raise DataError(f"alignments: the tokenizer reads {text!r} as {read!r}, whose words are not those aligned")


def _layer_errors(
    maps: Sequence[AttentionMap], gold: Sequence[Gold], tokenizer: Tokenizer, symmetric: bool
) -> dict[str, Any]:
    errors: dict[str, Any] = {}
    for name, reading in (("predicting", False), ("reading", True)):
        # The mean of the heads first, then each of them.
        choices = [torch.cat([one.weights.mean(dim=0, keepdim=True), one.weights]) for one in maps]
        rates = []
        for head in range(choices[0].shape[0]):
            found: list[Links] = [
                align(word_weights(one, choice[head], tokenizer, reading), symmetric)
                for one, choice in zip(maps, choices, strict=True)
            ]
            rates.append(round(alignment_error_rate(found, gold), 4))
        errors[name] = {"mean": rates[0], "heads": rates[1:]}
    entropies = [head.entropy for one in maps for head in head_summaries(one.weights)]
    return {"entropy": round(sum(entropies) / len(entropies), 4), **errors}
