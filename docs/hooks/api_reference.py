"""Pages of the API reference: one for each public module of `src/etude`, made when the site is built, and their place in the nav.

A page holds one line, which mkdocstrings fills from the docstrings; so there is no second text to keep true.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SOURCE = Path(__file__).parents[2] / "src" / "etude"
INDEX = "reference/index.md"


def public_modules() -> Iterator[Path]:
    """Yield the modules that have a page, in the order of their names: those with more in them than their own docstring."""
    for path in sorted(SOURCE.rglob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        if not path.name.startswith("__main__") and len(body) > 1:
            yield path


def dotted(path: Path) -> str:
    """Return a module's name, such as `etude.data.plan`."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def page_of(path: Path) -> str:
    """Return where a module's page lies below docs/."""
    return f"reference/{dotted(path).removeprefix('etude').lstrip('.').replace('.', '/') or 'etude'}.md"


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def rooms() -> dict[str, list[Path]]:
    """Return the modules of each room; those that lie in none are the ground floor."""
    found: dict[str, list[Path]] = {}
    for path in public_modules():
        parts = path.relative_to(SOURCE).parts
        found.setdefault(parts[0] if len(parts) > 1 else "ground floor", []).append(path)
    return found


def index() -> str:
    """Return the page that lists all modules, room by room, each with the first line of its docstring."""
    lines = ["# API reference", "", "Every public module, with the first line of what it says of itself."]
    for room, paths in rooms().items():
        lines += ["", f"## {room}", ""]
        for path in paths:
            lines.append(f"- [`{dotted(path)}`]({page_of(path).removeprefix('reference/')}): {first_line(path)}")
    return "\n".join(lines) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the nav: a section for each room, in the place of the API reference's index."""
    pages: list[Any] = [{"Overview": INDEX}]
    for room, paths in rooms().items():
        pages.append(
            {room: [{dotted(path).removeprefix("etude.").removeprefix(f"{room}."): page_of(path)} for path in paths]}
        )
    if config.nav is not None:
        config.nav = [{"API reference": pages} if entry == {"API reference": INDEX} else entry for entry in config.nav]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to those that lie in docs/."""
    files.append(File.generated(config, INDEX, content=index()))
    for path in public_modules():
        text = f"# {dotted(path)}\n\n::: {dotted(path)}\n"
        files.append(File.generated(config, page_of(path), content=text))
    return files
