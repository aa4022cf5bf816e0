"""Languages that a tokenizer writes, and where a model of its family reads them.

Each convention says what stands around the texts of a pair:

    codes_first         M2M100, NLLB, mBART-50      source: code text eos    target: code text eos
    source_code_last    NLLB, `legacy_behaviour`    source: text eos code    target: code text eos
    codes_last          mBART of 25 languages       source: text eos code    target: text eos code, from the code on
    target_tag          MarianMT, etude's own       source: tag text eos     target: text eos

In the first two a search is given the target's code as the first token; in the third the decoder starts from it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import tokenizers
from msgspec import Meta

from etude.atomic import write_json
from etude.errors import ConfigurationError
from etude.types import Direction

LANGUAGES = "languages.json"
"""File in a tokenizer's folder; there is none where it writes no languages."""

Convention = Literal["codes_first", "source_code_last", "codes_last", "target_tag"]

NEAR = 4
"""Number of languages that an error names."""


class StoredLanguages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `languages.json`."""

    convention: Convention
    ids: dict[str, Annotated[int, Meta(ge=0)]]
    family: str | None = None


@dataclass(frozen=True)
class Languages:
    """The languages of a tokenizer.

    Attributes:
        convention: Where they stand.
        ids: Ids by the languages' names as the tokenizer's users write them: `de`, `deu_Latn`, `de_DE`.
        family: Class of transformers of the pretrained tokenizer; None: there is none.
    """

    convention: Convention
    ids: Mapping[str, int]
    family: str | None = None

    def direction(self, name: str, source: str, target: str, bos: int, eos: int, prefix: str = "") -> Direction:
        """Return what stands around the texts of a pair.

        Args:
            name: Name of the direction.
            source: Language of the sources.
            target: Language of the targets.
            bos: Id that a decoder starts from where it starts from no language.
            eos: Id that ends a text.
            prefix: Text before each source.

        Raises:
            ConfigurationError: If the tokenizer does not know a language.
        """
        around = CONVENTIONS[self.convention](self, source, target, bos, eos)
        return replace(around, name=name, prefix=prefix)

    def id_of(self, language: str) -> int:
        """Return the id of a language.

        Raises:
            ConfigurationError: If the tokenizer does not know it; names a few near ones.
        """
        if language not in self.ids:
            near = difflib.get_close_matches(language.lower(), [name.lower() for name in self.ids], NEAR, cutoff=0.5)
            begins = [name for name in self.ids if name[:2].lower() == language[:2].lower()]
            names = list(dict.fromkeys([*begins, *(name for name in self.ids if name.lower() in near)]))[:NEAR]
            known = f"near ones are {', '.join(names)}" if names else f"it knows {_some(self.ids)}"
            raise ConfigurationError(f"the tokenizer has no language {language!r}; {known}")
        return self.ids[language]

    def save(self, folder: Path) -> None:
        """Write `languages.json`."""
        content = {"convention": self.convention, "ids": dict(self.ids), "family": self.family}
        write_json(folder / LANGUAGES, content)

    def settings(self, way: Direction) -> dict[str, Any]:
        """Return the entries of tokenizer_config.json by which the family's own class writes a direction.

        There are none without a family, or where its class does not read tokenizer.json.
        """
        if self.family not in READS_TOKENIZER_JSON:
            return {}
        names = {number: name for name, number in self.ids.items()}
        source, target = (*way.before_source, *way.after_source[1:]), (*way.before_target, *way.after_target[1:])
        return {
            "tokenizer_class": self.family,
            "src_lang": names[source[0]],
            "tgt_lang": names[target[0]],
            **({"legacy_behaviour": True} if self.convention == "source_code_last" else {}),
        }


def _codes_first(languages: Languages, source: str, target: str, bos: int, eos: int) -> Direction:
    return Direction("", bos, (eos,), (eos,), (languages.id_of(source),), (languages.id_of(target),))


def _source_code_last(languages: Languages, source: str, target: str, bos: int, eos: int) -> Direction:
    after_source, before_target = (eos, languages.id_of(source)), (languages.id_of(target),)
    return Direction("", bos, after_source=after_source, after_target=(eos,), before_target=before_target)


def _codes_last(languages: Languages, source: str, target: str, bos: int, eos: int) -> Direction:
    code = languages.id_of(target)
    return Direction("", code, after_source=(eos, languages.id_of(source)), after_target=(eos, code))


def _target_tag(languages: Languages, source: str, target: str, bos: int, eos: int) -> Direction:
    return Direction("", bos, after_source=(eos,), after_target=(eos,), before_source=(languages.id_of(target),))


CONVENTIONS: Mapping[Convention, Callable[[Languages, str, str, int, int], Direction]] = {
    "codes_first": _codes_first,
    "source_code_last": _source_code_last,
    "codes_last": _codes_last,
    "target_tag": _target_tag,
}
"""What stands around the texts of a pair, by convention, given both languages, bos and eos."""

FAMILIES: Mapping[str, tuple[str, Convention]] = {
    "M2M100Tokenizer": (r"__([a-z]{2,3}(?:_[a-z]+)?)__", "codes_first"),
    "NllbTokenizer": (r"([a-z]{3}_[A-Z][a-z]{3})", "codes_first"),
    "MBart50Tokenizer": (r"([a-z]{2}_[A-Z]{2})", "codes_first"),
    "MBartTokenizer": (r"([a-z]{2}_[A-Z]{2})", "codes_last"),
    "MarianTokenizer": (r">>(.+)<<", "target_tag"),
}
"""Tokens that are languages, with the name in a group, and the convention, by the class of a pretrained tokenizer."""

READS_TOKENIZER_JSON = frozenset({"NllbTokenizer", "MBart50Tokenizer", "MBartTokenizer"})
"""Those that need no other file: M2M100's and MarianMT's read sentencepiece models alone."""

CLASSES: Mapping[str, str] = {"m2m_100": "M2M100Tokenizer", "mbart": "MBartTokenizer", "marian": "MarianTokenizer"}
"""The class of a model's tokenizer where its files name none, by `model_type`."""


def pretrained_languages(
    backend: tokenizers.Tokenizer, settings: Mapping[str, Any], config: Mapping[str, Any]
) -> Languages | None:
    """Return the languages of a pretrained tokenizer; None: it is of no family that writes any.

    Args:
        backend: The tokenizer.
        settings: Content of tokenizer_config.json; empty if there is none.
        config: Content of config.json; empty if there is none.
    """
    family = family_of(settings, config)
    if family is None:
        return None
    name, convention = family
    pattern = re.compile(FAMILIES[name][0])
    vocabulary = backend.get_vocab(with_added_tokens=True)
    found = {match[1]: vocabulary[token] for token in sorted(vocabulary) if (match := pattern.fullmatch(token))}
    return Languages(convention, found, name) if found else None


def family_of(settings: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[str, Convention] | None:
    """Return a pretrained tokenizer's class and where it writes languages; None: it is of no family that writes any.

    Args:
        settings: Content of tokenizer_config.json; empty if there is none.
        config: Content of config.json; empty if there is none.
    """
    by_model = CLASSES.get(str(config.get("model_type")))
    name = str(settings.get("tokenizer_class") or config.get("tokenizer_class") or by_model).removesuffix("Fast")
    if name not in FAMILIES:
        return None
    legacy = name == "NllbTokenizer" and settings.get("legacy_behaviour") is True
    return name, "source_code_last" if legacy else FAMILIES[name][1]


def with_prefix(prefix: str, text: str) -> str:
    """Return a text behind a prefix and a space; an empty text stays empty."""
    return f"{prefix} {text}" if prefix and text.strip() else text


def _some(names: Mapping[str, int]) -> str:
    shown = sorted(names)[:NEAR]
    return ", ".join(shown) + (", …" if len(names) > NEAR else "")
