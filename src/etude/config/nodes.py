"""Check of keys and types: the root against its dataclasses, each node against the signature of its `_target_`."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_type_hints

from etude.config.annotations import MARKS, PARTIAL, TARGET, Annotation, shown
from etude.config.case import Case, join, leaves
from etude.config.choices import GROUPS, is_choice, kinds_of
from etude.config.modules import nearest, resolve
from etude.config.schema import MAPPINGS, NODES, Config
from etude.config.signatures import Signature, signature
from etude.config.trust import VARIABLE
from etude.duration import Duration

TRUSTED = (
    "etude",
    "torch.nn",
    "torch.optim",
    "torchmetrics",
    "lightning.pytorch.loggers",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.profilers",
)
"""Packages that a `_target_` may name without trust."""

INJECTED: Mapping[str, frozenset[str]] = {
    "model": frozenset({"facts"}),
    "task": frozenset({"facts", "model", "optimizer", "scheduler", "decoding", "clock"}),
    "data": frozenset({"settings"}),
    "logger": frozenset({"save_dir"}),
}
"""Arguments that `etude.training.build` supplies to the object of a group, and a configuration leaves out."""

PARTS: Mapping[str, frozenset[str]] = {
    "model.embeddings": frozenset({"source_vocabulary", "target_vocabulary", "width"}),
    "model.positions": frozenset({"width", "heads", "max_length"}),
    "model.norm": frozenset({"normalized_shape"}),
    "model.residual": frozenset({"width", "dropout", "norm"}),
    "model.feed_forward_layer": frozenset({"width", "feed_forward", "dropout"}),
}
"""Arguments that a model supplies to its parts, which are nodes with `_partial_`."""

YAML_NUMBER = re.compile(r"[-+]?(?:0[0-7_]+|\d+(?::[0-5]?\d)+)")
"""Plain scalars that YAML 1.1 silently reads as another number: `012` is octal, `1:30` is sexagesimal."""


def check_yaml(case: Case) -> None:
    """Refuse numbers that YAML reads differently from what is written."""
    for key, value in leaves("", case.values):
        if not isinstance(value, int):
            continue
        text = case.origins.scalar(case.written(key))
        if text is not None and YAML_NUMBER.fullmatch(text):
            case.fail(key, f"= {text} is read by YAML as {value}; write the plain number, or quote it: '{text}'")


def check_root(case: Case) -> None:
    """Check the keys of the root and of its sections against their dataclasses."""
    _check_section(case, "", case.values, Config)


_hints = functools.cache(get_type_hints)


def _check_section(case: Case, key: str, values: Mapping[str, Any], section: type) -> None:
    constructor = signature(f"{section.__module__}.{section.__qualname__}")
    if constructor is None:
        raise LookupError(section)
    owner = "a configuration" if section is Config else key
    for name in values:
        if name not in constructor.parameters:
            _fail_unknown(case, key, name, constructor.parameters, owner)
    hints = _hints(section)
    for name, parameter in constructor.parameters.items():
        inner, is_group = join(key, name), section is Config and name in GROUPS
        if parameter.required and (name not in values or (name in NODES and values[name] is None)):
            case.fail(inner, f"is {'null' if name in values else 'missing'}, but every run needs it")
        if name not in values or is_group:
            continue  # what a group holds is for `check_nodes`
        if dataclasses.is_dataclass(hints[name]) and hints[name] is not Duration:
            if not isinstance(values[name], Mapping):
                names = ", ".join(field.name for field in dataclasses.fields(hints[name]))
                case.fail(inner, f"= {shown(values[name])}, but {name} has keys of its own: {names}")
            _check_section(case, inner, values[name], hints[name])
        else:
            _check_value(case, inner, values[name], parameter.annotation, inner)


def check_nodes(case: Case) -> None:
    """Check every node against the signature of its `_target_`."""
    groups = {name: case.values.get(name) for name in NODES}
    for group in MAPPINGS:
        groups |= _named_nodes(case, group)
    for key, value in groups.items():
        if value is not None and not isinstance(value, Mapping):
            case.fail(
                key, f"= {shown(value)}, but it names a class and its arguments; choose {key}=…, a file of its group"
            )
        if value is not None and TARGET not in value:
            first = next(iter(value), None)
            choose = f"choose {key}=…" if "." not in key else f"write {key}.{TARGET}=…"
            case.fail(f"{key}.{first}" if first else key, f"is given, but {key} names no class; {choose}")
    for key, node in case.mappings:
        if TARGET in node:
            _check_node(case, key, node)


def _named_nodes(case: Case, group: str) -> dict[str, Any]:
    """Return the nodes of a group that holds them by name, by dotted key."""
    named = case.values.get(group) or {}
    if not isinstance(named, Mapping):
        case.fail(group, f"= {shown(named)}, but it takes nodes by name; write {group}.NAME.{TARGET}=…")
    if TARGET in named:
        header = f"# @package {group}.NAME"
        case.fail(f"{group}.{TARGET}", f"has no name: {group} holds nodes by name; let the file begin with '{header}'")
    for name, value in named.items():
        if value is not None and not isinstance(value, Mapping):
            owners = [other for other, node in named.items() if isinstance(node, Mapping) and name in node]
            advice = f"did you mean {group}.{owners[0]}.{name}?" if owners else f"write {group}.NAME.{TARGET}=…"
            case.fail(f"{group}.{name}", f"= {shown(value)}, but {group} holds nodes by name; {advice}")
    return {f"{group}.{name}": value for name, value in named.items()}


def _check_node(case: Case, key: str, node: Mapping[str, Any]) -> None:
    constructor = _target(case, f"{key}.{TARGET}", node[TARGET])
    variables = case.variables(key, constructor)
    for name, value in node.items():
        if name in MARKS or name in variables:
            continue
        parameter = constructor.parameters.get(name)
        if parameter is None and not constructor.open:
            _fail_unknown(case, key, name, constructor.parameters, constructor.name)
        elif parameter is not None:
            _check_value(case, join(key, name), value, parameter.annotation, constructor.name)
    if not isinstance(node.get(PARTIAL, False), bool):
        case.fail(f"{key}.{PARTIAL}", f"= {shown(node[PARTIAL])} is neither true nor false")
    available = set(node) | _injected(key)
    for name, parameter in constructor.parameters.items():
        if parameter.required and name not in available and not node.get(PARTIAL):
            case.fail(join(key, name), f"is missing: {constructor.name} needs it; write +{join(key, name)}=…")


def _injected(key: str) -> frozenset[str]:
    """Return the arguments that the node at a dotted key is given besides those that are written."""
    group, _, name = key.partition(".")
    is_group = bool(name) and "." not in name if group in MAPPINGS else not name
    return INJECTED.get(group, frozenset()) if is_group else frozenset()


def _target(case: Case, key: str, target: Any) -> Signature:
    """Return the signature of a `_target_`, which must exist and be allowed."""
    if not isinstance(target, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", target):
        case.fail(key, f"= {shown(target)} is not a dotted name such as etude.models.seq2seq.Seq2Seq")
    allowed = (*TRUSTED, *case.trusted)
    if not _under(target, allowed):
        case.fail(key, f"= {target} may not be instantiated: {_outside(case, target)}")
    constructor, definition = signature(target), resolve(target)
    if constructor is None or definition is None:
        case.fail(key, f"= {target} cannot be found: {nearest(target)}")
    if not _under(definition.dotted, allowed):
        origin = definition.dotted
        case.fail(key, f"= {target} may not be instantiated: it is {origin}, which is outside etude and trust")
    if not _under(definition.dotted, case.trusted) and not is_choice(definition):
        case.fail(key, f"= {target} may not be instantiated: it is not a class to choose from; {_advice(key)}")
    return constructor


def _outside(case: Case, target: str) -> str:
    """Say why a target outside etude is refused, and who may allow it."""
    top = target.partition(".")[0]
    if _under(target, case.values.get("trust", ())):
        return (
            f"the run names {top} under trust, but only you can give it; if you know what that package does, add "
            f"trust=[{top}] to the command, or set {VARIABLE}={top}"
        )
    return f"it is outside etude; to allow it add '{top}' to trust"


def _advice(key: str) -> str:
    """Say which classes the node of a `_target_` may name."""
    kinds = kinds_of(key.removesuffix(f".{TARGET}"))
    if not kinds:
        return "choose a file of the group, or write a class of the kind that this argument takes"
    return f"choose {key.partition('.')[0]}=…, or write a class derived from {' or '.join(kind.base for kind in kinds)}"


def _under(target: str, packages: Sequence[str]) -> bool:
    return any(f"{target}.".startswith(f"{package}.") for package in packages)


def _check_value(case: Case, key: str, value: Any, annotation: Annotation, owner: str) -> None:
    if annotation.accepts(value):
        return
    hint = ""
    if isinstance(value, bool | int | float) and annotation.accepts(str(value)):
        text = case.origins.scalar(case.written(key))
        hint = f"; quote it: '{text}'" if text else f"; quote it: {key}=\"'{shown(value)}'\""
    elif isinstance(value, float) and value.is_integer() and annotation.accepts(int(value)):
        hint = f"; write {int(value)}"
    case.fail(key, f"= {shown(value)}, but {owner} takes {annotation}{hint}")


def _fail_unknown(case: Case, key: str, name: str, names: Iterable[str], owner: str) -> None:
    """Refuse an unknown key, and suggest the nearest key beside it or the same name elsewhere."""
    full = join(key, name)
    near = [join(key, close) for close in difflib.get_close_matches(name, list(names), 1)]
    elsewhere = [join(place, name) for place, node in case.mappings if name in node and join(place, name) != full]
    close = [*near, *elsewhere]
    advice = f"did you mean {close[0]}?" if close else f"its keys are {', '.join(names) or 'none'}"
    case.fail(full, f"is not a key of {owner}; {advice}")
