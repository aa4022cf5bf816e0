"""Classifiers and masked language models as transformers loads them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from etude.errors import ConfigurationError
from etude.export.hugging_face_encoder import HuggingFaceEncoder
from etude.export.proof import Examples, MismatchError
from etude.models.encoder import Encoder
from etude.nn.positions import Learned, Sinusoidal
from etude.nn.residual import PostNorm, PreNorm
from etude.optim.schedules import Constant
from etude.tasks.classification import Classification
from etude.tasks.masked_lm import MaskedLM
from etude.tokenization.tokenizer import Tokenizer
from etude.types import Facts

KIND = HuggingFaceEncoder()


def given(
    kind: Any, tokenizer: Tokenizer, texts: list[str], residual: Any, positions: Any = Learned, **rest: Any
) -> Any:
    torch.manual_seed(4)
    special = (tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask)
    facts = Facts(tokenizer.vocabulary, *special, classes=("cold", "mild", "warm"))
    encoder = Encoder(facts, 22, 2, 3, 31, 0.1, 64, positions=positions, residual=residual)
    task = kind(facts, encoder, partial(torch.optim.Adam, lr=1e-3), Constant(), **rest)
    for parameter in task.parameters():
        torch.nn.init.normal_(parameter, std=0.35)
    return Examples(task.eval(), tokenizer, texts, [])


@pytest.mark.parametrize(("residual", "name"), [(PreNorm, "RobertaPreLayerNorm"), (PostNorm, "Bert")])
@pytest.mark.parametrize(
    ("kind", "rest", "ending"),
    [
        (Classification, {"pooling": "mean"}, "ForTokenClassification"),
        (Classification, {"pooling": "first"}, "ForTokenClassification"),
        (MaskedLM, {}, "ForMaskedLM"),
    ],
)
def test_transformers_computes_the_same(
    tokenizer: Tokenizer, texts: list[str], tmp_path: Path, residual: Any, name: str, kind: Any, rest: Any, ending: str
) -> None:
    examples = given(kind, tokenizer, texts, residual, **rest)
    KIND.write(examples, tmp_path)
    proof = KIND.prove(examples, tmp_path)
    assert proof["class"] == name + ending
    assert proof["logits"]["largest_difference"] < 1e-4
    assert proof["tokenizer"]["equal"] == len(texts)


def test_a_changed_weight_is_found(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    examples = given(Classification, tokenizer, texts, PreNorm)
    KIND.write(examples, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.bias"][1] += 0.01
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match=r"logits differ by 1.00e-02"):
        KIND.prove(examples, tmp_path)


@pytest.mark.parametrize("residual", [PreNorm, PostNorm])
def test_positions_that_no_class_has_are_refused(
    tokenizer: Tokenizer, texts: list[str], tmp_path: Path, residual: Any
) -> None:
    examples = given(MaskedLM, tokenizer, texts, residual, Sinusoidal)
    with pytest.raises(ConfigurationError, match=r"Sinusoidal.*train with model/positions=learned"):
        KIND.write(examples, tmp_path)
