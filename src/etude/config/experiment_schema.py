"""The JSON Schema of an experiment's file: what it may choose, and the keys of what it has chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from etude.config.annotations import TARGET
from etude.config.compose import CONF, Composer
from etude.config.json_schema import NODE, REFERENCE, Schema, any_of, definitions, of_node, of_section
from etude.config.schema import NODES, Config

_DRAFT = "http://json-schema.org/draft-07/schema#"
_SELF = "_self_"
_NULL: Schema = {"type": "null"}


class ExperimentSchema:
    """Makes the schema.

    Args:
        extra: A folder of the user's own groups (`--config-dir`), searched before etude's.
    """

    def __init__(self, extra: Path | None = None) -> None:
        self._composer = Composer(CONF, "train", extra)

    def schema(self) -> Schema:
        """Return the schema of a file in `conf/experiment/`.

        A key of a group may be one of any choice, unless the file's defaults choose; then it is one of that choice.

        Raises:
            ConfigurationError: If a file of a group cannot be composed.
        """
        root = of_section(Config)
        properties = root["properties"]
        conditions = []
        for group in NODES:
            properties[group] = self._described(
                properties[group], any_of([*map(partial(_reference, group), self._choices[group]), _NULL])
            )
            conditions += [_if_chosen(group, name) for name in self._choices[group]]
        properties["callbacks"] = self._described(properties["callbacks"], self._callbacks())
        properties["defaults"] = self._defaults()
        choices = {f"{group}.{name}": node for group in NODES for name, node in self._choices[group].items()}
        return {
            "$schema": _DRAFT,
            "title": "An experiment of etude",
            "definitions": {**definitions(), **choices},
            **root,
            "allOf": [*conditions, *self._if_not_chosen()],
        }

    @staticmethod
    def _described(old: Schema, new: Schema) -> Schema:
        return {**new, "description": old["description"]} if "description" in old else new

    @cached_property
    def _groups(self) -> list[str]:
        return [group for group in NODES if group in self._composer.groups()]

    @cached_property
    def _choices(self) -> Mapping[str, Mapping[str, Schema]]:
        """Schemas of the nodes of each group by choice."""
        found: dict[str, dict[str, Schema]] = {group: {} for group in NODES}
        for group in self._groups:
            parts = dict(self._part(group, part) for part in self._composer.parts(group))
            for name in self._composer.options(group):
                node = self._layered(group, name)
                found[group][name] = of_node(node, parts) if TARGET in node else dict(_NULL)
        return found

    def _layered(self, folder: str, name: str) -> dict[str, Any]:
        """Return what a choice writes, over what the choices beside it write that its defaults name."""
        values = self._composer.written(f"{folder}/{name}")
        layers = [
            self._layered(folder, base)
            for base in values.pop("defaults", ())
            if isinstance(base, str) and base != _SELF
        ]
        merged = OmegaConf.to_container(OmegaConf.merge(*layers, values), resolve=False)
        assert isinstance(merged, dict)  # noqa: S101 (for type checkers)
        return {str(key): value for key, value in merged.items()}

    def _part(self, group: str, part: str) -> tuple[str, Schema]:
        """Return the key of a part of a group's node that is chosen by itself, such as `model/positions`, and its schema."""
        folder = f"{group}/{part}"
        names = self._composer.options(folder)
        nodes = [node for name in names if TARGET in (node := self._layered(folder, name))]
        package = self._composer.package(f"{folder}/{names[0]}") or part
        return package.rpartition(".")[2], any_of([*map(of_node, nodes), _NULL])

    def _callbacks(self) -> Schema:
        """Return the schema of callbacks by name; null takes one away."""
        names: dict[str, list[Schema]] = {}
        for choice in self._composer.options("callbacks"):
            for name, node in self._layered("callbacks", choice).items():
                names.setdefault(name, []).append(of_node(node) if isinstance(node, Mapping) else dict(_NULL))
        known = {name: any_of([*nodes, _NULL]) for name, nodes in names.items()}
        return {"type": "object", "properties": known, "additionalProperties": any_of([NODE, _NULL])}

    def _chosen(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each group and part with its choices."""
        for group in self._composer.groups():
            yield group, self._composer.options(group)
            for part in self._composer.parts(group):
                yield f"{group}/{part}", self._composer.options(f"{group}/{part}")

    def _defaults(self) -> Schema:
        """Return the schema of a defaults list: `- override /model: encoder`."""
        properties: Schema = {}
        for group, names in self._chosen():
            choice: Schema = {"anyOf": [{"enum": names}, _NULL, REFERENCE]}
            properties[f"override /{group}"] = choice
            properties[f"/{group}"] = choice
        choices = {"type": "object", "properties": properties, "additionalProperties": False}
        return {
            "type": "array",
            "description": "the choices of groups that this experiment makes, in place of those of conf/train.yaml",
            "items": {"anyOf": [{"type": "string"}, choices]},
        }

    def _if_not_chosen(self) -> Iterator[Schema]:
        """Yield the schema of each group that a file leaves as `conf/train.yaml` has it."""
        for default in self._composer.written("train")["defaults"]:
            group, name = next(iter(default.items())) if isinstance(default, Mapping) else ("", "")
            if name in self._choices.get(group, {}):
                chosen = {"required": ["defaults"], "properties": {"defaults": _contains(group, {})}}
                yield {"if": {"not": chosen}, "then": _is_choice(group, name)}


def _reference(group: str, name: str) -> Schema:
    return {"$ref": f"#/definitions/{group}.{name}"}


def _is_choice(group: str, name: str) -> Schema:
    return {"properties": {group: any_of([_reference(group, name), _NULL])}}


def _if_chosen(group: str, name: str) -> Schema:
    """Return the schema of a file whose defaults make a choice, and which then has the keys of that choice."""
    chosen = {"required": ["defaults"], "properties": {"defaults": _contains(group, {"const": name})}}
    return {"if": chosen, "then": _is_choice(group, name)}


def _contains(group: str, choice: Schema) -> Schema:
    """Return the schema of a defaults list that makes a choice of a group."""
    keys = (f"override /{group}", f"/{group}")
    return {"contains": {"anyOf": [{"type": "object", "required": [key], "properties": {key: choice}} for key in keys]}}
