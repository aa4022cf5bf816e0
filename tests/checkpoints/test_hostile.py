"""Checkpoints whose hashes are right and whose content lies: made to harm, or by another program."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.checkpoints.checkpoint import read, read_tensors, read_weights, snapshot, write
from etude.checkpoints.codec import DEPTH, decode, encode
from etude.checkpoints.integrity import CheckpointBrokenError, newest_valid, read_manifest, verify
from etude.errors import StorageError

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound checkpoint of step 5."""
    weight = torch.arange(6.0).reshape(2, 3)
    tree = {
        "global_step": 5,
        "state_dict": {"a": weight, "tied": weight, "b": torch.ones(2)},
        "optimizer": (weight + 1,),
    }
    path = tmp_path / "checkpoints/step-00000005"
    write(snapshot(tree), path, {})
    return path


def signed(folder: Path, change: Callable[[dict[str, Any]], None] = lambda content: None) -> None:
    """Give a changed checkpoint a manifest that fits: sizes and hashes of its files, and its own."""
    content = json.loads((folder / "manifest.json").read_text())
    del content["sha256"]
    for name in content["files"]:
        if (folder / name).is_file():
            written = (folder / name).read_bytes()
            content["files"][name] = {"size": len(written), "sha256": hashlib.sha256(written).hexdigest()}
    change(content)
    check = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**content, "sha256": check}, indent=2) + "\n")


def refused(action: Callable[[], Any], *words: str) -> None:
    with pytest.raises(CheckpointBrokenError) as caught:
        action()
    message = str(caught.value)
    assert message.isprintable() and "etude resume RUN" in message and caught.value.exit_code == 65, message
    for word in words:
        assert word in message, (word, message)


def test_signing_makes_a_sound_one(folder: Path) -> None:
    signed(folder)
    assert verify(folder) == [] and read(folder, CPU)["global_step"] == 5


# manifest.json


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.update(step="5"), "manifest.json: step is a text, not a whole number"),
        (lambda content: content.update(step=-1), "manifest.json: step is a number that is not >= 0"),
        (lambda content: content.update(score="best"), "manifest.json: score is a text"),
        (lambda content: content.update(score={"$float": "zz"}), "manifest.json: score.$float"),
        (lambda content: content.update(more=1), "manifest.json: more is not a key that this version of etude writes"),
        (lambda content: content.pop("aliases"), "manifest.json: aliases is missing"),
        (lambda content: content["aliases"].pop("model"), "manifest.json: aliases.model is missing"),
        (lambda content: content["files"].pop("state.json"), "manifest.json: files['state.json'] is missing"),
        (lambda content: content["files"].pop("model.safetensors"), "files['model.safetensors'] is missing"),
        (lambda content: content["files"]["state.json"].update(size="9"), "files['state.json'].size is a text"),
        (lambda content: content["files"]["state.json"].update(sha256="9"), "files['state.json'].sha256"),
        (
            lambda content: content["aliases"]["model"].update(c="gone"),
            "aliases.model['c'] is 'gone', which model.safete",
        ),
        (lambda content: content.update(step=6), "state.json: global_step is 5, not the 6 of manifest.json"),
    ],
)
def test_a_manifest_that_lies(folder: Path, change: Callable[[dict[str, Any]], None], said: str) -> None:
    signed(folder, change)
    refused(lambda: read(folder, CPU), str(folder), said)


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "a/../../../secret", "out", "up/secret"])
def test_files_outside_are_not_looked_at(folder: Path, name: str) -> None:
    (folder.parents[1] / "secret").write_text("x")
    (folder / "out").symlink_to("../../secret")
    (folder / "up").symlink_to("../..")
    entry = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    signed(folder, lambda content: content["files"].update({name: entry}))
    assert any(word in verify(folder)[0] for word in ("is not the name of a file", "leads out of"))
    refused(lambda: read(folder, CPU), name)
    assert newest_valid(folder.parent) is None


def test_weights_outside_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parents[1] / "model.safetensors")
    (folder / "model.safetensors").symlink_to("../../model.safetensors")
    for action in (lambda: read(folder, CPU), lambda: read_weights(folder)):
        refused(action, "model.safetensors", "leads out of")


@pytest.mark.parametrize("name", ["state.json", "model.safetensors", "manifest.json"])
@pytest.mark.parametrize("harm", ["pipe", "zeros", "folder"])
def test_what_is_no_file_holds_nothing_up(folder: Path, name: str, harm: str) -> None:
    (folder / name).unlink()
    {
        "pipe": lambda: os.mkfifo(folder / name),
        "zeros": lambda: (folder / name).symlink_to("/dev/zero"),
        "folder": lambda: (folder / name).mkdir(),
    }[harm]()
    if name != "manifest.json":
        signed(folder, lambda content: content["files"][name].update(size=0))
    refused(lambda: read(folder, CPU), name)
    assert newest_valid(folder.parent) is None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"step":' * 100_000, '{"step": 1, "step": 2}', "", "\x00", "[]"])
def test_a_manifest_that_is_none(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    refused(lambda: read_manifest(folder), "manifest.json: ")


# model.safetensors


def lying(folder: Path, header: Any, data: bytes = bytes(32), claimed: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = struct.pack("<Q", len(text) if claimed is None else claimed)
    (folder / "model.safetensors").write_bytes(length + text + data)
    signed(folder)


FIRST = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("header", "claimed", "said"),
    [
        ({"a": FIRST, "b": {**FIRST, "data_offsets": [8, 24]}}, None, "['b'].data_offsets begin at byte 8, not 16"),
        ({"a": FIRST}, 1 << 60, "its header claims 1,152,921,504,606,846,976 bytes"),
        ({"a": {**FIRST, "shape": [8]}}, None, "['a'].data_offsets have 16 bytes; its shape needs 32"),
        ({"a": FIRST}, None, "its tensors have 16 bytes; the file has 32"),
        ({"a": {**FIRST, "dtype": "F4"}}, None, "['a'].dtype is 'F4'"),
        (b"[" * 100_000, None, "is nested more than 64 levels deep"),
        (b'{"a": {}, "a": {}}', None, "has the key 'a' twice"),
    ],
)
def test_weights_that_lie(folder: Path, header: Any, claimed: int | None, said: str) -> None:
    lying(folder, header, claimed=claimed)
    assert verify(folder) == []
    for action in (lambda: read(folder, CPU), lambda: read_weights(folder), lambda: read_tensors(folder, "model")):
        refused(action, f"model.safetensors: {said}")


def test_weights_of_another_model_are_named(folder: Path) -> None:
    wanted = {"a": torch.zeros(2, 3), "tied": torch.zeros(2, 3), "b": torch.zeros(2)}
    assert set(read_weights(folder, wanted)) == set(wanted)
    refused(lambda: read_weights(folder, {**wanted, "c": torch.zeros(1)}), "model.safetensors: c is missing")
    refused(lambda: read_weights(folder, {**wanted, "b": torch.zeros(3)}), "b has the shape [2], not the [3] of config")
    refused(lambda: read_weights(folder, {"a": wanted["a"], "b": wanted["b"]}), "tied is not a tensor of the model")


# state.json


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ([], "is a list, not an object"),
        ({"global_step": "5"}, "global_step is a text, not a whole number"),
        ({"global_step": 7}, "global_step is 7, not the 5"),
        ({"global_step": 5, "state_dict": []}, "state_dict is a list, not an object"),
        ({"global_step": 5, "loops": {"fit_loop": 3}}, "loops['fit_loop'] is a whole number, not an object"),
        (
            {"global_step": 5, "a": {"$tensor": "model:gone"}},
            "$tensor is 'model:gone', which no file of the checkpoint",
        ),
        ({"global_step": 5, "a": {"$tensor": 3}}, "$tensor is '3', which no file"),
        ({"global_step": 5, "a": {"$tuple": 3}}, "$tuple is not a list"),
        ({"global_step": 5, "a": {"$float": "1"}}, "$float is not the sixteen hexadecimal digits"),
        ({"global_step": 5, "a": {"$float": 1.5}}, "$float is not the sixteen hexadecimal digits"),
        ({"global_step": 5, "a": {"$items": [[1]]}}, "$items is not a list of keys"),
        ({"global_step": 5, "a": {"$items": [[[], 1]]}}, "$items is not a list of keys"),
        ({"global_step": 5, "a": {"$items": [[1, 2], [1, 3]]}}, "$items has a key twice"),
        ({"global_step": 5, "a": {"$pickle": "cos"}}, "'$pickle' is not a mark"),
        ({"global_step": 5, "a": {"$tuple": [], "b": 1}}, "'$tuple' is not a mark that stands alone"),
        ({"global_step": 5, "a": {"b": 1, "$tuple": []}}, "'$tuple' is not a mark that stands alone"),
    ],
)
def test_a_state_that_lies(folder: Path, state: Any, said: str) -> None:
    (folder / "state.json").write_text(json.dumps(state))
    signed(folder)
    refused(lambda: read(folder, CPU), "state.json", said)


@pytest.mark.parametrize("text", ['{"a":' * 100_000, '{"a": 1, "a": 2}', '{"global_step": 5', "\xff"])
def test_a_state_that_is_no_json(folder: Path, text: str) -> None:
    (folder / "state.json").write_text(text, encoding="latin-1")
    signed(folder)
    refused(lambda: read(folder, CPU), "state.json: ")


def _marked(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(["a", "$tensor", "$tuple", "$float", "$items", "$x\n"])
    return st.dictionaries(keys, inner | st.lists(st.tuples(keys, inner).map(list)), max_size=2)


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | _marked(inner), max_leaves=8)
)
def test_any_state_is_decoded_or_a_value_error(state: Any) -> None:
    try:
        decode(state, {"model": {}, "training": {}})
    except ValueError as error:
        assert str(error).isprintable()


def test_what_is_saved_can_be_read_however_deep(tmp_path: Path) -> None:
    for wrap in (lambda inner: [inner], lambda inner: (inner,), lambda inner: {"a": inner}, lambda inner: {1: inner}):
        tree: Any = 1
        for _ in range(DEPTH - 1):
            tree = wrap(tree)
        path = tmp_path / f"{wrap(1)}/step-00000000"
        write(snapshot({"deep": tree}), path, {})
        assert read(path, CPU) == {"deep": tree}
        with pytest.raises(StorageError, match=f"nested more than {DEPTH} levels deep"):
            encode({"deep": wrap(tree)})
