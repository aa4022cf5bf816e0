"""The tokenizer: from texts to ids without special tokens, and from ids to detokenized text."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Protocol

import msgspec
import tokenizers

from etude.errors import DataError
from etude.tokenization.languages import LANGUAGES, Languages, StoredLanguages
from etude.untrusted import BrokenFileError, inside, read_json, read_text

LONGEST_WORD = 1_000
"""Characters; a longer word is cut where time grows with the square of a word's length."""

PLAIN_CLASS = "PreTrainedTokenizerFast"
"""Class of transformers that reads what etude writes."""

FOREIGN = "\ue000"
"""Begins the name of a token in the vocabulary of a side whose texts are never divided into it, of two with the same ids."""

SOURCE = "source"
"""Folder of the sources' own tokenizer, inside that of the targets'."""

TARGET = "target"
"""Folder of the targets' own tokenizer in an export, inside that of the sources', if both have the same ids."""

CHAT_TEMPLATE = "chat_template.jinja"
"""File of the chat template beside a tokenizer's, where transformers reads it too."""

LARGEST_TEMPLATE = 1 << 20
"""Bytes of a chat template at most."""

_ADVICE = "put the folder back from a copy of the run"
_LARGEST = 256 << 20  # bytes of a tokenizer.json


class _Config(msgspec.Struct, frozen=True):
    """The special tokens in `tokenizer_config.json`; what else transformers writes there is not read."""

    pad_token: str
    bos_token: str
    eos_token: str
    unk_token: str
    mask_token: str | None


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens that do not represent text.

    Attributes:
        pad: Token of padding.
        bos: Token that starts a sequence.
        eos: Token that ends a sequence.
        unknown: Token of text that is not in the vocabulary.
        mask: Token that replaces a masked one; None if the tokenizer has none.
    """

    pad: str
    bos: str
    eos: str
    unknown: str
    mask: str | None


class Tokenizer:
    """A fixed mapping between texts and ids.

    Text that looks like a special token (`<pad>`, `[MASK]`) is encoded as ordinary characters, so that neither a corpus
    nor a user can put a special id into a sequence.

    Args:
        backend: Tokenizer of the tokenizers library; its padding and truncation are switched off in place.
        special: Special tokens of the backend.
        source: Tokenizer of the sources, if they have a vocabulary of their own, with the same special ids; this one is
            then that of the targets. None: one vocabulary for all texts.
        languages: Languages that it writes beside texts, with the ids of the sources' vocabulary; None: none.
        chat_template: How conversations are written, in Jinja; None: the tokenizer has no such template.

    Attributes:
        special: The special tokens as text.
        chat_template: How conversations are written (see `etude.tokenization.chat_template`); no part of the fingerprint,
            since texts are encoded without it.
        vocabulary: Number of ids, the largest id plus one.
        pad: Id of padding.
        bos: Id that starts a sequence.
        eos: Id that ends a sequence.
        unknown: Id of text that is not in the vocabulary.
        mask: Id of the mask token; -1 if there is none.
        languages: As above.
        fingerprint: Sha256 of the backend's JSON, the special tokens, the sources' tokenizer, and the languages.

    Raises:
        DataError: If a special token is not in the vocabulary, or has another id in that of the sources.
    """

    fingerprint: str

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special: SpecialTokens,
        source: Tokenizer | None = None,
        languages: Languages | None = None,
        chat_template: str | None = None,
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        self.backend = backend
        self.special = special
        self.chat_template = chat_template
        self.vocabulary = 1 + max(backend.get_vocab(with_added_tokens=True).values())
        self.pad, self.bos, self.eos, self.unknown = (
            self._id(token) for token in (special.pad, special.bos, special.eos, special.unknown)
        )
        self.mask = -1 if special.mask is None else self._id(special.mask)
        self._silent = {self.pad, self.bos, self.eos, self.mask}
        self._source = source
        self.languages = languages
        described = f"{backend.to_str()}\n{special}"
        if source is not None:
            self._check_special(source)
            described += f"\n{source.fingerprint}"
        if languages is not None:
            described += f"\n{languages.convention} {sorted(languages.ids.items())}"
            self._silent |= set() if source is not None else set(languages.ids.values())
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()

    def _id(self, token: str) -> int:
        number = self.backend.token_to_id(token)
        if number is None:
            raise DataError(f"the tokenizer's vocabulary has no special token {token!r}")
        return number

    def _check_special(self, source: Tokenizer) -> None:
        own, others = (
            (tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unknown, tokenizer.mask)
            for tokenizer in (self, source)
        )
        if own != others:
            raise DataError(
                f"the vocabularies of source and target have other special ids: {list(others)} and {list(own)}; "
                "train both with one kind of tokenizer"
            )

    def of(self, field: str) -> Tokenizer:
        """Return the tokenizer of a field of the data: for `source`, that of the sources if they have their own."""
        return self._source if self._source is not None and field == "source" else self

    @property
    def shares_ids(self) -> bool:
        """Whether sources have the ids of targets, be they divided as targets are or otherwise."""
        if self._source is None:
            return True
        own, others = (
            {token.removeprefix(FOREIGN): number for token, number in tokenizer.backend.get_vocab().items()}
            for tokenizer in (self, self._source)
        )
        return own == others

    def for_both(self) -> Tokenizer:
        """Return a tokenizer that divides sources and decodes targets; itself, if sources have ids of their own."""
        if self._source is None or not self.shares_ids:
            return self
        return Tokenizer(self._source.backend, self.special, None, self.languages, self.chat_template)

    def for_targets(self) -> Tokenizer:
        """Return the tokenizer of targets alone."""
        return Tokenizer(self.backend, self.special)

    def with_chat_template(self, source: str) -> Tokenizer:
        """Return the same tokenizer with a chat template."""
        return Tokenizer(self.backend, self.special, self._source, self.languages, source)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_masked(self, text: str) -> list[int]:
        """Return the ids of a text in which `<mask>`, `[MASK]` or the tokenizer's own mask token stands for a masked token.

        A mask token that absorbs the space before it, as RoBERTa's does, does so here. Without a mask token, the text is
        encoded as it is.
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
        """Return the ids of each text as `encode` does, and for each id the characters of the text that it represents.

        Characters are a range [start, end) without white space at its ends, extended by the combining marks after it, which
        a normalizer may have removed, so that no range ends inside a character.
        """
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            (encoding.ids, [_whole_characters(text, start, end) for start, end in encoding.offsets])
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def words(self, text: str) -> list[str]:
        """Return the normalized words of a text, each of which the tokenizer's model encodes independently."""
        normalizer, splitter = self.backend.normalizer, self.backend.pre_tokenizer
        normal = text if normalizer is None else normalizer.normalize_str(text)
        return [normal] if splitter is None else [word for word, _ in splitter.pre_tokenize_str(normal)]

    def decode(self, ids: Iterable[Sequence[int]]) -> list[str]:
        """Return the text of each sequence, without special tokens."""
        plain = [[int(token) for token in sequence if int(token) not in self._silent] for sequence in ids]
        return [text.strip() for text in self.backend.decode_batch(plain, skip_special_tokens=True)]

    def names(self, ids: Iterable[int]) -> list[str]:
        """Return the token of each id, such as `▁files`, `##ing` or `</s>`."""
        return [self.backend.id_to_token(number) or str(number) for number in ids]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return what each id adds to the text of those before it: nothing for a special id or an incomplete character."""
        pieces, plain, before = [], list[int](), ""
        for number in ids:
            if number not in self._silent:
                plain.append(number)
            text = self.backend.decode(plain, skip_special_tokens=True).rstrip("\ufffd")
            same = takewhile(lambda pair: pair[0] == pair[1], zip(before, text, strict=False))
            pieces.append(text[sum(1 for _ in same) :])
            before = text
        return pieces

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and, if there is a template, `chat_template.jinja`.

        transformers reads them too. Languages are written to `languages.json`, the sources' own tokenizer into `source/`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.languages is not None:
            self.languages.save(folder)
        if self._source is not None:
            self._source.save(folder / SOURCE)
        names = {"pad": "pad", "bos": "bos", "eos": "eos", "unknown": "unk", "mask": "mask"}
        tokens = {f"{name}_token": getattr(self.special, field) for field, name in names.items()}
        config = {"tokenizer_class": PLAIN_CLASS, "clean_up_tokenization_spaces": False, **tokens}
        (folder / "tokenizer.json").write_text(self.backend.to_str(pretty=True), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        if self.chat_template is not None:
            (folder / CHAT_TEMPLATE).write_text(self.chat_template, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read a tokenizer that `save` wrote.

        Raises:
            DataError: If a file is missing or broken.
        """
        try:
            file, config_file, source, languages_file, template = (
                inside(folder, name, folder / name, _ADVICE)
                for name in ("tokenizer.json", "tokenizer_config.json", SOURCE, LANGUAGES, CHAT_TEMPLATE)
            )
            named = read_json(config_file, _Config, _ADVICE)
            stored = read_json(languages_file, StoredLanguages, _ADVICE) if languages_file.is_file() else None
            backend = parsed(read_text(file, _ADVICE, _LARGEST))
            chat_template = read_text(template, _ADVICE, LARGEST_TEMPLATE) if template.exists() else None
        except BrokenFileError as error:
            raise DataError(f"no tokenizer in {folder}: {error}") from error
        except ValueError as error:
            raise DataError(f"no tokenizer in {folder}: tokenizer.json: {error}; {_ADVICE}") from error
        special = SpecialTokens(named.pad_token, named.bos_token, named.eos_token, named.unk_token, named.mask_token)
        languages = None if stored is None else Languages(stored.convention, stored.ids, stored.family)
        return cls(backend, special, cls.load(source) if source.is_dir() else None, languages, chat_template)


def parsed(text: str) -> tokenizers.Tokenizer:
    """Return the tokenizer that a tokenizer.json describes.

    Raises:
        ValueError: If it describes none, or an empty one; in one line.
    """
    try:
        backend = tokenizers.Tokenizer.from_str(text)
        if backend.get_vocab_size(with_added_tokens=True) == 0:
            raise ValueError("its vocabulary is empty")
        return backend
    # The library raises bare Exceptions; and where it panics, something that is none, so that nobody swallows it.
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(" ".join(str(error).split())) from error


def _whole_characters(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a range of characters without white space at its ends, with the combining marks after it."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    while start < end < len(text) and not text[end].isascii() and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return start, end


class TrainingTexts(Protocol):
    """The training texts: those of all fields, row after row, or of a single field."""

    def __iter__(self) -> Iterator[str]:
        """Return the texts of all fields."""
        ...

    def of(self, field: str) -> Iterator[str]:
        """Return the texts of a field."""
        ...


class TokenizerRecipe(Protocol):
    """The recipe of a tokenizer: trained on texts, or read from a pretrained model."""

    @property
    def key(self) -> str:
        """All settings as text: equal keys and equal texts give equal tokenizers."""

    def build(self, texts: TrainingTexts) -> Tokenizer:
        """Return the tokenizer.

        Args:
            texts: The training texts, which not every recipe reads.
        """
