"""A stand-in for the server of W&B's sweeps: the calls that `wandb sweep` and `wandb agent` make, and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SWEEP = "k3v9x1c2"
ENTITY = "someone"

Command = Mapping[str, Any]
"""What an agent is told to do: `{"type": "run", "run_id": …, "program": …, "args": {KEY: {"value": …}}}`."""


class SweepServer(ThreadingHTTPServer):
    """Answers one agent.

    Args:
        next_command: Given the ids of the runs that the agent has, says what it is to do; None: go on.

    Attributes:
        config: The text of the sweep that was created.
        calls: Names of the calls, in order.
    """

    def __init__(self, next_command: Callable[[list[str]], Command | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.next_command = next_command
        self.config = ""
        self.calls: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the data that a query of GraphQL asks for."""
        call = query.split("(")[0].split("{")[0].split()[-1]
        self.calls.append(call)
        project = {"id": "P", "name": variables.get("projectName"), "entity": {"id": "E", "name": ENTITY}}
        match call:
            case "Viewer":
                teams: dict[str, Any] = {"edges": []}
                return {"viewer": {"id": "V", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": teams}}
            case "UpsertSweep":
                self.config = variables["config"]
                return {"upsertSweep": {"sweep": {"name": SWEEP, "project": project}, "configValidationWarnings": []}}
            case "SweepWithRuns":
                sweep = {"id": "S", "name": SWEEP, "state": "RUNNING", "config": self.config, "runs": {"edges": []}}
                return {"project": {"sweep": sweep}}
            case "CreateAgent":
                return {"createAgent": {"agent": {"id": "A"}}}
            case "Heartbeat":
                command = self.next_command(list(json.loads(variables["runState"])))
                return {"agentHeartbeat": {"agent": {"id": "A"}, "commands": json.dumps([command] if command else [])}}
        return {}

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Answer in a thread."""
        thread = threading.Thread(target=self.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: SweepServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        data = json.dumps({"data": self.server.answer(body["query"], body.get("variables") or {})}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the parent's name)
        """Stay silent."""
