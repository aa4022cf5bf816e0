"""`etude export`: what it refuses, that a failed proof leaves nothing behind, and that what it wrote is trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from etude.commands.export.huggingface_encoder import HuggingFaceEncoder
from etude.commands.export.proof import MismatchError, ProofTexts
from etude.config.compose import compose
from etude.errors import ConfigurationError
from etude.packages import file_sha256
from etude.runs.saved_run import SavedRun
from etude.tokenization.base import Tokenizer
from etude.training.build import build
from tests.runs import processes
from tests.runs.conftest import SMALL
from tests.runs.doors import export, load_run, train


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({}, r"to=\? is not a format; write to=huggingface, to=ctranslate2, to=onnx"),
        ({"to": "gguf"}, "to=gguf is not a format"),
        ({"to": "onnx", "quantization": "int8"}, "quantization=int8 is for to=ctranslate2"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path: Path, overrides: dict[str, Any], words: str) -> None:
    SavedRun.begin(tmp_path, compose())
    with pytest.raises(ConfigurationError, match=words):
        export(tmp_path, overrides)


@pytest.fixture
def run(composed: Callable[..., Any]) -> Path:
    """A classifier, trained for a moment."""
    folder = train(composed("classification"))
    assert folder is not None
    return folder


def test_a_classifier_is_exported_and_exported_again(run: Path) -> None:
    for _ in range(2):
        folder = export(run, {"to": "huggingface"})
    assert folder == run / "exports" / "huggingface"
    record = json.loads((folder / "export.json").read_text())
    assert record["proof"]["class"] == "RobertaPreLayerNormForSequenceClassification"
    assert record["proof"]["logits"]["texts"] == record["proof"]["as_documented"]["texts"] == 23
    assert [path.name for path in folder.parent.iterdir()] == ["huggingface"]
    with pytest.raises(ConfigurationError, match=r"to=onnx exports Translation.*Classification; write to=huggingface"):
        export(run, {"to": "onnx"})
    with pytest.raises(ConfigurationError, match="exists and is not an earlier export"):
        export(run, {"to": "huggingface", "path": str(run / "checkpoints")})


def test_an_export_has_a_card_that_a_stranger_can_use(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export(run, {"to": "huggingface", "sentences": 2, "license": "apache-2.0"})
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    told = OmegaConf.to_container(OmegaConf.create(front))
    assert isinstance(told, dict)
    assert [told[key] for key in ("license", "library_name", "pipeline_tag")] == [
        "apache-2.0",
        "transformers",
        "text-classification",
    ]
    (results,) = told["model-index"][0]["results"]
    scores = json.loads((run / "evaluations" / "test.json").read_text())["scores"]
    assert {f"test/{metric['type']}": metric["value"] for metric in results["metrics"]} == scores
    assert "etude train experiment=classification/demo" in body and "data.train=…/train.tsv" in body
    assert str(run.parents[3]) not in text, "no path of this machine"
    assert "203 rows of train" in body and "## License" in body
    program = body.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folder)
    said: list[Any] = []
    exec(program, {"print": said.append})
    assert {one["label"] for one in said[0]} == {"cold", "warm"}
    with pytest.raises(ConfigurationError, match=r"license=Mine! is not the name of a license; write one such as"):
        export(run, {"to": "huggingface", "license": "Mine!"})


def test_the_record_of_an_export_has_the_hash_of_each_file(run: Path) -> None:
    folder = export(run, {"to": "huggingface", "sentences": 2})
    files = json.loads((folder / "export.json").read_text())["files"]
    assert files == {path.name: file_sha256(path) for path in folder.iterdir() if path.name != "export.json"}


def test_a_failed_proof_leaves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: HuggingFaceEncoder, examples: ProofTexts, folder: Path) -> dict[str, Any]:
        assert any(folder.iterdir())
        raise MismatchError("logits differ")

    monkeypatch.setattr(HuggingFaceEncoder, "prove", fails)
    with pytest.raises(MismatchError):
        export(run, {"to": "huggingface"})
    assert not any((run / "exports").iterdir())


SHORT = ("budget=2step", "validate.every=2step", "scheduler.warmup=1step")


@pytest.mark.slow
def test_a_causal_language_model_is_exported_by_the_command_line(composed: Callable[..., Any], tmp_path: Path) -> None:
    run = train(composed("causal_lm", *SHORT))
    assert run is not None
    ended = processes.run(tmp_path / "command", ["export", str(run), "to=huggingface"])
    folder = run / "exports" / "huggingface"
    assert (ended.code, ended.out) == (0, f"{folder}\n"), ended.log[-2000:]
    proof = json.loads((folder / "export.json").read_text())["proof"]
    assert proof["class"] == type(AutoModelForCausalLM.from_pretrained(folder)).__name__ == "GPT2LMHeadModel"
    assert proof["greedy"]["texts"] == 16 and proof["logits"]["texts"] == proof["tokenizer"]["equal"] > 16
    tokenizer = Tokenizer.load(run / "tokenizer")
    assert AutoTokenizer.from_pretrained(folder)("sun moon")["input_ids"] == [1, *tokenizer.encode(["sun moon"])[0]]


def test_an_exported_causal_language_model_is_trained_on(
    composed: Callable[..., Any], small_data: Path, tmp_path: Path
) -> None:
    run = train(composed("causal_lm", *SHORT))
    assert run is not None
    folder = export(run, {"to": "huggingface", "sentences": 2})
    words = [
        "experiment=causal_lm/adapt",
        "model=gpt2",
        f"model.name={folder}",
        *(word for word in SMALL if not word.startswith("model.")),
        "data=documents",
        *(f"data.{split}={small_data}/{split}.txt" for split in ("train", "val", "test")),
        "data.max_length=16",
        "batch.tokens=150",
        *(f"paths.{name}={tmp_path}/{name}" for name in ("outputs", "cache")),
    ]
    again = build(compose(*words, *SHORT))
    task, tokenizer = load_run(run)
    assert again.data.tokenizer.encode(["sun moon"]) == tokenizer.encode(["sun moon"])
    own, read = task.model.state_dict(), again.task.model.state_dict()
    assert own.keys() == read.keys()
    for name, tensor in read.items():
        assert torch.equal(tensor, own[name]), name
    more = train(compose(*words, *SHORT))
    assert more is not None
    assert "model.safetensors" in json.loads((more / "manifest.json").read_text())["pretrained"]["sha256"]
    before = load_run(more)[0].state_dict()
    shutil.rmtree(folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_run(more)[0].state_dict().items())


def test_a_decoder_with_other_parts_than_gpt2s_is_refused_in_one_line(
    composed: Callable[..., Any], tmp_path: Path
) -> None:
    run = train(composed("causal_lm", "model/positions=rotary", "model/norm=rms", *SHORT))
    assert run is not None
    ended = processes.run(tmp_path / "command", ["export", str(run), "to=huggingface"])
    assert (ended.code, ended.out) == (78, "")
    assert ended.said == [
        "etude: error: GPT-2, the only decoder of transformers that is written, has no RMSNorm, Rotary; "
        "train with model/positions=learned model/norm=layer"
    ]
    assert not any((run / "exports").iterdir())
