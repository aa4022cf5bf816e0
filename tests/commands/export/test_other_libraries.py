"""A translator in CTranslate2 and in ONNX Runtime, where those are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.commands.export.ctranslate import CTranslate2
from etude.commands.export.onnx_graphs import OnnxTranslation
from etude.commands.export.proof import MismatchError, ProofPairs, ProofTexts, same_best, translation
from etude.errors import ConfigurationError
from etude.models.layers.positions import Learned, Sinusoidal
from etude.models.layers.residual import PostNorm, PreNorm


@pytest.mark.parametrize(("residual", "positions"), [(PreNorm, Sinusoidal), (PostNorm, Learned)])
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_ctranslate2_gives_the_same_translations(
    examples: Callable[..., ProofTexts], tmp_path: Path, residual: Any, positions: Any, quantization: str | None
) -> None:
    pytest.importorskip("ctranslate2")
    given = examples(residual, positions)
    kind = CTranslate2(quantization)
    kind.write(given, tmp_path)
    proof = kind.prove(given, tmp_path)
    assert proof["greedy"] == {"sentences": len(given.texts), "equal": len(given.texts), "ties": 0}
    assert proof["beam"]["equal"] == len(given.texts)
    assert set(proof) == {"greedy", "beam", "run", "float32", *([quantization] if quantization else [])}
    assert proof["run"]["greedy"]["bleu"] == proof["float32"]["greedy"]["bleu"]
    assert {path.name for path in tmp_path.iterdir()} >= {"model.bin", "config.json", "tokenizer.json"}
    assert all(path.is_file() for path in tmp_path.iterdir())


def test_another_ctranslate2_model_is_found(examples: Callable[..., ProofTexts], tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    given = examples()
    kind = CTranslate2(None)
    kind.write(given, tmp_path)
    with torch.no_grad():
        translation(given).model.get_parameter("decoder_norm.bias").add_(torch.randn(22))
    with pytest.raises(MismatchError, match="CTranslate2 translates sentence"):
        kind.prove(given, tmp_path)


@pytest.mark.slow  # the exporter takes ten seconds to begin
def test_onnx_runtime_gives_the_same_logits(examples: Callable[..., ProofTexts], tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    given = examples()
    kind = OnnxTranslation()
    kind.write(given, tmp_path)
    proof = kind.prove(given, tmp_path)
    assert proof["logits"]["largest_difference"] < 1e-4
    rows = [shape[0] for shape in proof["logits"]["batches_rows_source_target"]]
    assert rows == [1, 2, 4, 8, 16]
    assert proof["greedy"]["equal"] == len(given.texts)
    with torch.no_grad():
        translation(given).model.get_parameter("decoder_norm.bias")[3] += 0.1
    with pytest.raises(MismatchError, match="logits differ by"):
        kind.prove(given, tmp_path)


@pytest.mark.parametrize("kind", [lambda: CTranslate2(None), OnnxTranslation])
def test_a_package_that_is_not_installed_is_named(kind: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ConfigurationError, match=r"needs (ctranslate2|onnx): pip install 'etude\[export\]'"):
        kind()


def test_an_unknown_quantization_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="quantization=int3 is not one of int8"):
        CTranslate2("int3")


def test_a_less_probable_translation_is_found(examples: Callable[..., ProofTexts]) -> None:
    given = examples()
    model, sentences = translation(given).model, ProofPairs.of(given)
    ours, _ = sentences.native(model, 3)
    assert same_best(model, sentences, ours, ours, "it", 3)["ties"] == 0
    with pytest.raises(MismatchError, match=r"it finds .* for sentence 5 with 3 beams, .* less probable"):
        same_best(model, sentences, ours, [*ours[:4], tuple(range(20, 31)), *ours[5:]], "it", 3)
