"""Query-key normalisation, capped logits, zeroed sublayers and squared ReLU in other libraries: carried, or refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from etude.commands.export.ctranslate import CTranslate2
from etude.commands.export.huggingface_decoder import HuggingFaceDecoder
from etude.commands.export.huggingface_encoder import HuggingFaceEncoder
from etude.commands.export.huggingface_translation import HuggingFaceTranslation
from etude.commands.export.onnx_graphs import OnnxTranslation
from etude.commands.export.proof import ProofTexts
from etude.errors import ConfigurationError
from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.generation.search import Greedy
from etude.models.layers.feed_forward import FeedForward, SquaredReLU
from etude.models.layers.residual import PostNorm
from etude.models.seq2seq import Seq2Seq
from etude.optim.schedules import Constant
from etude.tasks.causal_lm import CausalLM
from etude.tasks.masked_lm import MaskedLM
from etude.tokenization.base import Tokenizer
from etude.types import Facts

SQUARED = partial(FeedForward, activation=SquaredReLU())
SCHEDULE: Any = Constant()
ADAM = partial(torch.optim.Adam, lr=1e-3)


@pytest.fixture
def facts(tokenizer: Tokenizer) -> Facts:
    return Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask)


@pytest.fixture
def given(facts: Facts, tokenizer: Tokenizer, texts: list[str], examples: Callable[..., ProofTexts]) -> Any:
    """Makes the examples of a model with random weights: `decoder`, `encoder` or `seq2seq`."""

    def make(kind: str, **parts: Any) -> ProofTexts:
        torch.manual_seed(4)
        task: Any
        if kind == "decoder":
            task = CausalLM(
                facts, Decoder(facts, 22, 2, 3, 31, 0.1, 64, **parts), ADAM, SCHEDULE, Greedy(max_length=12)
            )
        elif kind == "encoder":
            task = MaskedLM(facts, Encoder(facts, 22, 2, 3, 31, 0.1, 64, **parts), ADAM, SCHEDULE)
        else:
            return drawn(examples(model=Seq2Seq(facts, 22, 2, 2, 3, 31, 0.1, 64, **parts)))
        return drawn(ProofTexts(task.eval(), tokenizer, texts, []))

    return make


def drawn(examples: ProofTexts) -> ProofTexts:
    for name, parameter in examples.task.named_parameters():
        nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.3)
    return examples


@pytest.mark.parametrize(
    ("kind", "export"),
    [("decoder", HuggingFaceDecoder()), ("encoder", HuggingFaceEncoder()), ("seq2seq", HuggingFaceTranslation())],
)
@pytest.mark.parametrize("parts", [{"feed_forward_layer": SQUARED}, {"zero_residual": True}])
def test_what_transformers_has_is_carried(
    given: Any, tmp_path: Path, kind: str, export: Any, parts: dict[str, Any]
) -> None:
    """Its name of the squared ReLU is relu2; how weights started, no format has to know."""
    examples = given(kind, **parts)
    export.write(examples, tmp_path)
    proof = export.prove(examples, tmp_path)
    assert proof["logits"]["largest_difference"] < 1e-4
    assert ("relu2" in (tmp_path / "config.json").read_text()) is ("feed_forward_layer" in parts)


@pytest.mark.parametrize(
    ("kind", "export", "parts", "said"),
    [
        ("decoder", HuggingFaceDecoder(), {"query_key_norm": True}, "HeadNorm; train with model.query_key_norm=false"),
        ("decoder", HuggingFaceDecoder(), {"logit_cap": 3.0}, "has no logit_cap; train with model.logit_cap=null"),
        (
            "encoder",
            HuggingFaceEncoder(),
            {"query_key_norm": True},
            "^RobertaPreLayerNorm has no norm of queries and keys, .*train with model.query_key_norm=false",
        ),
        (
            "encoder",
            HuggingFaceEncoder(),
            {"query_key_norm": True, "residual": PostNorm},
            "^Bert has no norm of queries",
        ),
        (
            "seq2seq",
            HuggingFaceTranslation(),
            {"query_key_norm": True},
            "^PegasusForConditionalGeneration has no norm of queries and keys.*train with model.query_key_norm=false",
        ),
        (
            "seq2seq",
            HuggingFaceTranslation(),
            {"logit_cap": 3.0, "residual": PostNorm},
            "^MarianMTModel has no cap of its",
        ),
    ],
)
def test_what_no_class_of_transformers_has_is_refused(
    given: Any, tmp_path: Path, kind: str, export: Any, parts: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        export.write(given(kind, **parts), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"query_key_norm": True}, "has no norm of queries and keys"),
        ({"logit_cap": 3.0}, "has no cap of its logits"),
        ({"feed_forward_layer": SQUARED}, "^CTranslate2 has no activation relu2, .* model/feed_forward=relu$"),
    ],
)
def test_what_ctranslate2_has_not_is_refused(given: Any, tmp_path: Path, parts: dict[str, Any], said: str) -> None:
    pytest.importorskip("ctranslate2")
    with pytest.raises(ConfigurationError, match=said):
        CTranslate2(None).write(given("seq2seq", **parts), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow  # the exporter takes ten seconds to begin
def test_onnx_carries_all_of_them(given: Any, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    examples = given("seq2seq", query_key_norm=True, logit_cap=3.0, zero_residual=True, feed_forward_layer=SQUARED)
    kind = OnnxTranslation()
    kind.write(examples, tmp_path)
    proof = kind.prove(examples, tmp_path)
    assert proof["logits"]["largest_difference"] < 1e-4
    assert proof["greedy"]["equal"] == len(examples.texts)
