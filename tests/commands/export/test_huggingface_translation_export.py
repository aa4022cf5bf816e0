"""A translator as transformers loads it: ids, logits and translations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from etude.commands.export.huggingface_translation import HuggingFaceTranslation
from etude.commands.export.proof import MismatchError, ProofPairs, ProofTexts, native_translator, translation
from etude.errors import ConfigurationError
from etude.models.base import EncoderDecoder
from etude.models.layers.positions import Learned, Sinusoidal
from etude.models.layers.residual import PostNorm, PreNorm
from etude.models.pretrained.bart import PretrainedBart

KIND = HuggingFaceTranslation()


@pytest.mark.parametrize(
    ("residual", "positions", "name"),
    [
        (PreNorm, Sinusoidal, "PegasusForConditionalGeneration"),
        (PostNorm, Sinusoidal, "MarianMTModel"),
        (PreNorm, Learned, "PegasusForConditionalGeneration"),
    ],
)
def test_transformers_computes_the_same(
    examples: Callable[..., ProofTexts], tmp_path: Path, residual: Any, positions: Any, name: str
) -> None:
    given = examples(residual, positions)
    KIND.write(given, tmp_path)
    proof = KIND.prove(given, tmp_path)
    count = len(given.texts)
    assert proof["class"] == name
    assert proof["greedy"] == {"sentences": count, "equal": count, "ties": 0}
    assert proof["beam"]["equal"] == count
    assert proof["logits"]["largest_difference"] < 1e-4
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert len(set(ProofPairs.of(given).native(translation(given).model, 1)[0])) > 5  # not one answer to all


def test_transformers_own_table_of_positions_is_the_exported_one(
    examples: Callable[..., ProofTexts], tmp_path: Path
) -> None:
    given = examples(PostNorm)
    KIND.write(given, tmp_path)
    # Marian's class leaves its table out when it saves, and makes it again when it loads.
    AutoModelForSeq2SeqLM.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert not any("embed_positions" in name for name in load_file(tmp_path / "model.safetensors"))
    assert KIND.prove(given, tmp_path)["logits"]["largest_difference"] < 1e-4


@pytest.mark.parametrize("residual", [PreNorm, PostNorm])
def test_what_was_exported_is_read_back(examples: Callable[..., ProofTexts], tmp_path: Path, residual: Any) -> None:
    given = examples(residual)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    KIND.write(given, tmp_path / "first")
    model = PretrainedBart(str(tmp_path / "first")).build(given.task.facts, EncoderDecoder).eval()
    own = translation(given).model
    batch = ProofPairs.of(given).source([0, 1, 2])
    with torch.no_grad():
        first, second = (kind(batch.tokens, batch.tokens, batch.mask, batch.mask) for kind in (own, model))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4)
    again = examples(model=model)
    KIND.write(again, tmp_path / "second")
    assert KIND.prove(again, tmp_path / "second")["greedy"]["equal"] == len(given.texts)


def test_a_changed_weight_is_found(examples: Callable[..., ProofTexts], tmp_path: Path) -> None:
    given = examples()
    KIND.write(given, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.decoder.layers.1.fc1.bias"][3] += 0.1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match=r"(differ by|otherwise)"):
        KIND.prove(given, tmp_path)


def test_a_missing_weight_is_found(examples: Callable[..., ProofTexts], tmp_path: Path) -> None:
    given = examples()
    KIND.write(given, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.decoder.layers.1.fc1.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match=r"model.decoder.layers.1.fc1.bias"):
        KIND.prove(given, tmp_path)


def test_parts_that_no_class_has_are_refused(examples: Callable[..., ProofTexts], tmp_path: Path) -> None:
    given = examples()
    native_translator(translation(given)).decoder[1].gate = torch.nn.Linear(2, 3)
    with pytest.raises(ConfigurationError, match=r"no place for decoder.1.gate.weight"):
        KIND.write(given, tmp_path)
