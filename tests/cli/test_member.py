"""The process of a member reads its job, says how it ended, and dies with whoever started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from etude.cli import member

MODULE = member.__name__


def job(folder: Path, **more: Any) -> str:
    values = {"no": "configuration"}
    plain = {
        "number": 0,
        "folder": str(folder),
        "values": values,
        "overrides": [],
        "trust": [],
        "threads": 1,
        "prunes": False,
    }
    return json.dumps({**plain, "parent": os.getpid(), **more})


def test_it_says_in_one_line_what_is_wrong_with_its_job(tmp_path: Path) -> None:
    tmp_path.joinpath("torch.py").write_text("raise SystemExit('what lies in the working directory ran')")
    said = subprocess.run(
        [sys.executable, "-P", "-m", MODULE],
        input=job(tmp_path),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    answer = json.loads(said.stdout)
    assert said.returncode == answer["code"] != 0
    assert answer["reason"] and "\n" not in answer["reason"]
    assert f"etude: error: {answer['reason']}" in said.stderr


def test_it_ends_at_once_when_its_parent_is_another(tmp_path: Path) -> None:
    words = [sys.executable, "-P", "-m", MODULE]
    said = subprocess.run(words, input=job(tmp_path, parent=1), capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (69, "")


STARTS = """
import json, os, subprocess, sys, time
process = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
process.stdin.write(json.dumps({"parent": os.getpid(), "threads": 1}).encode())
process.stdin.close()
assert process.stderr.readline() == b"trains\\n"
print(process.pid, flush=True)
time.sleep(60)
"""
TRAINS = """
import sys, time, types
from etude.cli import member
sys.modules["etude.cli.members"] = types.SimpleNamespace(
    run_member=lambda job: (print("trains", file=sys.stderr, flush=True), time.sleep(60))
)
member.main()
"""


@pytest.mark.timeout(120)
def test_it_dies_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", STARTS, TRAINS], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    process = int(parent.stdout.readline())
    assert Path(f"/proc/{process}").exists()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10.0
    while runs(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not runs(process)


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
