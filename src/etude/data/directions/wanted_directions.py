"""The directions that a configuration asks for, and what a tokenizer makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from etude.errors import ConfigurationError
from etude.tokenization.base import Tokenizer, TokenizerRecipe
from etude.tokenization.direction_tags import TaggedRecipe
from etude.tokenization.languages import Languages
from etude.tokenization.pretrained_tokenizer import PretrainedTokenizer
from etude.types import Direction

DIRECTION = "direction"
"""Field of a row that names its direction, in data of several."""


@dataclass(frozen=True)
class WantedDirection:
    """A direction as the configuration names it.

    Attributes:
        name: Name of the direction; empty where there is a single one without languages.
        source: Language of the sources, as the tokenizer names it; None: none is written.
        target: Language of the targets; None: none is written.
        prefix: Text before each source; empty: none.
    """

    name: str = ""
    source: str | None = None
    target: str | None = None
    prefix: str = ""


@dataclass(frozen=True)
class WantedDirections:
    """The directions of a configuration, in their order.

    Attributes:
        each: The directions; at least one.
        several: Whether each row names its direction.
    """

    each: tuple[WantedDirection, ...]
    several: bool = False

    @classmethod
    def of_one(cls, source: str | None, target: str | None, prefix: str | Mapping[str, str] | None) -> WantedDirections:
        """Return the single direction of `data.source_language`, `data.target_language` and `data.source_prefix`.

        Raises:
            ConfigurationError: If one language is given without the other, or several prefixes are.
        """
        if (source is None) != (target is None):
            given, missing = ("source", "target") if target is None else ("target", "source")
            raise ConfigurationError(
                f"data.{given}_language={source or target} is given without data.{missing}_language; write both"
            )
        if isinstance(prefix, Mapping):
            raise ConfigurationError("data.source_prefix is a mapping, which is for data.pairs; write one text")
        name = "" if source is None else f"{source}-{target}"
        return cls((WantedDirection(name, source, target, (prefix or "").rstrip()),))

    @classmethod
    def of_pairs(
        cls, pairs: Sequence[str], languages: Mapping[str, str] | None, prefixes: str | Mapping[str, str] | None
    ) -> WantedDirections:
        """Return the directions of `data.pairs`, `data.languages` and `data.source_prefix`.

        Raises:
            ConfigurationError: If they do not fit together.
        """
        sides = {name: sides_of(name) for name in pairs}
        if not sides or len(sides) < len(pairs):
            raise ConfigurationError(
                f"data.pairs=[{','.join(pairs)}] is empty or names a pair twice; write [en-de,de-en]"
            )
        known = dict.fromkeys(side for both in sides.values() for side in both)
        for name in languages or ():
            if name not in known:
                raise ConfigurationError(f"data.languages.{name} is in no pair of data.pairs: {', '.join(known)}")
        if isinstance(prefixes, str):
            mapping = ", ".join(f"{name}: …" for name in sides)
            raise ConfigurationError(f"data.source_prefix is one text for several pairs; write '{{{mapping}}}'")
        if prefixes is not None and (wrong := set(prefixes) ^ set(sides)):
            raise ConfigurationError(
                f"data.source_prefix is of {', '.join(prefixes)} and data.pairs of {', '.join(sides)}; give each pair a "
                f"prefix: {', '.join(sorted(wrong))}"
            )
        code = {**{side: side for side in known}, **(languages or {})}
        each = [
            WantedDirection(name, code[source], code[target], (prefixes or {}).get(name, "").rstrip())
            for name, (source, target) in sides.items()
        ]
        return cls(tuple(each), several=True)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the directions."""
        return tuple(wanted.name for wanted in self.each)

    @property
    def prefixes(self) -> dict[str, str]:
        """The prefixes by the names of their directions; those without one are left out."""
        return {wanted.name: wanted.prefix for wanted in self.each if wanted.prefix}

    def tokenizer(self, given: TokenizerRecipe | Tokenizer) -> TokenizerRecipe | Tokenizer:
        """Return the tokenizer or recipe, with tags for several directions if it is one to be trained."""
        if isinstance(given, Tokenizer | PretrainedTokenizer) or not self.several or self.prefixes:
            return given
        return TaggedRecipe(given, tuple(dict.fromkeys(str(wanted.target) for wanted in self.each)))

    def directions(self, tokenizer: Tokenizer) -> tuple[Direction, ...]:
        """Return what stands around the texts of each direction; nothing where that is only bos and eos.

        Raises:
            ConfigurationError: If the tokenizer writes no languages, or others, or languages that are not given.
        """
        languages = tokenizer.languages
        if languages is not None:
            return tuple(self._coded(wanted, languages, tokenizer) for wanted in self.each)
        first = self.each[0]
        if self.several and not self.prefixes:
            raise ConfigurationError(
                f"data.pairs={','.join(self.names)}: the tokenizer has neither language codes nor tags of directions, and a "
                "model that has been trained with it takes none; write data.source_prefix='{…}' with a text for each pair, "
                "or train a tokenizer (tokenizer=bpe)"
            )
        if not self.several and first.source is not None:
            raise ConfigurationError(
                f"data.source_language={first.source}: the tokenizer has no language codes; leave data.source_language and "
                "data.target_language out (T5 and mT5 take a text before each source, data.source_prefix)"
            )
        if not self.prefixes:
            return ()
        bos, eos = tokenizer.bos, (tokenizer.eos,)
        return tuple(Direction(one.name, bos, eos, eos, prefix=one.prefix) for one in self.each)

    def _coded(self, wanted: WantedDirection, languages: Languages, tokenizer: Tokenizer) -> Direction:
        if wanted.source is None or wanted.target is None:
            some = ", ".join(list(languages.ids)[:4])
            raise ConfigurationError(
                f"the tokenizer writes languages ({some}, …) beside the texts; say which: data.source_language=… and "
                "data.target_language=…"
            )
        bos, eos = tokenizer.bos, tokenizer.eos
        try:
            return languages.direction(wanted.name, wanted.source, wanted.target, bos, eos, wanted.prefix)
        except ConfigurationError as error:
            one = f"data.source_language={wanted.source} data.target_language={wanted.target}"
            keys = f"data.pairs has {wanted.name}" if self.several else one
            raise ConfigurationError(f"{keys}: {error}{_ADVICE[self.several]}") from error


_ADVICE = {True: "; data.languages='{en: CODE}' gives a file's language another name there", False: ""}


def refuse_beside(given: str, **others: object) -> None:
    """Refuse keys of the data that mean nothing beside another one.

    Raises:
        ConfigurationError: If one of them is given.
    """
    for name, value in others.items():
        if value is not None:
            raise ConfigurationError(f"data.{name}={value} means nothing beside {given}; leave it out")


def sides_of(pair: str) -> tuple[str, str]:
    """Return source and target of a pair such as `en-de`.

    Raises:
        ConfigurationError: If it is no such pair.
    """
    source, dash, target = pair.partition("-")
    if not dash or not source or not target or "-" in target:
        raise ConfigurationError(f"data.pairs has {pair!r}, which is no SOURCE-TARGET; write one such as en-de")
    return source, target
