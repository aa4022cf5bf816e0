"""A look at a model's attention to one text, as it is kept in a file and shown on a page.

Axes: H heads, Q tokens that attend, L tokens attended to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from etude.errors import ConfigurationError
from etude.metrics.head_summary import HeadSummary, head_summaries
from etude.metrics.word_alignment import align, words
from etude.report.alignment_errors import word_weights
from etude.tasks.attention_maps import Attention, AttentionMap, ShowsAttention
from etude.tasks.base import Task
from etude.tokenization.base import Tokenizer

DIGITS = 5
"""Decimals of a weight in a file."""

MOST_WEIGHTS = 1_000_000
"""Weights of all heads together that a page can show."""


@dataclass(frozen=True)
class Map:
    """The weights of one attention.

    Attributes:
        name: Of the attention in the model.
        rows: The tokens that attend, as the vocabulary calls them.
        columns: The tokens attended to.
        weights: [H, Q, L].
        heads: What each head does.
    """

    name: str
    rows: list[str]
    columns: list[str]
    weights: list[list[list[float]]]
    heads: list[HeadSummary]

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ValueError: If there is not a weight for each head, row and column.
        """
        sizes = {(len(head), len(row)) for head in self.weights for row in head}
        if len(self.heads) != len(self.weights) or sizes != {(len(self.rows), len(self.columns))}:
            raise ValueError(
                f"{self.name}: weights of sizes {sorted(sizes)} for {len(self.heads)} heads, {len(self.rows)} rows and "
                f"{len(self.columns)} columns"
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Map:
        """Rebuild the map of plain values."""
        weights = [[[float(weight) for weight in row] for row in head] for head in values["weights"]]
        heads = [HeadSummary(**{name: float(value) for name, value in head.items()}) for head in values["heads"]]
        return cls(**{**values, "weights": weights, "heads": heads})

    def views(self) -> list[tuple[str, list[list[float]]]]:
        """Return what can be looked at, by name: the mean of the heads, and each of them, counted from 1."""
        heads = [(str(number), head) for number, head in enumerate(self.weights, start=1)]
        return [("mean", torch.tensor(self.weights, dtype=torch.float64).mean(dim=0).tolist()), *heads]


@dataclass(frozen=True)
class Alignment:
    """Which words attend to which.

    Attributes:
        by: The attention that tells, the mean of its heads.
        source: Words attended to.
        target: Words that attend.
        links: Numbers of a source and a target word, from 0.
    """

    by: str
    source: list[str]
    target: list[str]
    links: list[tuple[int, int]]

    def __post_init__(self) -> None:
        """Check the links.

        Raises:
            ValueError: If one is of a word that is not there.
        """
        for source, target in self.links:
            if not (0 <= source < len(self.source) and 0 <= target < len(self.target)):
                raise ValueError(f"a link {source}-{target} between {len(self.source)} and {len(self.target)} words")

    def arrows(self) -> list[str]:
        """Return a line for each word that attends, such as `Dateien ← files`."""
        texts = []
        for number, word in enumerate(self.target):
            found = " ".join(self.source[source] for source, target in sorted(self.links) if target == number)
            texts.append(f"{word} ← {found or '–'}")
        return texts


@dataclass(frozen=True)
class Inspection:
    """All of one text.

    Attributes:
        text: What the encoder read.
        target: What the decoder read; None without a decoder.
        given: Whether the target was given, and is not the model's own.
        maps: In the order of the layers.
        alignment: Between the words of text and target, or within the text.
    """

    text: str
    target: str | None
    given: bool
    maps: list[Map]
    alignment: Alignment

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Inspection:
        """Rebuild what `to_json` wrote.

        Raises:
            TypeError, KeyError, ValueError: If it is something else.
        """
        maps = [Map.from_json(one) for one in values["maps"]]
        links = [(int(source), int(target)) for source, target in values["alignment"]["links"]]
        return cls(**{**values, "maps": maps, "alignment": Alignment(**{**values["alignment"], "links": links})})


def look(
    task: Task,
    tokenizer: Tokenizer,
    text: str,
    target: str | None = None,
    *,
    symmetric: bool = False,
    most: int = MOST_WEIGHTS,
) -> Inspection:
    """Look at the attention to a text.

    Args:
        task: With the model, in evaluation mode.
        tokenizer: Of the run.
        text: What the encoder reads.
        target: What the decoder reads; None: the model's own output.
        symmetric: As in `align`.
        most: Weights of all heads together.

    Raises:
        ConfigurationError: If the task does not show its attention, or a text does not suit it.
    """
    seen = shown_by(task).look_inside(text, target, tokenizer)
    size = sum(one.weights.numel() for one in seen.maps)
    if size > most:
        raise ConfigurationError(
            f"the attention to {len(seen.source)} tokens is {size:,} weights, more than {most:,}; give a shorter text"
        )
    maps = [
        Map(
            name=one.name,
            rows=tokenizer.of(one.fields[0]).names(one.rows),
            columns=tokenizer.of(one.fields[1]).names(one.columns),
            weights=_rounded(one.weights),
            heads=[_rounded_summary(head) for head in head_summaries(one.weights)],
        )
        for one in seen.maps
    ]
    own = None if seen.target is None else tokenizer.decode([seen.target])[0]
    alignment = word_alignment(seen, tokenizer, symmetric)
    return Inspection(text, own if target is None else target, target is not None, maps, alignment)


def shown_by(task: Task) -> ShowsAttention:
    """Return the task as one that shows its attention.

    Raises:
        ConfigurationError: If it does not.
    """
    if isinstance(task, ShowsAttention):
        return task
    raise ConfigurationError(
        f"etude inspect does not know how to look into a {type(task).__name__}: it has no look_inside; "
        "translation, masked_lm, causal_lm and classification have (command line)"
    )


def _rounded(weights: Tensor) -> list[list[list[float]]]:
    return [[[round(value, DIGITS) for value in row] for row in head] for head in weights.double().tolist()]


def _rounded_summary(head: HeadSummary) -> HeadSummary:
    return HeadSummary(**{name: round(value, DIGITS) for name, value in asdict(head).items()})


def word_alignment(seen: Attention, tokenizer: Tokenizer, symmetric: bool = False) -> Alignment:
    """Return which word attends to which, by the mean of the heads of one attention.

    From target to source it is the attention of the lowest entropy. Without a decoder it is the last layer's, and each
    word is linked to the other word of the text that it attends to most.
    """
    across = [one for one in seen.maps if one.cross]
    one = min(across, key=_entropy) if across else seen.maps[-1]
    weights = word_weights(one, one.weights.mean(dim=0), tokenizer)
    if not across:
        weights = weights.clone().fill_diagonal_(0.0)
    target, source = (
        words("".join(tokenizer.of(field).pieces(ids)))
        for field, ids in zip(one.fields, (one.rows, one.columns), strict=True)
    )
    return Alignment(one.name, source, target, sorted(align(weights, symmetric)))


def _entropy(one: AttentionMap) -> float:
    return sum(head.entropy for head in head_summaries(one.weights))
