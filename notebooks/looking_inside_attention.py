# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Looking inside attention
#
# What does a head look at? With real sentences one may argue about the answer. So this page trains a translator on a
# language in which the answer is known: the translation of a list of colours is the list read backwards. The last
# word must look at the first, the second to last at the second, and so on. If attention means anything, its map must
# be the other diagonal.

# %%
import random
from pathlib import Path

import matplotlib.pyplot as plt
import pandas

import etude

# %% [markdown]
# ## A language of colours
#
# Data of one's own are two files for each split, line by line. Nothing else has to be written.

# %%
colours = "red green blue black white pink brown grey gold silver".split()
source = random.Random(1)
folder = Path("colours")
folder.mkdir(exist_ok=True)
for split, rows in {"train": 6000, "val": 100, "test": 100}.items():
    lists = [source.choices(colours, k=source.randint(2, 7)) for _ in range(rows)]
    (folder / f"{split}.forward").write_text("".join(" ".join(one) + "\n" for one in lists))
    (folder / f"{split}.backward").write_text("".join(" ".join(reversed(one)) + "\n" for one in lists))

# %%
words = [
    "data=parallel",
    "data.root=colours",
    "data.source=forward",
    "data.target=backward",
    "tokenizer.vocabulary=90",
    "model.width=64",
    "model.heads=2",
    "model.feed_forward=128",
    "model.dropout=0.0",
    "batch.tokens=1024",
    "scheduler.warmup=50step",
    "budget=600step",
    "validate.every=200step",
    "decoding=greedy",
    "callbacks=default",
]
here = ["logger=none", "trainer=cpu", "trainer.progress_bar=false"]
run = etude.train("translation/demo", *words, *here, "run.name=colours", seed=1)
run.scores["bleu"], run.predict(["red green blue black white"])

# %% [markdown]
# ## Maps
#
# Training uses fused attention, which never writes its weights down. `run.attention` computes them for one text,
# layer by layer and head by head. Without a second argument the target is the model's own answer.

# %%
seen = run.attention("red green blue black white pink")
pandas.DataFrame(
    [(one.name, len(one.weights), len(one.rows), len(one.columns)) for one in seen.maps],
    columns=["attention", "heads", "queries", "keys"],
)


# %%
def show(axis, attention, weights, title):
    axis.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axis.set_title(title, fontsize=9)
    axis.set_xticks(range(len(attention.columns)), attention.columns, rotation=90, fontsize=7)
    axis.set_yticks(range(len(attention.rows)), attention.rows, fontsize=7)


figure, axes = plt.subplots(2, 3, figsize=(10, 6), layout="constrained")
for row, kind in zip(axes, ("decoder.0.cross_attention", "decoder.1.cross_attention"), strict=True):
    attention = next(one for one in seen.maps if one.name == kind)
    for axis, (name, weights) in zip(row, attention.views(), strict=True):
        show(axis, attention, weights, f"{kind}: {'mean' if name == 'mean' else 'head ' + name}")

# %% [markdown]
# Columns are the source, rows what the decoder says. In the upper layer the dark cells run from the upper right to
# the lower left: to say its first word the model looks at the last word of the source. Nobody told it to. It was
# shown pairs.
#
# ## Alignment
#
# Summed over the pieces of a word and averaged over the heads, the map says which word came from which.

# %%
for arrow in seen.alignment.arrows():
    print(arrow)

# %% [markdown]
# Here the right links are known, so they can be counted. For a source of n words, target word t comes from source
# word n − 1 − t.


# %%
def share_right(text):
    alignment = run.attention(text).alignment
    right = {(len(alignment.source) - 1 - target, target) for target in range(len(alignment.target))}
    return len(right & set(alignment.links)) / len(right)


texts = (folder / "test.forward").read_text().splitlines()[:20]
sum(map(share_right, texts)) / len(texts)

# %% [markdown]
# Lists in which a colour stands twice are the hard ones: both places hold the same word.
#
# ## Heads in a few numbers
#
# Nobody reads a hundred maps. A head's summary says how sharp it is (`entropy`, in nats; 0 is one key), how far it
# reaches (`distance`), and which share of its weight lies on a place that is known: the key opposite (`diagonal`),
# the one before or after, the first, the last.

# %%
heads = pandas.DataFrame(
    [
        {"attention": one.name, "head": number, **vars(head)}
        for one in seen.maps
        for number, head in enumerate(one.heads, start=1)
    ]
)
heads.round(2)

# %%
figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
kinds = heads["attention"].str.replace(r"\.\d+\.", " ", regex=True)
for kind, group in heads.groupby(kinds):
    axis.scatter(group["distance"], group["entropy"], label=kind.replace("_", "-"))
axis.set(xlabel="distance in keys", ylabel="entropy in nats", title="Each point is a head")
axis.legend();
# %% [markdown]
# The heads of the cross-attention reach far, and in the upper layer with little entropy. This is what a lookup looks
# like. The encoder's heads spread their weight over many words.
#
# ## Does it need the diagonal?
#
# A map shows where a head looks, and not whether the answer depends on it. So ask the model about a translation that
# is wrong and see where it looks then.

# %%
wrong = run.attention("red green blue black", "black blue green red red")
attention = wrong.maps[-1]
figure, axis = plt.subplots(figsize=(3.6, 3.2), layout="constrained")
show(axis, attention, attention.views()[0][1], "a target with a word too many");

# %% [markdown]
# After the last word there is nothing left to look for, and the rows of the superfluous word and of the end say so.
#
# The same maps stand in every run's report, and `run.inspect(text)` writes them all on one page.

# %%
run.inspect("red green blue black white pink")
