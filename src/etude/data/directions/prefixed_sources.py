"""A corpus whose sources have a text before them that tells a model what to do, as T5's `translate English to German:`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from etude.data.corpora.holdout import digest
from etude.data.directions.wanted_directions import DIRECTION
from etude.data.prepare import Corpus
from etude.data.readers.sources import Row
from etude.tokenization.languages import with_prefix


@dataclass(frozen=True)
class PrefixedSources:
    """A corpus with a prefix before each source; an empty source stays empty.

    Attributes:
        corpus: The corpus.
        prefixes: Prefix by the name of a row's direction; the empty name is that of rows that name none.
    """

    corpus: Corpus
    prefixes: Mapping[str, str]

    @property
    def dropped(self) -> Counter[str]:
        """Rows left out by the corpus, by reason."""
        return self.corpus.dropped

    def fingerprint(self) -> str:
        """Return a hash of the corpus' fingerprint and the prefixes."""
        return digest("PrefixedSources 1", sorted(self.prefixes.items()), self.corpus.fingerprint())

    def splits(self) -> tuple[str, ...]:
        """Return the splits of the corpus."""
        return self.corpus.splits()

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the rows of a split."""
        for row in self.corpus.rows(split):
            prefix = self.prefixes.get(row.fields.get(DIRECTION, ""), "")
            yield Row({**row.fields, "source": with_prefix(prefix, row.fields["source"])}, row.origin)
