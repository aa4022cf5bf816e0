"""`etude push` against a stand-in of the hub: what is sent is what was exported, and nothing else."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from etude.api import Run
from etude.cli.command_table import find
from etude.cli.run_commands import call, take_texts
from etude.commands.push import push
from etude.config.compose import compose
from etude.errors import ConfigurationError, StorageError
from etude.packages import file_sha256
from etude.runs.saved_run import SavedRun

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(200)), "source/tokenizer.json": b'{"a": 1}'}


class StandIn(ThreadingHTTPServer):
    """Answers as the hub does, and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuses = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers["Authorization"])
        if self.server.refuses:
            self.answer(403, {"error": "this token may not write"})
        elif self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self.answer(200, {"url": f"{self.server.address}/ann/model"})
        elif self.path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            named = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            self.answer(200, {"files": named})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(200, {"commitOid": "abc", "commitUrl": f"{self.server.address}/ann/model/commit/abc"})

    def answer(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in of the hub that the client takes for it."""
    server = StandIn()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def run(tmp_path: Path) -> SavedRun:
    """A run with an export."""
    exported(tmp_path / "exports" / "huggingface")
    return SavedRun.begin(tmp_path, compose())


def exported(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    hashes = {name: file_sha256(folder / name) for name in FILES}
    record = {"run": "somewhere", "checkpoint": "step-1", "to": "huggingface", "proof": {}, "files": hashes}
    (folder / "export.json").write_text(json.dumps(record))


def test_the_files_of_the_export_arrive_as_they_are(run: SavedRun, hub: StandIn) -> None:
    sent = push(run, repository="ann/model", private=True)
    assert hub.files == FILES
    assert sent["commit"] == f"{hub.address}/ann/model/commit/abc" and sent["sent"] is True
    assert [one["visibility"] for one in hub.created] == ["private"]
    assert hub.tokens == {"Bearer hf_secret"}


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(
    run: SavedRun, hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    plan = call("push", [run.path], {"repository": "ann/model", "dry_run": True})
    assert plan == {
        "repository": "ann/model",
        "private": False,
        "files": {name: len(content) for name, content in FILES.items()},
        "sent": False,
    }
    assert not hub.files and not hub.created


def test_the_python_door_does_the_same(run: SavedRun) -> None:
    plan = Run.open(run.path).push("ann/model", dry_run=True)
    assert plan["files"].keys() == FILES.keys() and plan["sent"] is False


def test_what_no_export_wrote_is_left_out(
    run: SavedRun, hub: StandIn, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "exports" / "huggingface" / "secret.txt").write_text("mine")
    push(run, repository="ann/model")
    assert hub.files == FILES
    assert "left out, since no export wrote them: secret.txt" in caplog.text


def test_a_changed_file_is_not_sent(run: SavedRun, hub: StandIn, tmp_path: Path) -> None:
    (tmp_path / "exports" / "huggingface" / "config.json").write_text("[]")
    with pytest.raises(StorageError, match=r"config.json is not the file that was exported; write it again"):
        push(run, repository="ann/model")
    (tmp_path / "elsewhere").write_text("")
    record = tmp_path / "exports" / "huggingface" / "export.json"
    stored = json.loads(record.read_text())
    outside = {"../../elsewhere": file_sha256(tmp_path / "elsewhere")}
    record.write_text(json.dumps({**stored, "files": outside}))
    with pytest.raises(StorageError, match="is not the file that was exported"):
        push(run, repository="ann/model")
    assert not hub.files and not hub.created


def test_a_missing_token_is_one_line(run: SavedRun, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ConfigurationError, match=r"^no token of the Hugging Face hub is here; write hf auth login"):
        push(run, repository="ann/model")
    assert not hub.created


def test_a_refusal_of_the_hub_is_one_line(run: SavedRun, hub: StandIn) -> None:
    hub.refuses = True
    with pytest.raises(ConfigurationError, match=r"^the hub refuses ann/model: .*403[^\n]*$"):
        push(run, repository="ann/model")


def test_a_hub_that_is_not_there_is_one_line(run: SavedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"^the hub cannot be reached .*; try it again$"):
        push(run, repository="ann/model")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "'nothing' is not the name of a repository; write etude push RUN owner/name"),
        ({"repository": "model"}, "'model' is not the name"),
        ({"repository": "a/b/c"}, "'a/b/c' is not the name"),
        ({"repository": "../b"}, "'../b' is not the name"),
        ({"repository": "a/b", "export": "onnx"}, "export=onnx is not an export of this run; first: etude export"),
        ({"repository": "a/b", "dry_run": "perhaps"}, "dry_run=perhaps is neither true nor false"),
        (
            {"repository": "a/b", "privat": True},
            "etude push does not know privat; it takes repository= export= private=",
        ),
    ],
)
def test_what_is_wrong_is_one_line(run: SavedRun, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        call("push", [run.path], given)


def test_of_several_exports_one_is_named(run: SavedRun, hub: StandIn, tmp_path: Path) -> None:
    exported(tmp_path / "exports" / "onnx")
    with pytest.raises(ConfigurationError, match="has 2 exports; write export=huggingface or export=onnx"):
        push(run, repository="ann/model")
    assert push(run, repository="ann/model", export="onnx")["sent"]


def test_the_name_follows_the_run_without_a_key() -> None:
    words, texts = take_texts(find("push"), ["last", "ann/model", "dry_run=true"])
    assert (words, texts) == (["last", "dry_run=true"], {"repository": "ann/model"})
