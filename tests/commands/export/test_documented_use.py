"""Exports used as the other library says give what the run gives; the programs that do it know nothing of etude."""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from etude.commands.export import documented_use
from etude.commands.export.ctranslate import CTranslate2, vocabulary_of
from etude.commands.export.documented_use import ask, prove_use
from etude.commands.export.huggingface_decoder import HuggingFaceDecoder
from etude.commands.export.huggingface_encoder import HuggingFaceEncoder
from etude.commands.export.huggingface_translation import HuggingFaceTranslation
from etude.commands.export.proof import MismatchError, ProofPairs, ProofTexts, proven_beams, translation
from etude.models.decoder import Decoder
from etude.models.generation.search import Greedy
from etude.models.layers.positions import Rotary
from etude.models.layers.residual import PostNorm, PreNorm
from etude.optim.schedules import Constant
from etude.tasks.causal_lm import CausalLM
from etude.tasks.classification import Classification
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.multilabel import Multilabel
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.regression import Regression
from etude.tasks.token_classification import TokenClassification
from etude.tokenization.base import Tokenizer
from etude.types import Facts
from tests.commands.export.test_huggingface_encoder_export import given
from tests.runs.doors import ask_here

PROGRAMS = (
    "etude.commands.export.documented.ctranslate2_use",
    "etude.commands.export.documented.onnx_use",
    "etude.commands.export.documented.transformers_use",
)
FOLDER = Path(documented_use.__file__).with_name("documented")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs run here, where the libraries are in memory already."""
    monkeypatch.setattr(documented_use, "ask", ask_here)


def test_these_are_all_programs() -> None:
    assert {name.rpartition(".")[2] for name in PROGRAMS} == {path.stem for path in FOLDER.glob("*_use.py")}


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_program_imports_etude(program: str) -> None:
    tree = ast.parse((FOLDER / f"{program.rpartition('.')[2]}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported and not any(name.partition(".")[0] in ("etude", "tests", "") for name in imported)


@pytest.mark.parametrize(
    ("kind", "rest"),
    [
        (Classification, {"pooling": "first"}),
        (Classification, {"pooling": "pooler", "pairs": True}),
        (Multilabel, {"pooling": "first"}),
        (Regression, {"pooling": "first", "pairs": True}),
    ],
)
@pytest.mark.parametrize("residual", [PreNorm, PostNorm])
def test_the_pipeline_says_what_the_classifier_says(
    tokenizer: Tokenizer, texts: list[str], tmp_path: Path, residual: Any, kind: Any, rest: Any
) -> None:
    examples = given(kind, tokenizer, texts, residual, **rest)
    HuggingFaceEncoder().write(examples, tmp_path)
    proof = prove_use(examples, tmp_path, "huggingface")
    assert proof["by"] == 'pipeline("text-classification")'
    assert proof["texts"] + proof["too_long"] == len(texts) and proof["texts"] > 20
    assert proof["largest_difference"] < 1e-4


def test_a_text_that_is_too_long_is_cut_as_the_run_cuts_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    long = ["sun moon star " * 40, "rain"]
    examples = given(Classification, tokenizer, long, PreNorm)
    HuggingFaceEncoder().write(examples, tmp_path)
    proof = prove_use(examples, tmp_path, "huggingface")
    assert (proof["texts"], proof["too_long"]) == (2, 0)
    pairs = given(Classification, tokenizer, long, PreNorm, pairs=True)
    (tmp_path / "pairs").mkdir()
    HuggingFaceEncoder().write(pairs, tmp_path / "pairs")
    with pytest.raises(MismatchError, match="no validation text"):
        prove_use(pairs, tmp_path / "pairs", "huggingface")


@pytest.mark.parametrize("residual", [PreNorm, PostNorm])
def test_the_pipeline_tags_words_as_the_run_does(
    tokenizer: Tokenizer, texts: list[str], tmp_path: Path, residual: Any
) -> None:
    examples = given(TokenClassification, tokenizer, texts, residual)
    HuggingFaceEncoder().write(examples, tmp_path)
    proof = prove_use(examples, tmp_path, "huggingface")
    assert proof["by"] == 'pipeline("token-classification")' and proof["words"] > proof["texts"] > 20
    assert proof["largest_difference"] < 1e-4
    weight = examples.task.head.weight  # another model
    weight.data.neg_()
    with pytest.raises(MismatchError, match="pipeline tags"):
        prove_use(examples, tmp_path, "huggingface")


def test_a_mean_has_no_pipeline(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    assert prove_use(given(Classification, tokenizer, texts, PreNorm, pooling="mean"), tmp_path, "huggingface") == {}


@pytest.mark.parametrize("positions", [None, Rotary])
def test_the_pipeline_fills_masks_as_the_run_does(
    tokenizer: Tokenizer, texts: list[str], tmp_path: Path, positions: Any
) -> None:
    examples = given(MaskedLM, tokenizer, texts, PreNorm, **({"positions": positions} if positions else {}))
    HuggingFaceEncoder().write(examples, tmp_path)
    proof = prove_use(examples, tmp_path, "huggingface")
    assert proof["by"] == 'pipeline("fill-mask")' and (proof["texts"], proof["left_out"]) == (len(texts) - 1, 1)
    assert proof["largest_difference"] < 1e-4


def test_answers_have_the_runs_scores(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    examples = given(QuestionAnswering, tokenizer, texts, PreNorm, pairs=True)
    HuggingFaceEncoder().write(examples, tmp_path)
    proof = prove_use(examples, tmp_path, "huggingface")
    assert proof["texts"] > 20 and proof["largest_difference"] < 1e-4


def test_the_pipeline_continues_texts_as_the_run_does(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    torch.manual_seed(4)
    facts = Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos)
    schedule: Any = Constant()
    adam = partial(torch.optim.Adam, lr=1e-3)
    task = CausalLM(facts, Decoder(facts, 22, 2, 3, 31, 0.1, 64), adam, schedule, Greedy(max_length=12))
    for name, parameter in task.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.3)
    examples = ProofTexts(task.eval(), tokenizer, texts, [])
    HuggingFaceDecoder().write(examples, tmp_path)
    proof = prove_use(examples, tmp_path, "huggingface")
    assert proof == {"by": 'pipeline("text-generation")', "texts": 16, "equal": 16, "ties": 0}


def test_generate_translates_as_the_run_does(examples: Callable[..., ProofTexts], tmp_path: Path) -> None:
    made = examples()
    HuggingFaceTranslation().write(made, tmp_path)
    proof = prove_use(made, tmp_path, "huggingface")
    assert proof["greedy"] == {"sentences": len(made.texts), "equal": len(made.texts), "ties": 0}


def test_ctranslate2_is_given_one_end(examples: Callable[..., ProofTexts], tmp_path: Path) -> None:
    """The tokenizer writes it; a model that adds another one translates otherwise."""
    pytest.importorskip("ctranslate2")
    made = examples()
    CTranslate2(None).write(made, tmp_path)
    proof = prove_use(made, tmp_path, "ctranslate2")
    assert proof["greedy"] == proof["of_plain_tokens"] == {"sentences": 31, "equal": 31, "ties": 0}
    assert proof["beam"]["equal"] == 31
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["add_source_eos"] is False
    (tmp_path / "config.json").write_text(json.dumps({**config, "add_source_eos": True}))
    with pytest.raises(MismatchError, match="CTranslate2 translates sentence"):
        prove_use(made, tmp_path, "ctranslate2")


def test_what_a_quantized_model_translates_alike_is_counted(
    examples: Callable[..., ProofTexts], tmp_path: Path
) -> None:
    """How many that is depends on the processor: products of int8 saturate where it has no instructions for them."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    made = examples()
    CTranslate2("int8").write(made, tmp_path)
    counted = prove_use(made, tmp_path, "ctranslate2", quantized=True)
    sentences, vocabulary = ProofPairs.of(made), vocabulary_of(made.tokenizer)
    translator = ctranslate2.Translator(str(tmp_path), compute_type="int8")
    pieces = [[vocabulary[index] for index in (*ids, made.tokenizer.eos)] for ids in sentences.sources]
    limits = {"length_penalty": 0.0, "max_decoding_length": sentences.limit, "min_decoding_length": 0}
    for name, beams in (("greedy", 1), ("beam", proven_beams(translation(made)))):
        own, _ = sentences.native(translation(made).model, beams)
        results = translator.translate_batch(pieces, beam_size=beams, **limits)
        theirs = [tuple(map(vocabulary.index, result.hypotheses[0])) for result in results]
        equal = sum(map(operator.eq, own, theirs))
        assert counted[name] == {"sentences": 31, "equal": equal} and equal > 0
    assert counted["of_plain_tokens"] == counted["greedy"]


def test_another_model_is_found(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    examples = given(Classification, tokenizer, texts, PreNorm)
    HuggingFaceEncoder().write(examples, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.out_proj.bias"][1] += 0.01
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match="the scores of pipeline differ from the run's"):
        prove_use(examples, tmp_path, "huggingface")


@pytest.mark.slow  # ten seconds of imports
def test_in_a_process_of_its_own(
    tokenizer: Tokenizer, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documented_use, "ask", ask)
    examples = given(Classification, tokenizer, texts, PreNorm)
    HuggingFaceEncoder().write(examples, tmp_path)
    assert prove_use(examples, tmp_path, "huggingface")["largest_difference"] < 1e-4


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    request = {"folder": str(tmp_path), "source": str(tmp_path), "texts": [], "bos": 1, "eos": 2, "limit": 3}
    with pytest.raises(MismatchError, match=r"^onnx_use cannot use the export: [^\n]+; nothing was exported$"):
        ask("onnx_use", request)
