"""Largest memory of training a causal language model with a large vocabulary: etude, loops by hand, Hugging Face's Trainer.

    python -m tests.bench.memory                                       # vocabularies of 8,000, 32,000 and 250,000
    python -m tests.bench.memory --vocabulary 32000 --tokens 8192

Two layers of width 256, random full rows of 256 tokens, AdamW in single precision. Every contender trains for a few steps in a
process of its own, which has loaded the same packages:

    etude                   the task in Lightning's Trainer
    by hand, chunked        the loss of 512 tokens at a time, whose logits are computed anew for the gradient
    by hand, all logits     as nanoGPT writes it
    Hugging Face's Trainer  with GPT2LMHeadModel
    by torch                `torch.nn.functional.linear_cross_entropy` in chunks, where torch has it

What counts is how far the process grows above what it was before its model was made, in MiB, and the ratio to the loops.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from etude.hardware import peak_resident_bytes, resident_bytes
from tests.bench.hand_padded import HandGPT
from tests.bench.huggingface import Example, HuggingFaceTraining, real_tokens
from tests.bench.synthetic import causal_lm, train

WIDTH, HEADS, LAYERS, LENGTH, STEPS, CHUNK = 256, 4, 2, 256, 3, 512
CONTENDERS = ("etude", "by hand, chunked", "by hand, all logits", "Hugging Face's Trainer", "by torch")

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def loop(rows: int, vocabulary: int, loss: Loss) -> None:
    """Train by hand, with a loss of hidden states, the output matrix and labels, summed."""
    model = HandGPT(vocabulary, WIDTH, HEADS, LAYERS, LENGTH, 0.0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    for _ in range(STEPS):
        ids = torch.randint(vocabulary, (rows, LENGTH + 1))
        hidden = model.states(ids[:, :-1]).flatten(0, 1)
        (loss(hidden, model.embeddings.tokens.weight, ids[:, 1:].flatten()) / hidden.shape[0]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def all_logits(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The sum of the losses."""
    return F.cross_entropy(F.linear(hidden, weight), labels, reduction="sum")


def chunked(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The sum of the losses, chunk by chunk."""
    parts = zip(hidden.split(CHUNK), labels.split(CHUNK), strict=True)
    losses = [checkpoint(all_logits, part, weight, wanted, use_reentrant=False) for part, wanted in parts]
    return torch.stack(losses).sum()


def of_torch(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The sum of the losses, by torch."""
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden, weight, labels, reduction="sum", options=options)


def hugging_face(rows: int, vocabulary: int) -> None:
    """Train by Hugging Face's Trainer, to the end of the first step after its warm-up."""
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_positions=LENGTH,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    )
    examples = [{"input_ids": torch.randint(vocabulary, (LENGTH,))} for _ in range(rows)]

    def collate(chosen: Sequence[Example]) -> dict[str, Tensor]:
        ids = torch.stack([row["input_ids"] for row in chosen])
        return {"input_ids": ids, "labels": ids}

    model = transformers.GPT2LMHeadModel(config)
    HuggingFaceTraining(model, examples, collate, real_tokens, seconds=0.0, batch=rows)(1)


def measure(contender: str, vocabulary: int, tokens: int) -> None:
    """Train in this process, and print its growth in MiB."""
    torch.set_num_threads(2)
    importlib.import_module("accelerate")  # the Trainer would load it while its memory is measured
    before, rows = resident_bytes(os.getpid()), tokens // LENGTH
    losses = {"by hand, chunked": chunked, "by hand, all logits": all_logits, "by torch": of_torch}
    if contender in losses:
        loop(rows, vocabulary, losses[contender])
    elif contender == "Hugging Face's Trainer":
        hugging_face(rows, vocabulary)
    else:
        shape = {"width": WIDTH, "heads": HEADS, "layers": LAYERS, "length": LENGTH, "dropout": 0.0}
        train(causal_lm(vocabulary, rows, **shape), STEPS)  # type: ignore[arg-type]
    print((peak_resident_bytes() - before) / 2**20)


def main() -> None:
    """Measure each contender at each vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[8_000, 32_000, 250_000])
    parser.add_argument("--tokens", type=int, default=4096, help="of each step")
    parser.add_argument("--contender", choices=CONTENDERS, help="measure this one, in this process")
    options = parser.parse_args()
    if options.contender:
        measure(options.contender, options.vocabulary[0], options.tokens)
        return
    names = CONTENDERS if hasattr(F, "linear_cross_entropy") else CONTENDERS[:-1]
    for vocabulary in options.vocabulary:
        grown = {name: _in_a_process(name, vocabulary, options.tokens) for name in names}
        ratios = {name: grown["etude"] / grown[name] for name in names[1:]}
        print(json.dumps({"vocabulary": vocabulary, "tokens": options.tokens, "mib": grown, "etude_over": ratios}))


def _in_a_process(contender: str, vocabulary: int, tokens: int) -> float:
    command = [sys.executable, "-m", "tests.bench.memory", "--contender", contender]
    command += ["--vocabulary", str(vocabulary), "--tokens", str(tokens)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


if __name__ == "__main__":
    main()
