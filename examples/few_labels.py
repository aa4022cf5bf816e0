"""From raw text to few labels: is a pretrained encoder worth it?

A masked language model is pretrained on the text of film reviews, then fine-tuned to their sentiment with few labels and
with many, over several seeds; beside it the same encoder from new weights, and MiniLM. Each run is an ordinary run in a
folder with a name that says what it is, so that the script, given again, goes on where it was stopped.

    python examples/few_labels.py                                    # 37 runs, 2 h 30 min on one core
    python examples/few_labels.py logger=none --pretraining 100step --labels 100 --seeds 1
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import etude

BUDGETS = {"100": "60step", "500": "120step", "2000": "240step", "all": "424step"}
"""Budget of a fine-tuning by its number of labels."""

STARTS = {
    "pretrained": ["classification/few_labels", "start={pretrained}", "model.dropout=0.1"],
    "scratch": ["classification/few_labels"],
    "minilm": [
        "classification/minilm",
        "data.max_length=96",
        "validate.every=50step",
        "scheduler.warmup=0.1epoch",
    ],
}
"""Words of the fine-tunings from each start."""


def fine_tune(start: str, labels: str, seed: int, pretrained: Path, place: list[str]) -> float:
    """Fine-tune from a start with some labels, and return the accuracy on the test split."""
    words = [word.format(pretrained=pretrained) for word in STARTS[start]]
    limit = "null" if labels == "all" else labels
    name = f"run.name={start}-{labels}-seed{seed}"
    run = etude.train(*words, f"budget={BUDGETS[labels]}", f"limit.train={limit}", name, *place, seed=seed)
    return run.scores["accuracy"]


def table(accuracies: dict[tuple[str, str], list[float]], labels: list[str]) -> str:
    """Return mean ± standard deviation over seeds in Markdown, a row for each number of labels."""
    lines = ["| labels | " + " | ".join(STARTS) + " |", "|---|" + "---|" * len(STARTS)]
    for count in labels:
        cells = []
        for start in STARTS:
            values = accuracies[start, count]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.3f}{spread}")
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Pretrain, fine-tune, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretraining", default="12000step", help="budget of the pretraining")
    parser.add_argument("--labels", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("words", nargs="*", help="words for every run, before the options: logger=none")
    options = parser.parse_args()
    place = ["run.experiment=few_labels", *options.words]
    budget = [f"budget={options.pretraining}", "validate.every=2000step"]
    pretrained = etude.train("masked_lm/demo", *budget, "run.name=pretrained", *place)
    accuracies = {
        (start, labels): [fine_tune(start, labels, seed, pretrained.path, place) for seed in options.seeds]
        for labels in options.labels
        for start in STARTS
    }
    print(table(accuracies, options.labels))  # noqa: T201


if __name__ == "__main__":
    main()
