"""Sequence to sequence: translation, summarization, and whatever else turns one text into another.

Axes: B examples, S source positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from etude.decoding.hypothesis import Hypothesis
from etude.decoding.search import Search
from etude.losses.cross_entropy import label_smoothed_cross_entropy
from etude.metrics.score import Score
from etude.metrics.texts import TextMetric, text_scores
from etude.metrics.translation import BLEU, TER, ChrF
from etude.models.seq2seq import Seq2Seq
from etude.tasks.base import Schedule, Task
from etude.tasks.sums import Row
from etude.tokenization.tokenizer import Tokenizer
from etude.types import Facts, TranslationBatch

STANDARD_METRICS: Mapping[str, TextMetric] = {
    "bleu": BLEU(),
    "bleu_lowercase": BLEU(lowercase=True),
    "chrf": ChrF(),
    "ter": TER(),
}
"""Those of translation as sacrebleu's command gives them, and BLEU without case, which some corpora are reported in."""


class Translation(Task):
    """Label-smoothed cross-entropy for training; metrics of searched outputs for validation.

    Args:
        facts: Vocabulary and special ids.
        model: The encoder and decoder.
        optimizer: Makes the optimizer of groups of parameters.
        scheduler: The learning rate's course.
        decoding: How outputs are searched for.
        metrics: How outputs are compared with references, by the name of the score; None: `STANDARD_METRICS`.
        label_smoothing: ε of Szegedy et al. 2016, section 7; only in training.
        gradient_clip: Largest norm of the gradient; None: not clipped.
    """

    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/bleu", "val/bleu_lowercase", "val/chrf", "val/ter")
    """With `STANDARD_METRICS`; others given take the place of all but the loss."""

    BATCH: ClassVar[str] = "TranslationBatch"
    model: Seq2Seq

    def __init__(
        self,
        facts: Facts,
        model: Seq2Seq,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        decoding: Search,
        metrics: Mapping[str, TextMetric] | None = None,
        label_smoothing: float = 0.1,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(facts, model, optimizer, scheduler, gradient_clip)
        self.decoding = decoding
        self.metrics = dict(STANDARD_METRICS if metrics is None else metrics)
        self.label_smoothing = label_smoothing

    def loss(self, batch: TranslationBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the cross-entropy summed over target tokens, smoothed in training only."""
        hidden = self.model.hidden(batch.source, batch.inputs, batch.source_mask, batch.target_mask)
        labels = batch.labels[batch.target_mask]
        smoothing = self.label_smoothing if self.training else 0.0
        return label_smoothed_cross_entropy(hidden, self.model.output_weight, labels, smoothing)

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
        decoded = self.texts.decode([hypothesis.tokens for hypothesis in found])
        # A source of nothing but its end is an empty text, and `predict_texts` leaves that one empty.
        outputs = [
            text if tokens > 1 else ""
            for text, tokens in zip(decoded, batch.source_mask.sum(dim=1).tolist(), strict=True)
        ]
        rows = [
            {"id": example, "output": output, "score": hypothesis.score, "finished": hypothesis.finished}
            for example, output, hypothesis in zip(batch.ids.tolist(), outputs, found, strict=True)
        ]
        for row in rows:
            row["references"] = self.texts.references(split, max(row["id"], 0))
        return *self.loss(batch), rows

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        """Return the scores of the metrics over all rows."""
        outputs, references = ([row[name] for row in rows] for name in ("output", "references"))
        return text_scores(self.metrics, outputs, references, self.bootstrap)

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return source, reference and output."""
        source = self.texts.text(split, "source", row["id"])
        return {"source": source, "reference": row["references"][0], "output": row["output"]}

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
