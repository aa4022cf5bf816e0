"""Origins of configuration values: the command line, or a line of a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where it is installed, is ten times as fast
_OVERRIDE = re.compile(r"[+~]*([^=@]+)(?:@[^=]*)?(?:=(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """A configuration file and its place in the composition.

    Attributes:
        path: Path of the file.
        package: Dotted key of the part of the configuration that it fills; empty for the root.
        root: Content as YAML nodes, which have line numbers.
        shown: Name of the file in messages.
    """

    path: Path
    package: str
    root: yaml.Node | None
    shown: str

    @classmethod
    def read(cls, path: Path, package: str = "", base: Path | None = None) -> Source:
        """Read a file, whose name in messages is relative to the working directory or else to `base`."""
        folder = next((folder for folder in (Path.cwd(), base) if folder and path.is_relative_to(folder)), None)
        shown = str(path.relative_to(folder)) if folder else str(path)
        return cls(path, package, yaml.compose(path.read_text(encoding="utf-8"), Loader=_LOADER), shown)

    def find(self, key: str) -> tuple[int, yaml.Node] | None:
        """Return the line number, from 1, and the value of a key of the whole configuration, if the file sets it."""
        parts = key.split(".")
        inside = self.package.split(".") if self.package else []
        if parts[: len(inside)] != inside or len(parts) == len(inside):
            return None
        node, line = self.root, 0
        for part in parts[len(inside) :]:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            pair = next((pair for pair in pairs if pair[0].value == part), None)
            if pair is None:
                return None
            line, node = pair[0].start_mark.line + 1, pair[1]
        return (line, node) if node is not None else None

    def scalars(self, group: str) -> Iterator[tuple[str, str]]:
        """Yield the dotted keys of a group in the file and the text of their values."""
        for key, text in _scalars(self.package, self.root):
            if key.startswith(f"{group}."):
                yield key, text


def _scalars(key: str, node: yaml.Node | None) -> Iterator[tuple[str, str]]:
    if isinstance(node, yaml.ScalarNode):
        yield key, node.value
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        yield from _scalars(f"{key}.{name.value}" if key else name.value, value)


@dataclass(frozen=True)
class Origins:
    """All origins of a configuration.

    Attributes:
        overrides: Overrides of the command line.
        sources: Files, in the order in which they overlay each other.
    """

    overrides: Sequence[str]
    sources: Sequence[Source]

    def of(self, key: str) -> str:
        """Return the origin of a key's value or of its parent's: `command line`, or `conf/train.yaml:20`."""
        while key:
            if self.on_command_line(key):
                return "command line"
            for source in reversed(self.sources):
                if place := source.find(key):
                    return f"{source.shown}:{place[0]}"
            key = key.rpartition(".")[0]
        return "the configuration"

    def scalar(self, key: str) -> str | None:
        """Return the text of a key's value, if it is an unquoted scalar in a file."""
        if self.on_command_line(key):
            return None
        for source in reversed(self.sources):
            if place := source.find(key):
                node = place[1]
                return node.value if isinstance(node, yaml.ScalarNode) and not node.style else None
        return None

    def on_command_line(self, key: str) -> bool:
        """Return whether an override sets the key or a parent of it."""
        for override in self.overrides:
            written = _OVERRIDE.fullmatch(override)
            name, value = (written[1], written[2]) if written else ("", None)
            chosen = f"/{name.replace('.', '/')}/{value}.yaml"
            if f"{key}.".startswith(f"{name}.") and not any(str(file.path).endswith(chosen) for file in self.sources):
                return True
        return False
