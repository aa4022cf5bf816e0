"""Plain values of configurations: secrets, keys of the machine, and differences between two configurations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.errors import ConfigurationError

NONE = "(none)"
"""Text for a key that a configuration does not have."""
MACHINE = ("trainer", "logger", "paths", "log", "run.notes", "run.tags")
"""Keys, with all below them, whose values may change when a run is continued: they do not change the science."""
LOCATIONS = ("data.root", "data.corpus", "data.parts")
"""Keys at and below which data is located: a run is continued with data that has moved, if its content is the same."""

_SECRET = re.compile(
    r"key|token"
    r"|(?:.*[_-])?(?:api|access|secret|private|auth|hf|hub|wandb)[_-]?(?:key|token)"
    r"|.*(?:password|passwd|passphrase|secret|credentials?)",
    re.IGNORECASE,
)
_PLAIN_TEXT = re.compile(
    r"(?!(?:true|false|null|nan|inf)$)[a-z_][\w./-]*|\d+(?:\.\d+)?[a-z]{2,}", re.IGNORECASE | re.ASCII
)
"""Text that means itself without quotes."""
_ASSIGNED = re.compile(r"([\w-]+)[ \"']*[=:]")


def without_secrets(tree: Any) -> Any:
    """Return nested plain values without secrets: keys such as `api_key`, `token` and `password`.

    Names such as `tokens`, `mask_token` or `key_width` are not secrets, nor is a key with values under it.
    """
    if isinstance(tree, Mapping):
        return {key: without_secrets(item) for key, item in tree.items() if _is_public(key, item)}
    if isinstance(tree, (list, tuple)):
        return [without_secrets(item) for item in tree]
    return tree


def _is_public(key: Any, value: Any) -> bool:
    return value is None or isinstance(value, (Mapping, list, tuple)) or not _SECRET.fullmatch(str(key))


def public_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command line without those that set a secret, even in braces: `a={api_key:…}`."""
    return [text for text in arguments if not any(map(_SECRET.fullmatch, _ASSIGNED.findall(text)))]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the differences between two configurations, a line for each key: `model.width: 256 -> 512`.

    Args:
        old: Configuration of the run.
        new: Requested configuration.

    Returns:
        Lines in the order of the keys, without those of the machine (`MACHINE`); a missing key has the value `(none)`.
    """
    return [f"{key}: {change}" for key, change in changes(old, new).items() if not is_machine(key)]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Return all differences between two configurations, the machine included: `256 -> 512` by key, in order."""
    before, after = shown_values(old), shown_values(new)
    texts = [(key, before.get(key, NONE), after.get(key, NONE)) for key in sorted({*before, *after})]
    return {key: f"{first} -> {second}" for key, first, second in texts if first != second}


def shown_values(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the values of a configuration as text by dotted key; equal values have equal text."""
    return {key: _shown(value) for key, value in flat(config).items()}


def is_machine(key: str) -> bool:
    """Return whether a dotted key is in `MACHINE`, or below a key that is."""
    return within(key, MACHINE)


def within(key: str, places: Sequence[str]) -> bool:
    """Return whether a dotted key is in a list of keys, or below a key that is."""
    return any(f"{key}.".startswith(f"{place}.") for place in places)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a configuration by dotted key; an empty mapping and a list are values."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[f"{prefix}{key}"] = value
    return values


def _shown(value: Any) -> str:
    """Return a value as text, the same for a list and a tuple of equal items, and for 1 and 1.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(list(value) if isinstance(value, tuple) else value)


def as_override(value: Any) -> str:
    """Return a value as Hydra's grammar of overrides reads it back.

    Raises:
        ConfigurationError: If it is not text, a number, a truth value, None, or a list or mapping of those.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_override(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(as_override, value)) + "]"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        if _PLAIN_TEXT.fullmatch(str(value)):
            return str(value)
        # Within quotes a backslash is itself, unless a quote follows it.
        text = re.sub(r"(\\*)'", r"\1\1\\'", str(value))
        return "'" + re.sub(r"(\\+)$", r"\1\1", text) + "'"
    raise ConfigurationError(
        f"{value!r} cannot be a value of a configuration; give text, a number, a list or a mapping"
    )
