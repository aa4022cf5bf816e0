"""Reading of a run's stored configuration, which may come from a stranger: plain values, nothing else, and not trusted."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MappingNode, MarkedYAMLError

from etude.config.annotations import TARGET
from etude.config.case import leaves
from etude.config.check import checked
from etude.config.origins import Source
from etude.config.schema import Config
from etude.config.trust import trust
from etude.errors import ConfigurationError, DataError
from etude.untrusted import inside, read_yaml

_ADVICE = "restore the run's folder from where it was copied"


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
