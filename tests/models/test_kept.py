"""What a run keeps of a pretrained model's files: the same model is built from it, with zeros in the place of weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from etude.errors import DataError, StorageError
from etude.hub import open_pretrained, standing_in
from etude.models.pretrained.bert import pretrained_encoder
from etude.models.pretrained.encoder_decoders import pretrained_seq2seq
from etude.models.pretrained.gpt2 import pretrained_gpt2
from etude.models.pretrained.skeleton import PretrainedSkeleton
from etude.models.pretrained.weight_files import kept, read_safetensors
from etude.models.wrapped.wrapped_encoder import WrappedEncoder
from etude.models.wrapped.wrapped_seq2seq import WrappedEncoderDecoder
from etude.runs.folder import write_json
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
BUILDS: dict[str, tuple[Callable[..., nn.Module], str, str, dict[str, Any]]] = {
    "bert": (pretrained_encoder, "bert", "AutoModelForMaskedLM", STACK),
    "roberta": (pretrained_encoder, "roberta", "AutoModelForMaskedLM", STACK),
    "distilbert": (pretrained_encoder, "distilbert", "AutoModel", STACK),
    "gpt2": (pretrained_gpt2, "gpt2", "AutoModelForCausalLM", {"n_embd": 16, "n_layer": 2, "n_head": 2}),
    "marian": (pretrained_seq2seq, "marian", "AutoModelForSeq2SeqLM", BOTH),
    "bart": (pretrained_seq2seq, "bart", "AutoModelForSeq2SeqLM", BOTH),
    "another encoder": (WrappedEncoder, "electra", "AutoModel", {**STACK, "embedding_size": 16}),
    "another translator": (WrappedEncoderDecoder, "marian", "AutoModelForSeq2SeqLM", BOTH),
}


def saved(folder: Path, kind: str, auto: str, sizes: dict[str, Any]) -> Path:
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(kind, **IDS, **sizes)
    getattr(transformers, auto).from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", BUILDS)
def test_the_same_model_without_its_files(tmp_path: Path, name: str) -> None:
    build, kind, auto, sizes = BUILDS[name]
    folder = saved(tmp_path / "model", kind, auto, sizes)
    first: Any = build(FACTS, str(folder))
    write_json(tmp_path / "pretrained.json", kept(first.files))
    described = first.files.describe()
    shutil.rmtree(folder)

    files = PretrainedSkeleton(tmp_path / "pretrained.json")
    with standing_in(files):
        again: Any = build(FACTS, str(folder))
    assert again.files is files and files.describe() == described
    assert kept(files) == json.loads((tmp_path / "pretrained.json").read_text())
    expected, state = first.state_dict(), again.state_dict()
    assert {key: tensor.shape for key, tensor in state.items()} == {
        key: tensor.shape for key, tensor in expected.items()
    }
    again.load_state_dict(expected)
    assert [type(module) for module in again.modules()] == [type(module) for module in first.modules()]
    with pytest.raises(DataError, match=f"no such folder: {folder}"):
        build(FACTS, str(folder))


def test_only_its_own_name_is_stood_in_for(tmp_path: Path) -> None:
    folder, other = (saved(tmp_path / name, "bert", "AutoModel", STACK) for name in ("one", "other"))
    write_json(tmp_path / "pretrained.json", kept(open_pretrained(str(folder))))
    with standing_in(PretrainedSkeleton(tmp_path / "pretrained.json")):
        assert not any(tensor.any() for tensor in read_safetensors(open_pretrained(str(folder))).values())
        assert any(tensor.any() for tensor in read_safetensors(open_pretrained(str(other))).values())
    assert any(tensor.any() for tensor in read_safetensors(open_pretrained(str(folder))).values())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": "one", "config": {}}'])
def test_a_broken_file_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pretrained.json"
    path.write_text(content)
    with pytest.raises(
        StorageError, match=r"pretrained.json cannot be read.*put it back from the run's newest checkpoint"
    ):
        PretrainedSkeleton(path)
    with pytest.raises(StorageError, match="No such file"):
        PretrainedSkeleton(tmp_path / "absent.json")


def test_of_sharded_weights_all_are_kept(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model("bert", **IDS, **STACK))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    content = json.loads(json.dumps(kept(open_pretrained(str(tmp_path)))))
    assert content["tensors"] == {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
