"""Back-translations: sentences of the target language, whose sources a model has written."""

from __future__ import annotations

from collections.abc import Iterator

from etude.data.corpora.holdout import digest
from etude.data.corpora.parallel.parallel_files import ParallelFiles
from etude.data.readers.sources import Row


class BackTranslated(ParallelFiles):
    """Training pairs with synthetic sources (Sennrich et al. 2016), as `etude translate RUN text=FILE reverse=true` writes them.

    A tag before each source tells the model which pairs are synthetic (Caswell et al. 2019); texts that are translated later
    have none, so that they are translated as those of real pairs. It is text like any other, and becomes tokens of the
    vocabulary that is trained with it.

    Args:
        root: Folder of `train.source` and `train.target`.
        tag: A word that is put before each source; null: none.
        source: Suffix of the file of synthetic sources.
        target: Suffix of the file of real targets.
    """

    def __init__(self, root: str, tag: str | None = "<bt>", source: str = "source", target: str = "target") -> None:
        super().__init__(root, source, target, {"train": "train"})
        self.tag = tag

    def fingerprint(self) -> str:
        """Return a hash of both files' content and of the tag."""
        return digest("BackTranslated 1", self.tag, super().fingerprint())

    def rows(self, split: str) -> Iterator[Row]:
        """Yield pairs with the fields `source`, tagged, and `target`.

        Raises:
            DataError: If a file is missing or broken, or the two have different numbers of lines.
        """
        for row in super().rows(split):
            source = row.fields["source"] if self.tag is None else f"{self.tag} {row.fields['source']}"
            yield Row({**row.fields, "source": source}, row.origin)
