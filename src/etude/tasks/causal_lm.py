"""Causal language modelling (Bengio et al. 2003; Radford et al. 2018): predict every token from those before it.

Axes: B texts, L positions, N real tokens, D model width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from etude.errors import ConfigurationError
from etude.metrics.language_modeling import bits_per_byte, perplexity
from etude.metrics.score import Score
from etude.models.base import TextDecoder
from etude.models.generation.hypothesis import Hypothesis
from etude.models.generation.search import Search
from etude.models.losses.cross_entropy import check_chunk
from etude.models.losses.labelled_states import LabelledStates
from etude.models.model_flops import decoder_flops
from etude.optim.schedules import Schedule
from etude.seeding import mix
from etude.tasks.attention_maps import Attention, encode_whole, own_attention
from etude.tasks.base import Task
from etude.tasks.prediction import Output, Prediction
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.types import IGNORED, CausalLMBatch, Facts

OPENING = 32
"""Number of tokens of a validation text that a sample continues."""


class CausalLM(Task):
    """Cross-entropy of every next token, the end of a text included; predictions continue texts.

    Args:
        facts: Vocabulary and special ids.
        model: The decoder.
        optimizer: Makes the optimizer from groups of parameters.
        scheduler: Learning rate schedule.
        decoding: Search for continuations.
        gradient_clip: Largest norm of the gradient; None: not clipped.
        chunk_tokens: Number of tokens whose logits are in memory at a time; None: as many as have 2²⁵ logits, from 64 to
            512. Another number adds floating-point numbers in another order.
    """

    MODEL: ClassVar[type[nn.Module]] = TextDecoder
    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/perplexity", "val/bits_per_byte")
    BATCH: ClassVar[str] = "CausalLMBatch"
    LIKELIHOOD: ClassVar[str] = "left-to-right"
    model: TextDecoder

    def __init__(
        self,
        facts: Facts,
        model: TextDecoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        decoding: Search,
        gradient_clip: float | None = 1.0,
        chunk_tokens: int | None = None,
    ) -> None:
        check_chunk(chunk_tokens)
        super().__init__(facts, model, optimizer, scheduler, gradient_clip)
        self.chunk_tokens = chunk_tokens
        self.decoding = decoding

    def forward(self, batch: CausalLMBatch) -> Float[Tensor, "B L V"]:
        """Return logits of the token after each position; zeros at padding."""
        return self.model(batch.tokens, batch.mask, batch.documents)

    def loss(self, batch: CausalLMBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the cross-entropy summed over the tokens to be predicted."""
        return self.labelled_states(batch).cross_entropy()

    def labelled_states(self, batch: CausalLMBatch) -> LabelledStates:
        """Return the states at the real tokens, and the tokens that follow them."""
        hidden = self.model.hidden(batch.tokens, batch.mask, batch.documents)
        return self._labelled(hidden, batch.labels[batch.mask])

    def _labelled(self, hidden: Float[Tensor, "N D"], labels: Int[Tensor, " N"]) -> LabelledStates:
        weight, bias, cap = self.model.output_weight, self.model.output_bias, self.model.logit_cap
        return LabelledStates(hidden, weight, labels, bias=bias, cap=cap, chunk=self.chunk_tokens)

    def training_flops(
        self, lengths: Int[np.ndarray, " N"], counts: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"] | None:
        """Return the operations of training on each row once; None: unknown."""
        flops = decoder_flops(self.model, lengths)
        return None if flops is None else flops.total

    def judge(self, batch: CausalLMBatch, split: str) -> tuple[Float[Tensor, ""], Int[Tensor, ""], list[Row]]:
        """Return loss, tokens and bytes of each text."""
        sizes = batch.mask.sum(dim=1).tolist()
        hidden = self.model.hidden(batch.tokens, batch.mask, batch.documents).split(sizes)
        labels = batch.labels[batch.mask].split(sizes)
        losses = torch.stack(
            [self._labelled(states, targets).cross_entropy()[0] for states, targets in zip(hidden, labels, strict=True)]
        )
        columns = (batch.ids, (batch.labels != IGNORED).sum(dim=1), losses.double(), batch.text_bytes)
        rows = [
            {"id": example, "tokens": tokens, "loss": loss, "bytes": text_bytes, "opening": ids[:OPENING].tolist()}
            for example, tokens, loss, text_bytes, ids in zip(
                *(column.tolist() for column in columns), batch.tokens, strict=True
            )
        ]
        return losses.sum(), (batch.labels != IGNORED).sum(), rows

    def answers(self, batch: CausalLMBatch) -> list[Row]:
        """Return the best continuation of each text: `text`, as it was read, `output`, its `score`, whether `finished`."""
        special = (self.facts.bos, self.facts.eos)
        prompts = [
            [token for token in tokens[real].tolist() if token not in special]
            for tokens, real in zip(batch.tokens, batch.mask, strict=True)
        ]
        rows = []
        for example, prompt, (best, *_) in zip(batch.ids.tolist(), prompts, self.continuations(prompts), strict=True):
            (text,), (output,) = self.data.decode([prompt]), _added(prompt, [best], self.data.decode)
            row = {"id": example, "text": text, "output": output, "score": best.score, "finished": best.finished}
            rows.append(row)
        return rows

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        """Return the perplexity per token, and the bits per byte of the texts as they were read.

        Models with different tokenizers compare by the latter. Whatever a tokenizer discards of a text (line ends, case,
        accents) counts as predicted: for comparisons take a tokenizer that discards nothing, such as bytes.
        """
        loss, tokens, text_bytes = (sum(row[name] for row in rows) for name in ("loss", "tokens", "bytes"))
        return {
            "perplexity": Score(perplexity(loss / tokens)),
            "bits_per_byte": Score(bits_per_byte(loss, text_bytes)),
        }

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return the beginning of a text, and the model's continuation."""
        opening = [token for token in row["opening"] if token not in (self.facts.bos, self.facts.pad)]
        best = self.continuations([opening])[0][0]
        beginning, whole = self.data.decode([opening, best.tokens])
        return {"text": beginning, "continued": whole}

    @torch.no_grad()
    def continuations(self, prompts: Sequence[Sequence[int]], decoding: Search | None = None) -> list[list[Hypothesis]]:
        """Return the continuations of each text, the best first; they begin with the text itself.

        `decoding.max_length` and `decoding.min_length` count the new tokens. The score is that of the text and its
        continuation. Random numbers derive from the text itself: neither its neighbours nor its place among them change
        its continuation.

        Args:
            prompts: Ids of each text, without special ones.
            decoding: Search for continuations; None: the task's `decoding`.
        """
        return self._continued(self.facts.bos, prompts, self.decoding if decoding is None else decoding)

    def _continued(self, first: int, prompts: Sequence[Sequence[int]], decoding: Search) -> list[list[Hypothesis]]:
        """Continue texts before which the model reads a first token."""
        if not decoding.min_length:
            return self._search(first, prompts, decoding)
        # A search counts the text as predicted, so a smallest length applies only to texts of the same length.
        hypotheses: dict[int, list[Hypothesis]] = {}
        for size in {len(prompt) for prompt in prompts}:
            rows = [row for row, prompt in enumerate(prompts) if len(prompt) == size]
            hypotheses |= zip(rows, self._search(first, [prompts[row] for row in rows], decoding), strict=True)
        return [hypotheses[row] for row in range(len(prompts))]

    def _search(self, first: int, prompts: Sequence[Sequence[int]], decoding: Search) -> list[list[Hypothesis]]:
        """Continue texts, which have the same length if there is a `min_length`."""
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
            bos=first,
            eos=self.end,
            rows=len(prompts),
            max_lengths=torch.tensor(sizes, device=self.device) + decoding.max_length,
            prefixes=prompts,
            keys=[mix("text", *prompt) for prompt in prompts],
        )

    @property
    def end(self) -> int:
        """The id that a continuation ends at: eos, or what ends a turn in conversations."""
        return self.facts.eos if self.facts.turn_end < 0 else self.facts.turn_end

    @property
    def text_limit(self) -> int:
        """One fewer than the model's positions, since bos precedes a text. Of a longer text the end is read."""
        return self.model.max_length - 1

    @torch.no_grad()
    def log_likelihoods(self, rows: Sequence[Sequence[int]], tokenizer: Tokenizer, size: int) -> list[float]:
        """Return Σ log P(token | bos and all before) over the tokens of each text; its end is not counted (see `ScoresTexts`)."""
        scores: list[float] = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            inputs = pad_sequence([torch.tensor([self.facts.bos, *ids[:-1]]) for ids in part], batch_first=True)
            lengths = torch.tensor([len(ids) for ids in part])
            mask = torch.arange(inputs.shape[1]) < lengths[:, None]
            hidden = self.model.hidden(inputs.to(self.device), mask.to(self.device))
            log_probabilities = self.model.logits(hidden).float().log_softmax(dim=1)
            targets = torch.tensor([token for ids in part for token in ids], device=self.device)
            each = log_probabilities.gather(1, targets[:, None]).squeeze(1).double().cpu()
            scores += [float(one.sum()) for one in each.split(lengths.tolist())]
        return scores

    def predictions(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prediction]:
        """Continue each text, which may be empty; the outputs do not repeat it."""
        prompts = tokenizer.encode(texts)
        predictions = []
        for prompt, hypotheses in zip(prompts, self.continuations(prompts), strict=True):
            outputs = tuple(
                Output(text, hypothesis.score, hypothesis.finished)
                for text, hypothesis in zip(_added(prompt, hypotheses, tokenizer.decode), hypotheses, strict=True)
            )
            predictions.append(Prediction(outputs, cut=len(prompt) > self.text_limit))
        return predictions

    def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
        """Return the attention of a text to itself (see `ShowsAttention`)."""
        if target is not None:
            raise ConfigurationError(f"the target {target!r} is not text of its own here; write it behind the text")
        ids = encode_whole("text", text, tokenizer, self.model.max_length - 1)
        return own_attention(self.model, [self.facts.bos, *ids])


def _added(
    prompt: Sequence[int], hypotheses: Sequence[Hypothesis], decode: Callable[[list[Sequence[int]]], list[str]]
) -> list[str]:
    """Return the text that each hypothesis adds to its prompt.

    The whole is decoded, since a tokenizer may leave out the space before a first word.
    """
    beginning, *wholes = decode([prompt, *(hypothesis.tokens for hypothesis in hypotheses)])
    alone = decode([hypothesis.tokens[len(prompt) :] for hypothesis in hypotheses])
    return [
        whole.removeprefix(beginning) if whole.startswith(beginning) else added
        for whole, added in zip(wholes, alone, strict=True)
    ]
