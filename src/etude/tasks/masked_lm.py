"""Masked language modelling (Devlin et al. 2019, section 3.1): predict the tokens that were masked.

Axes: B texts, L positions, M masked positions, E width of the embeddings, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from etude.metrics.language_modeling import bits_per_byte, perplexity
from etude.metrics.score import Score
from etude.models.base import TextEncoder
from etude.models.losses.cross_entropy import check_chunk, chunk_length
from etude.models.losses.labelled_states import LabelledStates
from etude.models.model_flops import encoder_flops
from etude.optim.schedules import Schedule
from etude.tasks.attention_maps import Attention, encode_whole, encoder_attention
from etude.tasks.base import Task
from etude.tasks.fill_mask import FillMasks, MaskedAnswers, PseudoLogLikelihood
from etude.tasks.prediction import Prediction
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.types import IGNORED, Facts, MaskedLMBatch


class MaskedLM(Task):
    """Cross-entropy at the masked positions only; the output matrix is the embedding.

    A pretrained encoder brings the head that it was trained with, if its files have it.

    Args:
        facts: Vocabulary and special ids, a mask token among them.
        model: The encoder.
        optimizer: Makes the optimizer from groups of parameters.
        scheduler: Learning rate schedule.
        decoding: Kind of the answers to a text; None: the text with its masks filled.
        gradient_clip: Largest norm of the gradient; None: not clipped.
        chunk_tokens: Number of tokens whose logits are in memory at a time; None: as many as have 2²⁵ logits, from 64 to
            512. Another number adds floating-point numbers in another order.
    """

    MODEL: ClassVar[type[nn.Module]] = TextEncoder
    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/accuracy", "val/perplexity", "val/bits_per_byte")
    BATCH: ClassVar[str] = "MaskedLMBatch"
    LIKELIHOOD: ClassVar[str] = "pseudo"
    model: TextEncoder

    def __init__(
        self,
        facts: Facts,
        model: TextEncoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        decoding: MaskedAnswers | None = None,
        gradient_clip: float | None = 1.0,
        chunk_tokens: int | None = None,
    ) -> None:
        check_chunk(chunk_tokens)
        super().__init__(facts, model, optimizer, scheduler, gradient_clip)
        self.chunk_tokens = chunk_tokens
        self.decoding = FillMasks() if decoding is None else decoding
        self.head = model.masked_lm_head()

    def forward(self, batch: MaskedLMBatch) -> Float[Tensor, "B L V"]:
        """Return logits of the token at each position; zeros at padding."""
        features = self.features(batch.tokens, batch.mask, torch.arange(int(batch.mask.sum()), device=self.device))
        logits = self.logits(features)
        grid = logits.new_zeros(*batch.tokens.shape, logits.shape[1])
        grid[batch.mask] = logits
        return grid

    def masked_features(self, batch: MaskedLMBatch) -> tuple[Float[Tensor, "M E"], Int[Tensor, " M"]]:
        """Return the features that predict, and the ids to be predicted, at the M masked positions."""
        labels = batch.labels[batch.mask]
        where = (labels != IGNORED).nonzero().squeeze(1)
        return self.features(batch.tokens, batch.mask, where), labels[where]

    def features(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], where: Int[Tensor, " M"]
    ) -> Float[Tensor, "M E"]:
        """Return the features that predict M of the real tokens, given their indices among those."""
        features: Tensor = self.head(self.model.hidden(tokens, mask, at=where))
        return features

    def logits(self, features: Float[Tensor, "M E"]) -> Float[Tensor, "M V"]:
        """Return the unnormalised log-probabilities of all ids."""
        return F.linear(features, self.model.output_weight, self.head.bias).float()

    def loss(self, batch: MaskedLMBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the cross-entropy summed over the masked positions."""
        return self.labelled_states(batch).cross_entropy()

    def labelled_states(self, batch: MaskedLMBatch) -> LabelledStates:
        """Return the features at the masked positions, and the tokens that were there."""
        hidden, labels = self.masked_features(batch)
        return LabelledStates(hidden, self.model.output_weight, labels, bias=self.head.bias, chunk=self.chunk_tokens)

    def training_flops(
        self, lengths: Int[np.ndarray, " N"], counts: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"] | None:
        """Return the operations of training on each text once; the head works at the masked positions only."""
        flops = encoder_flops(self.model, lengths, counts)
        if flops is None:
            return None
        flops.add_module(self.head, counts)
        flops.add_product(self.model.output_weight, counts)
        return flops.total

    def judge(self, batch: MaskedLMBatch, split: str) -> tuple[Float[Tensor, ""], Int[Tensor, ""], list[Row]]:
        """Return loss and number of correct predictions for each text."""
        hidden, labels = self.masked_features(batch)
        losses, predictions = self._judged(hidden, labels)
        sizes = (batch.labels != IGNORED).sum(dim=1).tolist()
        bytes_per_token = self.data.bytes_per_token(split)
        by_text = zip(labels.split(sizes), predictions.split(sizes), losses.split(sizes), strict=True)
        rows = [
            {
                "id": example,
                "tokens": len(targets),
                "bytes": len(targets) * bytes_per_token,
                "hits": int((targets == predicted).sum()),
                "loss": float(text_losses.sum()),
                "wanted": targets[:8].tolist(),
                "guessed": predicted[:8].tolist(),
            }
            for example, (targets, predicted, text_losses) in zip(batch.ids.tolist(), by_text, strict=True)
        ]
        return losses.sum(), torch.tensor(len(labels)), rows

    def _judged(
        self, features: Float[Tensor, "M E"], labels: Int[Tensor, " M"]
    ) -> tuple[Float[Tensor, " M"], Int[Tensor, " M"]]:
        """Return the loss and the prediction of each position, without the logits of all positions at once."""
        length = chunk_length(len(self.head.bias), self.chunk_tokens)
        chunks = [
            (F.cross_entropy(logits, targets, reduction="none"), logits.argmax(dim=1))
            for part, targets in zip(features.split(length), labels.split(length), strict=True)
            for logits in [self.logits(part)]
        ]
        losses, predictions = zip(*chunks, strict=True)
        return torch.cat(losses), torch.cat(predictions)

    def answers(self, batch: MaskedLMBatch) -> list[Row]:
        """Return the best prediction at each masked position of a text.

        `positions` of the masks, `predictions` as text, their `probabilities`, and `output`, the text with its masks filled.
        """
        features, _ = self.masked_features(batch)
        probabilities, ids = self.logits(features).softmax(dim=1).max(dim=1)
        masked = batch.labels != IGNORED
        sizes = masked.sum(dim=1).tolist()
        filled = batch.tokens.masked_scatter(masked, ids)
        columns = (batch.ids.tolist(), filled, batch.mask, masked, ids.split(sizes), probabilities.split(sizes))
        return [
            {
                "id": example,
                "positions": where.nonzero().squeeze(1).tolist(),
                "predictions": self.data.decode([[token] for token in predicted.tolist()]),
                "probabilities": probability.tolist(),
                "output": self.data.decode([tokens[real].tolist()])[0],
            }
            for example, tokens, real, where, predicted, probability in zip(*columns, strict=True)
        ]

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        """Return accuracy, perplexity and bits per byte at the masked positions.

        A masked token counts for the mean number of bytes of a token of the split, white space included, so that bits per
        byte compare across tokenizers. They are those of the pseudo-log-likelihood, estimated from a sample.
        """
        tokens, size, loss = (sum(row[name] for row in rows) for name in ("tokens", "bytes", "loss"))
        return {
            "accuracy": Score(sum(row["hits"] for row in rows) / tokens),
            "perplexity": Score(perplexity(loss / tokens)),
            "bits_per_byte": Score(bits_per_byte(loss, size)),
        }

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return the first masked tokens of a text beside their predictions."""
        hidden, guessed = (" ".join(self.data.decode([[i] for i in row[name]])) for name in ("wanted", "guessed"))
        return {"text": self.data.text(split, "text", row["id"])[:300], "hidden": hidden, "guessed": guessed}

    @property
    def text_limit(self) -> int:
        """Two fewer than the model's positions, since special tokens surround a text."""
        return self.model.max_length - 2

    @torch.no_grad()
    def predictions(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prediction]:
        """Return the answers to each text, in which `<mask>` or `[MASK]` hides a token."""
        encoded = [tokenizer.encode_masked(text) for text in texts]
        rows = [self._framed(ids) for ids in encoded]
        answers = self.decoding(self.log_probabilities, rows, tokenizer)
        return [Prediction(outputs, len(ids) > self.text_limit) for outputs, ids in zip(answers, encoded, strict=True)]

    @torch.no_grad()
    def log_likelihoods(self, rows: Sequence[Sequence[int]], tokenizer: Tokenizer, size: int) -> list[float]:
        """Return the pseudo-log-likelihood of each text, one mask at a time (see `ScoresTexts`, `PseudoLogLikelihood`).

        Texts of one length are read together, whatever the size is: 8,192 tokens of them and their copies at a time.
        """
        scores = [0.0] * len(rows)
        in_order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        for _, group in itertools.groupby(in_order, key=lambda place: len(rows[place])):
            places = list(group)
            framed = [self._framed(rows[place]) for place in places]
            likelihoods = PseudoLogLikelihood().of_one_length(self.log_probabilities, framed, tokenizer)
            for place, likelihood in zip(places, likelihoods, strict=True):
                scores[place] = likelihood.score or 0.0
        return scores

    def log_probabilities(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], where: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "M V"]:
        """Return the log-probabilities at the M positions where `where` is True, row by row."""
        mask, where = mask.to(self.device), where.to(self.device)
        hidden = self.features(tokens.to(self.device), mask, where[mask].nonzero().squeeze(1))
        return self.logits(hidden).log_softmax(dim=1)

    def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
        """Return the encoder's attention to a text, which may hold a `<mask>` (see `ShowsAttention`)."""
        encode_whole("text", text, tokenizer, self.text_limit)
        return encoder_attention(self.model, self._framed(tokenizer.encode_masked(text)), target)

    def _framed(self, ids: Sequence[int]) -> list[int]:
        """Return the ids that the model reads of a text."""
        return [self.facts.bos, *ids[: self.text_limit], self.facts.eos]
