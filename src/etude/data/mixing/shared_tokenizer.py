"""One tokenizer for several corpora: it is trained on the texts of all of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from etude.data.conversations.conversation_data import WrittenConversations
from etude.data.corpora.holdout import digest
from etude.data.prepare import Corpus, CorpusTexts
from etude.data.readers.sources import Row
from etude.errors import ConfigurationError
from etude.tokenization.base import Tokenizer, TokenizerRecipe, TrainingTexts

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class JoinedCorpus:
    """Corpora one after the other.

    Attributes:
        parts: The corpora by name.
    """

    parts: Mapping[str, Corpus]

    @property
    def dropped(self) -> Counter[str]:
        """Rows left out, by reason, over all corpora."""
        return sum((Counter(corpus.dropped) for corpus in self.parts.values()), Counter())

    def fingerprint(self) -> str:
        """Return a hash of the fingerprints of all corpora."""
        return digest("JoinedCorpus 1", *(f"{name} {corpus.fingerprint()}" for name, corpus in self.parts.items()))

    def splits(self) -> tuple[str, ...]:
        """Return the splits that any of the corpora has."""
        found = {split for corpus in self.parts.values() for split in corpus.splits()}
        return tuple(split for split in SPLITS if split in found)

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the rows of a split, of those corpora that have it."""
        for corpus in self.parts.values():
            if split in corpus.splits():
                yield from corpus.rows(split)


@dataclass(frozen=True)
class SharedRecipe:
    """A recipe that is given the texts of all corpora, whichever of them is prepared first.

    Attributes:
        recipe: The recipe.
        corpus: The corpora.
    """

    recipe: TokenizerRecipe
    corpus: JoinedCorpus

    @property
    def key(self) -> str:
        """The recipe's key, and the content of all corpora."""
        return f"{self.recipe.key} {self.corpus.fingerprint()}"

    def build(self, texts: TrainingTexts) -> Tokenizer:
        """Return the tokenizer, trained on the same fields of all corpora."""
        if not isinstance(texts, CorpusTexts | WrittenConversations):
            raise ConfigurationError(
                f"{type(texts).__name__} are not the texts of a corpus, and cannot be joined by others"
            )
        return self.recipe.build(dataclasses.replace(texts, corpus=self.corpus))
