# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Sweeps and significance
#
# Train the same experiment with another seed and the score changes. So if a new idea scores higher, there are two
# explanations: it is better, or it was lucky. This page trains a small classifier of film reviews several times, and
# asks which it is.

# %%
import matplotlib.pyplot as plt
import pandas

import etude
from etude.metrics.seeds import power, seeds_needed

# %% [markdown]
# ## A sweep
#
# Two learning rates, four seeds: eight runs. All are checked before the first begins. `hydra.launcher.slots=2` trains
# two at a time, each in a process of its own. A sweep that is killed goes on when the call is given again.

# %%
small = [
    "model.width=32",
    "model.heads=2",
    "model.layers=1",
    "model.feed_forward=64",
    "model.dropout=0.0",
    "task.pooling=mean",
    "tokenizer.vocabulary=2000",
    "data.max_length=48",
    "limit={train:1000,val:200,test:400}",
    "budget=60step",
    "validate.every=20step",
]
here = ["logger=none", "trainer=cpu", "trainer.progress_bar=false", "hydra.launcher.slots=2", "sweep.name=rates"]
sweep = etude.sweep("classification/few_labels", *small, *here, "optimizer.lr=5e-4,5e-3", seed=[1, 2, 3, 4])

table = pandas.DataFrame(sweep.table)
table

# %% [markdown]
# The column `score` is the best validation of each run. What counts is the test, which no choice has seen.

# %%
scores = pandas.DataFrame(
    [(run.config.optimizer.arguments["lr"], run.config.seed, run.scores["accuracy"]) for run in sweep.runs],
    columns=["rate", "seed", "accuracy"],
)
figure, axis = plt.subplots(figsize=(6, 2.6), layout="constrained")
for place, (rate, group) in enumerate(scores.groupby("rate")):
    axis.scatter(group["accuracy"], [place] * len(group), alpha=0.7)
    axis.plot(group["accuracy"].mean(), place, "k|", markersize=24)
axis.set(
    yticks=[0, 1], yticklabels=["5e-4", "5e-3"], ylim=(-0.6, 1.6), xlabel="accuracy on test", ylabel="learning rate"
)
axis.set_title("Each point is a seed, each bar a mean");
# %% [markdown]
# ## Three questions, three tests
#
# **How sure is one score?** The test set is a sample of all reviews. The bootstrap draws other samples from it and
# gives an interval for the score of one model. It says nothing about other seeds.

# %%
first = sweep.runs[0]
evaluation = first.evaluate("test")
evaluation["scores"]["test/accuracy"], evaluation["intervals"]["test/accuracy"]

# %% [markdown]
# **Are these two models different?** Both answered the same reviews. Approximate randomization swaps their answers at
# random and counts how often the difference is as large as the real one. The answer is a p-value for these two
# models.
#
# **Is one learning rate better than the other?** Only other seeds can tell. `compare` puts runs that differ in
# nothing but the seed into a group, and tests the difference of the groups over seeds, pairing equal seeds.

# %%
comparison = etude.compare(*sweep.runs)
base, other = comparison["groups"]
pandas.DataFrame(
    {
        group["configuration"]["optimizer.lr"]: {
            "mean": group["scores"]["test/accuracy"]["mean"],
            "deviation": group["scores"]["test/accuracy"]["sd"],
            "seeds": len(group["seeds"]),
        }
        for group in (base, other)
    }
).round(4)

# %%
"p of each pair of models, by seed", other["against_first"]["p"]["accuracy"]

# %%
over_seeds = other["over_seeds"]["test/accuracy"]
pandas.Series(over_seeds)

# %% [markdown]
# The p-values of the pairs are far apart: each speaks of its own two models. Over seeds there is one answer.
# `difference` is the mean gain of the second group, and `low` to `high` its 95 % interval over seeds. If the interval
# holds zero, these seeds do not show that there is a difference. They do not show that there is none, either.
#
# ## How many seeds would it take?
#
# `needed` answers: the seeds of each group that would find a difference of this size in four of five experiments, at
# p < 0.05. What counts is the size of the difference in units of its deviation from seed to seed, the *effect*.

# %%
effects = [0.5, 1.0, 2.0]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
for effect in effects:
    left.plot(range(2, 41), [power(effect, seeds, paired=True) for seeds in range(2, 41)], label=f"effect {effect}")
left.axhline(0.8, color="grey", linestyle=":")
left.set(xlabel="seeds", ylabel="probability of finding it", ylim=(0, 1.02))
left.legend()
sizes = [0.3 + 0.05 * number for number in range(55)]
right.plot(sizes, [seeds_needed(effect, paired=True) for effect in sizes])
right.set(xlabel="effect", ylabel="seeds needed", yscale="log");
# %% [markdown]
# A difference of half a deviation takes dozens of seeds. One seed finds nothing, whatever its p-value on the test
# rows: a paper with one run for each method has not asked the question.
#
# ## Many comparisons
#
# Of twenty equal methods one has p < 0.05. `etude.compare(sweep)` compares the best trial with all others and
# corrects the p-values together (Holm's method). Every sweep also has a page with its trials, curves and importances.

# %%
sweep.report()

# %% [markdown]
# Next: [from a notebook to a cluster](from_a_notebook_to_a_cluster.ipynb).
