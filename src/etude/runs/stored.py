"""The configuration that a run's folder holds, and what may be changed of it afterwards."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from etude.config.check import check
from etude.config.compose import CONF, Composer
from etude.errors import ConfigurationError
from etude.runs.folder import CONFIGURATION, TOKENIZER, within
from etude.tokenization.base import Tokenizer

_SIZES = {"batch.examples": "batch.tokens", "batch.tokens": "batch.examples"}
"""A batch has one size: the one that is given takes the place of the other."""

NAMED = ("task.metrics",)
"""Keys under which names are free: what is not there yet is added."""


def stored_tokenizer(run: Path) -> Tokenizer:
    """Return a run's tokenizer.

    Raises:
        ConfigurationError: If the run ended before it had one.
    """
    if not (run / TOKENIZER).exists():
        raise ConfigurationError(f"{run} ended before anything was trained; first: etude resume {run}")
    return Tokenizer.load(run / TOKENIZER)


def stored_configuration(
    run: Path, overrides: Mapping[str, Any] | None = None, allowed: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a run's configuration as plain values, with changes.

    Args:
        run: The run's folder.
        overrides: Dotted keys and their values, or groups and their choices, such as `decoding: beam`.
        allowed: Dotted keys at or below which changes are allowed.

    Raises:
        ConfigurationError: If a key is not allowed or not in the configuration, or its value does not fit.
    """
    config = cast(DictConfig, OmegaConf.load(run / CONFIGURATION))
    # Choices first, whatever the order: what is said of a key is about the choice that it belongs to.
    for key, value in sorted((overrides or {}).items(), key=lambda item: "." in item[0]):
        if not within(key, allowed):
            raise ConfigurationError(f"{key} cannot be changed here; what can: {', '.join(allowed)} (command line)")
        if "." not in key and isinstance(value, str) and (CONF / key).is_dir():
            config[key] = _chosen(key, value)
            continue
        if not (_exists(config, key) or within(key, NAMED)):
            raise ConfigurationError(
                f"{key} is not in the configuration of {run}; {_advice(config, key, allowed)} (command line)"
            )
        OmegaConf.update(config, key, value, force_add=True)
        if key in _SIZES and value is not None and _SIZES[key] not in (overrides or {}):
            OmegaConf.update(config, _SIZES[key], None)
    check(config, [f"{key}={value}" for key, value in (overrides or {}).items()])
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def for_one_process(values: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's configuration for a command that looks at the run in one process, wherever the run was trained.

    Args:
        values: The run's configuration as plain values, with what was asked of it.
        asked: Dotted keys and values that the command was given.

    Raises:
        ConfigurationError: If several processes are asked for.
    """
    for key in ("trainer.devices", "trainer.nodes"):
        if asked.get(key, 1) != 1:
            raise ConfigurationError(
                f"{key}={asked[key]}: this command works in one process; leave it out (command line)"
            )
    machine = {**values["trainer"], "devices": 1, "nodes": 1, "strategy": "auto"}
    if "trainer" not in asked and "trainer.accelerator" not in asked and machine["accelerator"] != "cpu":
        machine["accelerator"] = "auto"
    return {**values, "trainer": machine}


def _chosen(group: str, choice: str) -> Any:
    """Return what a choice of a group says, as in `etude train`, without any experiment's own values."""
    return Composer(CONF, "train").compose(["~experiment", f"{group}={choice}"]).config[group]


def _advice(config: DictConfig, key: str, allowed: Sequence[str]) -> str:
    """Say which key may be meant, or which choice of its group has it."""
    known = [name for name in _keys(config) if within(name, allowed)]
    near = difflib.get_close_matches(key, known, 1)
    group, _, inner = key.partition(".")
    having = [path.stem for path in sorted((CONF / group).glob("*.yaml")) if inner and inner in OmegaConf.load(path)]
    if having and group in config:
        return f"choose as well {group}={having[0]}, which has it"
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


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
