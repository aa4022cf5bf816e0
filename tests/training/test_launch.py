"""Launch of real processes: their environment, their failures, their signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from etude.errors import EtudeError
from etude.runs.lock import RunLock
from etude.signals import StoppedError
from etude.training import launch


def launch_script(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str, devices: int = 2) -> None:
    """Launch ranks that run a script in place of a training."""
    program = f"import os, signal, sys, time\nrank = int(os.environ['RANK'])\n{textwrap.dedent(script)}"

    def start(run: Path, variables: dict[str, str], descriptors: list[int]) -> Any:
        words = [sys.executable, "-S", "-c", program]
        return subprocess.Popen(words, env=variables, pass_fds=descriptors, process_group=0)

    monkeypatch.setattr(launch, "_start", start)
    with RunLock(folder) as lock:
        launch.launch(folder, devices, lock)


def test_each_rank_has_its_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = f"""
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR")
        open({str(tmp_path)!r} + f"/{{rank}}", "w").write(" ".join(os.environ[name] for name in names))
    """
    before = dict(os.environ)
    launch_script(monkeypatch, tmp_path, script, devices=3)
    assert [(tmp_path / f"{rank}").read_text() for rank in range(3)] == [f"{k} {k} 3 0 127.0.0.1" for k in range(3)]
    assert dict(os.environ) == before


def test_when_one_rank_fails_the_others_are_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launch, "FAILURE_SECONDS", 0.2)
    with pytest.raises(EtudeError, match="rank 1 of 2 ended with exit code 7, for the reason above") as failure:
        launch_script(monkeypatch, tmp_path, "sys.exit(7) if rank else time.sleep(60)")
    assert failure.value.exit_code == 7


def test_the_command_raises_what_a_rank_reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = """
        line = b'{"code": 65, "message": "train.tsv is empty"}' if rank else b'{"code": 69, "message": "lost"}'
        os.write(int(os.environ["ETUDE_REPORTS"]), line + b"\\n")
        sys.exit(65 if rank else 69)
    """
    with pytest.raises(EtudeError, match=r"^train.tsv is empty$") as failure:
        launch_script(monkeypatch, tmp_path, script)
    assert failure.value.exit_code == 65


def test_a_signal_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = """
        if not rank:
            os.kill(os.getppid(), signal.SIGTERM)
        signal.sigwait([signal.SIGTERM])
        os.write(int(os.environ["ETUDE_REPORTS"]), b'{"code": 143, "message": "saved"}\\n')
        sys.exit(143)
    """
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError, match=r"^saved$") as stopped:
        launch_script(monkeypatch, tmp_path, script)
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize(("variables", "rank"), [({}, None), ({"LOCAL_RANK": "1", "RANK": "3"}, 3)])
def test_another_launcher_is_recognized(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], rank: int | None
) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launch.started_outside() is (rank is not None)
    assert launch.global_rank() == (rank or 0)
