"""A configuration under check: its values, its interpolations, and where each was written."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from etude.config.annotations import MARKS
from etude.config.origins import Origins
from etude.config.signatures import Signature
from etude.errors import ConfigurationError

MISSING = "???"
_INTERPOLATION = re.compile(r"\$\{(\.*)([^.:{}$][^:{}$]*)\}")


@dataclass(frozen=True)
class Case:
    """A configuration as a rule sees it.

    Attributes:
        values: Resolved tree, variables included.
        raw: Tree with its interpolations.
        origins: Places where the values were written.
        trusted: Packages besides etude whose classes may be instantiated.
    """

    values: Mapping[str, Any]
    raw: Mapping[str, Any]
    origins: Origins
    trusted: Sequence[str] = ()

    @classmethod
    def open(cls, config: DictConfig, origins: Origins, trusted: Sequence[str] = ()) -> Case:
        """Resolve a composed configuration.

        Raises:
            ConfigurationError: If a value is missing (`???`) or refers to nothing.
        """
        raw: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
        raw.pop("hydra", None)
        case = cls({}, raw, origins, trusted)
        for key, value in leaves("", raw):
            if value == MISSING:
                case.fail(key, f"has no value; write {key}=…")
        return cls({name: case._resolved(config, name) for name in raw}, raw, origins, trusted)

    def _resolved(self, config: DictConfig, name: str) -> Any:
        try:
            value = config[name]
            return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            key = error.full_key or name
            written, reason = get(self.raw, key), str(error).partition("\n")[0]
            absent = [other for other in _references([(key, written)]) if get(self.raw, other) is None]
            if isinstance(error, InterpolationKeyError) and absent:
                group = absent[0].partition(".")[0]
                reason = f"there is no {absent[0]}; choose another {group}=…, or write +{absent[0]}=…"
            raise ConfigurationError(f"{key} = {written!r}: {reason} ({self.origins.of(key)})") from error

    def get(self, key: str) -> Any:
        """Return the value of a dotted key, None where there is none."""
        return get(self.values, key)

    def written(self, key: str) -> str:
        """Follow interpolations from a key to the key whose value is written out."""
        seen: set[str] = set()
        while key not in seen:
            seen.add(key)
            value = get(self.raw, key)
            match = _INTERPOLATION.fullmatch(value) if isinstance(value, str) else None
            key = _absolute(key, match) if match else key
        return key

    def fail(self, key: str, problem: str) -> NoReturn:
        """Refuse the value of a key.

        Raises:
            ConfigurationError: Always, with the key, the problem and the origin.
        """
        key = self.written(key)
        raise ConfigurationError(f"{key} {problem} ({self.origins.of(key)})")

    @functools.cached_property
    def mappings(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """Every mapping of the tree with its dotted key, parents first; the key of the root is empty."""
        return tuple(_mappings("", self.values))

    def variables(self, key: str, constructor: Signature) -> set[str]:
        """Return the variables of a node: keys that are not arguments, but are referred to by `${…}` inside the group.

        References in the files count too, so that a key remains a variable when the reference to it is overridden.
        """
        names = get(self.values, key).keys() - MARKS - constructor.parameters.keys()
        if not names:
            return set()
        group = key.partition(".")[0]
        written = [scalar for source in self.origins.sources for scalar in source.scalars(group)]
        references = set(_references([*leaves(group, self.raw.get(group)), *written]))
        return {
            name for name in names if any(f"{reference}.".startswith(f"{join(key, name)}.") for reference in references)
        }


def get(tree: Any, key: str) -> Any:
    """Return the value at a dotted key of plain mappings and lists, None where there is none."""
    for part in key.split("."):
        if isinstance(tree, list) and part.isdecimal() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def join(key: str, name: str) -> str:
    """Return the dotted key of a name under a key."""
    return f"{key}.{name}" if key else str(name)


def _children(key: str, tree: Any) -> list[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        return [(join(key, name), value) for name, value in tree.items()]
    return [(join(key, str(index)), value) for index, value in enumerate(tree)] if isinstance(tree, list) else []


def leaves(key: str, tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield the plain values of a tree with their dotted keys."""
    if not isinstance(tree, Mapping | list):
        yield key, tree
    for inner, value in _children(key, tree):
        yield from leaves(inner, value)


def _mappings(key: str, tree: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(tree, Mapping):
        yield key, tree
    for inner, value in _children(key, tree):
        yield from _mappings(inner, value)


def _references(values: Iterable[tuple[str, Any]]) -> Iterator[str]:
    for key, value in values:
        for match in _INTERPOLATION.finditer(value if isinstance(value, str) else ""):
            yield _absolute(key, match)


def _absolute(key: str, match: re.Match[str]) -> str:
    """Return the key that an interpolation at `key` names: `${a.b}`, or `${.b}` beside it, `${..b}` one level up."""
    dots, name = match.groups()
    base = key.split(".")[: -len(dots)] if dots else []
    return ".".join([*base, name])
