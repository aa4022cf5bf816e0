"""The tokenizer of a pretrained model."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import tokenizers

from etude.errors import DataError
from etude.hub import PretrainedFiles, open_pretrained
from etude.tokenization.base import CHAT_TEMPLATE, PLAIN_CLASS, TARGET, SpecialTokens, Tokenizer, parsed
from etude.tokenization.languages import LANGUAGES, Languages, StoredLanguages, family_of, pretrained_languages
from etude.tokenization.sentencepiece_files import M2M100, MARIAN, kind_of, read_backends
from etude.untrusted import decode_json

CONFIG = "tokenizer_config.json"

TARGETS = f"{TARGET}/tokenizer.json"
"""File of the targets' own tokenizer, in an export."""


@dataclass(frozen=True)
class PretrainedTokenizer:
    """The `tokenizer.json` of a pretrained model, without its padding and truncation.

    Of M2M100 and MarianMT, which have none, it is made of their sentencepiece models (see
    `etude.tokenization.sentencepiece_files`). An export of MarianMT has a second one, in `target/`. The tokenizer's bos is
    the token that a decoder starts from, if config.json names one, or else the bos of config.json if the tokenizer names
    none. Languages are those of its family (see `etude.tokenization.languages`), or of the `languages.json` that etude
    writes. Its chat template comes with it, if it has one.

    Attributes:
        name: Folder, pinned package, or repository of the Hugging Face hub.
    """

    name: str

    @property
    def key(self) -> str:
        """The content of the tokenizer's files as hashes."""
        files = open_pretrained(self.name)
        template, targets = _chat_template(files), _targets(files)
        hashed = None if template is None else hashlib.sha256(template.encode()).hexdigest()
        divided = None if targets is None else hashlib.sha256(targets).hexdigest()
        parts = (_start(files), _languages_key(files), hashed, divided)
        ending = "".join(f" {part}" for part in parts if part is not None)
        return f"pretrained 1 {hashlib.sha256(_content(files)).hexdigest()}{ending}"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """Return the tokenizer; the texts are not read.

        Raises:
            DataError: If the model or its tokenizer is missing or broken, or names no special tokens.
        """
        files = open_pretrained(self.name)
        backend, source = self._backends(files)
        special, languages = _special_tokens(files), _languages(files, backend)
        start = _start(files)
        if start is not None:
            token = backend.id_to_token(start) if 0 <= start < 1 << 32 else None
            if token is None:
                raise DataError(
                    f"config.json of {self.name} starts decoding from id {start}, which its tokenizer has not"
                )
            special = dataclasses.replace(special, bos=token)
        elif languages is not None:
            special = dataclasses.replace(special, bos=special.eos)  # what decoders of all these families start from
        of_sources = None if source is None else Tokenizer(source, special)
        return Tokenizer(backend, special, of_sources, languages, _chat_template(files))

    def _backends(self, files: PretrainedFiles) -> tuple[tokenizers.Tokenizer, tokenizers.Tokenizer | None]:
        """Return the tokenizer of targets, and that of sources if it is another."""
        kind = kind_of(files)
        if kind is not None:
            return read_backends(files, kind)
        backend, targets = self._parsed("tokenizer.json", _content(files)), _targets(files)
        return (backend, None) if targets is None else (self._parsed(TARGETS, targets), backend)

    def _parsed(self, file: str, content: bytes) -> tokenizers.Tokenizer:
        try:
            return parsed(content.decode())
        except ValueError as error:
            raise DataError(f"the {file} of {self.name} cannot be read: {error}") from error


def _content(files: PretrainedFiles) -> bytes:
    """Return tokenizer.json, or the files that stand for it.

    Raises:
        DataError: If there is neither.
    """
    kind = kind_of(files)
    if kind is not None:
        return b"".join(files.read(file) for file in kind.files)
    model = next((file for file in (M2M100.target, MARIAN.target, "spiece.model") if files.has(file)), None)
    if model is not None and not files.has("tokenizer.json"):
        raise DataError(
            f"{files.name} has {model} and no tokenizer.json; give a folder with one: where transformers has a fast tokenizer "
            "of the family, its save_pretrained writes it"
        )
    return files.read("tokenizer.json")


def _targets(files: PretrainedFiles) -> bytes | None:
    """Return the tokenizer.json of targets, where sources have their own."""
    return files.read(TARGETS) if _is_plain(files) and files.has(TARGETS) else None


def _is_plain(files: PretrainedFiles) -> bool:
    """Whether the tokenizer is of no family, as those that etude writes are."""
    return files.has(CONFIG) and _object(files, CONFIG).get("tokenizer_class") == PLAIN_CLASS


def _chat_template(files: PretrainedFiles) -> str | None:
    """Return the chat template: that of its own file, or of tokenizer_config.json, of several the `default`.

    Raises:
        DataError: If it is no text.
    """
    if files.has(CHAT_TEMPLATE):
        try:
            return files.read(CHAT_TEMPLATE).decode()
        except UnicodeDecodeError as error:
            raise DataError(f"the {CHAT_TEMPLATE} of {files.name} is not UTF-8 text; fetch it again") from error
    template = _object(files, CONFIG).get("chat_template") if files.has(CONFIG) else None
    if isinstance(template, list):
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise DataError(f"the chat_template in {CONFIG} of {files.name} is not a text; fetch it again")
    return template


def _start(files: PretrainedFiles) -> int | None:
    """Return the id in config.json that a decoder starts from, or a text if the tokenizer names no token for that."""
    if not files.has("config.json"):
        return None
    config = _object(files, "config.json")
    start = config.get("decoder_start_token_id")
    if start is None and not {"bos_token", "cls_token"} & _named(files).keys():
        start = config.get("bos_token_id")
    return start if isinstance(start, int) else None


def _settings(files: PretrainedFiles) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of tokenizer_config.json and config.json; empty where there is none."""
    settings, config = (
        _object(files, file) if files.has(file) else {} for file in ("tokenizer_config.json", "config.json")
    )
    return settings, config


def _languages_key(files: PretrainedFiles) -> str | None:
    """Return what besides tokenizer.json determines the languages; None: there are none."""
    settings, config = _settings(files)
    if _is_plain(files) and files.has(LANGUAGES):
        return hashlib.sha256(files.read(LANGUAGES)).hexdigest()
    family = family_of(settings, config)
    return None if family is None else " ".join(family)


def _languages(files: PretrainedFiles, backend: tokenizers.Tokenizer) -> Languages | None:
    """Return the languages of the tokenizer's family, or those that etude wrote beside a tokenizer of no family."""
    settings, config = _settings(files)
    if _is_plain(files) and files.has(LANGUAGES):
        stored = decode_json(
            files.read(LANGUAGES), StoredLanguages, f"the {LANGUAGES} of {files.name}", "fetch it again"
        )
        return Languages(stored.convention, stored.ids, stored.family)
    return pretrained_languages(backend, settings, config)


def _special_tokens(files: PretrainedFiles) -> SpecialTokens:
    """Return the special tokens; BERT's [CLS] and [SEP] start and end a sequence if no bos and eos do."""
    named = _named(files)
    bos = named.get("bos_token") or named.get("cls_token") or named.get("eos_token") or named.get("pad_token")
    eos = named.get("eos_token") or named.get("sep_token")
    if bos is None or eos is None:
        raise DataError(
            f"the tokenizer of {files.name} names no eos_token or sep_token in special_tokens_map.json or "
            f"tokenizer_config.json (it names: {', '.join(sorted(named)) or 'nothing'}); add one there"
        )
    return SpecialTokens(
        pad=named.get("pad_token") or eos,
        bos=bos,
        eos=eos,
        unknown=named.get("unk_token") or eos,
        mask=named.get("mask_token"),
    )


def _named(files: PretrainedFiles) -> dict[str, str]:
    """Return the special tokens that the tokenizer's files name, such as `bos_token`."""
    named: dict[str, str] = {}
    for file in ("special_tokens_map.json", CONFIG):
        if files.has(file):
            named |= _token_texts(_object(files, file))
    return named


def _object(files: PretrainedFiles, file: str) -> dict[str, Any]:
    return decode_json(files.read(file), dict[str, Any], f"the {file} of {files.name}", "fetch it again")


def _token_texts(config: dict[str, Any]) -> dict[str, str]:
    """Return the texts of the entries `…_token`, which are texts or objects with a `content`."""
    tokens = {key: value for key, value in config.items() if key.endswith("_token")}
    texts = {key: value.get("content") if isinstance(value, dict) else value for key, value in tokens.items()}
    return {key: text for key, text in texts.items() if isinstance(text, str)}
