"""A vocabulary for each side: trained, evaluated, translated with, looked into and exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.errors import ConfigurationError
from etude.models.layers.embeddings import TiedOutputEmbeddings
from etude.models.seq2seq import Seq2Seq
from etude.report.look import look
from etude.tokenization.base import SOURCE, Tokenizer
from tests.runs.doors import export, load_run, train

TIED = "model/embeddings=tied_output"


@pytest.fixture
def trained(composed: Callable[..., Any]) -> Callable[..., Path]:
    """Trains a small experiment with a vocabulary for each side."""

    def run(task: str, *more: str) -> Path:
        folder = train(composed(task, "tokenizer=separate", *more))
        assert folder is not None
        return folder

    return run


@pytest.mark.slow
def test_two_vocabularies_from_training_to_export(trained: Callable[..., Path], small_data: Path) -> None:
    run = trained(
        "translation",
        "tokenizer.vocabulary=45",
        "tokenizer.source_vocabulary=60",
        TIED,
        "data/sampling=bpe_dropout",
    )
    facts = json.loads((run / "facts.json").read_text())
    assert (facts["vocabulary"], facts["source_vocabulary"]) == (45, 60)
    task, tokenizer = load_run(run)
    source = tokenizer.of("source")
    assert (source.vocabulary, tokenizer.vocabulary, tokenizer.of("target")) == (60, 45, tokenizer)
    assert isinstance(task.model, Seq2Seq)
    assert isinstance(task.model.embedding, TiedOutputEmbeddings)
    assert task.model.embedding.source_vectors.num_embeddings == 60
    assert task.model.output_weight.shape == (45, 16)

    rows = [json.loads(line) for line in (run / "evaluations" / "test.jsonl").read_text().splitlines()[:5]]
    sources = (small_data / "test.en").read_text().splitlines()[:5]
    assert [prediction.text for prediction in task.predictions(sources, tokenizer)] == [row["output"] for row in rows]

    seen = look(task, tokenizer, "sun moon", "nus noom")
    across = next(one for one in seen.maps if "cross" in one.name)
    assert across.columns[:-1] == source.names(source.encode(["sun moon"])[0])
    assert across.rows[:-1] == tokenizer.names(tokenizer.encode(["nus noom"])[0])
    assert seen.alignment.source == ["sun", "moon"]
    assert seen.alignment.target == ["nus", "noom"]

    exported = export(run, {"to": "onnx"})
    assert Tokenizer.load(exported).of("source").vocabulary == 60
    assert (exported / SOURCE / "tokenizer.json").is_file()
    with pytest.raises(ConfigurationError, match="embedding"):
        export(run, {"to": "huggingface"})


def test_vocabularies_of_one_size_are_not_one_vocabulary(trained: Callable[..., Path]) -> None:
    with pytest.raises(ConfigurationError, match=r"vocabularies of their own.*model/embeddings=tied_output"):
        trained("translation")


def test_a_task_without_sources_has_one_vocabulary(trained: Callable[..., Path]) -> None:
    with pytest.raises(ConfigurationError, match=r"a vocabulary of its own for source: the data has only text"):
        trained("classification")
