"""Skeletons: the same model is built without its files, with zeros in place of its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from etude.atomic import write_json
from etude.errors import DataError
from etude.hub import FolderFiles, open_pretrained
from etude.models.base import EncoderDecoder, TextDecoder, TextEncoder
from etude.models.pretrained.bart import PretrainedBart
from etude.models.pretrained.base import PretrainedModel
from etude.models.pretrained.bert import PretrainedBert
from etude.models.pretrained.gpt2 import PretrainedGPT2
from etude.models.pretrained.skeleton import PretrainedSkeleton
from etude.models.pretrained.weight_files import skeleton_content
from etude.models.wrapped.huggingface import HuggingFace
from etude.types import Facts

FACTS = Facts(vocabulary=29, pad=1, bos=0, eos=2)
IDS = {"vocab_size": 29, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
STACK = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
BOTH = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "decoder_start_token_id": 0,
    **{
        f"{side}_{size}": value
        for side in ("encoder", "decoder")
        for size, value in (("attention_heads", 2), ("ffn_dim", 24))
    },
}
INTERFACES = {"gpt2": TextDecoder, "marian": EncoderDecoder, "bart": EncoderDecoder}
BUILDS: dict[str, tuple[Callable[[str], PretrainedModel], str, str, dict[str, Any]]] = {
    "bert": (PretrainedBert, "bert", "AutoModelForMaskedLM", STACK),
    "roberta": (PretrainedBert, "roberta", "AutoModelForMaskedLM", STACK),
    "distilbert": (PretrainedBert, "distilbert", "AutoModel", STACK),
    "gpt2": (PretrainedGPT2, "gpt2", "AutoModelForCausalLM", {"n_embd": 16, "n_layer": 2, "n_head": 2}),
    "marian": (PretrainedBart, "marian", "AutoModelForSeq2SeqLM", BOTH),
    "bart": (PretrainedBart, "bart", "AutoModelForSeq2SeqLM", BOTH),
    "another encoder": (HuggingFace, "electra", "AutoModel", {**STACK, "embedding_size": 16}),
    "another translator": (HuggingFace, "marian", "AutoModelForSeq2SeqLM", BOTH),
}


def saved(folder: Path, kind: str, auto: str, sizes: dict[str, Any]) -> Path:
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(kind, **IDS, **sizes)
    getattr(transformers, auto).from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", BUILDS)
def test_the_same_model_without_its_files(tmp_path: Path, name: str) -> None:
    make, kind, auto, sizes = BUILDS[name]
    interface = INTERFACES.get(kind, TextEncoder)
    folder = saved(tmp_path / "model", kind, auto, sizes)
    first: Any = make(str(folder)).build(FACTS, interface)
    write_json(tmp_path / "pretrained.json", skeleton_content(first.files))
    described = first.files.describe()
    shutil.rmtree(folder)

    files = PretrainedSkeleton(tmp_path / "pretrained.json")
    again: Any = make(str(folder)).build(FACTS, interface, files)
    assert again.files is files and files.describe() == described
    assert skeleton_content(files) == json.loads((tmp_path / "pretrained.json").read_text())
    expected, state = first.state_dict(), again.state_dict()
    assert {key: tensor.shape for key, tensor in state.items()} == {
        key: tensor.shape for key, tensor in expected.items()
    }
    again.load_state_dict(expected)
    assert [type(module) for module in again.modules()] == [type(module) for module in first.modules()]
    with pytest.raises(DataError, match=f"no such folder: {folder}"):
        make(str(folder)).build(FACTS, interface)


def test_a_skeleton_of_another_model_is_not_used(tmp_path: Path) -> None:
    folder, other = (saved(tmp_path / name, "bert", "AutoModel", STACK) for name in ("one", "other"))
    write_json(tmp_path / "pretrained.json", skeleton_content(open_pretrained(str(folder))))
    saved_skeleton = PretrainedSkeleton(tmp_path / "pretrained.json")
    assert not PretrainedBert(str(folder)).build(FACTS, TextEncoder, saved_skeleton).embedding.weight.any()
    assert isinstance(PretrainedBert(str(other)).files(saved_skeleton), FolderFiles)
    assert PretrainedBert(str(other)).build(FACTS, TextEncoder, saved_skeleton).embedding.weight.any()
    assert PretrainedBert(str(folder)).build(FACTS, TextEncoder).embedding.weight.any()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": "one", "config": {}}'])
def test_a_broken_file_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pretrained.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"pretrained.json.* (is|are) .*put it back from the run's newest checkpoint"):
        PretrainedSkeleton(path)
    with pytest.raises(DataError, match="No such file"):
        PretrainedSkeleton(tmp_path / "absent.json")


def test_of_sharded_weights_all_are_kept(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model("bert", **IDS, **STACK))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    content = json.loads(json.dumps(skeleton_content(open_pretrained(str(tmp_path)))))
    assert content["tensors"] == {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
