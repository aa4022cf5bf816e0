"""Small data of uneven lengths for each task, and experiments on it that take seconds."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORDS = "sun moon star tree lake road bird song wind rain snow fire stone house green blue old new small great".split()  # noqa: SIM905
TASKS = ("translation", "masked_lm", "causal_lm", "classification", "token_classification")
SKY = ("sun", "moon", "star")
SMALL = [
    "logger=none",
    "trainer=cpu",
    "trainer.progress_bar=false",
    "callbacks=none",
    "budget=8step",
    "validate.every=4step",
    "checkpoint.every=100step",
    "log.every=1step",
    "scheduler.warmup=3step",
    "model.width=16",
    "model.heads=2",
    "model.feed_forward=24",
]


def sentence(source: random.Random, longest: int = 17) -> list[str]:
    return [source.choice(WORDS) for _ in range(source.randint(1, longest))]


def tagged(words: list[str]) -> str:
    """Return words with the tags of their spans of the sky, in columns."""
    tags = [
        ("I-sky" if before in SKY else "B-sky") if word in SKY else "O"
        for before, word in zip(["", *words], words, strict=False)
    ]
    return "".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True)) + "\n"


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files for each task: `train.en`, `train.de`, `train.tsv`, `train.txt`, and so on."""
    folder = tmp_path_factory.mktemp("data")
    source = random.Random(7)
    for split, rows in (("train", 203), ("val", 23), ("test", 19)):
        texts = [sentence(source) for _ in range(rows)]
        (folder / f"{split}.en").write_text("".join(" ".join(text) + "\n" for text in texts))
        (folder / f"{split}.de").write_text("".join(" ".join(word[::-1] for word in text) + "\n" for text in texts))
        labels = ["warm" if "sun" in text or "fire" in text else "cold" for text in texts]
        lines = [f"{' '.join(text)}\t{label}\n" for text, label in zip(texts, labels, strict=True)]
        (folder / f"{split}.tsv").write_text("text\tlabel\n" + "".join(lines))
        (folder / f"{split}.conll").write_text("".join(map(tagged, texts)))
        (folder / f"{split}.txt").write_text("\n\n".join(" ".join(text) for text in texts) + "\n")
    return folder


@pytest.fixture
def overrides(small_data: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """What is written on a command line for a small experiment of a task."""

    def written(task: str, *more: str) -> list[str]:
        of_task = {
            "translation": [
                "data=parallel",
                f"data.root={small_data}",
                "model.encoder_layers=1",
                "model.decoder_layers=1",
                "tokenizer.vocabulary=60",
                "batch.tokens=180",
                "validate.metric=val/bleu",
                "decoding=greedy",
                "decoding.max_length=24",
            ],
            "masked_lm": [
                "data=text",
                *(f"data.{split}={small_data}/{split}.txt" for split in ("train", "val", "test")),
                "data.max_length=16",
                "model.layers=1",
                "tokenizer.vocabulary=60",
                "batch.tokens=150",
            ],
            "causal_lm": [
                "data=documents",
                *(f"data.{split}={small_data}/{split}.txt" for split in ("train", "val", "test")),
                "data.max_length=16",
                "model.layers=1",
                "tokenizer.vocabulary=60",
                "batch.tokens=150",
                "decoding.max_length=6",
            ],
            "classification": [
                "data=table",
                *(f"data.{split}={small_data}/{split}.tsv" for split in ("train", "val", "test")),
                "model.layers=1",
                "tokenizer.vocabulary=60",
                "batch.examples=13",
            ],
            "token_classification": [
                "data=tagged_words",
                "data.scheme=iob2",
                *(f"data.{split}={small_data}/{split}.conll" for split in ("train", "val", "test")),
                "data.max_length=16",
                "model.layers=1",
                "tokenizer.vocabulary=60",
                "batch.examples=13",
            ],
        }[task]
        paths = [f"paths.outputs={tmp_path}/outputs", f"paths.cache={tmp_path}/cache"]
        return [f"experiment={task}/demo", *SMALL, *of_task, *paths, *more]

    return written


@pytest.fixture
def composed(overrides: Callable[..., list[str]]) -> Callable[..., Any]:
    """The checked configuration of a small experiment."""
    from etude.config.compose import compose

    return lambda task, *more: compose(*overrides(task, *more))
