"""CLINC150: queries to an assistant with their intents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from etude.data.corpora.holdout import digest
from etude.data.corpora.split_files import SplitFiles
from etude.data.readers.sources import Dropped, Row, is_text, read_lines
from etude.errors import DataError


class Clinc150(SplitFiles):
    """CLINC150 (Larson et al. 2019): one JSON object with a list of [text, intent] for each key.

    Args:
        root: Folder of the file; None: not known yet.
        file: Name of the file.
        train: Key of the training rows.
        val: Key of the validation rows; None: there are none.
        test: Key of the test rows; None: there are none.
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
            keys = ", ".join(content) if isinstance(content, dict) else "none, since it is not an object"
            raise DataError(f"{path} has no list under the key {key!r}; its keys are: {keys}")
        for number, pair in enumerate(content[key], 1):
            origin = f"{path.name}:{key}:{number}"
            if _is_labelled(pair):
                yield Row({"text": pair[0].strip(), "label": pair[1].strip()}, origin)
            else:
                dropped.drop("not a text and its intent", origin)


def _is_labelled(pair: Any) -> bool:
    """Return whether a value is a text and a label, neither of them empty."""
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(part, str) and part.strip() and is_text(part) for part in pair)
    )
