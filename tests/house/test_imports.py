"""Dependencies point down only, and plain PyTorch stays plain."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCE = ROOT / "src" / "etude"
LAYERS = [
    {
        "types",
        "duration",
        "errors",
        "seeding",
        "signals",
        "atomic",
        "growing",
        "console",
        "hub",
        "packages",
        "hardware",
        "extras",
        "untrusted",
        "schema_errors",
        "safetensors_header",
    },
    {"metrics", "tokenization"},
    {"models"},
    {"optim"},
    {"data", "tasks"},
    {"config", "checkpoints"},
    {"runs"},
    {"sweeps"},
    {"report"},
    {"training"},
    {"commands"},
    {"calling_process"},
    {"api"},
    {"cli"},
    {"__main__"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
PLAIN = {"models", "metrics", "tokenization", "optim"}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Each imported module, and whether the import stands inside a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {node for outer in ast.walk(tree) if isinstance(outer, ast.FunctionDef) for node in ast.walk(outer)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node in inner
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node in inner


FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.name != "__init__.py")


def part_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    for module, inner in imports(path):
        if module.startswith("etude."):
            other = module.split(".")[1]
            assert LEVEL[other] <= LEVEL[part], f"{part} imports {module}"
            assert other == part or LEVEL[other] < LEVEL[part] or other in LAYERS[0], (
                f"{part} imports its neighbour {module}"
            )
            # A rank forgets the working directory first, so that what lies there does not stand in for a module; a member
            # watches its parent first.
            first = part_of(path) == "cli" and path.name in ("worker.py", "fork_server.py", "member.py")
            assert not inner or first, f"{module} is imported inside"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_plain_pytorch_knows_no_framework(path: Path) -> None:
    tops = {module.split(".")[0] for module, _ in imports(path)}
    part = part_of(path)
    if part in PLAIN:
        assert not tops & {"lightning", "hydra", "omegaconf", "wandb"}
    loggers = SOURCE / "training" / "loggers"
    if path != loggers / "tracking.py" and not (path.parent == loggers and path.name.startswith("wandb_")):
        assert "wandb" not in tops
    if path != SOURCE / "training" / "build.py":
        text = path.read_text(encoding="utf-8")
        assert "hydra.utils import instantiate" not in text
    assert "pickle" not in tops
