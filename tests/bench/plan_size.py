"""Time and memory of planning an epoch, as the number of examples grows.

    python -m tests.bench.plan_size
    python -m tests.bench.plan_size --shuffle stored --times 1 10

Examples have lengths like those of sentence pairs, in memory. Each size is planned in a process of its own: the first and the
last step are asked for, and one in the middle, as a run that is continued does. The JSON object has, for 1, 10 and 100 times
`--base` examples, the seconds to the first of these steps, the milliseconds of a step in the order of training (the mean over
the first two pools), the peak memory of the process without that of its imports, lengths included, and the exponents by which
seconds and memory grow.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing.queues import SimpleQueue
from resource import RUSAGE_SELF, getrusage

import numpy as np

from etude.data.base import PLANS
from etude.data.sizes import BatchSize, ShuffleName

MEGABYTE, KIBIBYTE = 1e6, 1024
BATCH = BatchSize(tokens=32_768, pool=50)


def peak() -> float:
    """Return the largest memory of this process so far, in megabytes."""
    return getrusage(RUSAGE_SELF).ru_maxrss * KIBIBYTE / MEGABYTE


def lengths_of(size: int) -> np.ndarray:
    """Return lengths of sentences, drawn a part at a time."""
    lengths = np.empty(size, np.int64)
    for start in range(0, size, 1 << 20):
        part = lengths[start : start + (1 << 20)]
        part[:] = np.random.default_rng(start).lognormal(3.3, 0.6, len(part)).clip(2, 255)
    return lengths


def _measure(size: int, shuffle: ShuffleName, answers: SimpleQueue[tuple[float, ...]]) -> None:
    before = peak()
    lengths = lengths_of(size)
    began = time.perf_counter()
    plan = PLANS[shuffle](lengths, seed=1, epoch=0, batch=BATCH, counts=lengths)
    plan.examples(0)
    seconds = time.perf_counter() - began
    steps = min(plan.steps, 2 * (BATCH.pool or 1))
    for step in range(steps):
        plan.examples(step)
        plan.count(step)
    milliseconds = 1000 * (time.perf_counter() - began - seconds) / steps
    for step in (plan.steps // 2, plan.steps - 1):
        plan.examples(step)
    answers.put((seconds, milliseconds, peak() - before))


def in_new_process(measure: Callable[..., None], *arguments: object) -> tuple[float, ...]:
    """Return what a function puts into the queue that it is given last."""
    context = multiprocessing.get_context("spawn")
    answers: SimpleQueue[tuple[float, ...]] = context.SimpleQueue()
    process = context.Process(target=measure, args=(*arguments, answers))
    process.start()
    found = answers.get()
    process.join()
    return found


def exponents(values: Sequence[float], sizes: Sequence[int]) -> list[float]:
    """Return the powers of the size by which values grow, from each to the next."""
    pairs = zip(pairwise(values), pairwise(sizes), strict=True)
    return [round(math.log(after / before) / math.log(large / small), 2) for (before, after), (small, large) in pairs]


def main() -> None:
    """Plan, and grow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shuffle", choices=list(PLANS), default="keyed")
    parser.add_argument("--base", type=int, default=1_000_000, help="examples of the smallest data")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10, 100])
    options = parser.parse_args()
    sizes = [times * options.base for times in options.times]
    rows = (in_new_process(_measure, size, options.shuffle) for size in sizes)
    seconds, milliseconds, megabytes = zip(*rows, strict=True)
    columns = {"seconds": seconds, "milliseconds_a_step": milliseconds, "peak_megabytes": megabytes}
    found: dict[str, object] = {name: [round(value, 2) for value in values] for name, values in columns.items()}
    found |= {"exponents_of_seconds": exponents(seconds, sizes)}
    found["exponents_of_megabytes"] = exponents(megabytes, sizes)
    print(json.dumps({"shuffle": options.shuffle, "examples": sizes, **found}))


if __name__ == "__main__":
    main()
