"""Pretraining a masked language model, side by side: etude through Lightning's Trainer, by hand, Hugging Face's Trainer.

    python -m tests.bench.masked_lm

IMDB and rotten_tomatoes reviews, embedded; 16,000 pieces; BERT's layers: 4 of width 256, feed-forward width 1,024, dropout
0.1; 15 % of the tokens are predicted; about 4,096 positions a step.

    etude            windows of at most 128 tokens, as its plan orders them
    by hand          reviews one after the other, cut into blocks of 128: no padding; logits at the chosen positions only
    Hugging Face     BertForMaskedLM and Trainer on the same blocks, 32 a batch

BERT also drops attention probabilities, which costs it much and the others do not do; `--attention-dropout 0` takes that
away. What is counted is tokens that the model reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import transformers
from torch import Tensor

from etude.training.build import Experiment
from etude.types import IGNORED, Facts
from tests.bench.hand_encoder import HandEncoder, HandMaskedLM
from tests.bench.hand_layers import Loop, Rows, copy_weights
from tests.bench.huggingface import Example, HuggingFaceTraining, real_tokens
from tests.bench.rounds import Contender, Work, arguments, compare
from tests.bench.through_trainer import ThroughTrainer, built

LENGTH, BLOCKS, RATE, DROPOUT = 128, 32, 1e-3, 0.1
OVERRIDES = (
    "experiment=masked_lm/demo",
    "model/positions=learned",
    "tokenizer.vocabulary=16000",
    "model.width=256",
    "model.heads=4",
    "model.layers=4",
    "model.feed_forward=1024",
    f"model.dropout={DROPOUT}",
    "model.activation_dropout=0.0",
    "model.residual._target_=etude.models.layers.residual.PostNorm",
    f"data.max_length={LENGTH}",
    f"batch.tokens={LENGTH * BLOCKS}",
    f"optimizer.lr={RATE}",
    "scheduler=constant",
    "callbacks=none",
    "trainer=cpu",
)


def blocks(experiment: Experiment) -> np.ndarray:
    """Return the training text as blocks of ids, [N, 128]."""
    values = experiment.data.prepared.splits["train"].tokens["text"].values
    return values[: len(values) // LENGTH * LENGTH].reshape(-1, LENGTH).astype(np.int64)


def hide(ids: np.ndarray, facts: Facts, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return what the model reads, and the labels: BERT's 15 %, of those 80 % masked and 10 % random."""
    chosen = rng.random(ids.shape) < 0.15
    share = rng.random(ids.shape)
    seen = np.where(chosen & (share < 0.8), facts.mask, ids)
    seen = np.where(chosen & (share >= 0.9), rng.integers(0, facts.vocabulary, ids.shape), seen)
    return seen, np.where(chosen, ids, IGNORED)


def by_hand(experiment: Experiment, seconds: float) -> Callable[[int], Work]:
    """Return the loop by hand."""
    facts, ids, rng = experiment.task.facts, blocks(experiment), np.random.default_rng(1)
    shape = {
        "width": 256,
        "heads": 4,
        "layers": 4,
        "inner": 1024,
        "dropout": DROPOUT,
        "max_length": LENGTH,
        "eps": 1e-5,
    }
    model = HandMaskedLM(HandEncoder(facts.vocabulary, **shape))  # type: ignore[arg-type]
    copy_weights(model.encoder, experiment.task.model)

    def batches() -> Iterator[np.ndarray]:
        while True:
            yield rng.integers(0, len(ids), BLOCKS)

    def step(rows: np.ndarray) -> tuple[Tensor, float, float]:
        seen, labels = hide(ids[rows], facts, rng)
        chosen = torch.from_numpy(np.flatnonzero(labels != IGNORED))
        total = model.loss(Rows.of(list(seen)), chosen, torch.from_numpy(labels).flatten()[chosen])
        return total, len(chosen), seen.size

    loop = Loop(model, step, batches(), RATE)
    return lambda _: loop.round(seconds)


def huggingface(experiment: Experiment, seconds: float, attention_dropout: float) -> HuggingFaceTraining:
    """Return Hugging Face's Trainer."""
    facts, rng = experiment.task.facts, np.random.default_rng(1)
    config = transformers.BertConfig(
        vocab_size=facts.vocabulary,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=attention_dropout,
        max_position_embeddings=LENGTH,
        pad_token_id=facts.pad,
    )

    def collate(rows: Sequence[Example]) -> dict[str, Tensor]:
        seen, labels = hide(np.stack([row["input_ids"] for row in rows]), facts, rng)
        return {"input_ids": torch.from_numpy(seen), "labels": torch.from_numpy(labels)}

    examples = [{"input_ids": block} for block in blocks(experiment)]
    model = transformers.BertForMaskedLM(config)
    return HuggingFaceTraining(model, examples, collate, real_tokens, seconds=seconds, batch=BLOCKS, learning_rate=RATE)


def main() -> None:
    """Compare."""
    parser = arguments(__doc__, seconds=15)
    parser.add_argument("--attention-dropout", type=float, default=0.1, help="of Hugging Face's model")
    options = parser.parse_args()
    experiment = built(*OVERRIDES)
    peer = huggingface(experiment, options.seconds, options.attention_dropout)
    compare(
        "masked-LM pretraining, real tokens per second",
        {
            "etude": Contender(ThroughTrainer(experiment, options.seconds)),
            "by hand": Contender(by_hand(experiment, options.seconds), wanted=0.92),
            "Hugging Face": Contender(peer, wanted=2.3),
        },
        options,
    )


if __name__ == "__main__":
    main()
