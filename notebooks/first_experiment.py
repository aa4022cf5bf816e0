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
# Train a small translator, look at what it learned, and change one thing. On two cores the whole page takes half a
# minute.

# %%
import matplotlib.pyplot as plt
import pandas

import etude

# %% [markdown]
# ## Train
#
# The words are those that one would write after `etude train`; values of root keys may also be given by name. A wrong
# key or value ends here, in one line, before anything is loaded.
#
# This is the experiment `translation/demo`, interface texts from English to German, made small: a narrow model of one
# layer on each side, and eight passes over texts of at most two words. Progress is shown while it trains.

# %%
small = [
    "model.width=64",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "model.dropout=0.0",
    "tokenizer.vocabulary=1500",
    "data.corpus.max_words=2",
    "limit={val:50,test:100}",
    "batch.tokens=1024",
    "optimizer.lr=5e-3",
    "scheduler.warmup=50step",
    "budget=8epoch",
    "validate.every=2epoch",
    "log.every=5step",
    "callbacks=default",
    "decoding=greedy",
]
here = ["logger=none", "trainer=cpu", "trainer.progress_bar=false"]
run = etude.train("translation/demo", *small, *here, "run.name=first", seed=1)
run

# %% [markdown]
# Give the same call again and it returns at once, since a run of this name is finished. Had it been killed half way,
# the call would have gone on from the last checkpoint. Had you changed a word, it would refuse: another experiment
# needs another name.

# %%
again = etude.train("translation/demo", *small, *here, "run.name=first", seed=1)
again.path == run.path

# %% [markdown]
# ## Curves, scores and answers
#
# Everything that was logged is a table. A value that was not logged at a step is missing there.

# %%
table = pandas.DataFrame(run.metrics)
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for name in ("train/loss", "val/loss"):
    column = table[["step", name]].dropna()
    axis.plot(column["step"], column[name], label=name, marker="o" if name == "val/loss" else None)
axis.set(xlabel="step", ylabel="nats a token")
axis.legend();
# %% [markdown]
# `train/loss` lies above `val/loss` because it is taken with label smoothing. The scores are those of the test set,
# of the checkpoint that did best in validation:

# %%
pandas.Series(run.scores).round(2)

# %%
for text, answer in zip(texts := ["Delete file", "All devices", "Invalid password"], run.predict(texts), strict=True):
    print(f"{text:>24} → {answer}")

# %% [markdown]
# After ten seconds the model says German words, some of them the right ones. `etude train
# experiment=translation/demo`, without the words of `small`, takes some minutes and does far better:
# `docs/measured.md` says how well.
#
# ## Look inside
#
# Every attention of the model to one sentence, computed exactly. Each row says what a token of the translation looked
# at.

# %%
seen = run.attention("Invalid password", "Ungültiges Passwort")
cross = seen.maps[-1]
name, weights = cross.views()[0]  # the mean of the heads

figure, axis = plt.subplots(figsize=(4, 3.4), layout="constrained")
axis.imshow(weights, cmap="Blues", vmin=0)
axis.set(title=cross.name, xlabel="source", ylabel="translation")
axis.set_xticks(range(len(cross.columns)), cross.columns, rotation=45)
axis.set_yticks(range(len(cross.rows)), cross.rows);
# %% [markdown]
# ## Change one thing
#
# The same run with dropout. `compare` finds what differs between two runs and tests the difference of their scores on
# the same test rows.

# %%
other = etude.train("translation/demo", *small, *here, "model.dropout=0.1", "run.name=dropout", seed=1)
comparison = etude.compare(run, other, metric="chrf")
pandas.DataFrame(
    {
        group["name"]: {**group["configuration"], "chrF": round(group["scores"]["test/chrf"]["mean"], 2)}
        for group in comparison["groups"]
    }
)

# %%
comparison["groups"][1]["against_first"]

# %% [markdown]
# Dropout keeps a model from learning its data by heart. This one is too small and has seen too little to be in
# danger, so it is only hindered. `p` is the probability of so large a difference between two models that are equally
# good. It speaks of these two runs only. Another seed gives other scores, and [sweeps and
# significance](sweeps_and_significance.ipynb) takes that into account.
#
# `run.report()` writes one HTML page with all of this and more; open it in a browser.

# %%
run.report()
