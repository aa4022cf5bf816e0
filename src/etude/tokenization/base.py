"""What every tokenizer of etude is: ids without special tokens in, text as a person writes it out."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Protocol

import tokenizers

from etude.errors import DataError

SOURCE = "source"
"""The folder of a source's own tokenizer, inside the target's."""


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens that stand for no text.

    Attributes:
        pad: Fills a batch.
        bos: Starts a sequence.
        eos: Ends a sequence.
        unknown: Stands for what the vocabulary cannot write.
        mask: Hides a token; None where the tokenizer has none.
    """

    pad: str
    bos: str
    eos: str
    unknown: str
    mask: str | None


class Tokenizer:
    """A fixed mapping between texts and ids.

    Text that looks like a special token (`<pad>`, `[MASK]`) is encoded as the ordinary characters it is made of, so
    that no corpus and no user can put a special id into a sequence.

    Args:
        backend: The tokenizer of the tokenizers library; changed in place: no padding, no truncation.
        special: Its special tokens.
        source: The tokenizer of sources, where they have a vocabulary of their own, with the same special ids; this one
            is then the targets'. None: one for all.

    Attributes:
        special: The special tokens as text.
        vocabulary: Number of ids, the largest id plus one.
        pad: Id of padding.
        bos: Id that starts a sequence.
        eos: Id that ends a sequence.
        unknown: Id of what cannot be written.
        mask: Id of a masked token, or -1.
        fingerprint: Sha256 of the backend's JSON and the special tokens, and of the source's tokenizer.

    Raises:
        DataError: If a special token is not in the vocabulary, or has another id in the source's.
    """

    fingerprint: str

    def __init__(self, backend: tokenizers.Tokenizer, special: SpecialTokens, source: Tokenizer | None = None) -> None:
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        self.backend = backend
        self.special = special
        self.vocabulary = 1 + max(backend.get_vocab(with_added_tokens=True).values())
        self.pad, self.bos, self.eos, self.unknown = (
            self._id(token) for token in (special.pad, special.bos, special.eos, special.unknown)
        )
        self.mask = -1 if special.mask is None else self._id(special.mask)
        self._silent = {self.pad, self.bos, self.eos, self.mask}
        self._source = source
        described = f"{backend.to_str()}\n{special}"
        if source is not None:
            self._check_special(source)
            described += f"\n{source.fingerprint}"
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()

    def _id(self, token: str) -> int:
        number = self.backend.token_to_id(token)
        if number is None:
            raise DataError(f"the tokenizer's vocabulary has no special token {token!r}")
        return number

    def _check_special(self, source: Tokenizer) -> None:
        own, others = ((one.pad, one.bos, one.eos, one.unknown, one.mask) for one in (self, source))
        if own != others:
            raise DataError(
                f"the vocabularies of source and target have other special ids: {list(others)} and {list(own)}; "
                "train both with one kind of tokenizer"
            )

    def of(self, field: str) -> Tokenizer:
        """Return the tokenizer of a field of the data: the source's own, where `source` has one, else this one."""
        return self._source if self._source is not None and field == "source" else self

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text; no special ids are added."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_masked(self, text: str) -> list[int]:
        """Return the ids of a text in which `<mask>`, `[MASK]` or the tokenizer's own mask token hides a token.

        A mask token that swallows the space before it, as RoBERTa's does, does so here. Nothing is hidden where the
        tokenizer has no mask token.
        """
        if self.special.mask is None:
            return self.encode([text])[0]
        for written in ("[MASK]", "<mask>"):
            text = text.replace(written, self.special.mask)
        parts = text.split(self.special.mask)
        added = self.backend.get_added_tokens_decoder().get(self.mask)
        if added is not None and added.lstrip:
            parts[:-1] = [part.rstrip() for part in parts[:-1]]
        ids, *following = self.encode(parts)
        for part in following:
            ids += [self.mask, *part]
        return ids

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Return the ids of each text as `encode` does, and for each id the characters of the text that it stands for.

        They are from the first one up to before the second one: without white space at their ends, and with the marks
        that follow a letter and that a normalizer may have taken off it, so that no answer ends inside a character.
        """
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            (encoding.ids, [_whole(text, start, end) for start, end in encoding.offsets])
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def words(self, text: str) -> list[str]:
        """Return the parts of a text that the tokenizer's model encodes one at a time, normalized."""
        normalizer, splitter = self.backend.normalizer, self.backend.pre_tokenizer
        normal = text if normalizer is None else normalizer.normalize_str(text)
        return [normal] if splitter is None else [word for word, _ in splitter.pre_tokenize_str(normal)]

    def decode(self, ids: Iterable[Sequence[int]]) -> list[str]:
        """Return each sequence as text; special ids are left out."""
        plain = [[int(token) for token in sequence if int(token) not in self._silent] for sequence in ids]
        return [text.strip() for text in self.backend.decode_batch(plain, skip_special_tokens=True)]

    def names(self, ids: Iterable[int]) -> list[str]:
        """Return what the vocabulary calls each id, such as `▁files`, `##ing` or `</s>`."""
        return [self.backend.id_to_token(number) or str(number) for number in ids]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return what each id adds to the text of those before it; nothing for a special id or a part of a character."""
        found, plain, before = [], list[int](), ""
        for number in ids:
            if number not in self._silent:
                plain.append(number)
            text = self.backend.decode(plain, skip_special_tokens=True).rstrip("\ufffd")
            same = takewhile(lambda pair: pair[0] == pair[1], zip(before, text, strict=False))
            found.append(text[sum(1 for _ in same) :])
            before = text
        return found

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which transformers reads as well; the source's in `source/`."""
        folder.mkdir(parents=True, exist_ok=True)
        if self._source is not None:
            self._source.save(folder / SOURCE)
        names = {"pad": "pad", "bos": "bos", "eos": "eos", "unknown": "unk", "mask": "mask"}
        tokens = {f"{name}_token": getattr(self.special, field) for field, name in names.items()}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **tokens}
        (folder / "tokenizer.json").write_text(self.backend.to_str(pretty=True), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            DataError: If a file is missing or broken.
        """
        try:
            backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            config = json.loads((folder / "tokenizer_config.json").read_bytes())
            names = ("pad", "bos", "eos", "unk", "mask")
            source = cls.load(folder / SOURCE) if (folder / SOURCE).is_dir() else None
            return cls(backend, SpecialTokens(*(config[f"{name}_token"] for name in names)), source)
        except DataError:
            raise
        except Exception as error:  # the tokenizers library raises bare Exceptions
            raise DataError(f"no tokenizer in {folder}: {error}") from error


def _whole(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a range of characters without white space at its ends, with the combining marks behind it."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    while start < end < len(text) and not text[end].isascii() and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return start, end


class TrainingTexts(Protocol):
    """The training texts: those of all fields, row after row, or of one."""

    def __iter__(self) -> Iterator[str]:
        """Return the texts of all fields."""
        ...

    def of(self, field: str) -> Iterator[str]:
        """Return the texts of a field."""
        ...


class TokenizerRecipe(Protocol):
    """How to get a tokenizer: trained on texts, or read from a pretrained model."""

    @property
    def key(self) -> str:
        """All settings as stable text: equal keys and equal texts give equal tokenizers."""

    def build(self, texts: TrainingTexts) -> Tokenizer:
        """Return the tokenizer.

        Args:
            texts: The training texts; a recipe that needs none does not read them.
        """
