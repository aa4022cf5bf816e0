"""What Hugging Face's Trainer reaches with a classification experiment's rows, weights, batch, epochs and rates.

    python -m tests.bench.quality experiment=classification/mrpc data.root=FOLDER --seeds 1 2 3
    etude train -m experiment=classification/mrpc data.root=FOLDER seed=1,2,3

The first command trains BertForSequenceClassification on the rows that etude trains on, with the same tokens, peak rate,
linear schedule, warm-up, weight decay, clipping and number of epochs, keeps the epoch that is best on the same val rows by
the same score, and prints the scores of the same test rows: one JSON object. The second one is etude's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from etude.data.loader import Slice
from etude.duration import Duration
from etude.hub import open_pretrained
from etude.tasks.classification import Classification
from etude.tasks.regression import Regression
from etude.training.build import Experiment
from tests.bench.huggingface import Example, padded
from tests.bench.through_trainer import built


def examples_of(experiment: Experiment, split: str) -> list[Example]:
    """Return the rows of a split, as etude reads them."""
    found: list[Example] = []
    rows = experiment.data.splits[split]
    for number in range(len(rows.lengths)):
        batch: Any = rows.batch(Slice(np.array([number]), 0, 1.0, filler=False))
        segments = torch.zeros_like(batch.tokens) if batch.segments is None else batch.segments
        found.append({"input_ids": batch.tokens[0], "token_type_ids": segments[0], "label": batch.labels[0]})
    return found


def model_of(experiment: Experiment) -> nn.Module:
    """Return the model, its head drawn by torch's generator."""
    files = open_pretrained(experiment.config.model.arguments["name"])
    config = transformers.BertConfig.from_json_file(files.path("config.json"))
    config.num_labels = max(1, len(experiment.task.facts.classes))
    config.problem_type = "regression" if isinstance(experiment.task, Regression) else "single_label_classification"
    model = transformers.BertForSequenceClassification(config)
    missing, _ = model.bert.load_state_dict(load_file(files.path("model.safetensors")), strict=False)
    if any(not name.startswith("pooler.") for name in missing):
        raise ValueError(f"{files.name} has no {missing}")
    return model


def scores_of(experiment: Experiment, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return what etude's metrics say of a model's outputs."""
    task = experiment.task
    if isinstance(task, Regression):
        columns = outputs.squeeze(1).astype(np.float64), labels.astype(np.float64)
        return {name: metric.statistics(*columns).whole for name, metric in task.metrics.items()}
    if not isinstance(task, Classification):
        raise TypeError(f"{type(task).__name__} has no BertForSequenceClassification here")
    guesses, classes = outputs.argmax(axis=1), task.facts.classes
    return {name: metric.statistics(guesses, labels, classes).whole for name, metric in task.metrics.items()}


def trained(experiment: Experiment, splits: dict[str, list[Example]], seed: int) -> dict[str, float]:
    """Train with a seed; return the scores of test at the best epoch."""
    pad = experiment.task.facts.pad

    def collate(rows: Sequence[Example]) -> dict[str, Tensor]:
        return {
            "input_ids": padded([row["input_ids"] for row in rows], pad),
            "attention_mask": padded([torch.ones_like(row["input_ids"]) for row in rows], 0),
            "token_type_ids": padded([row["token_type_ids"] for row in rows], 0),
            "labels": torch.stack([row["label"] for row in rows]),
        }

    def judged(prediction: Any) -> dict[str, float]:
        return scores_of(experiment, prediction.predictions, prediction.label_ids)

    transformers.set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=model_of(experiment),
            args=arguments(experiment, folder, seed),
            train_dataset=splits["train"],
            eval_dataset=splits["val"],
            data_collator=collate,
            compute_metrics=judged,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        found = trainer.evaluate(splits["test"])
    return {name: found[f"eval_{name}"] for name in experiment.config.task.arguments["metrics"]}


def arguments(experiment: Experiment, folder: str, seed: int) -> transformers.TrainingArguments:
    """Return what the experiment says, in the Trainer's words."""
    config, optimizer = experiment.config, experiment.config.optimizer.arguments
    clock = experiment.data.clock

    def in_steps(duration: Duration) -> int:
        steps = clock.steps(duration)
        if steps is None:
            raise ValueError("the Trainer counts in steps: a budget in seconds has no number of epochs")
        return steps

    return transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=config.batch.examples,
        per_device_eval_batch_size=64,
        num_train_epochs=in_steps(config.budget) / clock.steps_per_epoch,
        learning_rate=optimizer["lr"],
        adam_beta1=optimizer["betas"][0],
        adam_beta2=optimizer["betas"][1],
        adam_epsilon=optimizer["eps"],
        weight_decay=optimizer["weight_decay"],
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        lr_scheduler_type="linear",
        warmup_steps=in_steps(Duration.parse(config.scheduler.arguments["warmup"])),
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model=config.validate.metric.removeprefix("val/"),
        greater_is_better=config.validate.mode == "max",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        seed=seed,
    )


def main() -> None:
    """Train with each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", help="of etude train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    with redirect_stdout(sys.stderr):  # Hugging Face's Trainer prints its scores
        experiment = built(*options.overrides, "trainer=cpu")
        splits = {split: examples_of(experiment, split) for split in ("train", "val", "test")}
        found = [trained(experiment, splits, seed) for seed in options.seeds]
    result = {
        name: {
            "mean": statistics.fmean(one[name] for one in found),
            "sd": statistics.stdev([one[name] for one in found]) if len(found) > 1 else None,
            "values": [one[name] for one in found],
        }
        for name in found[0]
    }
    print(json.dumps({"seeds": options.seeds, "rows": {name: len(rows) for name, rows in splits.items()}, **result}))


if __name__ == "__main__":
    main()
