"""The configuration that a run's folder holds, and what may be changed of it afterwards."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from etude.configuration.check import check
from etude.errors import ConfigurationError
from etude.store.folder import CONFIGURATION

NAMED = ("task.metrics",)
"""Keys under which names are free: what is not there yet is added."""


def stored_configuration(
    run: Path, overrides: Mapping[str, Any] | None = None, allowed: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a run's configuration as plain values, with changes.

    Args:
        run: The run's folder.
        overrides: Dotted keys and their values.
        allowed: Dotted keys at or below which changes are allowed.

    Raises:
        ConfigurationError: If a key is not allowed or not in the configuration, or its value does not fit.
    """
    config = cast(DictConfig, OmegaConf.load(run / CONFIGURATION))
    for key, value in (overrides or {}).items():
        if not _within(key, allowed):
            raise ConfigurationError(f"{key} cannot be changed here; what can: {', '.join(allowed)} (command line)")
        if not (_exists(config, key) or _within(key, NAMED)):
            known = [name for name in _keys(config) if _within(name, allowed)]
            near = difflib.get_close_matches(key, known, 1)
            advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise ConfigurationError(f"{key} is not in the configuration of {run}; {advice} (command line)")
        OmegaConf.update(config, key, value, force_add=True)
    check(config, [f"{key}={value}" for key, value in (overrides or {}).items()])
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def _within(key: str, places: Sequence[str]) -> bool:
    return any(f"{key}.".startswith(f"{place}.") for place in places)


def _exists(config: DictConfig, key: str) -> bool:
    absent = object()
    return OmegaConf.select(config, key, default=absent) is not absent


def _keys(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in config.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += _keys(value, f"{prefix}{name}.")
    return keys
