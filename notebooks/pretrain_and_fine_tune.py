# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Pretrain, then fine-tune
#
# Labels are dear and text is cheap. A model that has read much text needs few labels. Why that is so can be seen in
# half a minute, if the text is written in a language that we know completely.
#
# ## A language with two kingdoms
#
# Its nouns are made up. Sixty of them are animals, which eat, sleep and run; sixty are tools, which cut, rust and
# break. Nothing in the spelling of a noun says what it is. Only the company that it keeps does.

# %%
import random
from pathlib import Path

import matplotlib.pyplot as plt
import pandas

import etude

source = random.Random(1)
syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
nouns = source.sample(sorted({"".join(source.choices(syllables, k=3)) for _ in range(200)}), 120)
kingdoms = {
    "animal": (nouns[:60], "eats sleeps runs drinks barks".split()),
    "tool": (nouns[60:], "cuts rusts breaks turns drills".split()),
}


def sentence():
    names, verbs = kingdoms[source.choice(["animal", "tool"])]
    age, day = source.choice(["old", "new", "small"]), source.choice(["today", "here"])
    return f"the {age} {source.choice(names)} {source.choice(verbs)} {day}"


folder = Path("kingdoms")
folder.mkdir(exist_ok=True)
for split, count in {"train": 6000, "val": 300}.items():
    (folder / f"{split}.txt").write_text("\n\n".join(sentence() for _ in range(count)) + "\n")
[sentence() for _ in range(3)]

# %% [markdown]
# ## Few labels
#
# The labelled texts say nothing but `i saw a …`, and only twenty nouns of each kingdom are in the training data. The
# test asks for the other nouns. Without knowing them from elsewhere, this cannot be done: the best guess is right
# half of the time.

# %%
for split, chosen in {"train": slice(0, 20), "val": slice(20, 30), "test": slice(30, 60)}.items():
    rows = [f"i saw a {noun}\t{kingdom}\n" for kingdom, (names, _) in kingdoms.items() for noun in names[chosen]]
    source.shuffle(rows)
    (folder / f"{split}.tsv").write_text("text\tlabel\n" + "".join(rows))
print((folder / "train.tsv").read_text()[:120])

# %% [markdown]
# ## Pretrain
#
# Masked language modelling (Devlin et al. 2019) hides some words and asks for them. To guess a hidden verb, the model
# must know what kind of thing the noun is. So it learns the kingdoms, although nobody names them.

# %%
here = ["logger=none", "trainer=cpu", "trainer.progress_bar=false"]
model = ["model.width=64", "model.heads=2", "model.layers=2", "model.feed_forward=128", "tokenizer.vocabulary=400"]
pretraining = [
    "data=text",
    "data.train=kingdoms/train.txt",
    "data.val=kingdoms/val.txt",
    "data.max_length=16",
    "optimizer.lr=3e-3",
    "scheduler.warmup=50step",
    "budget=300step",
    "validate.every=100step",
    "log.every=10step",
]
pretrained = etude.train("masked_lm/demo", *model, *pretraining, *here, "run.name=pretrained", seed=1)

table = pandas.DataFrame(pretrained.metrics)
figure, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
for name in ("train/loss", "val/loss"):
    column = table[["step", name]].dropna()
    axis.plot(column["step"], column[name], label=name, marker="o" if name == "val/loss" else None)
axis.set(xlabel="step", ylabel="nats a masked token", title="Pretraining")
axis.legend();
# %% [markdown]
# The loss does not go to zero: no context tells whether something is old or new, or happens today or here. But the
# verbs fit their nouns, also those that no label will ever name:

# %%
animal, tool = kingdoms["animal"][0][40], kingdoms["tool"][0][40]
pretrained.predict([f"the old {animal} [MASK] today", f"the old {tool} [MASK] today"])

# %% [markdown]
# ## Fine-tune
#
# `start=` takes the model, the weights of the best checkpoint and the tokenizer of another run. The task's head is
# new. We train once from the pretrained weights and once from new ones, which are otherwise the same model.

# %%
labelled = [
    "data=table",
    *(f"data.{split}=kingdoms/{split}.tsv" for split in ("train", "val", "test")),
    "data.text=text",
    "data.label=label",
    "task.pooling=mean",
    "batch.examples=16",
    "budget=60step",
    "validate.every=20step",
]
start = f"start={pretrained.path}"
runs = {
    "new weights": etude.train("classification/few_labels", *model, *labelled, *here, "run.name=new", seed=1),
    "pretrained": etude.train("classification/few_labels", start, *labelled, *here, "run.name=full", seed=1),
}
pandas.Series({name: run.scores["accuracy"] for name, run in runs.items()}).round(3)

# %% [markdown]
# ## Adjust a few parameters
#
# If the pretrained model knows the kingdoms already, little has to change. `finetune=head` trains the new layer
# alone. `finetune=bitfit` adds all biases, and `finetune=lora` small matrices beside the attention's own (Hu et al.
# 2022). What is frozen keeps every bit. Fewer parameters want a higher rate.

# %%
for finetune in ("head", "bitfit", "lora"):
    words = [start, f"finetune={finetune}", "optimizer.lr=1e-2"]
    runs[finetune] = etude.train("classification/few_labels", *words, *labelled, *here, f"run.name={finetune}", seed=1)

counts = pandas.DataFrame(
    {
        name: {
            "trained": run.manifest.parameters.trainable,
            "of": run.manifest.parameters.total,
            "accuracy": round(run.scores["accuracy"], 3),
        }
        for name, run in runs.items()
    }
).T
counts

# %%
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
axis.scatter(counts["trained"], counts["accuracy"])
for name, row in counts.iterrows():
    axis.annotate(
        name,
        (row["trained"], row["accuracy"]),
        textcoords="offset points",
        xytext=(-8, 8),
        ha="right" if row["trained"] > 1e4 else "left",
    )
axis.axhline(0.5, color="grey", linestyle=":", label="a guess")
axis.set(xscale="log", xlabel="trained parameters", ylabel="accuracy on unseen nouns", ylim=(0.3, 1.09))
axis.legend();
# %% [markdown]
# The counts can be checked by hand: the frozen parameters of the LoRA run are the pretrained ones, bit for bit.

# %%
before, after = dict(pretrained.model.named_parameters()), dict(runs["lora"].model.named_parameters())
shared = [name for name in before if name in after]
sum(bool((before[name] == after[name]).all()) for name in shared), len(shared)

# %% [markdown]
# ## With real text
#
# On film reviews the same takes hours rather than seconds. `etude sweep search=road_imdb` pretrains on their text,
# fine-tunes with 100 to 6,795 labels from pretrained and from new weights, three seeds each, and `docs/measured.md`
# has what came out. The words are the ones that you have just used.
#
# Sixty test rows are few, and one seed is one draw. How to find out whether a difference is one: [sweeps and
# significance](sweeps_and_significance.ipynb).
