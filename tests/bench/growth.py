"""How cost grows with size: `python -m tests.bench.growth [--picture growth.png]`.

Each thing is measured at sizes that double or quadruple, the best of some rounds by the CPU's clock of one thread:

    length       seconds of training on a token, against the length of the rows, a step having 8,192 tokens
    vocabulary   the same, against the words of the vocabulary, a step having 1,024 tokens
    layers       the same, against the layers, a step having 1,024 tokens
    report       seconds to write the page of many runs, against the runs, each with 1,000 events

One JSON object has sizes, seconds, and the exponent between the last two sizes: 0 is no growth, 1 is in proportion. Attention
alone has an exponent of 1 against the length; the rest of a layer has none.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from etude.report.page import write_pages
from tests.bench.pages import write_run
from tests.bench.synthetic import causal_lm

SHAPE: dict[str, Any] = {"width": 128, "heads": 4, "layers": 2, "length": 128, "dropout": 0.0}
WORDS = 2_000


def seconds_of_a_token(vocabulary: int, tokens: int, rounds: int, **shape: Any) -> float:
    """Return the least time of a token in a forward and a backward pass and a step of the optimizer."""
    shape = {**SHAPE, **shape}
    work = causal_lm(vocabulary, max(1, tokens // shape["length"]), **shape)
    optimizer = torch.optim.AdamW(work.task.parameters(), lr=1e-3, fused=True)
    taken = []
    for _ in range(rounds + 1):  # the first makes room for gradients and moments
        batch = work.batch()
        began = time.thread_time()
        loss, count = work.task.loss(batch)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        taken.append((time.thread_time() - began) / work.tokens)
    return min(taken[1:])


def seconds_of(function: Callable[[], Any]) -> float:
    """Return the CPU time of this process in a call."""
    began = time.process_time()
    function()
    return time.process_time() - began


def over_runs(counts: list[int], use: Callable[[list[Path]], Any]) -> list[float]:
    """Return the least time that a use of many runs takes, for each number of them."""
    with tempfile.TemporaryDirectory() as name:
        folders = [write_run(Path(name) / f"{number:04d}", 1_000, number) for number in range(max(counts))]
        return [min(seconds_of(lambda some=folders[:count]: use(some)) for _ in range(2)) for count in counts]  # type: ignore[misc]


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Return the exponent of growth between the last two sizes."""
    return math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2])


def measured(rounds: int) -> dict[str, tuple[list[int], list[float]]]:
    """Return sizes and seconds by the name of what grows."""
    lengths, words = [128, 512, 2_048, 8_192], [1_000, 4_000, 16_000, 64_000, 250_000]
    layers, runs = [1, 2, 4, 8, 16], [2, 8, 32, 128]
    return {
        "length": (lengths, [seconds_of_a_token(WORDS, 8_192, rounds, length=length) for length in lengths]),
        "vocabulary": (words, [seconds_of_a_token(count, 1_024, rounds) for count in words]),
        "layers": (layers, [seconds_of_a_token(WORDS, 1_024, rounds, layers=count) for count in layers]),
        "report": (runs, over_runs(runs, write_pages)),
    }


def draw(found: dict[str, tuple[list[int], list[float]]], path: Path) -> None:
    """Draw each growth with its exponent, on logarithmic axes."""
    figure, panels = plt.subplots(1, len(found), figsize=(3.2 * len(found), 2.8), layout="constrained")
    for panel, (name, (sizes, seconds)) in zip(panels, found.items(), strict=True):
        panel.loglog(sizes, seconds, marker="o", color="#0072b2")
        panel.set(title=f"{name}: exponent {exponent(sizes, seconds):.2f}", xlabel=name, ylabel="s")
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, draw, and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture", type=Path, help="file for the plots")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(options.rounds)
    if options.picture:
        draw(found, options.picture)
    table = {
        name: {
            "sizes": sizes,
            "seconds": [float(f"{one:.3g}") for one in seconds],
            "exponent": round(exponent(sizes, seconds), 2),
        }
        for name, (sizes, seconds) in found.items()
    }
    json.dump(table, sys.stdout)
    print()


if __name__ == "__main__":
    main()
