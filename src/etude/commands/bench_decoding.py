"""`etude bench decode`: what searching for outputs costs, on sentences of real lengths, beside greedy search.

The model has the shape that the configuration says and has not learned anything: it would never end a sentence where a
trained one does. So no hypothesis may end, and each runs to its reference's length. That is the work of a model that
always finds the right length, and it is the same work for every search.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from omegaconf import DictConfig
from torch import Tensor

from etude.commands.bench import write_table
from etude.config.check import plain
from etude.data.base import PlannedData
from etude.data.loader import Slice
from etude.data.plan import Plan
from etude.data.sizes import BatchSize
from etude.errors import ConfigurationError
from etude.models.generation.search import Greedy, Search
from etude.tasks.translation import Translation
from etude.training.build import build
from etude.training.peak_flops import peak_memory_mb
from etude.types import TranslationBatch

SENTENCES, ALONE = 256, 16
"""Sentences that are searched in batches, and one at a time."""
ROUNDS = 5
NEVER = -1
"""In the place of eos: no token, so that nothing ends before its limit."""


def bench_decoding(config: DictConfig) -> dict[str, Any]:
    """Measure the configured search and greedy search by turns.

    Returns:
        Sentences and target tokens per second, milliseconds for a sentence alone, sentences per second of greedy search,
        the ratio of the times of the two, memory.

    Raises:
        ConfigurationError: If the experiment's task does not search.
    """
    experiment = build(plain(config))
    task, data = experiment.task.eval(), experiment.data
    if not isinstance(task, Translation):
        raise ConfigurationError(
            f"etude bench decode measures searches, and {type(task).__name__} has none; "
            "choose an experiment of task=translation (command line)"
        )
    batches = sentence_batches(data, SENTENCES, data.batch_size)
    alone = sentence_batches(data, ALONE, BatchSize(examples=1))
    greedy = Greedy(max_length=task.decoding.max_length)
    times = [
        [seconds(task, *work) for work in ((task.decoding, batches), (task.decoding, alone), (greedy, batches))]
        for _ in range(ROUNDS)
    ]
    found = _summary(task, batches, times)
    write_table(found, f"{type(task.decoding).__name__} search")
    return found


def _summary(task: Translation, batches: Sequence[TranslationBatch], times: list[list[float]]) -> dict[str, Any]:
    searched, alone, greedy = (statistics.median(column) for column in zip(*times, strict=True))
    sentences = sum(len(batch.source) for batch in batches)
    tokens = sum(int(limits(task, batch).sum()) for batch in batches)
    return {
        "sentences_per_second": sentences / searched,
        "tokens_per_second": tokens / searched,
        "milliseconds_alone": 1000 * alone / ALONE,
        "greedy_sentences_per_second": sentences / greedy,
        "over_greedy": statistics.median(row[0] / row[2] for row in times),
        "tokens_of_a_sentence": tokens / sentences,
        "peak_memory_mb": peak_memory_mb(),
        "threads": torch.get_num_threads(),
    }


def sentence_batches(data: PlannedData, count: int, size: BatchSize) -> list[TranslationBatch]:
    """Return every so many sentences of the validation split (else the training split) in batches of like length.

    Args:
        data: Of sentence pairs.
        count: Sentences in all, if the split has as many.
        size: Of a batch.
    """
    examples = data.splits.get("val", data.splits["train"])
    rows = np.unique(np.linspace(0, len(examples.counts) - 1, count).astype(np.int64))
    plan = Plan.make(examples.lengths[rows], seed=0, epoch=0, batch=size, shuffle=False)
    return [
        examples.batch(Slice(rows[plan.examples(step)], 0, plan.count(step), filler=False))
        for step in range(plan.steps)
    ]


def limits(task: Translation, batch: TranslationBatch) -> Int[Tensor, " B"]:
    """Return how many tokens each sentence gets: as many as its reference, where the search allows so many."""
    return batch.target_mask.sum(dim=1).clamp(max=task.decoding.max_length)


@torch.no_grad()
def seconds(task: Translation, search: Search, batches: Sequence[TranslationBatch]) -> float:
    """Search for outputs of the sentences, each as long as its reference; return the time that it took."""
    started = time.perf_counter()
    for batch in batches:
        start = task.model.start(task.model.encode(batch.source, batch.source_mask))
        search(
            task.model.step,
            start,
            bos=task.facts.bos,
            eos=NEVER,
            rows=len(batch.source),
            max_lengths=limits(task, batch),
        )
    return time.perf_counter() - started
