"""A command as a process: what lies in the working directory does not run, and broken streams and defects are one line."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ETUDE = f"{shlex.quote(sys.executable)} -m etude"
SHADOWS = [
    "accelerate/__init__.py",
    "hydra_plugins/evil/__init__.py",
    "hydra_plugins/evil_launcher.py",
    "yaml.py",
    "torch.py",
    "logging.py",
    "typing.py",
    "__future__.py",
    "difflib.py",
]
"""Files of a working directory that stand in for installed packages, for the standard library and for Hydra's plugins."""

THREE_STEPS = "train debug=fast experiment=classification/demo trainer=cpu run.name=x paths.cache=cache"


def shell(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in a folder."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONSAFEPATH", "ETUDE_TRUST")}
    environment = {**inherited, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    """A working directory full of files that say in `imported` that they were imported."""
    for name in SHADOWS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write(__file__ + '\\n')\n")
    return tmp_path


def assert_nothing_was_imported(folder: Path) -> None:
    imported = folder / "imported"
    assert not imported.exists(), imported.read_text()


def test_a_shadow_is_one(shadowed: Path) -> None:
    assert shell(f"{shlex.quote(sys.executable)} -m yaml", shadowed).returncode == 0
    assert (shadowed / "imported").exists()


@pytest.mark.parametrize(
    "words", ["--help", "train --cfg job", "train --help", "train model=encodr", "evaluate --help"]
)
def test_no_command_imports_from_the_working_directory(words: str, shadowed: Path) -> None:
    done = shell(f"{ETUDE} {words}", shadowed)
    assert done.returncode in (0, 78), done.stderr
    assert_nothing_was_imported(shadowed)


@pytest.mark.slow
def test_no_run_and_no_rank_imports_from_the_working_directory(shadowed: Path) -> None:
    done = shell(f"{ETUDE} {THREE_STEPS} && {ETUDE} evaluate last split=val", shadowed)
    assert done.returncode == 0, done.stderr
    assert '"val/loss"' in done.stdout
    # Without the variables of its parent, a rank ends before it trains: it has imported everything by then.
    rank = shell(f"{shlex.quote(sys.executable)} -m etude.cli.worker outputs/last", shadowed)
    assert "ETUDE_PARENT" in rank.stderr
    assert_nothing_was_imported(shadowed)


OWN = "callbacks.mine._target_=mine.Mine"


@pytest.fixture
def with_own_callback(tmp_path: Path) -> Path:
    """A folder with a package that leaves a file behind when it is imported."""
    (tmp_path / "mine.py").write_text(
        "import pathlib\nfrom lightning.pytorch.callbacks import Callback\n\npathlib.Path('imported').touch()\n\n\n"
        "class Mine(Callback):\n    pass\n"
    )
    return tmp_path


def test_a_command_imports_nothing_that_it_does_not_trust(with_own_callback: Path) -> None:
    refused = shell(f"{ETUDE} {THREE_STEPS} {OWN}", with_own_callback)
    assert (refused.returncode, (with_own_callback / "imported").exists()) == (78, False), refused.stderr


@pytest.mark.slow
def test_a_stored_run_runs_nothing_that_its_reader_does_not_trust(with_own_callback: Path) -> None:
    here = with_own_callback
    trained = shell(f"{ETUDE} {THREE_STEPS} {OWN} trust=[mine]", here)
    assert trained.returncode == 0, trained.stderr
    (here / "imported").unlink()
    refused = shell(f"{ETUDE} evaluate last", here)
    assert (refused.returncode, (here / "imported").exists()) == (78, False)
    assert refused.stderr.count("\n") == 1
    assert "add trust=[mine] to the command, or set ETUDE_TRUST=mine" in refused.stderr
    for words, variables in (("trust=[mine]", {}), ("", {"ETUDE_TRUST": "mine"})):
        trusted = shell(f"{ETUDE} evaluate last split=val {words}", here, **variables)
        assert trusted.returncode == 0, trusted.stderr
    (here / "conf" / "trainer").mkdir(parents=True)
    (here / "conf" / "trainer" / "mine.yaml").write_text(
        "_target_: etude.training.machine.Machine\naccelerator: cpu\nthreads: 0\n"
    )
    chosen = shell(f"{ETUDE} evaluate last --config-dir conf trainer=mine trust=[mine]", here)
    assert chosen.returncode == 78
    assert "trainer.threads=0" in chosen.stderr, chosen.stderr


STREAMS = {
    f"{ETUDE} --help >&-": (74, "standard output is closed"),
    f"{ETUDE} --help >/dev/full": (74, "cannot write to standard output: No space left on device"),
    f"{ETUDE} train --cfg job >/dev/full": (74, "cannot write to standard output: No space left on device"),
    f"{ETUDE} tarin 2>/dev/full": (78, ""),
    f"{ETUDE} tarin 2>&-": (78, ""),
    f"{ETUDE} --help 2>&- >/dev/null": (0, ""),
    f"{ETUDE} --help >&- 2>&-": (74, ""),
    f"{ETUDE} predict nowhere <&-": (78, "nowhere"),
    f"mkdir gone && cd gone && rmdir ../gone && {ETUDE} train": (78, "the working directory no longer exists"),
    f"mkdir outputs && touch outputs/translation && {ETUDE} train trainer=cpu": (74, "outputs/translation"),
}


@pytest.mark.parametrize("command", STREAMS)
def test_a_broken_stream_or_folder_is_one_line_and_its_code(command: str, tmp_path: Path) -> None:
    code, said = STREAMS[command]
    done = shell(command, tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == bool(said), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminal_without_utf_8_gets_escapes(tmp_path: Path) -> None:
    for words, code in (("--help", 0), ("train run.notes=\\'ü…\\' --cfg job", 0), ("train data=nö", 78)):
        done = shell(f"{ETUDE} {words}", tmp_path, LC_ALL="C", PYTHONIOENCODING="ascii")
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout.isascii()
    assert "\\u2026" in shell(f"{ETUDE} --help", tmp_path, LC_ALL="C", PYTHONIOENCODING="ascii").stdout


DEFECT = (
    "import sys; from etude.cli import command_table, main\n"
    "command_table.overview.__code__ = (lambda: {}['x']).__code__\n"
    "sys.argv = ['etude', '--help']; sys.exit(main.main())"
)


@pytest.mark.parametrize("debug", ["", "1"])
def test_what_nobody_foresaw_is_one_line_and_a_file(debug: str, tmp_path: Path) -> None:
    done = shell(
        f"{shlex.quote(sys.executable)} -c {shlex.quote(DEFECT)}", tmp_path, TMPDIR=str(tmp_path), ETUDE_DEBUG=debug
    )
    assert done.returncode == 70
    assert done.stderr.startswith("etude: defect: nothing in etude foresaw this (KeyError: 'x'); the traceback is in ")
    assert "please report it\n" in done.stderr
    (file,) = tmp_path.glob("etude-traceback-*.txt")
    assert str(file) in done.stderr
    assert "KeyError: 'x'" in file.read_text()
    assert ("Traceback" in done.stderr) == bool(debug)
