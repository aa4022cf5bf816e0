"""The tokenizer that another run has trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from etude.tokenization.base import Tokenizer


@dataclass(frozen=True)
class StoredTokenizer:
    """The tokenizer in the folder of a run, `RUN/tokenizer`, as it is.

    Attributes:
        folder: The folder that `Tokenizer.save` wrote.
    """

    folder: str

    @property
    def key(self) -> str:
        """The tokenizer's fingerprint."""
        return f"stored 1 {self._read().fingerprint}"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """Return the tokenizer; the texts are not read.

        Raises:
            DataError: If a file is missing or broken.
        """
        return self._read()

    def _read(self) -> Tokenizer:
        return Tokenizer.load(Path(self.folder).expanduser())
