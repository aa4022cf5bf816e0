"""Folders of tokenizers that lie: one line that names the file, and no way out of the folder."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from etude.errors import DataError
from etude.tokenization.base import Tokenizer
from etude.tokenization.trained import BPE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound tokenizer."""
    path = tmp_path / "run/tokenizer"
    BPE(60).build(["some words", "and others"]).save(path)
    return path


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(DataError, match=f"^no tokenizer in {re.escape(str(folder))}: ") as caught:
        Tokenizer.load(folder)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", "[" * 100_000, '{"model":' * 100_000, '{"version": "1.0", "model": {"type": "None"}}'],
)
def test_a_tokenizer_that_is_none(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    refused(folder, "tokenizer.json", "put the folder back")


def test_every_fiftieth_truncation_is_one_line(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text().rstrip()
    for length in range(0, len(text), 50):
        (folder / "tokenizer.json").write_text(text[:length])
        refused(folder, "tokenizer.json")


def test_a_vocabulary_of_nothing(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] |= {"vocab": {}, "merges": []}
    content["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(content))
    refused(folder, "tokenizer.json: ")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("bos_token", 3, "bos_token is a whole number, not a text"),
        ("pad_token", None, "pad_token is null, not a text"),
        ("mask_token", [], "mask_token is a list, not a text or null"),
    ],
)
def test_special_tokens_that_are_none(folder: Path, key: str, value: object, said: str) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    refused(folder, f"tokenizer_config.json: {said}")


def test_special_tokens_that_are_missing_or_unknown(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "eos_token"}))
    refused(folder, "tokenizer_config.json: eos_token is missing")
    path.write_text(json.dumps({**content, "eos_token": "<none such>"}))
    with pytest.raises(DataError, match="the tokenizer's vocabulary has no special token '<none such>'"):
        Tokenizer.load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("harm", ["pipe", "zeros", "outside", "folder", "huge"])
def test_what_is_no_file_of_the_folder(folder: Path, name: str, harm: str) -> None:
    path = folder / name
    path.rename(folder.parent / name)
    if harm == "pipe":
        os.mkfifo(path)
    if harm == "zeros":
        path.symlink_to("/dev/zero")
    if harm == "outside":
        path.symlink_to(f"../{name}")
    if harm == "folder":
        path.mkdir()
    if harm == "huge":
        path.touch()
        os.truncate(path, 1 << 40)
    refused(folder, name)


def test_a_source_that_leads_out_or_round(folder: Path) -> None:
    (folder / "source").symlink_to("..")
    refused(folder, "leads out of")
    (folder / "source").unlink()
    (folder / "source").symlink_to("source")
    refused(folder, "leads out of")
