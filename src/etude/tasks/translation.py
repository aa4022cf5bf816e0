"""Sequence to sequence: translation, and whatever else turns one text into another.

Axes: B examples, S source positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from etude.decoding.hypothesis import Hypothesis
from etude.decoding.search import Search
from etude.losses.consistency import Consistency
from etude.losses.cross_entropy import label_smoothed_cross_entropy
from etude.metrics.bleu import bleu, chrf
from etude.metrics.score import Score
from etude.models.seq2seq import Seq2Seq
from etude.tasks.base import Schedule, Task
from etude.tasks.sums import Row
from etude.tokenization.tokenizer import Tokenizer
from etude.types import Facts, TranslationBatch


class Translation(Task):
    """Label-smoothed cross-entropy for training; BLEU of searched translations for validation.

    Args:
        facts: Vocabulary and special ids.
        model: The encoder and decoder.
        optimizer: Makes the optimizer of groups of parameters.
        scheduler: The learning rate's course.
        decoding: How translations are searched for.
        label_smoothing: ε of Szegedy et al. 2016, section 7; only in training.
        gradient_clip: Largest norm of the gradient; None: not clipped.
        consistency: A loss of two passes in the place of the cross-entropy, in training only: every batch goes through
            the model twice, side by side. None: one pass.
    """

    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/bleu", "val/chrf")
    BATCH: ClassVar[str] = "TranslationBatch"
    model: Seq2Seq

    def __init__(
        self,
        facts: Facts,
        model: Seq2Seq,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        decoding: Search,
        label_smoothing: float = 0.1,
        gradient_clip: float | None = 1.0,
        consistency: Consistency | None = None,
    ) -> None:
        super().__init__(facts, model, optimizer, scheduler, gradient_clip)
        self.decoding = decoding
        self.label_smoothing = label_smoothing
        self.consistency = consistency

    def loss(self, batch: TranslationBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the loss summed over target tokens: in training as configured, else the plain cross-entropy."""
        if self.training and self.consistency is not None:
            return self._loss_of_two_passes(batch, self.consistency)
        hidden = self.model.hidden(batch.source, batch.inputs, batch.source_mask, batch.target_mask)
        labels = batch.labels[batch.target_mask]
        smoothing = self.label_smoothing if self.training else 0.0
        return label_smoothed_cross_entropy(hidden, self.model.output_weight, labels, smoothing)

    def _loss_of_two_passes(
        self, batch: TranslationBatch, consistency: Consistency
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        twice = [torch.cat([grid, grid]) for grid in (batch.source, batch.inputs, batch.source_mask, batch.target_mask)]
        first, second = self.model.hidden(*twice).chunk(2)
        labels = batch.labels[batch.target_mask]
        return consistency(first, second, self.model.output_weight, labels, self.label_smoothing)

    @torch.no_grad()
    def translate(self, source: Int[Tensor, "B S"], source_mask: Bool[Tensor, "B S"]) -> list[list[Hypothesis]]:
        """Return the best translations of each source, best first.

        One is cut at twice the source's tokens and ten, or where the model's positions end.
        """
        cache = self.model.start(self.model.encode(source, source_mask))
        limits = (2 * source_mask.sum(dim=1) + 10).clamp(max=self.model.max_length)
        facts = self.facts
        return self.decoding(self.model.step, cache, bos=facts.bos, eos=facts.eos, rows=len(source), max_lengths=limits)

    def judge(self, batch: TranslationBatch, split: str) -> tuple[Float[Tensor, ""], Int[Tensor, ""], list[Row]]:
        """Translate a batch, as `etude predict` does, and take the loss at its references."""
        found = [hypotheses[0] for hypotheses in self.translate(batch.source, batch.source_mask)]
        outputs = self.texts.decode([hypothesis.tokens for hypothesis in found])
        rows = [
            {"id": example, "output": output, "score": hypothesis.score, "finished": hypothesis.finished}
            for example, output, hypothesis in zip(batch.ids.tolist(), outputs, found, strict=True)
        ]
        for row in rows:
            row["reference"] = self.texts.text(split, "target", max(row["id"], 0))
        return *self.loss(batch), rows

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        """Return corpus BLEU and chrF by sacrebleu: cased, detokenized."""
        outputs, references = ([row[name] for row in rows] for name in ("output", "reference"))
        return {
            "bleu": bleu(outputs, references, bootstrap=self.bootstrap),
            "chrf": chrf(outputs, references, bootstrap=self.bootstrap),
        }

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return source, reference and output."""
        source = self.texts.text(split, "source", row["id"])
        return {"source": source, "reference": row["reference"], "output": row["output"]}

    def predict_texts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
        """Translate each text; an empty one stays empty."""
        encoded = [ids[: self.model.max_length - 1] for ids in tokenizer.encode(texts)]
        outputs = [""] * len(texts)
        rows = [index for index, ids in enumerate(encoded) if ids]
        if rows:
            tokens = [torch.tensor([*encoded[row], self.facts.eos], device=self.device) for row in rows]
            source = pad_sequence(tokens, batch_first=True, padding_value=self.facts.pad)
            mask = pad_sequence([torch.ones_like(ids, dtype=torch.bool) for ids in tokens], batch_first=True)
            best = [hypotheses[0].tokens for hypotheses in self.translate(source, mask)]
            for row, output in zip(rows, tokenizer.decode(best), strict=True):
                outputs[row] = output
        return outputs
