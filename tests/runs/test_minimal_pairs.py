"""`etude evaluate RUN pairs=FILE`: the scores are those of a plain loop of transformers with the run's weights."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from etude.commands import pair_evaluation
from etude.commands.pair_evaluation import RequestedPairs
from etude.errors import ConfigurationError, DataError
from tests.runs.conftest import sentence
from tests.runs.doors import evaluate, export, train

KINDS = ("causal_lm", "masked_lm")
SHORT = ("budget=2step", "validate.every=2step", "scheduler.warmup=1step", "model.max_length=32")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of uneven lengths of two phenomena, and one pair of equal sentences."""
    source, lines = random.Random(11), []
    for number in range(24):
        words = sentence(source, 9)
        good, bad = " ".join(words), " ".join([*words[::-1], "sun"])
        term = ("agreement", "islands")[number % 3 == 0]
        lines.append(
            {"sentence_good": good, "sentence_bad": bad, "linguistics_term": term, "UID": "x", "pairID": number}
        )
    lines.append({"sentence_good": "sun moon", "sentence_bad": "sun moon", "linguistics_term": "islands"})
    path = tmp_path_factory.mktemp("pairs") / "blimp.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def trained() -> dict[str, Path]:
    return {}


@pytest.fixture
def run(composed: Callable[..., Any], trained: dict[str, Path]) -> Callable[[str], Path]:
    """Trains a run of a kind for a moment, once."""

    def once(kind: str) -> Path:
        if kind not in trained:
            trained[kind] = train(composed(kind, *SHORT))
        return trained[kind]

    return once


def by_a_plain_loop(kind: str, folder: Path, text: str) -> float:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    if kind == "causal_lm":
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        scores = model(ids).logits[0, :-1].log_softmax(-1)
        return float(sum(scores[place, token] for place, token in enumerate(ids[0, 1:])))
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    total = 0.0
    for place in range(1, ids.shape[1] - 1):
        masked = ids.clone()
        masked[0, place] = tokenizer.mask_token_id
        total += float(model(masked).logits[0, place].log_softmax(-1)[ids[0, place]])
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_a_plain_loop_of_transformers(run: Callable[[str], Path], pairs: Path, kind: str) -> None:
    path = run(kind)
    found = evaluate([path], {"pairs": str(pairs)})
    rows = [json.loads(line) for line in (path / "evaluations" / "blimp.jsonl").read_text().splitlines()]
    assert found == json.loads((path / "evaluations" / "blimp.json").read_text())
    folder = export(path, {"to": "huggingface", "sentences": 3})
    with torch.no_grad():
        for row in rows[:5]:
            for side in ("good", "bad"):
                expected = by_a_plain_loop(kind, folder, row[side])
                assert row[f"log_likelihood_{side}"] == pytest.approx(expected, abs=1e-3)
    assert [row["right"] for row in rows] == [row["log_likelihood_good"] > row["log_likelihood_bad"] for row in rows]
    hits = [row["right"] for row in rows]
    assert found["scores"]["blimp/accuracy"] == pytest.approx(sum(hits) / 25)
    islands = [row["right"] for row in rows if row["phenomenon"] == "islands"]
    assert found["scores"]["blimp/accuracy/islands"] == pytest.approx(sum(islands) / len(islands))
    assert set(found["scores"]) == {"blimp/accuracy", "blimp/accuracy/agreement", "blimp/accuracy/islands"}
    low, high = found["intervals"]["blimp/accuracy"]
    assert low <= found["scores"]["blimp/accuracy"] <= high and low < high
    assert "equal:wrong" in found["signatures"]["blimp/accuracy"]
    assert rows[-1]["log_likelihood_good"] == rows[-1]["log_likelihood_bad"] and rows[-1]["right"] is False


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_a_batch_changes_nothing(run: Callable[[str], Path], pairs: Path, kind: str) -> None:
    path = run(kind)
    found, rows = [], []
    for size in (
        {"batch.tokens": 150},
        {"batch.examples": 1, "batch.tokens": None},
        {"batch.examples": 7, "batch.tokens": None},
    ):
        found.append(evaluate([path], {"pairs": str(pairs), **size}))
        lines = (path / "evaluations" / "blimp.jsonl").read_text().splitlines()
        rows.append([json.loads(line) for line in lines])
    assert found[0] == found[1] == found[2]
    for first, *others in zip(*rows, strict=True):
        for other in others:
            assert other["right"] == first["right"]
            assert other["log_likelihood_bad"] == pytest.approx(first["log_likelihood_bad"], abs=1e-4)


def test_many_pairs_say_how_far_they_are(
    run: Callable[[str], Path], pairs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pair_evaluation, "LOGGED", 0.0)
    with caplog.at_level(logging.INFO):
        evaluate([run("causal_lm")], {"pairs": str(pairs), "name": "told", "batch.tokens": 60})
    said = [int(line.split()[0]) for line in caplog.messages if "sentences are scored" in line]
    assert len(said) > 3 and said == sorted(said)
    assert caplog.messages.count(f"{said[-1]} of {said[-1]} sentences are scored") == 1


def test_a_file_names_its_evaluation(pairs: Path) -> None:
    made = RequestedPairs.of({"pairs": str(pairs)})
    assert made is not None and (made.name, len(made.pairs)) == ("blimp", 25)
    assert RequestedPairs.of({"pairs": None, "name": "x"}) is None


def test_two_runs_are_compared_on_the_same_pairs(
    run: Callable[[str], Path], composed: Callable[..., Any], pairs: Path
) -> None:
    first, second = run("causal_lm"), train(composed("causal_lm", *SHORT, "seed=2"))
    found = evaluate([first, second], {"pairs": str(pairs), "name": "mine"})
    against = found[str(second)]["against"]
    assert set(against["p"]) == {"accuracy", "accuracy/agreement", "accuracy/islands"}
    assert (second / "evaluations" / "mine.json").is_file()


def test_what_is_wrong_is_one_line(
    run: Callable[[str], Path], composed: Callable[..., Any], pairs: Path, tmp_path: Path
) -> None:
    path = run("causal_lm")
    for given, said in (
        ({"split": "val"}, "split=val and pairs= exclude each other"),
        ({"source": "x"}, "source=x and pairs= exclude each other"),
        ({"ensemble": ["x"]}, "pairs= exclude each other"),
        ({"name": "test"}, "the name 'test' of the evaluation cannot be used"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            evaluate([path], {"pairs": str(pairs), **given})
    long = tmp_path / "long.tsv"
    long.write_text("sun\tmoon\n" + "sun " * 60 + "\tmoon\n")
    with pytest.raises(
        DataError, match=r"^long.tsv:2: a sentence of \d+ tokens is longer than the 31 that the model reads"
    ):
        evaluate([path], {"pairs": str(long)})
    classifier = train(composed("classification", *SHORT[:3]))
    with pytest.raises(ConfigurationError, match="pairs= is for language models, not for Classification"):
        evaluate([classifier], {"pairs": str(pairs)})
