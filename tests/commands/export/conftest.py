"""A small translator with random weights, and sentences to prove its export on."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from etude.commands.export.proof import ProofTexts
from etude.models.generation.search import Beam
from etude.models.layers.positions import Sinusoidal
from etude.models.layers.residual import PreNorm
from etude.models.seq2seq import Seq2Seq
from etude.optim.schedules import Constant
from etude.tasks.translation import Translation
from etude.tokenization.base import Tokenizer
from etude.tokenization.trained import BPE
from etude.types import Facts

WORDS = "sun moon star tree lake road bird song wind rain snow fire stone house green blue".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Sentences of uneven lengths, one of which looks like a special token."""
    source = random.Random(5)
    return ["<pad> </s> <s>", *(" ".join(source.choices(WORDS, k=source.randint(1, 9))) for _ in range(30))]


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> Tokenizer:
    """Trained on them."""
    return BPE(vocabulary=70).build(iter(texts))


@pytest.fixture
def examples(texts: list[str], tokenizer: Tokenizer) -> Callable[..., ProofTexts]:
    """Makes a translator with random weights, so large that translations differ."""

    def make(residual: Any = PreNorm, positions: Any = Sinusoidal, model: Seq2Seq | None = None) -> ProofTexts:
        torch.manual_seed(3)
        facts = Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos)
        if model is None:
            model = Seq2Seq(facts, 22, 2, 2, 3, 31, 0.1, 64, positions=positions, residual=residual)
            for name, parameter in model.named_parameters():
                # Attention to the source outweighs the last token, which would else be repeated for ever.
                torch.nn.init.normal_(parameter, std=2.0 if "cross_attention" in name or "memory" in name else 0.3)
                if "norm.weight" in name:
                    parameter.data += 1
        adam = partial(torch.optim.Adam, lr=1e-3)
        schedule: Any = Constant(warmup="1step")
        task = Translation(facts, model, adam, schedule, Beam(beams=3, max_length=12))
        return ProofTexts(task.eval(), tokenizer, texts, texts)

    return make
