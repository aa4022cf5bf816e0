"""Changes to the configuration of an existing run, within the keys that a command may change."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from etude.config.annotations import TARGET
from etude.config.check import checked
from etude.config.compose import CONF, Composer
from etude.config.schema import MAPPINGS, METRICS, Config
from etude.config.signatures import signature
from etude.config.values import within
from etude.errors import ConfigurationError

_SIZES = {"batch.examples": "batch.tokens", "batch.tokens": "batch.examples"}
"""The other size of a batch, which a given one replaces."""


def changed(config: Config, changes: Mapping[str, Any], allowed: Sequence[str], run: Path) -> Config:
    """Return a run's configuration with changes.

    Args:
        config: The run's configuration.
        changes: Values by dotted key, or choices by group: `decoding: beam`, or the mapping that `with_choices` returns.
        allowed: Dotted keys at or below which changes are allowed.
        run: Folder of the run, for messages.

    Raises:
        ConfigurationError: If a key is not allowed or not in the configuration, or its value does not fit.
    """
    if not changes:
        return config
    tree = OmegaConf.create(copy.deepcopy(dict(config.values)))
    # Choices first, in whatever order they were typed: a key belongs to the choice of its group.
    for key, value in sorted(changes.items(), key=lambda item: "." in item[0]):
        if not within(key, allowed):
            raise ConfigurationError(f"{key} cannot be changed here; what can: {', '.join(allowed)} (command line)")
        if "." not in key and isinstance(value, str | list) and (CONF / key).is_dir():
            tree[key] = _choice(Composer(CONF, "train"), key, value)
            continue
        if "." not in key and isinstance(value, Mapping) and (TARGET in value or key in MAPPINGS):
            tree[key] = value  # another class: the old one's arguments are not merged with its own
            continue
        if not (_exists(tree, key) or _is_argument(tree, key) or within(key, (METRICS,))):
            raise ConfigurationError(
                f"{key} is not in the configuration of {run}; {_advice(tree, key, allowed)} (command line)"
            )
        OmegaConf.update(tree, key, value, force_add=True)
        if key in _SIZES and value is not None and _SIZES[key] not in changes:
            OmegaConf.update(tree, _SIZES[key], None)
    return checked(tree, [f"{key}={value}" for key, value in changes.items()])


def with_choices(overrides: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Replace choices of groups by the nodes that they stand for, with a folder of one's own (`--config-dir`).

    Args:
        overrides: Keys and values, as `read_overrides` returns them.
        folder: Folder of configuration groups, searched before etude's own.

    Raises:
        ConfigurationError: If it is not a folder, or a choice does not exist or cannot be composed.
    """
    composer = Composer(CONF, "train", folder)
    groups = composer.groups()
    chosen = {
        key: _choice(composer, key, value)
        for key, value in overrides.items()
        if key in groups and isinstance(value, str | list)
    }
    return {**overrides, **{key: node and OmegaConf.to_container(node) for key, node in chosen.items()}}


def _choice(composer: Composer, group: str, choice: str | list[str]) -> Any:
    """Return the node, or the nodes by name, that choices of a group stand for, without the values of an experiment."""
    chosen = choice if isinstance(choice, str) else f"[{','.join(choice)}]"
    return composer.compose(["~experiment", f"{group}={chosen}"]).tree.get(group, {})


def _advice(tree: DictConfig, key: str, allowed: Sequence[str]) -> str:
    """Suggest the nearest key, or the choice of the group that has the key."""
    candidates = [name for name in _keys(tree) if within(name, allowed)]
    near = difflib.get_close_matches(key, candidates, 1)
    group, _, inner = key.partition(".")
    having = [path.stem for path in sorted((CONF / group).glob("*.yaml")) if inner and inner in OmegaConf.load(path)]
    if having and group in tree:
        return f"choose as well {group}={having[0]}, which has it"
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(candidates)}"


def _exists(tree: DictConfig, key: str) -> bool:
    absent = object()
    return OmegaConf.select(tree, key, default=absent) is not absent


def _is_argument(tree: DictConfig, key: str) -> bool:
    """Return whether a key is an argument that the class of its node takes, and that the configuration leaves out."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else None
    constructor = signature(node[TARGET]) if isinstance(node, Mapping | DictConfig) and TARGET in node else None
    return constructor is not None and name in constructor.parameters


def _keys(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in tree.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += _keys(value, f"{prefix}{name}.")
    return keys


def read_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` words into dotted keys and plain values.

    Raises:
        ConfigurationError: If one is not of Hydra's grammar, deletes a key or has several values.
    """
    overrides: dict[str, Any] = {}
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as error:
            reason = str(error).partition("\n")[0]
            raise ConfigurationError(f"{word!r} is not key=value: {reason} (command line)") from error
        if override.is_delete() or override.is_sweep_override():
            raise ConfigurationError(f"{word!r} does not give one value to a key; write key=value (command line)")
        overrides[override.key_or_group] = override.value()
    return overrides
