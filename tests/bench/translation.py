"""Training a translation model, side by side: etude through Lightning's Trainer, a loop by hand, Hugging Face's Trainer.

    python -m tests.bench.translation                                  # interface texts, embedded
    python -m tests.bench.translation --root /data/multi30k            # a folder of train.en, train.de, …

One vocabulary of 8,000 pieces, the same ids for all; 3 + 3 layers, width 256, feed-forward width 1,024, dropout 0.1 on
embeddings, in feed-forward layers and on what each sublayer adds, label smoothing 0.1, AdamW, the gradient clipped to 1.

    etude                       batches of 3,000 real tokens
    by hand                     the same model with the same tricks, its own batches of like length (`hand_layers`)
    Hugging Face, random        MarianMTModel and Trainer on random batches of 64 pairs
    Hugging Face, grouped       the same with `group_by_length`, one mega-batch of 50 batches a round

What is counted is real tokens of source and target, ends of sentences included, in whole steps after a warm-up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from etude.training.build import Experiment
from tests.bench.hand_layers import Loop, by_length, copy_weights
from tests.bench.hand_translation import HandTranslation
from tests.bench.huggingface import HuggingFaceTraining, marian, pair, pair_collate, real_tokens
from tests.bench.rounds import Contender, Work, arguments, compare
from tests.bench.through_trainer import ThroughTrainer, built

DROPOUT, SMOOTHING, TOKENS, PAIRS, RATE = 0.1, 0.1, 3000, 64, 1e-3


def overrides(root: str | None) -> list[str]:
    """Return what etude's command line would say."""
    data = ["experiment=translation/interface"]
    if root is not None:
        data = ["experiment=translation/multi30k", f"data.root={root}"]
    return [
        *data,
        "tokenizer.vocabulary=8000",
        "model.width=256",
        "model.heads=4",
        "model.encoder_layers=3",
        "model.decoder_layers=3",
        "model.feed_forward=1024",
        f"model.dropout={DROPOUT}",
        f"task.label_smoothing={SMOOTHING}",
        f"optimizer.lr={RATE}",
        f"batch.tokens={TOKENS}",
        "scheduler=constant",
        "callbacks=none",
        "trainer=cpu",
    ]


def by_hand(experiment: Experiment, seconds: float) -> Callable[[int], Work]:
    """Return the loop by hand."""
    data, facts = experiment.data, experiment.task.facts
    tokens = data.prepared.splits["train"].tokens
    lengths = data.splits["train"].lengths
    model = HandTranslation(facts.vocabulary, width=256, heads=4, layers=3, inner=1024, dropout=DROPOUT)
    copy_weights(model, experiment.task.model)

    def step(rows: np.ndarray) -> tuple[Tensor, float, float]:
        source, target = ([tokens[side][row] for row in rows] for side in ("source", "target"))
        total = model.loss(source, target, facts.bos, facts.eos, SMOOTHING)
        return total, float(lengths[rows, 1].sum()), float(lengths[rows].sum())

    loop = Loop(model, step, by_length(lengths, TOKENS, np.random.default_rng(1)), RATE)
    return lambda _: loop.round(seconds)


def huggingface(experiment: Experiment, seconds: float, *, grouped: bool) -> HuggingFaceTraining:
    """Return Hugging Face's Trainer."""
    facts, tokens = experiment.task.facts, experiment.data.prepared.splits["train"].tokens
    source, target = tokens["source"], tokens["target"]
    examples = [pair(source[row].tolist(), target[row].tolist(), facts) for row in range(len(source))]
    return HuggingFaceTraining(
        marian(facts, width=256, heads=4, layers=3, inner=1024, dropout=DROPOUT),
        examples,
        pair_collate(facts),
        real_tokens,
        seconds=seconds,
        batch=PAIRS,
        grouped=grouped,
        label_smoothing_factor=SMOOTHING,
        learning_rate=RATE,
    )


def main() -> None:
    """Compare."""
    parser = arguments(__doc__, seconds=12)
    parser.add_argument("--root", help="folder of Multi30k; default: interface texts, embedded")
    options = parser.parse_args()
    experiment = built(*overrides(options.root))
    compare(
        "translation training, real tokens per second",
        {
            "etude": Contender(ThroughTrainer(experiment, options.seconds)),
            "by hand": Contender(by_hand(experiment, options.seconds), wanted=0.92),
            "Hugging Face, random": Contender(huggingface(experiment, options.seconds, grouped=False), wanted=2.5),
            "Hugging Face, grouped": Contender(huggingface(experiment, options.seconds, grouped=True), wanted=1.6),
        },
        options,
    )


if __name__ == "__main__":
    main()
