"""Questions about passages, with their answers: SQuAD, and files of JSON lines.

Passages are read unchanged, since answers are given by their position in them.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from etude.data.corpora.holdout import digest, held_out_groups, normalised
from etude.data.readers.sources import Dropped, Row, content_sha256, is_text, plain_or_gz, read_lines, refusing
from etude.errors import DataError


class Squad:
    """SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018).

    `test` is SQuAD's dev set; `val` is a part of the articles of the training file, so that nothing is selected on `test`:
    as in `test`, its questions are about articles that were not read. Of a file with a single article, passages are held
    out instead. A held-out passage is in no training row, whatever file it is in.

    Args:
        root: Folder of the files, each also .gz; None: not known yet.
        train: Training file.
        test: File to evaluate on; null: none.
        extra: File of more training questions, not read if it does not exist; null: none.
        held_out: Most questions of the training file that are `val`, as a share, but at least those of one article.

    Attributes:
        dropped: Questions left out, by reason.
    """

    def __init__(
        self, root: str | None, train: str, test: str | None = None, extra: str | None = None, held_out: float = 0.1
    ) -> None:
        self.root = None if root is None else Path(root).expanduser()
        self.names = {"train": train, "test": test, "extra": extra}
        self.held_out = held_out
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        """Return a hash of all files' content and the held-out share."""
        contents = (f"{name} {content_sha256(path)}" for name in self.names if (path := self._path(name)) is not None)
        return digest("Squad 2", self.held_out, *contents)

    def splits(self) -> tuple[str, ...]:
        """Return train, val, and test if it has a file."""
        return ("train", "val") if self.names["test"] is None else ("train", "val", "test")

    def rows(self, split: str) -> Iterator[Row]:
        """Yield questions with the fields `id`, `question`, `context`, `answers` and `article`.

        Raises:
            DataError: If a file is missing or not in SQuAD's format, or a split has no usable question.
        """
        usable = 0
        for row in self._split_rows(split):
            if (reason := refusal(row)) is None:
                usable += 1
                yield row
            else:
                self.dropped.drop(reason, row.origin)
        if usable == 0:
            raise DataError(f"{self.root} has no usable question for {split}; dropped: {self.dropped}")

    def _split_rows(self, split: str) -> Iterator[Row]:
        if split == "test":
            yield from self._file("test")
            return
        for row in self._file("train"):
            if (normalised(row.fields["context"]) in self._held_out) == (split == "val"):
                yield row
        if split == "train":
            for row in self._file("extra"):
                if normalised(row.fields["context"]) in self._held_out:
                    self.dropped.drop("of a passage that is held out", row.origin)
                else:
                    yield row

    @cached_property
    def _held_out(self) -> frozenset[str]:
        """The passages of val, normalised."""
        articles: dict[str, Counter[str]] = defaultdict(Counter)
        for row in self._file("train"):
            articles[row.fields["article"]][normalised(row.fields["context"])] += 1
        if len(articles) == 1:
            (passages,) = articles.values()
            articles = {passage: Counter({passage: count}) for passage, count in passages.items()}
        sizes = {name: passages.total() for name, passages in articles.items()}
        return frozenset().union(*(articles[name] for name in held_out_groups(sizes, self.held_out)))

    def _file(self, name: str) -> Iterator[Row]:
        path = self._path(name)
        if path is not None:
            yield from squad_rows(path)

    def _path(self, name: str) -> Path | None:
        """Return a file's path, with or without .gz; None if none is configured, or an extra file does not exist."""
        if self.root is None:
            files = ", ".join(file for key, file in self.names.items() if file is not None and key != "extra")
            raise DataError(f"the files of SQuAD are not downloaded by etude; give data.root=FOLDER with {files}")
        file = self.names[name]
        if file is None:
            return None
        path = plain_or_gz(self.root / file)
        return None if name == "extra" and not path.is_file() else path


class QuestionFiles:
    """A file of JSON lines (also .gz) for each split: `{"id": …, "question": …, "context": …, "answers": …}`.

    `answers` is `{"text": [...], "answer_start": [...]}`, with empty lists if the passage has no answer; `id` is optional.

    Args:
        train: Path of the training questions.
        val: Path of the questions to validate on.
        test: Path of the questions to evaluate on; None: there are none.

    Attributes:
        dropped: Questions left out, by reason.
    """

    def __init__(self, train: str, val: str, test: str | None) -> None:
        paths = {"train": train, "val": val, "test": test}
        self.paths = {split: Path(path).expanduser() for split, path in paths.items() if path is not None}
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        """Return a hash of all files' content."""
        return digest("Questions 1", *(f"{split} {content_sha256(path)}" for split, path in self.paths.items()))

    def splits(self) -> tuple[str, ...]:
        """Return the splits that have a file."""
        return tuple(self.paths)

    def rows(self, split: str) -> Iterator[Row]:
        """Yield questions with the fields `id`, `question`, `context` and `answers`.

        Raises:
            DataError: If a file is missing, has a line that is not such an object, or has no usable question.
        """
        path, usable = self.paths[split], 0
        for number, line in enumerate(read_lines(path), 1):
            origin = f"{path.name}:{number}"
            row = _row(_parsed(line, path.name, number), origin, number)
            if (reason := refusal(row)) is None:
                usable += 1
                yield row
            else:
                self.dropped.drop(reason, origin)
        if usable == 0:
            raise DataError(f"{path} has no usable question; dropped: {self.dropped}")


def squad_rows(path: Path) -> Iterator[Row]:
    """Yield the questions of a file in SQuAD's format, in its order.

    Raises:
        DataError: If the file is missing, broken or in another format.
    """
    with refusing(path):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    document = _parsed(content, path.name)
    for a, article in enumerate(_list(document, "data", path.name)):
        place = f"{path.name} data[{a}]"
        title = str(article.get("title", "")) if isinstance(article, Mapping) else ""
        for p, paragraph in enumerate(_list(article, "paragraphs", place)):
            inner = f"{place}.paragraphs[{p}]"
            for q, question in enumerate(_list(paragraph, "qas", inner)):
                origin = f"{inner}.qas[{q}]"
                if not isinstance(question, Mapping):
                    raise DataError(f"{origin} is not an object")
                answers = [] if question.get("is_impossible") is True else _list(question, "answers", origin)
                if not all(isinstance(answer, Mapping) for answer in answers):
                    raise DataError(f"{origin}.answers has one that is not an object")
                columns = {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")}
                row = _row({**question, "context": paragraph.get("context"), "answers": columns}, origin, q)
                yield Row({**row.fields, "article": title}, origin)


def refusal(row: Row) -> str | None:
    """Return why a question cannot be used, or None if it can."""
    question, context = row.fields["question"], row.fields["context"]
    answers = json.loads(row.fields["answers"])
    texts, starts = answers["text"], answers["answer_start"]
    if not all(map(is_text, (question, context, row.fields["id"], *texts))):
        return "not UTF-8 text"
    if not question.strip():
        return "without a question"
    if not context.strip():
        return "without a context"
    if any(not text.strip() for text in texts):
        return "with an empty answer"
    matches = (start >= 0 and context.startswith(text, start) for text, start in zip(texts, starts, strict=True))
    return None if all(matches) else "whose context does not have the answer where it is said to be"


def _parsed(content: bytes, name: str, first: int = 1) -> Mapping[str, Any]:
    """Return a JSON object; `first` is the number of the content's first line, for messages."""
    try:
        values = json.loads(content.decode("utf-8", "surrogateescape").removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        line = first + error.lineno - 1
        raise DataError(f"{name}:{line} is not JSON: {error.msg} at column {error.colno}; mend that line") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}:{first} is not JSON: {error}") from None
    if not isinstance(values, Mapping):
        raise DataError(f"{name}:{first} is not a JSON object but {type(values).__name__}")
    return values


def _list(values: Any, key: str, place: str) -> list[Any]:
    """Return the list under a key."""
    if not isinstance(values, Mapping) or key not in values:
        keys = ", ".join(values) if isinstance(values, Mapping) else f"none, it is {type(values).__name__}"
        raise DataError(f"{place} has no {key!r}, which SQuAD's files have there; its keys: {keys}")
    value = values[key]
    if not isinstance(value, list):
        raise DataError(f"{place}.{key} is not a list but {type(value).__name__}")
    return value


def _row(values: Mapping[str, Any], origin: str, number: int) -> Row:
    """Return a question as a row; its number stands in for a missing id."""
    for key in ("question", "context", "answers"):
        if key not in values:
            raise DataError(f"{origin} has no {key!r}; its keys: {', '.join(values)}")
    question, context, answers = (values[key] for key in ("question", "context", "answers"))
    if not isinstance(question, str) or not isinstance(context, str):
        raise DataError(f"{origin}: question and context must be texts")
    texts, starts = _answers(answers, origin)
    fields = {"question": question.strip(), "context": context, "id": str(values.get("id", number))}
    return Row({**fields, "answers": json.dumps({"text": texts, "answer_start": starts})}, origin)


def _answers(answers: Any, origin: str) -> tuple[Sequence[str], Sequence[int]]:
    """Return the texts of the answers and their first characters."""
    texts, starts = (answers.get(key) if isinstance(answers, Mapping) else None for key in ("text", "answer_start"))
    if (
        not isinstance(texts, list)
        or not isinstance(starts, list)
        or len(texts) != len(starts)
        or not all(isinstance(text, str) for text in texts)
        or not all(type(start) is int for start in starts)
    ):
        raise DataError(f"{origin}: answers must be {{'text': [texts], 'answer_start': [numbers]}}, as many of both")
    return texts, starts
