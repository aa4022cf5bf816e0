"""etude's tasks on random full rows, of any size, in Lightning's Trainer: no corpus, no tokenizer, no run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, IterableDataset

from etude.duration import Duration
from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.generation.search import Greedy
from etude.models.layers.residual import PostNorm
from etude.models.seq2seq import Seq2Seq
from etude.optim.schedules import Constant
from etude.tasks.base import Task
from etude.tasks.causal_lm import CausalLM
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.run_context import RunContext
from etude.tasks.translation import Translation
from etude.types import IGNORED, Batch, CausalLMBatch, Facts, MaskedLMBatch, TranslationBatch

PREDICTED = 0.15
"""Share of the tokens that masked language modelling predicts."""


@dataclass(frozen=True)
class Work:
    """A task and what makes its batches.

    Attributes:
        task: The task with its model.
        batch: Makes a random batch.
        tokens: Tokens of a batch, on both sides of a pair.
    """

    task: Task
    batch: Callable[[], Batch]
    tokens: int


@dataclass(frozen=True)
class Rows(IterableDataset[Batch]):
    """Batches without end."""

    batch: Callable[[], Batch]

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch()


def _training(**arguments: Any) -> dict[str, Any]:
    optimizer = partial(torch.optim.AdamW, lr=1e-3, fused=True)
    return {"optimizer": optimizer, "scheduler": Constant(), **arguments}


def _facts(vocabulary: int) -> Facts:
    return Facts(vocabulary, pad=0, bos=1, eos=2, mask=3)


def _shape(width: int, length: int, **arguments: Any) -> dict[str, Any]:
    # Dropout where the loops by hand have it.
    return {
        "width": width,
        "feed_forward": 4 * width,
        "max_length": length,
        "activation_dropout": 0.0,
        **arguments,
    }


def causal_lm(vocabulary: int, rows: int, *, width: int, heads: int, layers: int, length: int, dropout: float) -> Work:
    """GPT-2's shape."""
    facts = _facts(vocabulary)
    model = Decoder(facts, layers=layers, heads=heads, dropout=dropout, **_shape(width, length))
    every, texts = torch.ones(rows, length, dtype=torch.bool), torch.arange(rows)

    def batch() -> CausalLMBatch:
        ids = torch.randint(4, vocabulary, (rows, length + 1))
        return CausalLMBatch(
            ids[:, :-1].contiguous(), every, ids[:, 1:].contiguous(), None, rows * length, texts, texts
        )

    return Work(CausalLM(facts, model, decoding=Greedy(max_length=4), **_training()), batch, rows * length)


def masked_lm(vocabulary: int, rows: int, *, width: int, heads: int, layers: int, length: int, dropout: float) -> Work:
    """BERT's shape."""
    facts = _facts(vocabulary)
    shape = _shape(width, length, residual=PostNorm)
    model = Encoder(facts, layers=layers, heads=heads, dropout=dropout, **shape)
    every, texts = torch.ones(rows, length, dtype=torch.bool), torch.arange(rows)
    count = int(PREDICTED * rows * length)

    def batch() -> MaskedLMBatch:
        ids = torch.randint(4, vocabulary, (rows, length))
        labels = torch.full_like(ids, IGNORED)
        chosen = torch.randperm(ids.numel())[:count]
        labels.view(-1)[chosen] = ids.view(-1)[chosen]
        return MaskedLMBatch(ids.masked_fill(labels != IGNORED, facts.mask), every, labels, count, texts)

    return Work(MaskedLM(facts, model, **_training()), batch, rows * length)


def translation(
    vocabulary: int, rows: int, *, width: int, heads: int, layers: int, length: int, dropout: float
) -> Work:
    """The base Transformer's shape."""
    facts = _facts(vocabulary)
    shape = _shape(width, length, encoder_layers=layers, decoder_layers=layers)
    model = Seq2Seq(facts, heads=heads, dropout=dropout, **shape)
    every, texts = torch.ones(rows, length, dtype=torch.bool), torch.arange(rows)

    def batch() -> TranslationBatch:
        source, target = (torch.randint(4, vocabulary, (rows, length)) for _ in range(2))
        inputs = torch.cat([torch.full((rows, 1), facts.bos), target[:, :-1]], dim=1)
        return TranslationBatch(source, every, inputs, target, every, rows * length, texts)

    task = Translation(facts, model, decoding=Greedy(max_length=4), **_training())
    return Work(task, batch, 2 * rows * length)


def train(work: Work, steps: int, callbacks: Sequence[Callback] = (), **arguments: Any) -> None:
    """Train for some steps.

    Args:
        work: The task and its batches.
        steps: Of the optimizer.
        callbacks: What measures.
        arguments: Further ones of the Trainer.
    """
    work.task.run_context = RunContext(1, 1, Duration(float(steps), "step"), log_every=steps)
    trainer = lightning.Trainer(
        max_steps=steps,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"accelerator": "cpu", **arguments},
    )
    trainer.fit(work.task, DataLoader(Rows(work.batch), batch_size=None))
