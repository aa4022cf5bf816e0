"""The wheel has all that etude needs, and works where there is no checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import etude
from tests.conftest import ROOT

PACKAGE = ROOT / "src" / "etude"


def run(*words: str, folder: Path, path: Path | None = None) -> str:
    """Run a module of Python in a folder and return what it writes.

    What is in `path` comes before the packages of this environment, the checkout among them.
    """
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-m", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    run("build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT), folder=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed in; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    run("pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), str(wheel), folder=folder)
    return folder


def test_the_wheel_has_every_file_of_the_package_and_of_conf(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("etude/")}
    own = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    wanted = {f"etude/{path.relative_to(PACKAGE)}" for path in own}
    conf = {f"etude/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert names == wanted | conf
    assert {"etude/py.typed", "etude/report/style.css", "etude/report/page.html.jinja"} <= names


def test_the_version_is_written_once(wheel: Path) -> None:
    assert wheel.name == f"etude-{etude.__version__}-py3-none-any.whl"
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in declared
    assert f'version = "{etude.__version__}"' not in declared


def test_the_installed_command_answers_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    assert run("etude", "--version", folder=tmp_path, path=installed).strip() == f"etude {etude.__version__}"
    assert "usage: etude COMMAND" in run("etude", "--help", folder=tmp_path, path=installed)
    assert (installed / "bin" / "etude").exists()


def test_the_installed_package_composes_from_its_own_conf(installed: Path, tmp_path: Path) -> None:
    shown = run("etude", "train", "experiment=translation/demo", "--cfg", "job", folder=tmp_path, path=installed)
    assert "_target_: etude.tasks.translation.Translation" in shown
    files = run("etude", "train", "--info", "searchpath", folder=tmp_path, path=installed)
    assert str(installed / "etude" / "conf") in files
    assert str(ROOT) not in files
