"""Each module is imported by a test, names mean one thing in the whole house, and no room is crowded."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCE = ROOT / "src" / "etude"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if "__pycache__" not in path.parts)
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if "__pycache__" not in path.parts)
TASKS = {
    "translation",
    "summarization",
    "masked_lm",
    "causal_lm",
    "classification",
    "multilabel",
    "regression",
    "token_classification",
    "question_answering",
}
MOST_MODULES, LARGEST_SHARE = 20, 0.15


def dotted(path: Path) -> str:
    """Return a module's name, such as `etude.data.plan`."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted(path): path for path in MODULES}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> set[str]:
    """Return what a file imports of etude: modules, and names inside modules, both dotted."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.partition(".")[0] == "etude"}


def texts_of(path: Path) -> set[str]:
    """Return the strings of a file that are names of modules: what `_target_`, `monkeypatch` and `-m` are given."""
    strings = {
        node.value for node in ast.walk(tree_of(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {text for text in strings if text.startswith("etude.") and text.replace(".", "").replace("_", "").isalnum()}


def defined_in(name: str) -> str:
    """Return the module that a dotted name leads to: itself, its parent, or what a package takes the name from."""
    package, _, last = name.rpartition(".")
    if name in NAMES or package not in NAMES:
        return name
    for node in tree_of(NAMES[package]).body:
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == last for alias in node.names):
            return node.module or package
    return package


@cache
def covered() -> frozenset[str]:
    """Return the modules that a test imports or names."""
    others = [path for path in TESTS if path != Path(__file__)]  # which lists names and tests none of them
    return frozenset(defined_in(name) for path in others for name in imports_of(path) | texts_of(path))


@pytest.mark.parametrize("name", [name for name, path in NAMES.items() if path.stem not in ("__init__", "__main__")])
def test_a_module_is_imported_by_a_test(name: str) -> None:
    assert name in covered(), f"no file in tests/ imports {name}; write a test of what it has"


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_import_public_names(path: Path) -> None:
    private = {
        name
        for name in imports_of(path)
        if any(part.startswith("_") for part in name.split(".") if part != "__version__")
    }
    assert not private, f"{path.relative_to(ROOT)} imports {', '.join(sorted(private))}"


@pytest.mark.parametrize(
    "room", sorted({path.parent for path in MODULES}), ids=lambda path: str(path.relative_to(SOURCE.parent))
)
def test_a_room_is_not_crowded(room: Path) -> None:
    modules = [path for path in MODULES if path.parent == room]
    assert len(modules) <= MOST_MODULES, f"{room.relative_to(ROOT)} has {len(modules)} modules"
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    share = sum(lines[path] for path in modules) / sum(lines.values())
    assert share <= LARGEST_SHARE, f"{room.relative_to(ROOT)} has {share:.0%} of the lines"


def test_a_name_means_one_module() -> None:
    shared = TASKS | {"base", "__init__"}
    counts = Counter(path.stem for path in MODULES if path.stem not in shared)
    rooms = Counter(path.name for path in {path.parent for path in MODULES} if path != SOURCE)
    twice = {name for name, count in (counts + rooms).items() if count > 1}
    assert not twice, f"there are several {', '.join(sorted(twice))}"


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_tasks_name_stands_in_the_rooms_of_tasks_data_and_metrics_only(task: str) -> None:
    assert {path.parent.name for path in MODULES if path.stem == task} <= {"data", "tasks", "metrics"}


def test_a_name_means_one_class() -> None:
    found = Counter(
        node.name
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    twice = {name for name, count in found.items() if count > 1}
    assert not twice, f"there are several classes {', '.join(sorted(twice))}"
