"""The tokenizer of a pretrained model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tokenizers

from etude.errors import DataError
from etude.pretrained_files import PretrainedFiles, open_pretrained
from etude.tokenization.tokenizer import SpecialTokens, Tokenizer


@dataclass(frozen=True)
class Pretrained:
    """Reads the `tokenizer.json` of a pretrained model; its padding and truncation are switched off.

    Attributes:
        name: A folder, a pinned package, or a repository of the Hugging Face hub.
    """

    name: str

    @property
    def key(self) -> str:
        """The content of the tokenizer's file as a hash."""
        return f"pretrained 1 {hashlib.sha256(open_pretrained(self.name).read('tokenizer.json')).hexdigest()}"

    def build(self, texts: Iterator[str]) -> Tokenizer:
        """Return the tokenizer; the texts are not read.

        Raises:
            DataError: If the model or its tokenizer is not there, is broken, or names no special tokens.
        """
        files = open_pretrained(self.name)
        try:
            backend = tokenizers.Tokenizer.from_str(files.read("tokenizer.json").decode())
        except DataError:
            raise
        except Exception as error:  # the tokenizers library raises bare Exceptions
            raise DataError(f"the tokenizer.json of {self.name} cannot be read: {error}") from error
        return Tokenizer(backend, _special_tokens(files))


def _special_tokens(files: PretrainedFiles) -> SpecialTokens:
    """Find the special tokens; BERT's [CLS] and [SEP] start and end a sequence where nothing else does."""
    named: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if files.has(file):
            named |= _token_texts(_object(files, file))
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


def _object(files: PretrainedFiles, file: str) -> dict[str, Any]:
    try:
        content = json.loads(files.read(file))
    except ValueError as error:
        raise DataError(f"the {file} of {files.name} is no JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _token_texts(config: dict[str, Any]) -> dict[str, str]:
    """Keep the entries `…_token`, which are texts or objects with a `content`."""
    tokens = {key: value for key, value in config.items() if key.endswith("_token")}
    texts = {key: value.get("content") if isinstance(value, dict) else value for key, value in tokens.items()}
    return {key: text for key, text in texts.items() if isinstance(text, str)}
