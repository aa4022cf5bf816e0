"""Notebooks run, are what their paired scripts say, and show what came out when they ran."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOKS = ROOT / "notebooks"
SCRIPTS = sorted(NOTEBOOKS.glob("*.py"))
MACHINE = re.compile(r"(?<![\w.])/(?:tmp|home|root|usr|opt|var|work|Users)/")
NOISE = re.compile(r"Traceback|Warning|\d{4}-\d\d-\d\d[T _]\d\d[:-]\d\d|\x1b\[")
"""What no output may hold: a mistake, a warning, the time of day, or colours of a terminal."""

each_notebook = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def texts(notebook: Any) -> Iterator[str]:
    """Yield every text of the outputs."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield from [output.get("text", ""), *output.get("traceback", [])]
            yield from (value for kind, value in output.get("data", {}).items() if kind.startswith("text/"))


def without_circumstances(notebook: Any) -> Any:
    """Return an executed notebook as it is kept: without progress on stderr, times, versions and drawn ids."""
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("language_info", None)
    return notebook


def test_there_are_notebooks_and_the_readme_and_the_manual_name_them() -> None:
    assert len(SCRIPTS) >= 6
    for page in (ROOT / "README.md", ROOT / "docs" / "notebooks.md"):
        missing = [script.stem for script in SCRIPTS if script.stem not in page.read_text(encoding="utf-8")]
        assert not missing, f"{page.name} does not name {missing}"


@each_notebook
def test_a_notebook_has_the_cells_of_its_script(script: Path) -> None:
    assert cells(jupytext.read(script.with_suffix(".ipynb"))) == cells(jupytext.read(script))


@each_notebook
def test_a_notebook_shows_what_came_out(script: Path) -> None:
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    kinds = {kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert "image/png" in kinds, "no picture"
    assert script.with_suffix(".ipynb").stat().st_size < 400_000
    check_outputs(notebook)


QUICK = ("the_transformer",)
"""What is executed by every run of the tests; the others with the long proofs: together they take minutes."""


@pytest.mark.parametrize(
    "script",
    [pytest.param(path, id=path.stem, marks=() if path.stem in QUICK else pytest.mark.slow) for path in SCRIPTS],
)
def test_a_notebook_runs(script: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    notebook = jupytext.read(script)
    client = NotebookClient(notebook, timeout=500, record_timing=False, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert any(cell.get("outputs") for cell in notebook.cells)
    kept = without_circumstances(notebook)
    check_outputs(kept)
    if request.config.getoption("--write-notebooks"):
        nbformat.write(kept, script.with_suffix(".ipynb"))


def check_outputs(notebook: Any) -> None:
    for text in texts(notebook):
        for pattern in (MACHINE, NOISE):
            found = pattern.search(text)
            assert not found, text[max(0, found.start() - 100) : found.end() + 100]


def test_outputs_of_a_mistake_of_a_machine_and_of_an_hour_are_found() -> None:
    for text in ("/tmp/x", "saved to /home/me/run", "UserWarning: old", "Run('demo/2026-01-31_12-00-00')"):
        output = nbformat.v4.new_output("stream", text=text)
        with pytest.raises(AssertionError):
            check_outputs(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output])]))
    output = nbformat.v4.new_output("stream", text="outputs/translation/demo/first, 3/4, https://a.org/home/x")
    check_outputs(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output])]))
