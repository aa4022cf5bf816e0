"""The check of a composed configuration, before anything heavy is imported.

A wrong key or value ends in one line that says which, what would be right, and where it was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from etude.config.annotations import TARGET
from etude.config.case import Case, join
from etude.config.nodes import MARKS, check_nodes, check_root, check_yaml
from etude.config.origins import Origins, Source
from etude.config.rules import RULES
from etude.config.signatures import Signature, signature


def check(config: DictConfig, overrides: Sequence[str] = (), sources: Sequence[Source] = ()) -> None:
    """Refuse a configuration that cannot be run, whatever the data.

    Args:
        config: The composed configuration, not resolved.
        overrides: What was written on the command line, such as `model.width=512`.
        sources: The files that it was composed of.

    Raises:
        ConfigurationError: At the first thing that is wrong.
    """
    case = Case.open(config, Origins(overrides, sources))
    for rule in (check_yaml, check_root, check_nodes, *RULES):
        rule(case)


def plain(config: DictConfig) -> dict[str, Any]:
    """Resolve a checked configuration and leave out the variables beside arguments: what can be instantiated.

    What a checked node holds besides arguments are variables, to which `${…}` elsewhere in its group refers: `root` in
    `conf/data/parallel.yaml`. Optional groups that are absent become null; null callbacks are left out.
    """
    case = Case.open(config, Origins((), ()))
    values = {name: _without_variables(case, name, value) for name, value in case.values.items()}
    callbacks = {name: node for name, node in (values.get("callbacks") or {}).items() if node is not None}
    return {"decoding": None, "logger": None, **values, "callbacks": callbacks}


def _referred(case: Case, key: str, taken: Signature | None) -> set[str]:
    return case.variables(key, taken) if taken else set()


def _without_variables(case: Case, key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_without_variables(case, join(key, str(index)), item) for index, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    taken = signature(value[TARGET]) if TARGET in value else None
    names = MARKS | taken.parameters.keys() if taken and not taken.open else value.keys() - _referred(case, key, taken)
    kept = {name: item for name, item in value.items() if name in names}
    return {name: _without_variables(case, join(key, name), item) for name, item in kept.items()}
