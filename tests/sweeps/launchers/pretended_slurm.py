"""A SLURM of one machine: `sbatch`, `srun`, `sacct`, `scancel` and `scontrol` as one small program by five names.

A job runs in the background. Its number, process and state are files in the folder SLURM_PRETENDED. `scontrol requeue` starts
the job anew once its process has ended; `scancel --signal` reaches the job's task, `scancel` kills it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

NAMES = ("sbatch", "srun", "sacct", "scancel", "scontrol")
HOME = Path(os.environ.get("SLURM_PRETENDED", "."))


def install(folder: Path) -> dict[str, str]:
    """Write the programs; return the variables by which they are found."""
    for name in NAMES:
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -P {Path(__file__).resolve()} {name} "$@"\n')
        program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_PRETENDED": str(folder)}


def sbatch(script: str) -> None:
    number = str(len(list(HOME.glob("*.state"))) + 1)
    (HOME / f"{number}.state").write_text("PENDING")
    copied = shutil.copy(script, HOME / f"{number}.sh")
    words = [sys.executable, "-P", __file__, "job", number, copied]
    subprocess.Popen(
        words, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    sys.stdout.write(f"Submitted batch job {number}\n")


def job(number: str, script: str) -> None:
    state, again = HOME / f"{number}.state", HOME / f"{number}.again"
    ranks = {
        "SLURM_JOB_ID": number,
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
    }
    while True:
        task = subprocess.Popen(["sh", script], env={**os.environ, **ranks}, start_new_session=True)
        (HOME / f"{number}.process").write_text(str(task.pid))
        state.write_text("RUNNING")
        code = task.wait()
        if not again.exists():
            break
        again.unlink()
    if state.read_text() == "RUNNING":
        state.write_text("COMPLETED" if code == 0 else "FAILED")


def srun(*words: str) -> None:
    where, *command = words[words.index("--output") + 1 :]
    if "--error" in command:
        command = command[command.index("--error") + 2 :]
    number = os.environ["SLURM_JOB_ID"]
    output = Path(where.replace("%j", number).replace("%t", "0"))
    output.parent.mkdir(exist_ok=True)  # submitit makes it after `sbatch`, which is long before a real job begins
    with output.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    (HOME / f"{number}.task").write_text(str(os.getpid()))
    os.execvp(command[0], command)


def sacct(*words: str) -> None:
    sys.stdout.write("JobID|State|NodeList\n")
    for number in [words[place + 1] for place, word in enumerate(words) if word == "-j"]:
        sys.stdout.write(f"{number}|{(HOME / f'{number}.state').read_text()}|here\n")


def scancel(number: str) -> None:
    (HOME / f"{number}.state").write_text("CANCELLED")
    with suppress(OSError):
        os.killpg(int((HOME / f"{number}.process").read_text()), signal.SIGKILL)


def scontrol(word: str, number: str) -> None:
    assert word == "requeue"
    (HOME / f"{number}.again").write_text("")


def task_of(folder: Path, number: int) -> int:
    """Wait for a job to have a process, and return it."""
    while not (folder / f"{number}.task").exists():
        time.sleep(0.05)
    return int((folder / f"{number}.task").read_text())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
