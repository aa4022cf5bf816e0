"""Sequence-to-sequence learning: translation, summarization, and other tasks that turn one text into another.

Axes: B examples, S source positions, T target positions, V vocabulary.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from etude.errors import ConfigurationError
from etude.metrics.score import MeanOfGroups, Statistics
from etude.metrics.text_metrics import TextMetric, text_statistics
from etude.metrics.translation import BLEU, TER, ChrF
from etude.models.base import EncoderDecoder
from etude.models.generation.ensemble import Caches, ensemble, mean_log_probability
from etude.models.generation.hypothesis import Hypothesis
from etude.models.generation.search import Search
from etude.models.losses.consistency import Consistency
from etude.models.losses.cross_entropy import check_chunk
from etude.models.losses.labelled_states import LabelledStates
from etude.models.model_flops import seq2seq_flops
from etude.optim.schedules import Schedule
from etude.seeding import mix
from etude.tasks.attention_maps import Attention, AttentionMap, encode_whole, recorded, require_maps
from etude.tasks.base import Task
from etude.tasks.prediction import Output, Prediction
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.tokenization.languages import with_prefix
from etude.types import IGNORED, Direction, Facts, TranslationBatch

STANDARD_METRICS: Mapping[str, TextMetric] = {
    "bleu": BLEU(),
    "bleu_lowercase": BLEU(lowercase=True),
    "chrf": ChrF(),
    "ter": TER(),
}
"""Metrics of translation as sacrebleu's command computes them, and lowercased BLEU, which some corpora are reported in."""


class Translation(Task):
    """Label-smoothed cross-entropy for training; metrics of searched outputs for validation.

    Args:
        facts: Vocabulary and special ids.
        model: The encoder and decoder.
        optimizer: Makes the optimizer from groups of parameters.
        scheduler: Learning rate schedule.
        decoding: Search for outputs.
        metrics: Metrics that compare outputs with references, by the name of the score; None: `STANDARD_METRICS`.
        label_smoothing: ε of Szegedy et al. 2016, section 7; only in training.
        gradient_clip: Largest norm of the gradient; None: not clipped.
        consistency: Loss of two passes that training uses in place of the cross-entropy; None: one pass.
        chunk_tokens: Number of tokens whose logits are in memory at a time; None: as many as have 2²⁵ logits, from 64 to
            512. Another number adds floating-point numbers in another order.
    """

    MODEL: ClassVar[type[nn.Module]] = EncoderDecoder
    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/bleu", "val/bleu_lowercase", "val/chrf", "val/ter")
    """Names with `STANDARD_METRICS`; other metrics replace all but the loss."""

    STANDARD: ClassVar[Mapping[str, TextMetric]] = STANDARD_METRICS
    BATCH: ClassVar[str] = "TranslationBatch"
    model: EncoderDecoder

    def __init__(
        self,
        facts: Facts,
        model: EncoderDecoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        decoding: Search,
        metrics: Mapping[str, TextMetric] | None = None,
        label_smoothing: float = 0.1,
        gradient_clip: float | None = 1.0,
        consistency: Consistency | None = None,
        chunk_tokens: int | None = None,
    ) -> None:
        check_chunk(chunk_tokens)
        super().__init__(facts, model, optimizer, scheduler, gradient_clip)
        self.decoding = decoding
        self.metrics = self.checked_metrics(metrics)
        self.label_smoothing = label_smoothing
        self.consistency = consistency
        self.chunk_tokens = chunk_tokens
        self._chosen: Direction | None = facts.all_directions[0] if len(facts.all_directions) == 1 else None
        self.others = nn.ModuleList()  # models that `join` adds, for as long as the task lives; in no checkpoint

    def forward(self, batch: TranslationBatch) -> Float[Tensor, "B T V"]:
        """Return logits of each target token, given those before it and the source; zeros at padding."""
        return self.model(batch.source, batch.inputs, batch.source_mask, batch.target_mask)

    def loss(self, batch: TranslationBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the cross-entropy summed over target tokens, smoothed in training only, and their number."""
        return self.labelled_states(batch).cross_entropy()

    def labelled_states(self, batch: TranslationBatch) -> LabelledStates:
        """Return the decoder's states and the target tokens that follow; labels are smoothed in training only."""
        return LabelledStates(
            self.model.hidden(batch.source, batch.inputs, batch.source_mask, batch.target_mask),
            self.model.output_weight,
            batch.labels[batch.target_mask],
            bias=self.model.output_bias,
            cap=self.model.logit_cap,
            smoothing=self.label_smoothing if self.training else 0.0,
            chunk=self.chunk_tokens,
        )

    def training_flops(
        self, lengths: Int[np.ndarray, "N 2"], counts: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"] | None:
        """Return the operations of training on each pair once; None: unknown."""
        source, target = lengths.T
        flops = seq2seq_flops(self.model, source, target)
        return None if flops is None else flops.total

    def join(self, others: Sequence[Task]) -> None:
        """Translate from now on with the mean of the probabilities of several models.

        Raises:
            ConfigurationError: If another task is not a translation, or has another vocabulary.
        """
        for other in others:
            if not isinstance(other, Translation) or other.facts != self.facts:
                raise ConfigurationError(
                    f"ensemble: a {type(other).__name__} of other facts cannot join (command line)"
                )
            self.others.append(other.model)

    def choose_direction(self, name: str) -> None:
        """Translate texts that are not part of the data in this direction from now on.

        Raises:
            ConfigurationError: If the run was not trained on it.
        """
        named = {way.name: way for way in self.facts.directions if way.name}
        if name not in named:
            trained = f"this run was trained on {', '.join(named)}" if named else "this run has no named directions"
            near = difflib.get_close_matches(name, named, 1)
            advice = (
                f"did you mean direction={near[0]}?" if near else "leave it out" if not named else "write one of these"
            )
            raise ConfigurationError(f"direction={name}: {trained}; {advice} (command line)")
        self._chosen = named[name]

    @property
    def direction(self) -> Direction:
        """The direction in which texts that are not part of the data are translated.

        Raises:
            ConfigurationError: If there are several and none was chosen.
        """
        if self._chosen is None:
            names = [way.name for way in self.facts.directions]
            raise ConfigurationError(
                f"this run translates in {len(names)} directions; say which: direction={' or direction='.join(names)}"
            )
        return self._chosen

    @property
    def models(self) -> list[EncoderDecoder]:
        """The model, and the models that joined it."""
        return [self.model, *(cast(EncoderDecoder, model) for model in self.others)]

    @torch.no_grad()
    def translate(
        self,
        source: Int[Tensor, "B S"],
        source_mask: Bool[Tensor, "B S"],
        prefixes: Sequence[Sequence[int]] | None = None,
        directions: Int[Tensor, " B"] | None = None,
    ) -> list[list[Hypothesis]]:
        """Return the translations of each source, the best first, without what stands around them.

        The limit of a translation is twice the source's tokens plus ten, or the number of the models' positions. Random
        numbers derive from the source itself, so that a sentence is translated identically in an evaluation and alone.

        Args:
            source: Source ids, ending in eos, and in its language where codes stand behind it.
            source_mask: True at real tokens.
            prefixes: Ids that the translations of each source start with.
            directions: Index of each source's direction in the facts; None: the chosen one, or the only one.
        """
        caches = [model.start(model.encode(source, source_mask)) for model in self.models]
        given = self.given(directions, len(source))
        positions = min(model.max_length for model in self.models) - given.shape[1] + 1
        search = partial(
            self.decoding,
            bos=given,
            eos=self.facts.eos,
            rows=len(source),
            max_lengths=(2 * source_mask.sum(dim=1) + 10).clamp(max=positions),
            prefixes=prefixes,
            keys=[mix("source", *row[real].tolist()) for row, real in zip(source, source_mask, strict=True)],
        )
        if len(caches) == 1:
            return search(self.model.step, caches[0])
        return search(ensemble([model.step for model in self.models]), Caches(tuple(caches)))

    def given(self, directions: Int[Tensor, " B"] | None, rows: int) -> Int[Tensor, "B P"]:
        """Return the tokens that a search is given: the start, and the target's language where it is a first token.

        Args:
            directions: Index of each row's direction in the facts; None: the chosen one, or the only one.
            rows: Number of rows.
        """
        if directions is None:
            return torch.tensor([self.direction.given(())], device=self.device).expand(rows, -1)
        starts = torch.tensor([way.given(()) for way in self.facts.all_directions], device=self.device)
        return starts[directions]

    def judge(self, batch: TranslationBatch, split: str) -> tuple[Float[Tensor, ""], Int[Tensor, ""], list[Row]]:
        """Translate a batch, as `etude predict` does, and compute the loss of its references."""
        rows = self.answers(batch)
        for row in rows:
            row["references"] = self.data.references(split, max(row["id"], 0))
        if batch.directions is not None:
            for row, number in zip(rows, batch.directions.tolist(), strict=True):
                row["direction"] = self.facts.all_directions[number].name
        return *(self._ensemble_loss(batch) if len(self.others) else self.loss(batch)), rows

    def answers(self, batch: TranslationBatch) -> list[Row]:
        """Return the best translation of each source: `output`, its `score`, and whether it is `finished`."""
        found = self.translate(batch.source, batch.source_mask, directions=batch.directions)
        best = [hypotheses[0] for hypotheses in found]
        decoded = self.data.decode([hypothesis.tokens for hypothesis in best])
        # A source of nothing but what stands around it is an empty text, which `predictions` leaves empty.
        rooms = [way.source_room for way in self.facts.all_directions]
        numbers = [0] * len(best) if batch.directions is None else batch.directions.tolist()
        lengths = batch.source_mask.sum(dim=1).tolist()
        outputs = [
            text if tokens > rooms[number] else ""
            for text, tokens, number in zip(decoded, lengths, numbers, strict=True)
        ]
        return [
            {"id": example, "output": output, "score": hypothesis.score, "finished": hypothesis.finished}
            for example, output, hypothesis in zip(batch.ids.tolist(), outputs, best, strict=True)
        ]

    def _ensemble_loss(self, batch: TranslationBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the cross-entropy of the mean of the models' probabilities, summed over target tokens."""
        labels = batch.labels[batch.target_mask]
        members = []
        for model in self.models:
            hidden = model.hidden(batch.source, batch.inputs, batch.source_mask, batch.target_mask)
            members.append(-F.cross_entropy(model.logits(hidden).float(), labels, reduction="none"))
        real = labels != IGNORED
        return -mean_log_probability(members)[real].sum(), real.sum()

    @classmethod
    def statistics(cls, rows: Sequence[Row], metrics: Mapping[str, TextMetric], facts: Facts) -> dict[str, Statistics]:
        """Return what the scores are computed from, by their names: of several directions, the mean of each one's score."""
        names = list(dict.fromkeys(row.get("direction", "") for row in rows))
        if len(names) <= 1:
            outputs, references = ([row[name] for row in rows] for name in ("output", "references"))
            return text_statistics(metrics, outputs, references)
        places = [np.array([n for n, row in enumerate(rows) if row["direction"] == name]) for name in names]
        each = [cls.statistics([rows[place] for place in own], metrics, facts) for own in places]
        return {
            score: MeanOfGroups.of([statistics[score] for statistics in each], places, "directions")
            for score in each[0]
        }

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return source, reference, output, and the direction if there are several."""
        source = self.data.text(split, "source", row["id"])
        named = {"direction": row["direction"]} if "direction" in row else {}
        return {"source": source, "reference": row["references"][0], "output": row["output"], **named}

    @property
    def text_limit(self) -> int:
        """The models' positions without those of what stands around a source: eos, and perhaps a language."""
        return min(model.max_length for model in self.models) - self.direction.source_room

    def encode(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
        """Return the ids of texts in the chosen direction, with its prefix and without what stands around a source."""
        prefix = self.direction.prefix
        return tokenizer.of("source").encode([with_prefix(prefix, text) for text in texts])

    def predictions(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prediction]:
        """Translate each text; an empty one has one translation, which is empty."""
        encoded = self.encode(texts, tokenizer)
        outputs: list[tuple[Output, ...]] = [(Output("", 0.0),) for _ in texts]
        rows = [index for index, ids in enumerate(encoded) if ids]
        if rows:
            limit, way = self.text_limit, self.direction
            tokens = [torch.tensor(way.source(encoded[row][:limit]), device=self.device) for row in rows]
            source = pad_sequence(tokens, batch_first=True, padding_value=self.facts.pad)
            mask = pad_sequence([torch.ones_like(ids, dtype=torch.bool) for ids in tokens], batch_first=True)
            for row, hypotheses in zip(rows, self.translate(source, mask), strict=True):
                translations = tokenizer.decode([hypothesis.tokens for hypothesis in hypotheses])
                outputs[row] = tuple(
                    Output(text, hypothesis.score, hypothesis.finished)
                    for text, hypothesis in zip(translations, hypotheses, strict=True)
                )
        return [Prediction(answers, len(ids) > self.text_limit) for answers, ids in zip(outputs, encoded, strict=True)]

    @torch.no_grad()
    def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
        """Return every attention map of a source and its target (see `ShowsAttention`).

        In self-attention, the row of a token is the position that reads it; in cross-attention, the one that predicts it.
        """
        way = self.direction
        room = self.model.max_length - way.target_room
        source_text = with_prefix(way.prefix, text)
        source = way.source(encode_whole("text", source_text, tokenizer.of("source"), self.text_limit))
        src = torch.tensor([source], device=self.device)
        src_mask = torch.ones_like(src, dtype=torch.bool)
        if target is None:
            output = self.translate(src, src_mask)[0][0].tokens[:room]
        else:
            output = tuple(encode_whole("target", target, tokenizer, room))
        inputs, predicted = way.inputs(output), way.labels(output)
        tgt = torch.tensor([inputs], device=self.device)
        with recorded(self.model) as maps:
            self.model(src, tgt, src_mask, torch.ones_like(tgt, dtype=torch.bool))
        require_maps(self.model, maps)
        attention_maps = []
        for name, weights in maps.items():
            cross, own = name.endswith(".cross_attention"), inputs if name.startswith("decoder.") else source
            rows, columns = (predicted, source) if cross else (own, own)
            attention_maps.append(AttentionMap(name, rows, columns, weights[0].cpu(), cross))
        return Attention(source, inputs, attention_maps)
