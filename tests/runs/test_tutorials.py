"""Every command of the tutorials runs, in the order of its page, on experiments that are made small."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
SMALL = {
    "model.width": "16",
    "model.heads": "2",
    "model.feed_forward": "24",
    "tokenizer.vocabulary": "300",
    "limit": "{train:300,val:30,test:30}",
    "scheduler.warmup": "2step",
    "budget": "2epoch",
    "validate.every": "1epoch",
    "logger": "none",
    "trainer": "cpu",
    "trainer.threads": "1",
}
"""What a command that begins runs says besides, unless it says something else of that key."""
SMALL_OF = {
    "translation/demo": {
        "decoding.beams": "3",
        "decoding.max_length": "24",
        "callbacks": "default",
        "batch.tokens": "800",
    },
    "classification/demo": {"callbacks": "default", "data.max_length": "32"},
}
SET_UP = ("make ", "source ")


def shell_lines(page: str) -> Iterator[tuple[str, str]]:
    """Yield what is typed in a page's blocks, and for a line after a prompt the answer below it, else nothing."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        if language:
            continue
        if block.startswith("$ "):
            typed, _, answer = block[2:].partition("\n")
            yield typed, answer.strip()
        else:
            yield from ((line, "") for line in block.splitlines() if not line.startswith(SET_UP))


def made_small(line: str) -> str:
    """Return a command line with words that make its experiment small, where it begins runs."""
    begun = re.search(r"\betude (?:train|sweep|check|bench) .*?experiment=([\w/]+)", line)
    if not begun or "debug=fast" in line:
        return line
    said = {word.partition("=")[0] for word in shlex.split(line.partition("$(")[2] or line)}
    more = {key: value for key, value in {**SMALL, **SMALL_OF[begun[1]]}.items() if key not in said}
    words = " ".join(shlex.quote(f"{key}={value}") for key, value in more.items())
    return f"{line[: begun.end()]} {words}{line[begun.end() :]}"


def script(page: str) -> str:
    """Return the page as a program of the shell, which ends at the first command that does not do what the page says."""
    lines = ["set -eo pipefail"]
    for line, answer in shell_lines(page):
        lines.append(f"echo {shlex.quote('+ ' + line)}")
        if answer:
            beginning = " ".join(answer.split()[:6])
            lines.append(f"if {made_small(line)} 2> answer; then false; fi; grep -qF {shlex.quote(beginning)} answer")
        elif line.startswith("timeout "):
            lines.append(f"{made_small(line)} || test $? = 137")
        else:
            lines.append(made_small(line))
    return "\n".join(lines)


def test_each_tutorial_has_commands() -> None:
    assert {page.stem for page in PAGES} == {"newcomer", "researcher", "engineer"}
    for page in PAGES:
        assert sum("etude " in line for line, _ in shell_lines(page.read_text(encoding="utf-8"))) >= 8, page.name


def test_words_that_make_small_give_way_to_those_of_the_page() -> None:
    line = made_small("run=$(etude train experiment=translation/demo budget=1epoch trainer.threads=4)")
    assert line.count("budget=") == line.count("trainer.threads=") == 1
    assert "experiment=translation/demo model.width=16" in line and line.endswith("trainer.threads=4)")
    assert made_small("etude report last") == "etude report last"


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_command_of_a_tutorial_runs(path: Path, tmp_path: Path) -> None:
    command = tmp_path / "bin" / "etude"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m etude "$@"\n')
    command.chmod(0o755)
    variables = os.environ | {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(
        ["bash", "-c", script(path.read_text(encoding="utf-8"))],
        cwd=tmp_path,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{ran.stdout[-1000:]}\n{ran.stderr[-3000:]}"
