"""Annotations of constructor arguments, judged on plain configuration values.

Each form of annotation answers `accepts(value)` and says, as text, what it accepts. Values are those of a resolved
configuration: None, bool, int, float, str, list and dict, where a dict with `_target_` stands for an object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from etude.duration import Duration
from etude.errors import ConfigurationError

TARGET = "_target_"
PARTIAL = "_partial_"
MARKS = frozenset({TARGET, PARTIAL, "_convert_", "_recursive_"})
"""Hydra's own keys of a node, without `_args_`: arguments are written by name."""


class Annotation(Protocol):
    """A form of annotation; its text says what it accepts."""

    def accepts(self, value: Any) -> bool:
        """Return whether a parameter with this annotation may be given the value."""
        ...


@dataclass(frozen=True)
class Anything:
    """An annotation that accepts everything, or that cannot be judged."""

    def accepts(self, value: Any) -> bool:
        """Return True."""
        return True

    def __str__(self) -> str:
        return "anything"


def _is_duration(value: Any) -> bool:
    try:
        Duration.parse(value)
    except ConfigurationError:
        return False
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


SCALARS: dict[str, Callable[[Any], bool]] = {
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": _is_number,
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "Path": lambda value: isinstance(value, str | Path),
    "null": lambda value: value is None,
    "duration": _is_duration,
}
"""Test of each plain kind. An int is a float, a bool is not an int, and no parameter is infinite or not a number."""


@dataclass(frozen=True)
class Scalar:
    """A plain value of a kind in `SCALARS`."""

    kind: str

    def accepts(self, value: Any) -> bool:
        """Return whether the value is of the kind."""
        return SCALARS[self.kind](value)

    def __str__(self) -> str:
        if self.kind == "duration":
            return "a number with a unit: 20000step, 10epoch, 300Mtok, 90s, 30min or 2h"
        return self.kind


@dataclass(frozen=True)
class Choice:
    """A `Literal`: a choice between a few values."""

    values: tuple[Any, ...]

    def accepts(self, value: Any) -> bool:
        """Return whether the value is among the choices, with the same type."""
        return any(value == option and type(value) is type(option) for option in self.values)

    def __str__(self) -> str:
        return "one of " + ", ".join(shown(value) for value in self.values)


@dataclass(frozen=True)
class ListOf:
    """A list or a tuple of any length."""

    item: Annotation

    def accepts(self, value: Any) -> bool:
        """Return whether the value is a list of such items."""
        return isinstance(value, list) and all(self.item.accepts(item) for item in value)

    def __str__(self) -> str:
        return f"a list of {self.item}"


@dataclass(frozen=True)
class TupleOf:
    """A tuple of fixed length."""

    items: tuple[Annotation, ...]

    def accepts(self, value: Any) -> bool:
        """Return whether the value is a list with the right item at each place."""
        return (
            isinstance(value, list)
            and len(value) == len(self.items)
            and all(annotation.accepts(item) for annotation, item in zip(self.items, value, strict=True))
        )

    def __str__(self) -> str:
        return f"a list of {len(self.items)}: {', '.join(map(str, self.items))}"


@dataclass(frozen=True)
class DictOf:
    """A mapping."""

    key: Annotation
    item: Annotation

    def accepts(self, value: Any) -> bool:
        """Return whether the value is a mapping from such keys to such items."""
        return isinstance(value, Mapping) and all(
            self.key.accepts(key) and self.item.accepts(item) for key, item in value.items()
        )

    def __str__(self) -> str:
        return f"a mapping from {self.key} to {self.item}"


@dataclass(frozen=True)
class Either:
    """A union."""

    members: tuple[Annotation, ...]

    def accepts(self, value: Any) -> bool:
        """Return whether any member accepts the value."""
        return any(member.accepts(value) for member in self.members)

    def __str__(self) -> str:
        return " or ".join(map(str, self.members))


@dataclass(frozen=True)
class Object:
    """An object of a class or protocol, which only a node with `_target_` can describe.

    Attributes:
        name: Name of the class.
        makes: Test whether a dotted `_target_` makes such an object.
    """

    name: str
    makes: Callable[[str], bool]

    def accepts(self, value: Any) -> bool:
        """Return whether the value is a node that makes such an object, now or (`_partial_`) when it is called."""
        if not isinstance(value, Mapping) or TARGET not in value:
            return False
        return bool(value.get(PARTIAL)) or self.makes(str(value[TARGET]))

    def __str__(self) -> str:
        return f"a {self.name} ({{{TARGET}: …}})"


@dataclass(frozen=True)
class Maker:
    """A callable that makes objects of a class: a node with `_partial_`, or a callable object.

    Attributes:
        name: Name of the class.
        makes: Test whether calling a dotted `_target_` returns such an object.
    """

    name: str
    makes: Callable[[str], bool]

    def accepts(self, value: Any) -> bool:
        """Return whether the value is such a node; what a callable object returns is known only once it is called."""
        if not isinstance(value, Mapping) or TARGET not in value:
            return False
        return not value.get(PARTIAL) or self.makes(str(value[TARGET]))

    def __str__(self) -> str:
        return f"a maker of {self.name} ({{{TARGET}: …, {PARTIAL}: true}})"


def written(value: Any) -> str:
    """Return a plain value as a person would write it in YAML, text without quotes."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def shown(value: Any) -> str:
    """Return a value as it would be written in YAML, cut to a readable length."""
    plain = {True: "true", False: "false"} if isinstance(value, bool) else {None: "null"}
    if isinstance(value, Mapping) and TARGET in value:
        text = f"{{{TARGET}: {value[TARGET]}, …}}"
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, list):
        text = "[" + ", ".join(map(shown, value)) + "]"
    elif isinstance(value, str):
        text = repr(value)
    else:
        text = plain.get(value, str(value))
    return text if len(text) <= 80 else text[:77] + "…"
