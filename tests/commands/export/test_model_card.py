"""The programs that cards show: each does what its task does, and says nothing that has to be filled in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.commands.export.ctranslate import CTranslate2
from etude.commands.export.documented_use import USES
from etude.commands.export.huggingface_encoder import HuggingFaceEncoder
from etude.commands.export.huggingface_heads import WITH_ENCODER
from etude.commands.export.huggingface_translation import HuggingFaceTranslation
from etude.commands.export.model_card import command_line
from etude.commands.export.model_card_use import PROGRAMS, TAGS, pipeline_tag, program
from etude.commands.export.proof import ProofTexts
from etude.config.compose import compose
from etude.models.layers.residual import PreNorm
from etude.runs.saved_run import SavedRun
from etude.tasks.base import Task
from etude.tasks.classification import Classification
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.pooled import Pooled
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.token_classification import TokenClassification
from etude.tokenization.base import Tokenizer
from tests.commands.export.test_huggingface_encoder_export import given


@pytest.mark.parametrize(
    ("kind", "rest", "tag", "said"),
    [
        (Classification, {"pooling": "first"}, "text-classification", r"'label': '(cold|mild|warm)'"),
        (Classification, {"pooling": "pooler", "pairs": True}, "text-classification", r"'label': '(cold|mild|warm)'"),
        (Classification, {"pooling": "mean"}, "text-classification", r"^tensor\(\[\[[^,]+,[^,]+,[^,]+\]\]\)$"),
        (TokenClassification, {}, "token-classification", r"\('\S+', '(cold|mild|warm)'\)"),
        (MaskedLM, {}, "fill-mask", "'token_str'"),
        (QuestionAnswering, {"pairs": True}, "question-answering", ""),
    ],
)
def test_the_program_of_an_encoder_runs(
    tokenizer: Tokenizer, texts: list[str], tmp_path: Path, kind: Any, rest: Any, tag: str, said: str
) -> None:
    examples = given(kind, tokenizer, texts, PreNorm, **rest)
    HuggingFaceEncoder().write(examples, tmp_path)
    assert pipeline_tag(examples.task, "mine") == tag
    assert re.search(said, shown(program(examples.task, "huggingface", False), tmp_path))


@pytest.mark.parametrize("kind", WITH_ENCODER)
def test_each_task_that_is_exported_has_a_tag_a_program_and_a_proof_by_use(kind: type[Task]) -> None:
    for known in (TAGS, USES, {**PROGRAMS, Pooled: "chosen by its pooling"}):
        assert any(issubclass(kind, one) for one in known), kind


def shown(text: str, folder: Path) -> str:
    """Return what a card's program prints."""
    lines: list[str] = []
    exec(text, {"folder": str(folder), "print": lambda value: lines.append(str(value))})
    (line,) = lines
    return line


def test_the_programs_of_a_translator_say_what_it_says(examples: Callable[..., ProofTexts], tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    made = examples()
    HuggingFaceTranslation().write(made, tmp_path)
    assert shown(program(made.task, "huggingface", False), tmp_path).startswith("['")
    CTranslate2(None).write(made, tmp_path / "ctranslate2")
    text = program(made.task, "ctranslate2", False)
    assert "beam_size=3, max_decoding_length=12" in text
    assert shown(text, tmp_path / "ctranslate2")
    assert pipeline_tag(made.task, "translation/demo") == "translation"
    assert pipeline_tag(made.task, "summarization/scitldr") == "summarization"


def test_the_program_of_graphs_has_the_special_ids(examples: Callable[..., ProofTexts]) -> None:
    made = examples()
    text = program(made.task, "onnx", False)
    assert f"memory[:, :0], {made.task.facts.bos}, []" in text and "{folder}/tokenizer.json" in text
    assert not re.search("BOS|EOS|LIMIT|SOURCE", text)
    assert "{folder}/source/tokenizer.json" in program(made.task, "onnx", True)
    compile(text, "card", "exec")


def test_the_command_has_no_word_and_no_path_of_this_machine(tmp_path: Path) -> None:
    words = ["experiment=classification/demo", "data=table", "data.train=/home/ann/train.tsv", "seed=3"]
    rest = ["trainer=cpu", "paths.outputs=/home/ann/outputs", "logger=none", "run.name=x", "data.val=val.tsv"]
    run = SavedRun.begin(tmp_path, compose(*words, *rest))
    assert command_line(run) == (
        "etude train experiment=classification/demo data=table 'data.train=…/train.tsv' seed=3 data.val=val.tsv"
    )
