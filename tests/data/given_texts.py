"""A corpus of given documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from etude.data.readers.sources import Dropped, Row


class GivenTexts:
    """Documents in memory.

    Args:
        train: Those of the training split.
        val: Those of the validation split.
    """

    def __init__(self, train: Sequence[str], val: Sequence[str]) -> None:
        self.texts = {"train": train, "val": val}
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        return f"GivenTexts {self.texts}"

    def splits(self) -> tuple[str, ...]:
        return ("train", "val")

    def rows(self, split: str) -> Iterator[Row]:
        for number, text in enumerate(self.texts[split]):
            yield Row({"text": text}, f"{number}")
