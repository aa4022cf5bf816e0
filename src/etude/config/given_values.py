"""Values that an agent of W&B's sweeps gives to a run, as words of a command line.

A run that comes back after a preemption is given everything that W&B knows of it: the values that the sweep chose, and the
whole configuration, resolved. What the words before compose anyway is dropped; what is left are the words that make the same
run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from etude.config.annotations import TARGET
from etude.config.case import get, join
from etude.config.compose import Composer, is_hydra
from etude.config.schema import MAPPINGS, NODES, Config
from etude.config.values import as_override, without_secrets
from etude.errors import ConfigurationError

_NEEDED = frozenset(
    one.name for one in fields(Config) if one.init and one.default is MISSING and one.default_factory is MISSING
)
"""Keys of the root that every configuration has."""
_ROOTS = frozenset(one.name for one in fields(Config) if one.init)
_GROUPS = frozenset({*NODES, *MAPPINGS})
_HERE = frozenset({"trainer", "logger", "log", "paths", "run", "trust"})
"""Keys of a whole configuration that say where and how it ran. Where it runs now, this command says."""
_PLACE = ("experiment", "name")
"""Keys of `run` that say which folder is the run's."""
_ROUNDS = 4
"""So often words are added: a value that refers to another one changes with it."""
_ABSENT = object()


def as_words(values: Mapping[str, Any], words: Sequence[str], composer: Composer) -> list[str]:
    """Return the words of a command line that give values, after other words.

    `trust` is left out: only a person gives it.

    Args:
        values: Values by key: a dotted key, a group (`model/positions`, or `model.positions`), or a key of the root with all
            that is below it. A node with its `_target_` replaces the one that was chosen, and a whole configuration all of
            it but what belongs to the machine.
        words: The words that stand before.
        composer: Composer of the configuration.

    Raises:
        ConfigurationError: If a key is Hydra's own, a value refers to another one, or the words before do not compose.
    """
    given = {key: _plain(key, value) for key, value in values.items() if key != "trust"}
    # Without the agent's file, the word `seed=1` may be anyone's.
    named = given.keys() | {word.partition("=")[0] for word in words}
    whole = named >= _NEEDED
    parts = {key: value for key, value in given.items() if _is_part(key, value, whole)}
    chosen = [word for key, value in given.items() if key not in parts for word in _words(key, value, composer)]
    place = parts.get("run")
    parts = {key: value for key, value in parts.items() if key not in _HERE}
    if isinstance(place, Mapping):
        parts |= {f"run.{name}": place[name] for name in _PLACE if name in place}
    added: list[str] = []
    for _ in range(_ROUNDS if parts else 0):
        composed = without_secrets(composer.compose(composer.normalized([*words, *chosen, *added])).values())
        absent = [key for key in NODES if whole and key not in named and composed.get(key) is not None]
        more = [f"{key}=null" for key in absent if key not in _HERE]
        for key, value in parts.items():
            more += _differences(key, value, get(composed, key), whole and key == "callbacks")
        if not more:
            break
        added += more
    return [*chosen, *added]


def _is_part(key: str, value: Any, whole: bool) -> bool:
    """Return whether a value is compared with what is composed: one of a whole configuration, or a node."""
    if isinstance(value, str) and key in _GROUPS:  # a choice
        return False
    is_node = key in _GROUPS and isinstance(value, Mapping) and TARGET in value
    return key in _ROOTS and (whole or is_node)


def _differences(key: str, given: Any, composed: Any, whole: bool) -> Iterator[str]:
    """Yield the words that make what is composed what is given.

    Args:
        key: Dotted key of both.
        given: The value that is wanted.
        composed: The value that is there.
        whole: Whether what is not given must not be there either, as of a node.
    """
    if isinstance(given, Mapping) and isinstance(composed, Mapping):
        whole = whole or TARGET in given
        for name in [name for name in composed if name not in given] if whole else ():
            # Hydra takes a null for absent, and would not remove it.
            yield from [f"{join(key, name)}=0"] if composed[name] is None else []
            yield f"~{join(key, name)}"
        for name, value in given.items():
            yield from _differences(join(key, name), value, composed.get(name, _ABSENT), whole)
    elif not _same(given, composed):
        yield from _leaves(key, given)


def _same(first: Any, second: Any) -> bool:
    """Return whether two plain values are equal; JSON tells no 1 from 1.0."""
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same(value, second[key]) for key, value in first.items())
    return isinstance(first, bool) == isinstance(second, bool) and bool(first == second)


def _words(key: str, value: Any, composer: Composer) -> Iterator[str]:
    group, _, part = key.replace(".", "/").rpartition("/")
    if isinstance(value, str) and group and part in composer.parts(group):
        yield f"{group}/{part}={as_override(value)}"
    else:
        yield from _leaves(key, value)


def _leaves(key: str, value: Any) -> Iterator[str]:
    """Yield a word for each value below a key."""
    if isinstance(value, Mapping) and value and all(re.fullmatch(r"\w+", str(name)) for name in value):
        for name, item in value.items():
            yield from _leaves(join(key, name), item)
    else:
        yield f"{key}={as_override(value)}"


def _plain(key: str, value: Any) -> Any:
    """Return a value with whole numbers as such: what W&B draws in steps of 2 may come as 4.0.

    Raises:
        ConfigurationError: If the key is Hydra's own, or the value refers to another one.
    """
    if is_hydra(key):
        raise ConfigurationError(
            f"{key} is Hydra's own key, which a sweep of W&B does not set (command line of an agent)"
        )
    if isinstance(value, Mapping):
        return {str(name): _plain(key, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(key, item) for item in value]
    if isinstance(value, str) and "${" in value:
        raise ConfigurationError(
            f"{key} = {value!r} refers to another value, but a sweep of W&B gives values alone; write the reference "
            "into the command of the sweep (command line of an agent)"
        )
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value
