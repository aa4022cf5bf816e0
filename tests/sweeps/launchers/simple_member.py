"""A member that trains nothing, in place of `etude.cli.member`: it does what its job says, within a second."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    job = json.load(sys.stdin)
    folder = Path(job["folder"])
    values = job["values"]
    variables = {name: os.environ[name] for name in values.get("variables", ()) if name in os.environ}
    began = {"process": os.getpid(), "directory": str(Path.cwd()), "variables": variables}
    signal.signal(signal.SIGTERM, lambda number, frame: save(folder, values))
    (folder / "part").write_text(json.dumps(began))
    (folder / "part").rename(folder / "began.json")
    sys.stderr.write("this goes to the log\n")
    for name, content in values.get("writes", {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    if values.get("leaves"):
        subprocess.Popen(["sleep", "30"])  # it holds the pipe
    time.sleep(values.get("seconds", 0.0))
    if values.get("dies"):
        os.kill(os.getpid(), values["dies"])
    end(values.get("code", 0), values.get("reason", ""))


def save(folder: Path, values: dict[str, Any]) -> None:
    time.sleep(values.get("saves", 0.0))
    (folder / "saved").write_text("")
    end(143, "stopped by SIGTERM")


def end(code: int, reason: str) -> None:
    os.write(1, json.dumps({"code": code, "reason": reason}).encode())
    os._exit(code)


if __name__ == "__main__":
    main()
