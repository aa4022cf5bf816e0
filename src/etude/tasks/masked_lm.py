"""Masked language modelling (Devlin et al. 2019, section 3.1): predict the tokens that were hidden.

Axes: M chosen tokens, E width of the embeddings, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.optim import Optimizer

from etude.metrics.language_modeling import bits_per_byte, perplexity
from etude.metrics.score import Score
from etude.models.base import TextEncoder
from etude.models.losses.cross_entropy import label_smoothed_cross_entropy
from etude.models.model_flops import encoder_flops
from etude.tasks.attention_maps import Attention, encoder_attention, readable
from etude.tasks.base import Schedule, Task
from etude.tasks.fill_mask import FillMasks, MaskedAnswers
from etude.tasks.prediction import Prediction
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.types import IGNORED, Facts, MaskedLMBatch


class MaskedLM(Task):
    """Cross-entropy at the chosen positions only; the output matrix is the embedding.

    A pretrained encoder brings the head that it was trained with, where its files have it.

    Args:
        facts: Vocabulary and special ids, a mask token among them.
        model: The encoder.
        optimizer: Makes the optimizer of groups of parameters.
        scheduler: The learning rate's course.
        decoding: What is answered to a text that somebody types; None: its masks, filled.
        gradient_clip: Largest norm of the gradient; None: not clipped.
    """

    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/accuracy", "val/perplexity", "val/bits_per_byte")
    BATCH: ClassVar[str] = "MaskedLMBatch"
    model: TextEncoder

    def __init__(
        self,
        facts: Facts,
        model: TextEncoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        decoding: MaskedAnswers | None = None,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(facts, model, optimizer, scheduler, gradient_clip)
        self.decoding = FillMasks() if decoding is None else decoding
        self.head = model.masked_lm_head()

    def chosen(self, batch: MaskedLMBatch) -> tuple[Float[Tensor, "M E"], Int[Tensor, " M"]]:
        """Return the features that predict, and the ids they shall predict, at the M chosen positions."""
        labels = batch.labels[batch.mask]
        where = (labels != IGNORED).nonzero().squeeze(1)
        return self.features(batch.tokens, batch.mask, where), labels[where]

    def features(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], where: Int[Tensor, " M"]
    ) -> Float[Tensor, "M E"]:
        """Return the features that predict at M of the real tokens, whose numbers among those are given."""
        found: Tensor = self.head(self.model.hidden(tokens, mask, at=where))
        return found

    def logits(self, features: Float[Tensor, "M E"]) -> Float[Tensor, "M V"]:
        """Return the unnormalised log-probabilities of all ids."""
        return F.linear(features, self.model.output_weight, self.head.bias).float()

    def loss(self, batch: MaskedLMBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the cross-entropy summed over the chosen positions."""
        hidden, labels = self.chosen(batch)
        return label_smoothed_cross_entropy(hidden, self.model.output_weight, labels, bias=self.head.bias)

    def training_flops(
        self, lengths: Int[np.ndarray, " N"], counts: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"] | None:
        """Return the operations of training on each text once, its last part at the chosen positions."""
        flops = encoder_flops(self.model, lengths, counts)
        if flops is None:
            return None
        flops.go_through(self.head, counts)
        flops.multiply(self.model.output_weight, counts)
        return flops.total

    def judge(self, batch: MaskedLMBatch, split: str) -> tuple[Float[Tensor, ""], Int[Tensor, ""], list[Row]]:
        """Count hits and losses for each text."""
        hidden, labels = self.chosen(batch)
        logits = self.logits(hidden)
        losses = F.cross_entropy(logits, labels, reduction="none")
        guesses = logits.argmax(dim=1)
        sizes = (batch.labels != IGNORED).sum(dim=1).tolist()
        size_of_token = self.texts.bytes_per_token(split)
        parts = zip(labels.split(sizes), guesses.split(sizes), losses.split(sizes), strict=True)
        rows = [
            {
                "id": example,
                "tokens": len(wanted),
                "bytes": len(wanted) * size_of_token,
                "hits": int((wanted == guessed).sum()),
                "loss": float(lost.sum()),
                "wanted": wanted[:8].tolist(),
                "guessed": guessed[:8].tolist(),
            }
            for example, (wanted, guessed, lost) in zip(batch.ids.tolist(), parts, strict=True)
        ]
        return losses.sum(), torch.tensor(len(labels)), rows

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        """Return accuracy, perplexity and bits per byte at the chosen positions.

        A chosen token counts for as many bytes as a token of the split has in the mean, white space and all: that way
        bits per byte compare across tokenizers. They are those of the pseudo-log-likelihood, estimated from a sample.
        """
        tokens, size, loss = (sum(row[name] for row in rows) for name in ("tokens", "bytes", "loss"))
        return {
            "accuracy": Score(sum(row["hits"] for row in rows) / tokens),
            "perplexity": Score(perplexity(loss / tokens)),
            "bits_per_byte": Score(bits_per_byte(loss, size)),
        }

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return the first hidden tokens of a text beside the guesses."""
        wanted, guessed = ([" ".join(self.texts.decode([[i] for i in row[name]]))] for name in ("wanted", "guessed"))
        return {"text": self.texts.text(split, "text", row["id"])[:300], "hidden": wanted[0], "guessed": guessed[0]}

    @property
    def text_limit(self) -> int:
        """Two fewer than the model's positions: special tokens stand around a text."""
        return self.model.max_length - 2

    def predict_texts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
        """Return the best answer to each text: by default the text with its masks filled."""
        return [prediction.outputs[0].text for prediction in self.predictions(texts, tokenizer)]

    @torch.no_grad()
    def predictions(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prediction]:
        """Return the answers to each text, in which `<mask>` or `[MASK]` hides a token."""
        encoded = [tokenizer.encode_masked(text) for text in texts]
        rows = [self._framed(ids) for ids in encoded]
        found = self.decoding(self.log_probabilities, rows, tokenizer)
        return [Prediction(outputs, len(ids) > self.text_limit) for outputs, ids in zip(found, encoded, strict=True)]

    def log_probabilities(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], where: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "M V"]:
        """Return the log-probabilities at the M chosen positions, row by row."""
        mask, where = mask.to(self.device), where.to(self.device)
        hidden = self.features(tokens.to(self.device), mask, where[mask].nonzero().squeeze(1))
        return self.logits(hidden).log_softmax(dim=1)

    def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
        """Return the encoder's attention, to a `<mask>` as well; as `ShowsAttention` says."""
        readable("text", text, tokenizer, self.text_limit)
        return encoder_attention(self.model, self._framed(tokenizer.encode_masked(text)), target)

    def _framed(self, ids: Sequence[int]) -> list[int]:
        """Return what the model reads of a text."""
        return [self.facts.bos, *ids[: self.text_limit], self.facts.eos]
