# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # A first experiment
#
# Compose an experiment in Python as the command line would, train it for a minute, and look inside: samples and attention.

# %%
import json
import tempfile
from pathlib import Path

import torch

from etude.config.compose import compose
from etude.commands.predict import load_run
from etude.training.fit import train
from etude.models.layers.attention import record_attention

# %% [markdown]
# ## Compose
#
# What is written here is what one would write after `etude train`. A wrong key or value would end here, in one line.

# %%
outputs = Path(tempfile.mkdtemp())
overrides = [
    "experiment=translation/demo",
    "budget=2epoch",
    "validate.every=1epoch",
    "scheduler.warmup=100step",
    "limit.val=64",
    "limit.test=64",
    "logger=none",
    "trainer=cpu",
    f"paths.outputs={outputs}",
]
config = compose(*overrides)
config.model

# %% [markdown]
# ## Train
#
# The same function as `etude train` calls. It returns the run's folder.

# %%
run = train(config, overrides)
sorted(path.name for path in run.iterdir())

# %% [markdown]
# ## Scores and samples

# %%
json.loads((run / "evaluations" / "test.json").read_text())["scores"]

# %%
for line in (run / "evaluations" / "test.jsonl").read_text().splitlines()[:5]:
    row = json.loads(line)
    print(f"{row['references'][0]}  |  {row['output']}")

# %% [markdown]
# ## Look inside
#
# Training uses fused attention, which never writes its weights down. `record_attention` computes them exactly, by
# equation 1 of Vaswani et al. 2017, for one forward pass. Each row says what a target position looked at in the source.

# %%
task, tokenizer = load_run(run)
source = [*tokenizer.encode(["Delete this file?"])[0], tokenizer.eos]
target = [tokenizer.bos, *tokenizer.encode(["Diese Datei löschen?"])[0]]
src, tgt = torch.tensor([source]), torch.tensor([target])
with torch.no_grad(), record_attention(task.model) as maps:
    task.model(src, tgt, torch.ones_like(src, dtype=torch.bool), torch.ones_like(tgt, dtype=torch.bool))
name = max(name for name in maps if name.endswith("cross_attention"))
weights = maps[name][0].mean(dim=0)  # [T, S], the mean over heads
assert torch.allclose(weights.sum(dim=-1), torch.ones(len(target)), atol=1e-5)

# %%
pieces = [tokenizer.decode([[i]])[0] or "·" for i in source]
print(f"{'':>12}" + "".join(f"{piece:>10}" for piece in pieces))
for i, row in zip(target, weights, strict=True):
    print(f"{tokenizer.decode([[i]])[0] or '·':>12}" + "".join(f"{weight:>10.2f}" for weight in row))
