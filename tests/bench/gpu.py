"""Training on a GPU, side by side: etude in Lightning's Trainer, and loops by hand with torch.compile.

    python -m tests.bench.gpu                          # GPT-2 124M, BERT base, the base Transformer; one GPU, bfloat16
    python -m tests.bench.gpu --only gpt2 --seconds 10
    python -m tests.bench.gpu --tiny --device cpu      # the same code with small shapes, to see that it runs

    gpt2          12 layers of width 768, rows of 1,024 tokens, 50,304 words; by hand as nanoGPT writes it
    bert 128/512  12 layers of width 768, rows of 128 or 512 tokens, 30,522 words, 15 % of them predicted
    translation   6 + 6 layers of width 512, rows of 64 tokens on each side, 32,000 words, label smoothing 0.1

Contenders work by turns in one process, on random full rows, with fused AdamW and the gradient clipped to 1. What is counted is
tokens per second after a warm-up, in which everything is compiled. MFU is the share of the device's peak in bfloat16 that the
products of the model take (see `etude.models.model_flops`); memory is the most that was allocated. One JSON object a shape.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from etude.models.recomputation import recompute_activations
from etude.training.callbacks.compilation import Compilation
from etude.training.peak_flops import peak_flops
from etude.types import IGNORED
from tests.bench import synthetic
from tests.bench.hand_padded import HandBERT, HandGPT, HandSeq2Seq

WARMUP = 8
"""Steps of every turn that are not counted; in the first turn, they compile."""


@dataclass(frozen=True)
class Shape:
    """A model and its batch.

    Attributes:
        kind: `gpt2`, `bert` or `translation`.
        vocabulary: Number of words.
        rows: Rows of a batch.
        sizes: Width, heads, layers and length of a row.
    """

    kind: str
    vocabulary: int
    rows: int
    sizes: Mapping[str, int]


def _sizes(width: int, heads: int, layers: int, length: int) -> dict[str, int]:
    return {"width": width, "heads": heads, "layers": layers, "length": length}


SHAPES = {
    "gpt2": Shape("gpt2", 50_304, 32, _sizes(768, 12, 12, 1024)),
    "bert 128": Shape("bert", 30_522, 256, _sizes(768, 12, 12, 128)),
    "bert 512": Shape("bert", 30_522, 64, _sizes(768, 12, 12, 512)),
    "translation": Shape("translation", 32_000, 256, _sizes(512, 8, 6, 64)),
}
TINY = {
    "gpt2": Shape("gpt2", 96, 4, _sizes(16, 2, 2, 24)),
    "bert 128": Shape("bert", 96, 4, _sizes(16, 2, 2, 12)),
    "translation": Shape("translation", 96, 4, _sizes(16, 2, 2, 10)),
}
TASKS = {"gpt2": synthetic.causal_lm, "bert": synthetic.masked_lm, "translation": synthetic.translation}
BY_HAND: dict[str, type[nn.Module]] = {"gpt2": HandGPT, "bert": HandBERT, "translation": HandSeq2Seq}


@dataclass(frozen=True)
class Machine:
    """Where and how it is computed.

    Attributes:
        device: `cuda` or `cpu`.
        backend: Of torch.compile; None: nothing is compiled.
        seconds: Of a turn, after its warm-up.
    """

    device: str
    backend: Any
    seconds: float

    def synchronise(self) -> None:
        """Wait for what was begun."""
        if self.device == "cuda":
            torch.cuda.synchronize()


class _Turn(Callback):
    """Counts the steps of a turn, and stops the training at its end."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.steps, self.started, self.rate = machine, 0, 0.0, 0.0

    def over(self) -> bool:
        """Count a step; return whether the turn is over. The device is waited for at both ends alone."""
        self.steps += 1
        if self.steps == WARMUP:
            self.machine.synchronise()
            self.started = time.perf_counter()
        if self.steps <= WARMUP or time.perf_counter() - self.started < self.machine.seconds:
            return False
        self.machine.synchronise()
        self.rate = (self.steps - WARMUP) / (time.perf_counter() - self.started)
        return True

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trainer.should_stop = self.over()


class Etude:
    """etude's task in Lightning's Trainer."""

    def __init__(self, shape: Shape, machine: Machine, *, recomputed: bool = False) -> None:
        self.machine = machine
        self.work = TASKS[shape.kind](shape.vocabulary, shape.rows, dropout=0.0, **shape.sizes)
        if machine.backend is not None:
            Compilation(machine.backend).apply(self.work.task)
        if recomputed:
            recompute_activations(self.work.task)

    def __call__(self) -> float:
        """Return the steps per second of a turn."""
        turn = _Turn(self.machine)
        accelerator = "gpu" if self.machine.device == "cuda" else "cpu"
        arguments = {"accelerator": accelerator, "devices": 1, "precision": "bf16-mixed"}
        synthetic.train(self.work, 10**9, [turn], **arguments)
        return turn.rate


class ByHand:
    """A loop that a patient person writes."""

    def __init__(self, shape: Shape, machine: Machine) -> None:
        self.machine, self.kind = machine, shape.kind
        self.work = TASKS[shape.kind](shape.vocabulary, shape.rows, dropout=0.0, **shape.sizes)
        self.model = BY_HAND[shape.kind](shape.vocabulary, dropout=0.0, **shape.sizes).to(machine.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3, fused=True)
        self.step: Callable[..., Tensor] = self.model
        if machine.backend is not None:
            self.step = torch.compile(self.model, backend=machine.backend)

    def batch(self) -> tuple[Tensor, ...]:
        """Return what the model takes."""
        given: Any = self.work.batch()
        if self.kind == "bert":
            chosen = (given.labels.flatten() != IGNORED).nonzero().squeeze(1)
            return given.tokens, chosen, given.labels.flatten()[chosen]
        return (given.tokens, given.labels) if self.kind == "gpt2" else (given.source, given.inputs, given.labels)

    def __call__(self) -> float:
        """Return the steps per second of a turn."""
        turn = _Turn(self.machine)
        while True:
            batch = [each.to(self.machine.device, non_blocking=True) for each in self.batch()]
            with torch.autocast(self.machine.device, torch.bfloat16):
                loss = self.step(*batch)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if turn.over():
                return turn.rate


def compare(name: str, shape: Shape, machine: Machine, rounds: int) -> dict[str, Any]:
    """Let the contenders work by turns, and return rates, ratios, MFU and memory."""
    contenders: dict[str, Callable[[], Any]] = {
        "etude": lambda: Etude(shape, machine),
        "etude, plain": lambda: Etude(shape, Machine(machine.device, None, machine.seconds)),
        "etude, recomputed": lambda: Etude(shape, machine, recomputed=True),
        "by hand": lambda: ByHand(shape, machine),
        "by hand, plain": lambda: ByHand(shape, Machine(machine.device, None, machine.seconds)),
    }
    memory, ready = {}, {}
    for contender, make in contenders.items():
        ready[contender] = make()
        memory[contender] = _memory_of(ready[contender], machine)
        sys.stderr.write(f"{name}: {contender} is warm\n")
    steps: dict[str, list[float]] = {contender: [] for contender in contenders}
    for number in range(rounds):
        for contender in list(contenders)[number % len(contenders) :] + list(contenders)[: number % len(contenders)]:
            steps[contender].append(ready[contender]())
    work = ready["etude"].work
    peak = peak_flops(torch.device(machine.device), "bf16-mixed") if machine.device == "cuda" else None
    flops = _flops(work, shape)
    medians = {contender: statistics.median(rates) for contender, rates in steps.items()}
    return {
        "shape": name,
        "rounds": rounds,
        "tokens_per_second": {contender: rate * work.tokens for contender, rate in medians.items()},
        "mfu": None if peak is None else {contender: rate * flops / peak.flops for contender, rate in medians.items()},
        "memory_mib": memory,
        "etude_over": {
            contender: [mine / other for mine, other in zip(steps["etude"], steps[contender], strict=True)]
            for contender in steps
        },
    }


def _memory_of(contender: Any, machine: Machine) -> float | None:
    """Warm a contender up, and return the most memory that the device had allocated for it, in MiB; None: not known."""
    gc.collect()
    before = 0
    if machine.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    contender()
    return (torch.cuda.max_memory_allocated() - before) / 2**20 if machine.device == "cuda" else None


def _flops(work: synthetic.Work, shape: Shape) -> float:
    """Return the operations of a step, forward and backward."""
    length = shape.sizes["length"]
    predicted = round(synthetic.PREDICTED * length) if shape.kind == "bert" else length
    lengths = np.array([[length, length]] if shape.kind == "translation" else [length])
    of_row = work.task.training_flops(lengths, np.array([predicted]))
    assert of_row is not None
    return float(of_row[0]) * shape.rows


def main(words: list[str] | None = None) -> None:
    """Compare at each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each contender in each round")
    parser.add_argument("--only", nargs="*", help="names of shapes; default: all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes, nothing compiled by inductor")
    options = parser.parse_args(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU; to see that the bench runs: --tiny --device cpu")
    torch.set_float32_matmul_precision("high")
    machine = Machine(options.device, "eager" if options.tiny else "inductor", options.seconds)
    for name, shape in (TINY if options.tiny else SHAPES).items():
        if not options.only or name in options.only:
            print(json.dumps(compare(name, shape, machine, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
