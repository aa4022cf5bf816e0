"""Separate vocabularies of sources and targets, for languages that share no script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from etude.tokenization.base import Tokenizer, TokenizerRecipe, TrainingTexts


@dataclass(frozen=True)
class SeparateVocabularies:
    """One tokenizer trained on the sources and another on the targets.

    A model then has an embedding matrix for each: `model/embeddings=tied_output` or `separate`.

    Attributes:
        kind: Constructor of the recipe of either side, given `vocabulary`.
        vocabulary: Number of ids of the targets.
        source_vocabulary: Number of ids of the sources; None: as many as of the targets.
    """

    kind: Callable[..., TokenizerRecipe]
    vocabulary: int = 8000
    source_vocabulary: int | None = None

    @property
    def source(self) -> TokenizerRecipe:
        """Recipe of the sources' tokenizer."""
        return self.kind(vocabulary=self.vocabulary if self.source_vocabulary is None else self.source_vocabulary)

    @property
    def target(self) -> TokenizerRecipe:
        """Recipe of the targets' tokenizer."""
        return self.kind(vocabulary=self.vocabulary)

    @property
    def key(self) -> str:
        """The settings of both as text."""
        return f"separate 1 ({self.source.key}) ({self.target.key})"

    def build(self, texts: TrainingTexts) -> Tokenizer:
        """Train a tokenizer on the texts of each side.

        Raises:
            ConfigurationError: If the data has no sources and targets, or a vocabulary cannot hold their characters.
            DataError: If there is no text.
        """
        source, target = (
            recipe.build(_OneField(texts, field))
            for recipe, field in ((self.source, "source"), (self.target, "target"))
        )
        return Tokenizer(target.backend, target.special, source)


@dataclass(frozen=True)
class _OneField:
    """The texts of a single field."""

    texts: TrainingTexts
    field: str

    def __iter__(self) -> Iterator[str]:
        return self.texts.of(self.field)

    def of(self, field: str) -> Iterator[str]:
        return self.texts.of(field)
