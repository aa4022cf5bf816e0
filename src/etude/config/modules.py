"""Resolution of dotted names by reading source files: nothing is imported, so a lookup takes milliseconds.

`torch.optim.AdamW` leads from `torch/optim/__init__.py` over its `from torch.optim.adamw import AdamW` to the class.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from etude.errors import ConfigurationError

Callee = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, eq=False)
class Module:
    """A module as its source file defines it.

    Attributes:
        name: Dotted name.
        path: Path of the source file; None for a folder without `__init__.py`.
        folders: Folders of the submodules; empty for a plain module.
    """

    name: str
    path: Path | None
    folders: tuple[Path, ...]

    @cached_property
    def bindings(self) -> dict[str, ast.stmt]:
        """Statement that binds each top-level name: the last, as when the module is run."""
        bound: dict[str, ast.stmt] = {}
        for statement in _statements(self._tree.body):
            for name in _bound_names(statement):
                bound[name] = statement
        return bound

    @cached_property
    def starred(self) -> list[str]:
        """Modules of `from … import *`, the last first, since it wins."""
        return [
            self.absolute(statement)
            for statement in reversed(list(_statements(self._tree.body)))
            if isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*"
        ]

    @cached_property
    def _tree(self) -> ast.Module:
        if self.path is None:
            return ast.Module(body=[], type_ignores=[])
        about = self.path.stat()
        return _parsed(self.path, about.st_mtime_ns, about.st_size)

    def absolute(self, statement: ast.ImportFrom) -> str:
        """Return the module of `from … import`, with leading dots resolved."""
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".")
        drop = statement.level - 1 if self.folders else statement.level
        base = parts[: len(parts) - drop]
        return ".".join([*base, *([statement.module] if statement.module else [])])


@cache
def _parsed(path: Path, modified: int, size: int) -> ast.Module:
    """Parse a source file, once while it stays as it is: that takes most of the time of a lookup."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise ConfigurationError(f"{path}:{line} is not valid Python: {error}") from error


@dataclass(frozen=True, eq=False)
class Definition:
    """A class, function or expression that a name stands for, and the module that defines it."""

    module: Module
    name: str
    node: Callee | ast.expr

    @property
    def dotted(self) -> str:
        """Dotted name at the place of definition, such as `torch.optim.adamw.AdamW`."""
        return f"{self.module.name}.{self.name}"


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements in order, with those inside `if`, `try` and `with`; the first branch comes last, so that it wins."""
    for statement in body:
        if isinstance(statement, ast.If | ast.Try):
            for handler in getattr(statement, "handlers", []):
                yield from _statements(handler.body)
            yield from _statements(statement.orelse)
            yield from _statements(statement.body)
        elif isinstance(statement, ast.With):
            yield from _statements(statement.body)
        else:
            yield statement


def _bound_names(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return [name]
        case ast.ImportFrom(names=names):
            return [alias.asname or alias.name for alias in names if alias.name != "*"]
        case ast.Import(names=names):
            return [alias.asname or alias.name.partition(".")[0] for alias in names]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
            return [name]
    return []


@cache
def find_module(dotted: str) -> Module | None:
    """Return a module by its dotted name; None if it does not exist or has no source file."""
    parent, _, last = dotted.rpartition(".")
    if parent:
        package = find_module(parent)
        return _submodule(package, last) if package else None
    try:
        spec = importlib.util.find_spec(dotted)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    source = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    return Module(dotted, source, tuple(map(Path, spec.submodule_search_locations or ())))


def _submodule(package: Module, name: str) -> Module | None:
    for folder in package.folders:
        inner = folder / name
        if (inner / "__init__.py").is_file():
            return Module(f"{package.name}.{name}", inner / "__init__.py", (inner,))
        if (source := folder / f"{name}.py").is_file():
            return Module(f"{package.name}.{name}", source, ())
        if inner.is_dir():
            return Module(f"{package.name}.{name}", None, (inner,))
    return None


def lookup(module: Module, name: str, seen: frozenset[tuple[str, str]] = frozenset()) -> Definition | Module | None:
    """Return what a name means inside a module, through imports and plain aliases; None if that is not known."""
    if (module.name, name) in seen:
        return None
    seen |= {(module.name, name)}
    match module.bindings.get(name):
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() as node:
            return Definition(module, name, node)
        case ast.ImportFrom() as statement:
            return _imported(module, statement, name, seen)
        case ast.Import(names=names):
            alias = next(alias for alias in names if (alias.asname or alias.name.partition(".")[0]) == name)
            return find_module(alias.name if alias.asname else name)
        case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
            return _aliased(module, name, value, seen)
    submodule = find_module(f"{module.name}.{name}") if module.folders else None
    return submodule or _starred(module, name, seen)


def _starred(module: Module, name: str, seen: frozenset[tuple[str, str]]) -> Definition | Module | None:
    """Look a public name up in the modules of `from … import *`: `torch.nn.LayerNorm` is in `torch.nn.modules`."""
    for source in () if name.startswith("_") else module.starred:
        origin = find_module(source)
        if origin is not None and (meaning := lookup(origin, name, seen)) is not None:
            return meaning
    return None


def _imported(
    module: Module, statement: ast.ImportFrom, name: str, seen: frozenset[tuple[str, str]]
) -> Definition | Module | None:
    original = next(alias.name for alias in statement.names if (alias.asname or alias.name) == name)
    source = find_module(module.absolute(statement))
    if source is None:
        return None
    return lookup(source, original, seen) or find_module(f"{source.name}.{original}")


def _aliased(
    module: Module, name: str, value: ast.expr, seen: frozenset[tuple[str, str]]
) -> Definition | Module | None:
    if isinstance(value, ast.Name) and value.id in module.bindings:
        return lookup(module, value.id, seen)
    return Definition(module, name, value)


def expression(module: Module, node: ast.expr) -> Definition | Module | None:
    """Return what `name` or `module.name` means inside a module."""
    if isinstance(node, ast.Name):
        return lookup(module, node.id)
    if isinstance(node, ast.Attribute):
        base = expression(module, node.value)
        return lookup(base, node.attr) if isinstance(base, Module) else None
    return None


def resolve(dotted: str) -> Definition | None:
    """Return the class or function that a `_target_` names; None if it does not exist.

    Raises:
        ConfigurationError: If a source file on the way cannot be parsed.
    """
    first, *rest = dotted.split(".")
    owner: Definition | Module | None = find_module(first)
    for position, part in enumerate(rest):
        if isinstance(owner, Module):
            submodule = find_module(f"{owner.name}.{part}") if position < len(rest) - 1 else None
            owner = submodule or lookup(owner, part)
        elif owner is not None:
            owner = _member(owner, part)
    return owner if isinstance(owner, Definition) and isinstance(owner.node, Callee) else None


def _member(owner: Definition, name: str) -> Definition | None:
    """Return a method of a class."""
    for node in owner.node.body if isinstance(owner.node, ast.ClassDef) else ():
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return Definition(owner.module, f"{owner.name}.{name}", node)
    return None


def nearest(dotted: str) -> str:
    """Return advice about a name that does not resolve: the nearest name beside it, or the missing part."""
    parent, _, last = dotted.rpartition(".")
    top = dotted.partition(".")[0]
    if find_module(top) is None:
        return f"the package {top} is not installed"
    owner = find_module(parent) if parent else None
    if owner is None:
        return nearest(parent) if resolve(parent) is None else f"{parent} has no {last}"
    inner = [path.stem for folder in owner.folders for path in folder.iterdir() if path.suffix in {"", ".py"}]
    close = difflib.get_close_matches(last, [*owner.bindings, *inner], 1)
    return f"did you mean {parent}.{close[0]}?" if close else f"{parent} has no {last}"
