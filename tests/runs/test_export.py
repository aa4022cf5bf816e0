"""`etude export`: what it refuses, and that a failed proof leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.errors import ConfigurationError
from etude.experiment.export import export
from etude.experiment.run import train
from etude.export.hugging_face_encoder import HuggingFaceEncoder
from etude.export.proof import Examples, MismatchError


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({}, r"to=\? is no format; write to=huggingface, to=ctranslate2, to=onnx"),
        ({"to": "gguf"}, "to=gguf is no format"),
        ({"to": "onnx", "quantization": "int8"}, "quantization=int8 is for to=ctranslate2"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path: Path, overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        export(tmp_path, overrides)


@pytest.fixture
def run(composed: Callable[..., Any]) -> Path:
    """A classifier, trained for a moment."""
    folder = train(composed("classification"), [])
    assert folder is not None
    return folder


def test_a_classifier_is_exported_and_exported_again(run: Path) -> None:
    for _ in range(2):
        folder = export(run, {"to": "huggingface"})
    assert folder == run / "exports" / "huggingface"
    record = json.loads((folder / "export.json").read_text())
    assert record["proof"]["class"] == "RobertaPreLayerNormForTokenClassification"
    assert record["proof"]["logits"]["texts"] == 23
    assert [path.name for path in folder.parent.iterdir()] == ["huggingface"]
    with pytest.raises(ConfigurationError, match=r"to=onnx exports Translation.*Classification; write to=huggingface"):
        export(run, {"to": "onnx"})
    with pytest.raises(ConfigurationError, match="exists and is no earlier export"):
        export(run, {"to": "huggingface", "path": str(run / "checkpoints")})


def test_a_failed_proof_leaves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: HuggingFaceEncoder, examples: Examples, folder: Path) -> dict[str, Any]:
        assert any(folder.iterdir())
        raise MismatchError("logits differ")

    monkeypatch.setattr(HuggingFaceEncoder, "prove", fails)
    with pytest.raises(MismatchError):
        export(run, {"to": "huggingface"})
    assert not any((run / "exports").iterdir())
