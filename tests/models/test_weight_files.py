"""Folders of pretrained models that lie: in config.json, in the index, in the headers, and in what a run kept of them."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from etude.errors import DataError, EtudeError
from etude.hub import FolderFiles
from etude.models.pretrained.bart import PretrainedBart
from etude.models.pretrained.bert import PretrainedBert
from etude.models.pretrained.gpt2 import PretrainedGPT2
from etude.models.pretrained.skeleton import PretrainedSkeleton
from etude.models.pretrained.weight_files import INDEX, WHOLE, read_json, read_safetensors, skeleton_content
from etude.types import Facts

KEPT = {
    "name": "bert",
    "version": None,
    "sha256": {"config.json": "0" * 64},
    "config": {"hidden_size": 4, "id2label": {"0": "no"}},
    "tensors": {"embedding": [3, 4], "scalar": []},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in two files."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"hidden_size": 4}')
    save_file({"a": torch.ones(2, 3)}, path / "one.safetensors")
    save_file({"b": torch.ones(4)}, path / "two.safetensors")
    (path / INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
    )
    return path


def refused(action: Callable[[], Any], *words: str) -> None:
    with pytest.raises(DataError) as caught:
        action()
    message = str(caught.value)
    assert message.isprintable() and caught.value.exit_code == 65, message
    for word in words:
        assert word in message, (word, message)


def test_a_sound_model_is_read(folder: Path) -> None:
    files = FolderFiles(folder)
    assert {name: list(tensor.shape) for name, tensor in read_safetensors(files).items()} == {"a": [2, 3], "b": [4]}
    assert skeleton_content(files)["tensors"] == {"a": [2, 3], "b": [4]}
    assert read_json(files) == {"hidden_size": 4}


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (
            {"weight_map": {"a": "../secret.safetensors"}},
            "'../secret.safetensors' is not the name of a file in its folder",
        ),
        ({"weight_map": {"a": "/etc/passwd"}}, "'/etc/passwd' is not the name of a file in its folder"),
        ({"weight_map": {"a": 3}}, "weight_map['a'] is a whole number, not a text"),
        ({"weight_map": []}, "weight_map is a list, not an object"),
        ({"weight_map": {}}, "weight_map is empty"),
        ({}, "weight_map is missing"),
        ([], "is a list, not an object"),
        ({"weight_map": {"a": "three.safetensors"}}, "has no three.safetensors"),
        ({"weight_map": {"a": "pipe"}}, "has no pipe"),
    ],
)
def test_an_index_that_lies(folder: Path, index: Any, said: str) -> None:
    os.mkfifo(folder / "pipe")
    save_file({"a": torch.ones(1)}, folder.parent / "secret.safetensors")
    (folder / INDEX).write_text(json.dumps(index))
    for action in (read_safetensors, skeleton_content):
        refused(partial(action, FolderFiles(folder)), said)


@pytest.mark.parametrize("text", ["", "[1]", "[" * 100_000, '{"a": 1, "a": 2}', "\xff", "{"])
@pytest.mark.parametrize("name", ["config.json", INDEX])
def test_json_that_is_none(folder: Path, text: str, name: str) -> None:
    (folder / name).write_text(text, encoding="latin-1")
    refused(lambda: skeleton_content(FolderFiles(folder)), name, "fetch it again")


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"{}" + bytes(8),
        struct.pack("<Q", 2) + b"[]",
        b"",
        b"PK\x03\x04",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
)
def test_headers_that_lie(folder: Path, content: bytes) -> None:
    (folder / WHOLE).write_bytes(content)
    for action in (read_safetensors, skeleton_content):
        refused(partial(action, FolderFiles(folder)), WHOLE, "fetch it again")


# What a run keeps


def test_what_is_kept_is_read(tmp_path: Path) -> None:
    (tmp_path / "pretrained.json").write_text(json.dumps(KEPT))
    skeleton = PretrainedSkeleton(tmp_path / "pretrained.json")
    assert skeleton.content == KEPT
    assert {name: list(tensor.shape) for name, tensor in skeleton.tensors().items()} == KEPT["tensors"]
    assert json.loads(skeleton.read("config.json")) == KEPT["config"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 1}, "name is a whole number, not a text"),
        ({"config": []}, "config is a list, not an object"),
        ({"tensors": {"a": [1], "b": "x"}}, "tensors['b'] is a text, not a list"),
        ({"tensors": {"a": [-1]}}, "tensors['a'][0] is a number that is not >= 0"),
        ({"tensors": {"a": [1 << 40, 1 << 40]}}, "tensors['a'] is the shape of no tensor"),
        ({"tensors": {"a": [1] * 17}}, "tensors['a'] has a length that is not <= 16"),
        ({"sha256": {"config.json": None}}, "sha256['config.json'] is null, not a text"),
        ({"more": 1}, "more is not a key that this version of etude writes"),
    ],
)
def test_what_was_kept_and_lies(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "pretrained.json"
    path.write_text(json.dumps({**KEPT, **change}))
    refused(lambda: PretrainedSkeleton(path), f"{path}: {said}", "put it back from the run's newest checkpoint")


def test_every_truncation_of_what_was_kept_is_one_line(tmp_path: Path) -> None:
    path, text = tmp_path / "pretrained.json", json.dumps(KEPT)
    for length in range(len(text)):
        path.write_text(text[:length])
        refused(lambda: PretrainedSkeleton(path), f"{path} is not JSON")


# config.json

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {
        "model_type": "bert",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 12,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 12, "n_inner": 16},
    "bart": {
        "model_type": "marian",
        "d_model": 8,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "max_position_embeddings": 12,
        "activation_function": "gelu",
    },
}
NativeModel = PretrainedBert | PretrainedGPT2 | PretrainedBart
MODELS: dict[str, Callable[[str], NativeModel]] = {
    "bert": PretrainedBert,
    "gpt2": PretrainedGPT2,
    "bart": PretrainedBart,
}


@pytest.mark.parametrize("family", CONFIGS)
def test_any_value_of_another_type_in_a_config_is_named(folder: Path, family: str) -> None:
    sound = {**CONFIGS[family], "vocab_size": 20, "pad_token_id": 0, "eos_token_id": 2}
    facts = Facts(vocabulary=20, pad=0, bos=1, eos=2)
    for key in sound:
        for value in ("x", 1.5, [1, [2]], {"a": 1}, True, 0, -1, 1 << 40):
            if type(value) is not type(sound[key]) or isinstance(value, int):
                (folder / "config.json").write_text(json.dumps({**sound, key: value}))
                with pytest.raises(EtudeError) as caught:
                    MODELS[family](str(folder)).build(facts, nn.Module)
                message = str(caught.value)
                assert message.isprintable() and (key in message or "config.json" in message)
                if not isinstance(value, int):
                    assert key in message, message
