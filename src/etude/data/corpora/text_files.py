"""Files of plain text, each of one or more documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from etude.data.corpora.holdout import digest, split_of
from etude.data.readers.sources import Dropped, Row, content_sha256, read_lines, text_of
from etude.errors import DataError

LONGEST_DOCUMENT = 1_000_000
"""Characters; a longer document is divided at a line end, so that no document has to fit into memory."""

LONGEST_LINE = 1_000_000
"""Bytes; a longer line is divided after white space, for the same reason."""


class TextFiles:
    """Documents of plain text, streamed; a blank line, or the end of a file, ends a document.

    Args:
        train: A file, a folder (all its files that are not hidden, in order of name), or several of either.
        val: The same for validation; None: a share of the training documents, chosen by their text.
        test: The same for testing; None: there is no test split.
        val_share: Share of the training documents that is held out where there is no `val`.

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
        splits = {"train": train, "val": val, "test": test}
        names = {split: [paths] if isinstance(paths, str) else paths for split, paths in splits.items() if paths}
        self.paths = {split: [Path(path).expanduser() for path in paths] for split, paths in names.items()}
        self.held_out = {"val": val_share}
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        """Return a hash of all files' content, and of the share."""
        contents = (f"{split} {content_sha256(path)}" for split in self.paths for path in self._files(split))
        return digest("TextFiles 1", self.held_out, LONGEST_DOCUMENT, *contents)

    def splits(self) -> tuple[str, ...]:
        """Return train, val, and test if it has files."""
        return ("train", "val", "test") if "test" in self.paths else ("train", "val")

    def rows(self, split: str) -> Iterator[Row]:
        """Yield documents with the field `text`, line breaks included.

        Raises:
            DataError: If a file or folder is missing, unreadable, empty, or has no UTF-8 text, or if there are too few
                documents to hold out a share of them.
        """
        shared = "val" not in self.paths and split in ("train", "val")
        documents = selected = 0
        for path in self._files("train" if shared else split):
            if path not in self.paths["train" if shared else split] and not path.stat().st_size:
                self.dropped.drop("empty file", path.name)
                continue
            for row in self._documents(path):
                documents += 1
                if not shared or split_of(row.fields["text"], self.held_out) == split:
                    selected += 1
                    yield row
        if shared and documents and not selected:
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
            visible = sorted(file for file in files if not any(p.startswith(".") for p in file.relative_to(path).parts))
            if not visible:
                raise DataError(f"the folder {path} has no file to read text from")
            yield from visible

    def _documents(self, path: Path) -> Iterator[Row]:
        lines, name = list[str](), path.name
        first, size, decoded, documents = 1, 0, 0, 0
        for number, line in enumerate(read_lines(path, LONGEST_LINE), 1):
            text = text_of(line)
            if text is None:
                self.dropped.drop("not UTF-8 text", f"{name}:{number}")
                continue
            decoded += 1
            if lines and (not text or size > LONGEST_DOCUMENT):
                yield Row({"text": "\n".join(lines)}, f"{name}:{first}")
                lines, size, documents = [], 0, documents + 1
            if text:
                first = first if lines else number
                lines.append(text)
                size += len(text)
        if decoded == 0:
            raise DataError(f"{path} is not UTF-8 text: not one of its lines can be read")
        if lines:
            yield Row({"text": "\n".join(lines)}, f"{name}:{first}")
        elif not documents:
            self.dropped.drop("empty file", name)
