"""What is imported is declared, what is declared is locked, and private parts of a library bind it to a version."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(text) for text in texts] for name, texts in PROJECT["optional-dependencies"].items()}
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
PINS = {canonicalize_name(name): pin for name, _, pin in (line.partition("==") for line in LOCK)}
LOCKED = [*NEEDED, *EXTRAS["dev"], *EXTRAS["docs"], *EXTRAS["export"]]
IN_THE_SAME_FOLDER = {"accelerate", "pynvml", "tests", "etude", "ranker", "exploding", "killing", "processes"}
"""What tests import that no extra of theirs declares: etude itself, their own modules, and what some machines have."""


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def distributions_of(name: str) -> set[str]:
    """Return the distributions that a module of this environment may come from."""
    return {canonicalize_name(found) for found in installed().get(name, ())}


@cache
def installed() -> Mapping[str, list[str]]:
    return packages_distributions()


def test_what_src_imports_is_declared_and_nothing_else_is() -> None:
    words = [sys.executable, "-m", "deptry", "--no-ansi", "src"]
    checked = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_what_tests_import_is_declared() -> None:
    declared = {canonicalize_name(requirement.name) for requirement in [*LOCKED, *EXTRAS["bench"]]}
    own = {path.stem for path in sources("tests")} | IN_THE_SAME_FOLDER
    for path in [*sources("tests"), *sources("examples"), *sources("notebooks"), *sources("docs")]:
        for name in imported(path):
            top = name.partition(".")[0]
            if top not in own and top not in sys.stdlib_module_names:
                assert distributions_of(top) & declared, f"{path.relative_to(ROOT)} imports {top}"


def test_the_lock_is_sorted_and_pins_each_package_once() -> None:
    assert sorted(LOCK, key=str.lower) == LOCK
    assert len(PINS) == len(LOCK)
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in LOCK), "one package at one version, of no local build"
    assert "etude" not in PINS


@pytest.mark.parametrize("requirement", LOCKED, ids=str)
def test_the_lock_is_within_what_is_declared(requirement: Requirement) -> None:
    pin = PINS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin, prereleases=True)


@pytest.mark.parametrize("requirement", LOCKED, ids=str)
def test_the_environment_is_within_what_is_declared(requirement: Requirement) -> None:
    assert requirement.specifier.contains(version(requirement.name), prereleases=True)


@pytest.mark.parametrize("requirement", [*NEEDED, *(r for extra in EXTRAS.values() for r in extra)], ids=str)
def test_each_requirement_has_a_floor(requirement: Requirement) -> None:
    assert any(part.operator == ">=" for part in requirement.specifier)


def test_a_library_whose_private_parts_are_used_has_a_ceiling() -> None:
    bounded = {canonicalize_name(r.name) for r in NEEDED if any(part.operator == "<" for part in r.specifier)}
    found = set()
    for path in sources("src"):
        for name in imported(path):
            top, *rest = name.split(".")
            if top != "etude" and any(part.startswith("_") and part != "__version__" for part in rest):
                found.add(top)
                assert distributions_of(top) & bounded, f"{path.relative_to(ROOT)} imports {name}"
    assert {"lightning", "hydra"} <= found
