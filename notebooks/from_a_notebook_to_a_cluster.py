# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # From a notebook to a cluster
#
# A training that fits into a notebook is easy to trust. On a cluster it is cut into micro-batches, spread over
# devices, and killed in the night. In etude none of that may change what is learned. This page tries it out, on two
# processor cores.

# %%
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import etude

# %% [markdown]
# The task is the one of [looking inside attention](looking_inside_attention.ipynb): read a list of colours backwards.
# Dropout is off, for a reason that comes below.

# %%
colours = "red green blue black white pink brown grey gold silver".split()
source = random.Random(1)
folder = Path("colours")
folder.mkdir(exist_ok=True)
for split, rows in {"train": 3000, "val": 100, "test": 100}.items():
    lists = [source.choices(colours, k=source.randint(2, 7)) for _ in range(rows)]
    (folder / f"{split}.forward").write_text("".join(" ".join(one) + "\n" for one in lists))
    (folder / f"{split}.backward").write_text("".join(" ".join(reversed(one)) + "\n" for one in lists))

experiment = [
    "data=parallel",
    "data.root=colours",
    "data.source=forward",
    "data.target=backward",
    "tokenizer.vocabulary=90",
    "model.width=32",
    "model.heads=2",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "model.feed_forward=64",
    "model.dropout=0.0",
    "batch.tokens=1024",
    "scheduler.warmup=20step",
    "budget=120step",
    "validate.every=60step",
    "checkpoint.every=20step",
    "log.every=1step",
    "decoding=greedy",
    "callbacks=default",
    "logger=none",
    "trainer.progress_bar=false",
]
whole = etude.train("translation/demo", *experiment, "trainer=cpu", "trainer.threads=1", "run.name=whole", seed=1)
losses = whole.metrics["train/loss"]
len(losses), whole.state

# %% [markdown]
# ## Kill it
#
# The same experiment as a command, in a process of its own. As soon as its record has passed step 50 it gets SIGKILL,
# which no program can catch. It has no time to save anything.

# %%
words = ["experiment=translation/demo", *experiment, "trainer=cpu", "trainer.threads=1", "run.name=killed", "seed=1"]
command = [sys.executable, "-m", "etude", "train", *words]
with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
    record = Path("outputs/translation/demo/killed/metrics.jsonl")
    while process.poll() is None and not (record.exists() and record.read_text().count("train/loss") >= 50):
        time.sleep(0.01)
    process.kill()

killed = etude.load("translation/demo/killed")
process.returncode, killed.state, f"{max(killed.metrics['step'])} of 120 steps"

# %% [markdown]
# The same words again. The run goes on from its newest whole checkpoint; what was recorded after it is cut off and
# done again.

# %%
continued = etude.train("translation/demo", *experiment, "trainer=cpu", "trainer.threads=1", "run.name=killed", seed=1)
pairs = zip(whole.model.state_dict().values(), continued.model.state_dict().values(), strict=True)
{
    "state": continued.state,
    "weights equal, bit for bit": all(torch.equal(one, other) for one, other in pairs),
    "losses equal, bit for bit": continued.metrics["train/loss"][-1:] == losses[-1:],
}

# %% [markdown]
# Not nearly the same: the same. The order of the data, every random draw and every learning rate are functions of
# configuration, data, seed and step. Nothing has to be remembered, so nothing can be forgotten.
#
# ## Cut it
#
# A batch that does not fit into memory is cut into *micro-batches* whose gradients are added. Then the loss must be
# divided by the number of tokens of the whole batch. Who divides each micro-batch by its own count and takes the mean
# weighs the tokens of short sentences more, and trains another model.
#
# `trainer=ddp` spreads the batch over devices, here two processes on processor cores. Each holds a copy of the model
# and takes half of the batch. From a notebook this works like any other word: etude starts the processes.

# %%
machines = {
    "micro-batches": ["trainer=cpu", "trainer.threads=1", "trainer.micro_batches=4"],
    "processes": ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.threads=1"],
}
others = {
    name: etude.train("translation/demo", *experiment, *machine, f"run.name={name}", seed=1)
    for name, machine in machines.items()
}

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
steps = [step for step, loss in zip(whole.metrics["step"], losses, strict=True) if loss == loss]
curve = torch.tensor([loss for loss in losses if loss == loss])
left.plot(steps, curve, linewidth=4, alpha=0.3, label="one process, whole batches")
for name, run in others.items():
    other = torch.tensor([loss for loss in run.metrics["train/loss"] if loss == loss])
    left.plot(steps, other, linewidth=1, label=name)
    right.plot(steps, (other - curve).abs().clamp(min=1e-8), label=name)
left.set(xlabel="step", ylabel="train/loss")
right.set(xlabel="step", ylabel="difference to one process", yscale="log")
left.legend();
# %% [markdown]
# On the left there is one curve, three times. On the right the differences: they begin at the last bits of a 32-bit
# number, because sums are taken in another order, and grow slowly, as rounding errors do.
#
# With dropout on, each process draws masks of its own, and the curves would differ by that. Whether a run is
# continued on the same machine changes nothing, with dropout or without.
#
# ## Before an expensive run
#
# `etude check` composes every member of a sweep, builds one of each shape, takes its largest steps, and says how much
# time and memory all would need. It trains nothing.

# %%
check = [
    sys.executable,
    "-m",
    "etude",
    "check",
    "experiment=translation/demo",
    *experiment,
    "trainer=cpu",
    "seed=1,2,3,4",
]
forecast = subprocess.run(check, capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"})
print(forecast.stdout or forecast.stderr)

# %% [markdown]
# ## The words for a cluster
#
# What was typed here is typed there. Only the words of the machine change:
#
# | where | words |
# |---|---|
# | this machine, two runs at a time | `etude sweep … hydra.launcher.slots=2` |
# | a machine with eight GPUs | `trainer=ddp trainer.devices=8` |
# | a model too large for one GPU | `trainer=fsdp trainer.devices=8` |
# | SLURM, a job for each run | `etude sweep … hydra/launcher=submitit_slurm hydra.launcher.partition=gpu` |
# | Ray, wherever there is room | `etude sweep … hydra/launcher=ray` |
# | under torchrun or srun | `torchrun --nproc-per-node 4 -m etude train … trainer=ddp trainer.devices=4 run.name=four` |
#
# What changes: where the work is done, how long it takes, and the last bits of sums. What does not change: the
# batches and their order, the count that a loss is divided by, the learning rates, the record, the scores'
# definition, and that a run can be killed.
#
# `precision` is not in the table. It changes the numbers, so it belongs to the experiment.
