"""Plain text: files of documents, or one long text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from etude.data.corpora.holdout import digest, split_of
from etude.data.readers.sources import Dropped, Row, content_sha256, read_lines, read_text, text_of
from etude.errors import ConfigurationError, DataError

LONGEST_DOCUMENT = 1_000_000
"""Characters; a longer document is divided at a line end, so that no file has to fit into memory."""

LONGEST_LINE = 1_000_000
"""Bytes; a longer line is divided after white space, for the same reason."""


class TextFiles:
    """Documents of plain text, streamed; a blank line, or the end of a file, ends a document.

    Args:
        train: A file, a folder (all its files that are not hidden, in order of name), or several of either.
        val: The same for validation; None: a share of the documents of train, chosen by their text.
        test: The same for testing; None: no such split.
        val_share: That share.

    Attributes:
        dropped: Lines and empty files left out, by reason.
    """

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        val_share: float = 0.01,
    ) -> None:
        given = {"train": train, "val": val, "test": test}
        named = {split: [paths] if isinstance(paths, str) else paths for split, paths in given.items() if paths}
        self.paths = {split: [Path(path).expanduser() for path in paths] for split, paths in named.items()}
        self.held_out = {"val": val_share}
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        """Return a hash of all files' content, and of the share."""
        contents = (f"{split} {content_sha256(path)}" for split in self.paths for path in self._files(split))
        return digest("TextFiles 1", self.held_out, LONGEST_DOCUMENT, *contents)

    def splits(self) -> tuple[str, ...]:
        """Return train, val, and test where it is given."""
        return ("train", "val", "test") if "test" in self.paths else ("train", "val")

    def rows(self, split: str) -> Iterator[Row]:
        """Yield documents with the field `text`; their lines stay lines.

        Raises:
            DataError: If a file or folder is missing, unreadable, empty, or not UTF-8 throughout, or if documents are too
                few for the share of them to be one.
        """
        shared = "val" not in self.paths and split in ("train", "val")
        documents = taken = 0
        for path in self._files("train" if shared else split):
            if path not in self.paths["train" if shared else split] and not path.stat().st_size:
                self.dropped.drop("empty file", path.name)
                continue
            for row in self._documents(path):
                documents += 1
                if not shared or split_of(row.fields["text"], self.held_out) == split:
                    taken += 1
                    yield row
        if shared and documents and not taken:
            raise DataError(
                f"{', '.join(map(str, self.paths['train']))} has documents: {documents:,}, of which none is in {split} with "
                f"data.val_share={self.held_out['val']:g}; write another share, such as 0.1, or data.val=FILE"
            )

    def _files(self, split: str) -> Iterator[Path]:
        for path in self.paths[split]:
            if not path.is_dir():
                yield path
                continue
            files = (file for file in path.rglob("*") if file.is_file())
            shown = sorted(file for file in files if not any(p.startswith(".") for p in file.relative_to(path).parts))
            if not shown:
                raise DataError(f"the folder {path} has no file to read text from")
            yield from shown

    def _documents(self, path: Path) -> Iterator[Row]:
        lines: list[str] = []
        first, size, decoded, documents = 1, 0, 0, 0
        for number, line in enumerate(read_lines(path, LONGEST_LINE), 1):
            text = text_of(line)
            if text is None:
                self.dropped.drop("not UTF-8 text", f"{path.name}:{number}")
                continue
            decoded += 1
            if lines and (not text or size > LONGEST_DOCUMENT):
                yield Row({"text": "\n".join(lines)}, f"{path.name}:{first}")
                lines, size, documents = [], 0, documents + 1
            if text:
                first = first if lines else number
                lines.append(text)
                size += len(text)
        if decoded == 0:
            raise DataError(f"{path} is no UTF-8 text: not one of its lines can be read")
        if lines:
            yield Row({"text": "\n".join(lines)}, f"{path.name}:{first}")
        elif not documents:
            self.dropped.drop("empty file", path.name)


class OneText:
    """One long text, such as a book: its beginning for training, its end for validation, each a document as it stands.

    Args:
        root: Its folder.
        file: Its name there; `input.txt` is `input.txt.gz` where only that is there.
        held_out: The share of the characters, at the end, that is for validation.

    Attributes:
        dropped: Nothing ever is.

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
        """Yield the one document of a split, with the field `text`; its white space is its own.

        Raises:
            DataError: If the file is missing, no UTF-8 text, or too short to be divided.
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
        path = self.root / self.file
        packed = path.with_name(f"{path.name}.gz")
        return packed if packed.is_file() and not path.is_file() else path
