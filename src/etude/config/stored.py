"""Reading of a run's stored configuration, which may come from a stranger: plain values, nothing else, and not trusted."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MappingNode, MarkedYAMLError, YAMLError

from etude.config.annotations import TARGET
from etude.config.case import leaves
from etude.config.check import checked
from etude.config.origins import Source
from etude.config.schema import Config
from etude.config.trust import trust
from etude.errors import ConfigurationError, DataError
from etude.schema_errors import shown
from etude.untrusted import BrokenFileError, inside, read_plain_yaml, read_yaml, yaml_reason

_ADVICE = "restore the run's folder from where it was copied"
_OTHER = "read it with the version of etude that manifest.json names"
_KEYS = frozenset(one.name for one in fields(Config) if one.init)
_NEEDED = (("task", TARGET), ("validate", "metric"), ("validate", "mode"))


class _PlainLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads what OmegaConf writes: no text is a date."""


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in _PlainLoader.yaml_implicit_resolvers.items()
}


def stored_configuration(path: Path) -> Config:
    """Read and check the configuration of a run's folder.

    Args:
        path: Path of the file, `config.yaml`.

    Raises:
        DataError: If the file cannot be read, is damaged, or is a link out of its folder.
        ConfigurationError: If the configuration does not fit this version of etude, or names a class that may not be
            instantiated.
    """
    trust()  # the packages that the environment names
    tree, source = _tree(inside(path.parent, path.name, path, _ADVICE))
    if TARGET in (OmegaConf.select(tree, "logger") or {}):
        tree.logger = {"logger": tree.logger}  # of a run from before loggers had names
    if "hydra" in tree:
        raise ConfigurationError(
            f"{path} has a section hydra, which no run has: it is not read; remove it from the file"
        )
    for key, value in leaves("", OmegaConf.to_container(tree, resolve=False)):
        if isinstance(value, str) and "${" in value:
            raise ConfigurationError(
                f"{key} = {value!r} refers to another value, but a run stores values alone ({path})"
            )
    return checked(tree, (), (source,))


def stored_values(path: Path) -> dict[str, Any]:
    """Return the plain values of a run's configuration; only what every run of this version has is checked.

    For lists of many runs: `stored_configuration` checks every constructor, which takes a hundred times as long.

    Raises:
        BrokenFileError: If the file cannot be read, is damaged, is a link out of its folder, or was written by another
            version of etude.
    """
    text = read_plain_yaml(inside(path.parent, path.name, path, _ADVICE), _ADVICE)
    try:
        values = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 (derived from the safe one)
    except (YAMLError, ValueError, RecursionError) as error:
        raise BrokenFileError(path, f"is not YAML ({yaml_reason(error)})", _ADVICE) from error
    if not isinstance(values, dict):
        raise BrokenFileError(path, "has no keys", _ADVICE)
    unknown = next((key for key in values if key not in _KEYS), None)
    if unknown is not None:
        raise BrokenFileError(
            path, f"has the key {shown(str(unknown))}, which this version of etude does not know", _OTHER
        )
    for section, key in _NEEDED:
        if not isinstance(values.get(section), dict) or not isinstance(values[section].get(key), str):
            raise BrokenFileError(path, f"has no {section}.{key}, which every run of this version has", _OTHER)
    return values


def _tree(path: Path) -> tuple[DictConfig, Source]:
    text = read_yaml(path, _ADVICE)
    try:
        tree, source = OmegaConf.create(text), Source.read(path)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(f"{path}:{line}: {error.problem or error.context}; {_ADVICE}") from error
    except (OmegaConfBaseException, ValueError, RecursionError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} is not a run's configuration ({reason}); {_ADVICE}") from error
    if not isinstance(tree, DictConfig) or not isinstance(source.root, MappingNode) or not tree:
        raise DataError(f"{path} is not a run's configuration: it has no keys; {_ADVICE}")
    return tree, source
