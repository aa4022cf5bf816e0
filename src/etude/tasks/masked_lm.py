"""Masked language modelling (Devlin et al. 2019, section 3.1): predict the tokens that were hidden.

Axes: M chosen tokens, E width of the embeddings, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from etude.losses.cross_entropy import label_smoothed_cross_entropy
from etude.metrics.language import perplexity
from etude.metrics.score import Score
from etude.models.text_encoder import TextEncoder
from etude.tasks.attention import Attention, encoder_attention, readable
from etude.tasks.base import Schedule, Task
from etude.tasks.sums import Row
from etude.tokenization.tokenizer import Tokenizer
from etude.types import IGNORED, Facts, MaskedLMBatch


class MaskedLM(Task):
    """Cross-entropy at the chosen positions only; the output matrix is the embedding.

    A pretrained encoder brings the head that it was trained with, where its files have it.

    Args:
        facts: Vocabulary and special ids, a mask token among them.
        model: The encoder.
        optimizer: Makes the optimizer of groups of parameters.
        scheduler: The learning rate's course.
        gradient_clip: Largest norm of the gradient; None: not clipped.
    """

    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/accuracy", "val/perplexity")
    BATCH: ClassVar[str] = "MaskedLMBatch"
    model: TextEncoder

    def __init__(
        self,
        facts: Facts,
        model: TextEncoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(facts, model, optimizer, scheduler, gradient_clip)
        self.head = model.masked_lm_head()

    def chosen(self, batch: MaskedLMBatch) -> tuple[Float[Tensor, "M E"], Int[Tensor, " M"]]:
        """Return the features that predict, and the ids they shall predict, at the M chosen positions."""
        labels = batch.labels[batch.mask]
        where = (labels != IGNORED).nonzero().squeeze(1)
        hidden = self.model.hidden(batch.tokens, batch.mask)[where]
        return self.head(hidden), labels[where]

    def logits(self, features: Float[Tensor, "M E"]) -> Float[Tensor, "M V"]:
        """Return the unnormalised log-probabilities of all ids."""
        return F.linear(features, self.model.output_weight, self.head.bias).float()

    def loss(self, batch: MaskedLMBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the cross-entropy summed over the chosen positions."""
        hidden, labels = self.chosen(batch)
        return label_smoothed_cross_entropy(hidden, self.model.output_weight, labels, bias=self.head.bias)

    def judge(self, batch: MaskedLMBatch, split: str) -> tuple[Float[Tensor, ""], Int[Tensor, ""], list[Row]]:
        """Count hits and losses for each text."""
        hidden, labels = self.chosen(batch)
        logits = self.logits(hidden)
        losses = F.cross_entropy(logits, labels, reduction="none")
        guesses = logits.argmax(dim=1)
        sizes = (batch.labels != IGNORED).sum(dim=1).tolist()
        parts = zip(labels.split(sizes), guesses.split(sizes), losses.split(sizes), strict=True)
        rows = [
            {
                "id": example,
                "tokens": len(wanted),
                "hits": int((wanted == guessed).sum()),
                "loss": float(lost.sum()),
                "wanted": wanted[:8].tolist(),
                "guessed": guessed[:8].tolist(),
            }
            for example, (wanted, guessed, lost) in zip(batch.ids.tolist(), parts, strict=True)
        ]
        return losses.sum(), torch.tensor(len(labels)), rows

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        """Return accuracy and perplexity at the chosen positions."""
        tokens = sum(row["tokens"] for row in rows)
        return {
            "accuracy": Score(sum(row["hits"] for row in rows) / tokens),
            "perplexity": Score(perplexity(sum(row["loss"] for row in rows) / tokens)),
        }

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return the first hidden tokens of a text beside the guesses."""
        wanted, guessed = ([" ".join(self.texts.decode([[i] for i in row[name]]))] for name in ("wanted", "guessed"))
        return {"text": self.texts.text(split, "text", row["id"])[:300], "hidden": wanted[0], "guessed": guessed[0]}

    @property
    def text_limit(self) -> int:
        """Two fewer than the model's positions: special tokens stand around a text."""
        return self.model.max_length - 2

    @torch.no_grad()
    def predict_texts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
        """Fill each `<mask>` (or the tokenizer's own mask token) of each text with the likeliest token."""
        rows = [self._with_masks(text, tokenizer) for text in texts]
        tokens = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=self.facts.pad)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        features = self.head(self.model(tokens, mask)[tokens == self.facts.mask])
        tokens[tokens == self.facts.mask] = self.logits(features).argmax(dim=1)
        return tokenizer.decode([row[real].tolist() for row, real in zip(tokens, mask, strict=True)])

    def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
        """Return the encoder's attention, to a `<mask>` as well; as `ShowsAttention` says."""
        readable("text", text, tokenizer, self.model.max_length - 2)
        return encoder_attention(self.model, self._with_masks(text, tokenizer), target)

    def _with_masks(self, text: str, tokenizer: Tokenizer) -> list[int]:
        """Encode a text in which `<mask>` or `[MASK]` stands for a hidden token."""
        pieces = tokenizer.encode(text.replace("[MASK]", "<mask>").split("<mask>"))
        ids = [self.facts.bos, *pieces[0]]
        for piece in pieces[1:]:
            ids += [self.facts.mask, *piece]
        return [*ids[: self.model.max_length - 1], self.facts.eos]
