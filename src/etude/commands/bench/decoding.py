"""`etude bench decode`: the cost of decoding sentences of real lengths, compared with greedy search.

The model has the configured shape and random weights, so it would not end a sentence where a trained one does. Therefore
no hypothesis may end early, and each runs to the length of its reference: the work of a model that always finds the right
length, and the same work for every search.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from etude.commands.bench.training_step import write_table
from etude.config.schema import Config
from etude.data.base import PlannedData
from etude.data.loader import Slice
from etude.data.plan import Plan
from etude.data.sizes import BatchSize
from etude.errors import ConfigurationError
from etude.models.generation.search import Greedy, Search
from etude.tasks.translation import Translation
from etude.training.build import build
from etude.training.peak_flops import peak_memory_mb
from etude.training.warm_start import with_warm_start
from etude.types import TranslationBatch

SENTENCES, ALONE = 256, 16
"""Number of sentences decoded in batches, and one at a time."""
ROUNDS = 5
NEVER = -1
"""Replaces the id of eos: matches no token, so that no hypothesis ends before its limit."""


def bench_decoding(config: Config) -> dict[str, Any]:
    """Measure the configured search and greedy search alternately.

    Returns:
        Sentences and target tokens per second, milliseconds per sentence decoded alone, sentences per second of greedy
        search, the ratio of the two times, and memory.

    Raises:
        ConfigurationError: If the experiment's task has no search.
    """
    experiment = build(with_warm_start(config))
    task, data = experiment.task.eval(), experiment.data
    if not isinstance(task, Translation):
        raise ConfigurationError(
            f"etude bench decode measures searches, and {type(task).__name__} has none; "
            "choose an experiment of task=translation (command line)"
        )
    batches = sentence_batches(data, SENTENCES, data.settings.batch)
    alone = sentence_batches(data, ALONE, BatchSize(examples=1))
    greedy = Greedy(max_length=task.decoding.max_length)
    times = [
        [seconds(task, *work) for work in ((task.decoding, batches), (task.decoding, alone), (greedy, batches))]
        for _ in range(ROUNDS)
    ]
    measurements = _summary(task, batches, times)
    write_table(measurements, f"{type(task.decoding).__name__} search")
    return measurements


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
    """Return evenly spaced sentences of the validation split (else the training split), in batches of similar length.

    Args:
        data: Data of sentence pairs.
        count: Number of sentences; fewer if the split is smaller.
        size: Size of a batch.
    """
    examples = data.splits.get("val", data.splits["train"])
    rows = np.unique(np.linspace(0, len(examples.counts) - 1, count).astype(np.int64))
    plan = Plan.make(examples.lengths[rows], seed=0, epoch=0, batch=size, shuffle=False)
    return [
        examples.batch(Slice(rows[plan.examples(step)], 0, plan.count(step), filler=False))
        for step in range(plan.steps)
    ]


def limits(task: Translation, batch: TranslationBatch) -> Int[Tensor, " B"]:
    """Return the number of tokens to decode for each sentence: the length of its reference, at most the search's limit."""
    return batch.target_mask.sum(dim=1).clamp(max=task.decoding.max_length)


@torch.no_grad()
def seconds(task: Translation, search: Search, batches: Sequence[TranslationBatch]) -> float:
    """Decode the sentences, each to the length of its reference; return the seconds."""
    started = time.perf_counter()
    for batch in batches:
        start = task.model.start(task.model.encode(batch.source, batch.source_mask))
        search(
            task.model.step,
            start,
            bos=task.given(batch.directions, len(batch.source)),
            eos=NEVER,
            rows=len(batch.source),
            max_lengths=limits(task, batch),
        )
    return time.perf_counter() - started
