"""Real shells complete: what is typed, a tab, and what then stands on the line."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from etude.cli.main import main
from etude.cli.shell_scripts import INSTALL, UNINSTALL
from tests.conftest import ROOT

SECONDS = 60.0
SHELLS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
COMPLETED = [
    ("etude sch", "etude schema "),
    ("etude runs sta", "etude runs state="),
    ("etude runs state=fin", "etude runs state=finished "),
    ("etude evaluate classification/demo/fi", "etude evaluate classification/demo/first "),
    ("etude runs diff classification/demo/first la", "etude runs diff classification/demo/first last "),
    ("etude train experiment=classification/mi", "etude train experiment=classification/minilm "),
    ("etude train optimizer.l", "etude train optimizer.lr="),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a finished run, and a program `etude` of this code in `bin/`."""
    folder = tmp_path_factory.mktemp("place")
    run = folder / "outputs" / "classification" / "demo" / "first"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(
        "task: {_target_: etude.tasks.classification.Classification}\nvalidate: {metric: val/loss, mode: min}\n"
    )
    (run / "finished.json").write_text(
        '{"step": 1, "ended": "", "split": "val", "checkpoint": "", "examples": 1, "scores": {}, "intervals": {}, '
        '"signatures": {}}'
    )
    program = folder / "bin" / "etude"
    program.parent.mkdir()
    source = ROOT / "src"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{source}" exec "{sys.executable}" -m etude "$@"\n')
    program.chmod(0o755)
    return folder


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "TERM": "dumb", "HOME": str(place)}


def type_into(shell: str, place: Path, keys: str) -> str:
    """Type keys into an interactive shell and return what it wrote up to the mark `>>|`."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(place)
        os.execvpe(SHELLS[shell][0], SHELLS[shell], environment(place))
    written, deadline = b"", time.monotonic() + SECONDS
    try:
        os.write(terminal, f'eval "$(etude -sc install={shell})"; bind "set bell-style none" 2>/dev/null\n'.encode())
        os.write(terminal, keys.encode())
        while b">>|" not in written and time.monotonic() < deadline:
            if select.select([terminal], [], [], 1.0)[0]:
                written += os.read(terminal, 65536)
    finally:
        os.close(terminal)
        os.waitpid(process, 0)
    return written.decode(errors="replace")


@pytest.mark.parametrize("shell", list(SHELLS))
def test_a_tab_completes(shell: str, place: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    # Control-A and control-E go to the ends of the line, which becomes the argument of echo; the mark is written in two
    # pieces, so that it is found where it was executed and not where it was typed.
    keys = [f"{line}\t\x01echo '<<\x05>>'\n" for line, _ in COMPLETED]
    text = type_into(shell, place, "".join(keys) + "echo '>>''|'\n")
    for _, wanted in COMPLETED:
        # zsh takes a space away again where a line ends.
        assert re.search(rf"\n<<{re.escape(wanted.rstrip())} ?>>", text.replace("\r", "")), text


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(place: Path) -> None:
    for line, wanted in COMPLETED:
        script = f"etude -sc install=fish | source\ncomplete -C '{line}'\n"
        found = subprocess.run(
            ["fish", "--no-config", "-c", script],
            cwd=place,
            env=environment(place),
            capture_output=True,
            text=True,
            check=True,
        )
        assert wanted.split(" ")[-1 if not wanted.endswith(" ") else -2] in found.stdout.split(), found


@pytest.mark.parametrize("shell", list(INSTALL))
def test_scripts_are_written(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-sc", f"install={shell}"]) == 0
    assert capsys.readouterr().out == INSTALL[shell]
    assert f"-sc query={shell}" in INSTALL[shell]
    assert main(["-sc", f"uninstall={shell}"]) == 0
    assert capsys.readouterr().out == UNINSTALL[shell]


@pytest.mark.parametrize("words", [[], ["install=csh"], ["install"], ["query"]])
def test_other_shells_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-sc", *words]) == 78
    assert "install=SHELL, of bash, zsh, fish" in capsys.readouterr().err
