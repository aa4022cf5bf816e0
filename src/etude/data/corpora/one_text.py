"""One long text, such as a book."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from etude.data.corpora.holdout import digest
from etude.data.readers.sources import Dropped, Row, content_sha256, plain_or_gz, read_text
from etude.errors import ConfigurationError, DataError


class OneText:
    """One long text: its beginning for training, its end for validation, each a single document.

    Args:
        root: Folder of the file; None: not known yet.
        file: Name of the file, also with `.gz` after it.
        held_out: Share of the characters, at the end, that is for validation.

    Attributes:
        dropped: Rows left out: there are none.

    Raises:
        ConfigurationError: If the share is not between 0 and 1.
    """

    def __init__(self, root: str | None, file: str, held_out: float = 0.1) -> None:
        if not 0 < held_out < 1:
            raise ConfigurationError(f"data.corpus.held_out={held_out} is not between 0 and 1; write 0.1")
        self.root = None if root is None else Path(root).expanduser()
        self.file = file
        self.held_out = held_out
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        """Return a hash of the file's content and the share."""
        return digest("OneText 1", self.held_out, content_sha256(self._path()))

    def splits(self) -> tuple[str, ...]:
        """Return train and val."""
        return ("train", "val")

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the one document of a split, with the field `text`, white space included.

        Raises:
            DataError: If the file is missing, not UTF-8 text, or too short to be divided.
        """
        path = self._path()
        text = read_text(path)
        cut = int(len(text) * (1 - self.held_out))
        parts = {"train": text[:cut], "val": text[cut:]}
        if not all(part.strip() for part in parts.values()):
            raise DataError(
                f"{path} has {len(text)} characters, too few to hold out {self.held_out:g} of them; give a longer text"
            )
        yield Row({"text": parts[split]}, path.name)

    def _path(self) -> Path:
        if self.root is None:
            raise DataError(
                f"no folder is given that holds {self.file}; write data.root=FOLDER (Tiny Shakespeare is "
                "data/tinyshakespeare/input.txt of github.com/karpathy/char-rnn)"
            )
        return plain_or_gz(self.root / self.file)
