"""Formats that data sets of labelled texts are published in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from etude.data.corpora.holdout import digest
from etude.data.corpora.split_files import SplitFiles
from etude.data.readers.sources import Dropped, Row, is_text, read_lines
from etude.errors import DataError


class LabelledLines(SplitFiles):
    """A label, a space and a text on each line, as in SST (Socher et al. 2013) and TREC (Li and Roth 2002).

    Args:
        train: The training file.
        val: The validation file, or None.
        test: The test file, or None.
        root: Folder of the files; None: it is still to be given.
        val_share: As in `SplitFiles`.
        test_share: As in `SplitFiles`.
        encoding: How the files write characters.
        until: What ends the part of a label that counts: TREC's `NUM:date` is `NUM` with `:`; None: all of it counts.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        root: str | None = ".",
        val_share: float | None = None,
        test_share: float | None = None,
        encoding: Literal["utf-8", "latin-1"] = "utf-8",
        until: str | None = None,
    ) -> None:
        super().__init__(root, {"train": train, "val": val, "test": test}, val_share, test_share)
        self.encoding = encoding
        self.until = until

    def fingerprint(self) -> str:
        """Return a hash of all files' content and of how it is read."""
        return digest("LabelledLines 1", self.encoding, self.until, *self.settings)

    def read(self, split: str, dropped: Dropped) -> Iterator[Row]:
        """Yield rows with the fields `text` and `label`.

        Raises:
            DataError: If the file is missing, broken or empty.
        """
        path = self.path(split)
        for number, line in enumerate(read_lines(path), 1):
            label, _, text = line.decode(self.encoding, "surrogateescape").strip().partition(" ")
            row = Row({"text": text.strip(), "label": label.partition(self.until)[0] if self.until else label}, "")
            reason = None if all(row.fields.values()) else "empty"
            reason = reason if all(map(is_text, row.fields.values())) else "not UTF-8 text"
            if reason:
                dropped.drop(reason, f"{path.name}:{number}")
            else:
                yield row._replace(origin=f"{path.name}:{number}")


class Clinc150(SplitFiles):
    """Intents of queries to an assistant (Larson et al. 2019): one JSON object with a list of [text, intent] for each key.

    Args:
        root: Folder of the file; None: it is still to be given.
        file: The file.
        train: Key of the training rows.
        val: Key of the validation rows, or None.
        test: Key of the test rows, or None.
        val_share: As in `SplitFiles`.
        test_share: As in `SplitFiles`.
    """

    def __init__(
        self,
        root: str | None,
        file: str = "data_full.json",
        train: str = "train",
        val: str | None = "val",
        test: str | None = "test",
        val_share: float | None = None,
        test_share: float | None = None,
    ) -> None:
        keys = {"train": train, "val": val, "test": test}
        self.keys = {split: key for split, key in keys.items() if key is not None}
        super().__init__(root, dict.fromkeys(self.keys, file), val_share, test_share)

    def fingerprint(self) -> str:
        """Return a hash of the file's content and the chosen keys."""
        return digest("Clinc150 1", *self.keys.items(), *self.settings)

    def read(self, split: str, dropped: Dropped) -> Iterator[Row]:
        """Yield rows with the fields `text` and `label`.

        Raises:
            DataError: If the file is missing or broken, or lacks the key.
        """
        path, key = self.path(split), self.keys[split]
        try:
            content = json.loads(b"\n".join(read_lines(path)))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            keys = ", ".join(content) if isinstance(content, dict) else "none, since it is no object"
            raise DataError(f"{path} has no list under the key {key!r}; its keys are: {keys}")
        for number, pair in enumerate(content[key], 1):
            origin = f"{path.name}:{key}:{number}"
            if _is_labelled(pair):
                yield Row({"text": pair[0].strip(), "label": pair[1].strip()}, origin)
            else:
                dropped.drop("not a text and its intent", origin)


def _is_labelled(pair: Any) -> bool:
    """Whether a value is a text and a label, neither of them empty."""
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(part, str) and part.strip() and is_text(part) for part in pair)
    )
