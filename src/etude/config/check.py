"""Check of a composed configuration, before anything heavy is imported.

A wrong key or value is refused in one line: the key, what would be right, and where it was written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from etude.config.annotations import MARKS, TARGET
from etude.config.case import Case, join
from etude.config.nodes import check_nodes, check_root, check_yaml
from etude.config.origins import Origins, Source
from etude.config.rules import RULES
from etude.config.schema import MAPPINGS, METRICS, Config
from etude.config.signatures import Signature, signature
from etude.config.trust import trusted


def check(
    config: DictConfig,
    overrides: Sequence[str] = (),
    sources: Sequence[Source] = (),
    packages: Sequence[str] | None = None,
) -> Case:
    """Refuse a configuration that cannot be run, whatever the data.

    Args:
        config: Composed configuration, not resolved. Metrics that are null are taken out of it.
        overrides: Overrides of the command line, such as `model.width=512`.
        sources: Files that it was composed of.
        packages: Packages whose classes may be instantiated besides etude's. None: those that are trusted in this process.
            What the configuration says of itself under `trust` does not count.

    Returns:
        The configuration, resolved.

    Raises:
        ConfigurationError: At the first mistake.
    """
    metrics = OmegaConf.select(config, METRICS)
    if isinstance(metrics, DictConfig):
        with open_dict(metrics):
            for name in [name for name, node in metrics.items_ex(resolve=False) if node is None]:
                del metrics[name]
    case = Case.open(config, Origins(overrides, sources), trusted() if packages is None else packages)
    for rule in (check_yaml, check_root, check_nodes, *RULES):
        rule(case)
    return case


def checked(config: DictConfig, overrides: Sequence[str] = (), sources: Sequence[Source] = ()) -> Config:
    """Check a configuration and give it its types.

    Args:
        config: Composed configuration, not resolved.
        overrides: Overrides of the command line.
        sources: Files that it was composed of.

    Raises:
        ConfigurationError: At the first mistake.
    """
    return Config.of(_values(check(config, overrides, sources)), overrides)


def plain(config: DictConfig, sources: Sequence[Source] = ()) -> dict[str, Any]:
    """Resolve a checked configuration and leave out the variables beside arguments, so that it can be instantiated.

    Keys of a checked node that are not arguments are variables, which `${…}` elsewhere in the group refers to, such as `root`
    in `conf/data/parallel.yaml`. Absent optional groups become null; callbacks and loggers that are null are left out.
    """
    return _values(Case.open(config, Origins((), sources)))


def _values(case: Case) -> dict[str, Any]:
    values = {name: _without_variables(case, name, value) for name, value in case.values.items()}
    mappings = {
        group: {name: node for name, node in (values.get(group) or {}).items() if node is not None}
        for group in MAPPINGS
    }
    return {"decoding": None, **values, **mappings}


def _variables(case: Case, key: str, constructor: Signature | None) -> set[str]:
    return case.variables(key, constructor) if constructor else set()


def _without_variables(case: Case, key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_without_variables(case, join(key, str(index)), item) for index, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    constructor = signature(value[TARGET]) if TARGET in value else None
    names: Collection[str]
    if constructor and not constructor.open:
        names = MARKS | constructor.parameters.keys()
    else:
        names = value.keys() - _variables(case, key, constructor)
    return {name: _without_variables(case, join(key, name), item) for name, item in value.items() if name in names}
