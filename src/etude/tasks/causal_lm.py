"""Causal language modelling (Bengio et al. 2003; Radford et al. 2018): predict every token from those before it.

Axes: B texts, N real tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from etude.errors import ConfigurationError
from etude.metrics.language_modeling import bits_per_byte, perplexity
from etude.metrics.score import Score
from etude.models.base import TextDecoder
from etude.models.generation.hypothesis import Hypothesis
from etude.models.generation.search import Search
from etude.models.losses.cross_entropy import label_smoothed_cross_entropy
from etude.models.model_flops import decoder_flops
from etude.seeding import mix
from etude.tasks.attention_maps import Attention, own_attention, readable
from etude.tasks.base import Schedule, Task
from etude.tasks.prediction import Output, Prediction
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.types import IGNORED, CausalLMBatch, Facts

OPENING = 32
"""Tokens of a validation text that a sample goes on from."""


class CausalLM(Task):
    """Cross-entropy of every next token, that of the end of a text among them; texts that are continued.

    Args:
        facts: Vocabulary and special ids.
        model: The decoder.
        optimizer: Makes the optimizer of groups of parameters.
        scheduler: The learning rate's course.
        decoding: How texts are continued.
        gradient_clip: Largest norm of the gradient; None: not clipped.
    """

    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/perplexity", "val/bits_per_byte")
    BATCH: ClassVar[str] = "CausalLMBatch"
    model: TextDecoder

    def __init__(
        self,
        facts: Facts,
        model: TextDecoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        decoding: Search,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(facts, model, optimizer, scheduler, gradient_clip)
        self.decoding = decoding

    def loss(self, batch: CausalLMBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the cross-entropy summed over the tokens that are to be predicted."""
        hidden = self.model.hidden(batch.tokens, batch.mask, batch.documents)
        return self._loss_of(hidden, batch.labels[batch.mask])

    def _loss_of(
        self, hidden: Float[Tensor, "N D"], labels: Int[Tensor, " N"]
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        weight, bias = self.model.output_weight, self.model.output_bias
        return label_smoothed_cross_entropy(hidden, weight, labels, bias=bias)

    def training_flops(
        self, lengths: Int[np.ndarray, " N"], counts: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"] | None:
        """Return the operations of training on each row once; None: they are not known."""
        flops = decoder_flops(self.model, lengths)
        return None if flops is None else flops.total

    def judge(self, batch: CausalLMBatch, split: str) -> tuple[Float[Tensor, ""], Int[Tensor, ""], list[Row]]:
        """Take the loss of each text, and count its tokens and its bytes."""
        sizes = batch.mask.sum(dim=1).tolist()
        hidden = self.model.hidden(batch.tokens, batch.mask, batch.documents).split(sizes)
        labels = batch.labels[batch.mask].split(sizes)
        losses = torch.stack([self._loss_of(states, wanted)[0] for states, wanted in zip(hidden, labels, strict=True)])
        columns = (batch.ids, (batch.labels != IGNORED).sum(dim=1), losses.double(), batch.text_bytes)
        rows = [
            {"id": example, "tokens": tokens, "loss": loss, "bytes": text_bytes, "opening": ids[:OPENING].tolist()}
            for example, tokens, loss, text_bytes, ids in zip(
                *(column.tolist() for column in columns), batch.tokens, strict=True
            )
        ]
        return losses.sum(), (batch.labels != IGNORED).sum(), rows

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        """Return the perplexity of a token, and the bits for each byte of the texts as they were read.

        Texts of a trained tokenizer are compared by the latter. It takes what the tokenizer gives up of a text (line ends,
        case, accents) for something that the model knew: for comparisons take one that gives up nothing, such as bytes.
        """
        loss, tokens, text_bytes = (sum(row[name] for row in rows) for name in ("loss", "tokens", "bytes"))
        return {
            "perplexity": Score(perplexity(loss / tokens)),
            "bits_per_byte": Score(bits_per_byte(loss, text_bytes)),
        }

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return how a text begins, and how the model goes on."""
        opening = [token for token in row["opening"] if token not in (self.facts.bos, self.facts.pad)]
        found = self.continuations([opening])[0][0]
        begun, whole = self.texts.decode([opening, found.tokens])
        return {"text": begun, "continued": whole}

    @torch.no_grad()
    def continuations(self, prompts: Sequence[Sequence[int]], decoding: Search | None = None) -> list[list[Hypothesis]]:
        """Return for each text its continuations, the one to take first; they begin with the text itself.

        `decoding.max_length` and `decoding.min_length` are those of what is added. A score is the model's for the text
        and what it adds. Random numbers derive from the text itself: neither the texts beside it nor its place change
        its continuation.

        Args:
            prompts: Ids of each text, without special ones.
            decoding: How they are continued; None: as the task's `decoding` does.
        """
        decoding = self.decoding if decoding is None else decoding
        if not decoding.min_length:
            return self._search(prompts, decoding)
        # A search counts a text as predicted, so the fewest tokens are one number for texts of one length only.
        found: dict[int, list[Hypothesis]] = {}
        for size in {len(prompt) for prompt in prompts}:
            places = [place for place, prompt in enumerate(prompts) if len(prompt) == size]
            found |= zip(places, self._search([prompts[place] for place in places], decoding), strict=True)
        return [found[place] for place in range(len(prompts))]

    def _search(self, prompts: Sequence[Sequence[int]], decoding: Search) -> list[list[Hypothesis]]:
        """Continue texts, which are of one length if there is a `min_length`."""
        sizes = [len(prompt) for prompt in prompts]
        longest, shortest = max(sizes, default=0), min(sizes, default=0)
        search = dataclasses.replace(
            decoding,
            max_length=decoding.max_length + longest,
            min_length=decoding.min_length + shortest if decoding.min_length else 0,
        )
        return search(
            self.model.step,
            self.model.start(len(prompts)),
            bos=self.facts.bos,
            eos=self.facts.eos,
            rows=len(prompts),
            max_lengths=torch.tensor(sizes, device=self.device) + decoding.max_length,
            prefixes=prompts,
            keys=[mix("text", *prompt) for prompt in prompts],
        )

    @property
    def text_limit(self) -> int:
        """One fewer than the model's positions: bos stands before a text. Of a longer one the end is read."""
        return self.model.max_length - 1

    def predict_texts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
        """Continue each text; what is returned does not repeat it."""
        return [prediction.outputs[0].text for prediction in self.predictions(texts, tokenizer)]

    def predictions(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prediction]:
        """Continue each text, an empty one from nothing; the answers do not repeat it."""
        prompts = tokenizer.encode(texts)
        found = []
        for prompt, hypotheses in zip(prompts, self.continuations(prompts), strict=True):
            begun, *wholes = tokenizer.decode([prompt, *(hypothesis.tokens for hypothesis in hypotheses)])
            added = tokenizer.decode([hypothesis.tokens[len(prompt) :] for hypothesis in hypotheses])
            outputs = tuple(
                # Of the whole, since a tokenizer may leave out the space before a first word.
                Output(whole.removeprefix(begun) if whole.startswith(begun) else new, one.score, one.finished)
                for whole, new, one in zip(wholes, added, hypotheses, strict=True)
            )
            found.append(Prediction(outputs, cut=len(prompt) > self.text_limit))
        return found

    def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
        """Return the attention of a text to itself; as `ShowsAttention` says."""
        if target is not None:
            raise ConfigurationError(f"the target {target!r} is no text of its own here; write it behind the text")
        ids = readable("text", text, tokenizer, self.model.max_length - 1)
        return own_attention(self.model, [self.facts.bos, *ids])
