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
# Train a small translator for a minute, look at what it learned, and change one thing.

# %%
import tempfile

import etude

outputs = tempfile.mkdtemp()

# %% [markdown]
# ## Train
#
# The words are those that one would write after `etude train`; values of root keys may also be given by name. A wrong key
# or value ends here, in one line, before anything is loaded.

# %%
small = ["budget=2epoch", "validate.every=1epoch", "scheduler.warmup=100step", "limit.val=64", "limit.test=64"]
here = ["logger=none", "trainer=cpu", f"paths.outputs={outputs}"]
run = etude.train("translation/demo", *small, *here, seed=1)
run

# %% [markdown]
# ## Scores, curves and samples

# %%
run.scores

# %%
columns = run.metrics  # ready for pandas.DataFrame(run.metrics)
losses = [(step, loss) for step, loss in zip(columns["step"], columns["train/loss"], strict=True) if loss == loss]
losses[0], losses[-1]

# %%
run.predict(["Delete this file?", "Show all devices"])

# %% [markdown]
# ## Look inside
#
# Training uses fused attention, which never writes its weights down. Here they are computed exactly, by equation 1 of
# Vaswani et al. 2017, for one sentence. Each row of a map says what a token looked at.

# %%
seen = run.attention("Delete this file?")
for line in seen.alignment.arrows():
    print(line)

# %%
cross = next(attention for attention in seen.maps if attention.name.endswith("cross_attention"))
name, weights = cross.views()[0]  # the mean of the heads
print(f"{'':>12}" + "".join(f"{column:>10}" for column in cross.columns))
for row, values in zip(cross.rows, weights, strict=True):
    print(f"{row:>12}" + "".join(f"{value:>10.2f}" for value in values))

# %% [markdown]
# ## Change one thing
#
# Runs that differ in nothing but their seed form a group; others are compared, with the significance of each difference.

# %%
other = etude.train("translation/demo", *small, *here, "model.dropout=0.0", seed=1)
comparison = etude.compare(run, other)
[(group["configuration"], group["scores"]["test/bleu"]["mean"]) for group in comparison["groups"]]
