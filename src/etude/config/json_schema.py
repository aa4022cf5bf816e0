"""The schema that a configuration is checked against, as JSON Schema: root keys, nodes, annotations.

Files in `conf/experiment/` are overlays, so nothing is required, and `${…}` and `???` may stand for any value.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, get_type_hints

from etude.config.annotations import (
    MARKS,
    PARTIAL,
    TARGET,
    Annotation,
    Choice,
    DictOf,
    Either,
    ListOf,
    Scalar,
    TupleOf,
)
from etude.config.modules import Definition, resolve
from etude.config.signatures import ancestry, signature
from etude.duration import SCALES, SECONDS, UNITS, Duration

Schema = dict[str, Any]
"""A JSON Schema as plain values."""

REFERENCE: Schema = {"$ref": "#/definitions/reference"}
"""A value that another one gives (`${…}`), or that is still to be given (`???`)."""

NODE: Schema = {"$ref": "#/definitions/node"}
"""An object of any class."""

_COUNTED = [name for name, unit in UNITS.items() if unit not in SECONDS]
_TIMED = [name for name, unit in UNITS.items() if unit in SECONDS]
_SCALARS: Mapping[str, Schema] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "str": {"type": "string"},
    "Path": {"type": "string"},
    "null": {"type": "null"},
    "duration": {
        "type": "string",
        "pattern": rf"^\s*\d+(\.\d+)?\s*({'|'.join(filter(None, SCALES))})?({'|'.join(_COUNTED)})\s*$"
        rf"|^\s*\d+(\.\d+)?\s*({'|'.join(_TIMED)})\s*$",
        "description": "a number with a unit: 20000step, 10epoch, 300Mtok, 90s, 30min or 2h",
    },
}
_ARGUMENT = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def definitions() -> Schema:
    """Return the definitions that schemas refer to."""
    target = {"type": "string", "pattern": r"^[^\W\d]\w*(\.[^\W\d]\w*)+$", "description": "dotted name of a class"}
    return {
        "reference": {"type": "string", "pattern": r"\$\{|^\?\?\?$", "description": "a value that another one gives"},
        "node": {"type": "object", "properties": {TARGET: target, PARTIAL: {"type": "boolean"}}},
    }


def of_annotation(annotation: Annotation) -> Schema:
    """Return the schema of the values that an annotation accepts, or of less where JSON Schema cannot say it."""
    match annotation:
        case Scalar(kind=kind):
            return dict(_SCALARS[kind])
        case Choice(values=values):
            return {"enum": list(values)}
        case ListOf(item=item):
            return {"type": "array", "items": _or_reference(of_annotation(item))}
        case TupleOf(items=items):
            schemas = [_or_reference(of_annotation(item)) for item in items]
            return {"type": "array", "items": schemas, "minItems": len(items), "maxItems": len(items)}
        case DictOf(item=item):
            return {"type": "object", "additionalProperties": _or_reference(of_annotation(item))}
        case Either(members=members):
            return any_of(map(of_annotation, members))
        case _ if annotation.accepts({TARGET: "", PARTIAL: True}) and not annotation.accepts(0):
            return dict(NODE)
    return {}


def of_section(section: type) -> Schema:
    """Return the schema of a section of the root: one of the dataclasses of `etude.config.schema`."""
    hints, properties = get_type_hints(section), {}
    constructor = signature(f"{section.__module__}.{section.__qualname__}")
    texts = _field_texts(section)
    for name, parameter in constructor.parameters.items() if constructor else ():
        inner = hints[name]
        is_section = dataclasses.is_dataclass(inner) and isinstance(inner, type) and inner is not Duration
        value = of_section(inner) if is_section else _or_reference(of_annotation(parameter.annotation))
        properties[name] = _described(value, texts.get(name, ""))
    return {"type": "object", "properties": properties, "additionalProperties": False}


def of_node(node: Mapping[str, Any], parts: Mapping[str, Schema] | None = None) -> Schema:
    """Return the schema of an overlay on a node: other values of its arguments, or another `_target_` with any.

    Args:
        node: The node as a choice of its group writes it, with the nodes inside.
        parts: Schemas of the nodes inside that are choices themselves, by their argument.
    """
    target, definition = str(node.get(TARGET, "")), resolve(str(node.get(TARGET, "")))
    constructor = signature(target) if definition else None
    if constructor is None or definition is None:
        return dict(NODE)
    texts, properties = _argument_texts(definition), {}
    for name, parameter in constructor.parameters.items():
        inner = node.get(name)
        if name in (parts or {}):
            value = (parts or {})[name]
        elif isinstance(inner, Mapping) and TARGET in inner:
            value = of_node(inner)
        else:
            value = of_annotation(parameter.annotation)
            value = _with_nodes(value, inner) if isinstance(inner, Mapping) else value
        properties[name] = _described(_or_reference(value), texts.get(name, ""))
    # Other keys are variables, which `${…}` elsewhere in the group refers to.
    properties |= {name: {} for name in node if name not in properties and name not in MARKS}
    marks: Schema = {TARGET: {"const": target}, PARTIAL: {"type": "boolean"}}
    own = {"type": "object", "properties": {**marks, **properties}, "additionalProperties": constructor.open}
    other = {"required": [TARGET], "properties": {TARGET: {"not": {"const": target}}}}
    # A tool that completes keys looks at each alternative.
    return {"type": "object", "if": other, "then": dict(NODE), "else": own}


def any_of(schemas: Iterable[Schema]) -> Schema:
    """Return a schema of what one of several allows."""
    distinct: list[Schema] = []
    for schema in schemas:
        for one in schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]:
            if one not in distinct:
                distinct.append(one)
    return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}


def _or_reference(schema: Schema) -> Schema:
    return any_of([schema, REFERENCE]) if schema else {}


def _with_nodes(schema: Schema, values: Mapping[str, Any]) -> Schema:
    """Return the schema of a mapping whose nodes a choice names, as `task.metrics` does; more may be added, or taken away."""
    nodes = {
        name: any_of([of_node(node), {"type": "null"}]) for name, node in values.items() if isinstance(node, Mapping)
    }
    kinds = schema.get("anyOf", [schema])
    return any_of({**kind, "properties": nodes} if kind.get("type") == "object" and nodes else kind for kind in kinds)


def _described(schema: Schema, text: str) -> Schema:
    return {**schema, "description": text} if text else schema


def _argument_texts(definition: Definition) -> dict[str, str]:
    """Return what the docstrings of a class and its constructors say of their arguments."""
    texts: dict[str, str] = {}
    for owner in reversed(list(ancestry(definition))):
        nodes = [
            owner.node,
            *(node for node in getattr(owner.node, "body", ()) if getattr(node, "name", "") == "__init__"),
        ]
        for node in nodes:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found = _ARGUMENT.findall(ast.get_docstring(node) or "")
                texts |= {name: " ".join(text.split()) for name, text in found}
    return texts


def _field_texts(section: type) -> dict[str, str]:
    """Return the texts that stand below the fields of a dataclass."""
    body = ast.parse(inspect.cleandoc(inspect.getsource(section))).body[0]
    statements = body.body if isinstance(body, ast.ClassDef) else []
    texts = {}
    for field, text in pairwise(statements):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            texts[field.target.id] = str(ast.literal_eval(text.value))
    return texts
