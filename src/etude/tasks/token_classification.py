"""Token classification: a class for each word of a sentence, such as its part of speech or its place in a named entity.

Axes: B parts, L positions, D model width, C classes, M words.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from etude.errors import ConfigurationError
from etude.metrics.score import Statistics
from etude.metrics.tagging import OUTSIDE, SCHEMES, SchemeName, Span, TagAccuracy, TagF1, TagMetric
from etude.models.base import TextEncoder
from etude.models.layers.dropout import Dropout
from etude.models.losses.consistency import Consistency
from etude.models.losses.labelled_states import LabelledStates
from etude.models.model_flops import encoder_flops
from etude.optim.schedules import Schedule
from etude.tasks.attention_maps import Attention, encode_whole, encoder_attention
from etude.tasks.base import Task
from etude.tasks.prediction import Output, Prediction, RecordAnswer
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.tokenization.word_tokens import BETWEEN, Part, WordTokens, encode_words
from etude.types import IGNORED, Facts, TokenClassificationBatch

STANDARD_METRICS: Mapping[str, TagMetric] = {"accuracy": TagAccuracy(), "macro_f1": TagF1()}

PARTS_AT_ONCE = 64
"""Parts of sentences that predictions read together."""

SHOWN_SENTENCES = 20
"""Largest number of sentences whose tags an evaluation reports."""

UNTAGGED = "_"
"""What stands for the tag of a word that the tokenizer represents by nothing."""

DIGITS = 5
"""Digits of probabilities in rows and answers."""

_log = logging.getLogger(__name__)


class TaggedTexts(Protocol):
    """What the task asks of the data module of its trainer besides `TaskData`."""

    def words_of(self, split: str, sentence: int) -> list[str]:
        """Return the words of a sentence that have a token."""
        ...


@dataclass(frozen=True)
class _TaggedText:
    """The words of a text with what the model says of them.

    Attributes:
        words: The words.
        tags: The class of each; None for a word without a token.
        probabilities: The probability of each of these.
        cut: Whether a word had more tokens than the model reads.
    """

    words: Sequence[str]
    tags: list[str | None]
    probabilities: list[float | None]
    cut: bool


class TokenClassification(Task):
    """A linear layer on the state of the first token of each word (Devlin et al. 2019, section 5.3).

    Args:
        facts: Vocabulary, special ids and classes.
        model: The encoder.
        optimizer: Makes the optimizer from groups of parameters.
        scheduler: Learning rate schedule.
        head_dropout: Dropout on the states.
        label_smoothing: ε of Szegedy et al. 2016, section 7; only in training.
        consistency: Loss of two passes that training uses in place of the cross-entropy; None: one pass.
        scheme: Scheme of the tags, if they write spans: answers then name the spans too.
        gradient_clip: Largest norm of the gradient; None: not clipped.
        metrics: Metrics that compare predicted tags with the true ones, by the name of the score; None:
            `STANDARD_METRICS`.
    """

    MODEL: ClassVar[type[nn.Module]] = TextEncoder
    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/accuracy", "val/macro_f1")
    """Names with `STANDARD_METRICS`; other metrics replace all but the loss."""

    STANDARD: ClassVar[Mapping[str, TagMetric]] = STANDARD_METRICS
    METRIC: ClassVar[type | None] = TagMetric
    BATCH: ClassVar[str] = "TokenClassificationBatch"
    model: TextEncoder

    def __init__(
        self,
        facts: Facts,
        model: TextEncoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        head_dropout: float = 0.1,
        label_smoothing: float = 0.0,
        consistency: Consistency | None = None,
        scheme: SchemeName | None = None,
        gradient_clip: float | None = 1.0,
        metrics: Mapping[str, TagMetric] | None = None,
    ) -> None:
        if len(facts.classes) < 2:
            raise ConfigurationError(f"token classification needs two classes or more; the data has {facts.classes}")
        super().__init__(facts, model, optimizer, scheduler, gradient_clip)
        self.label_smoothing = label_smoothing
        self.consistency = consistency
        self.scheme = None if scheme is None else SCHEMES[scheme]
        if self.scheme is not None:
            self.scheme.check(facts.classes)
        self.metrics = self.checked_metrics(metrics)
        for metric in self.metrics.values():
            metric.check(facts.classes)
        self.dropout = Dropout(head_dropout)
        self.head = nn.Linear(model.width, len(facts.classes))
        self._start_from_pretrained()

    def _start_from_pretrained(self) -> None:
        pretrained = self.model.output_layer("token")
        if pretrained is None:
            return
        rows = pretrained.rows_for(self.facts.classes)
        if rows is None:
            names, classes = ", ".join(pretrained.names), ", ".join(self.facts.classes)
            _log.info("%s has a head for %s, not for %s: a new one is drawn", pretrained.model, names, classes)
        else:
            _log.info("the head is that of %s", pretrained.model)
            self.head.load_state_dict(dict(zip(("weight", "bias"), rows, strict=True)))

    def logits(self, states: Float[Tensor, "*L D"]) -> Float[Tensor, "*L C"]:
        """Return the logits of states, in at least single precision."""
        outputs = self.head(self.dropout(states))
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))

    def forward(self, batch: TokenClassificationBatch) -> Float[Tensor, "B L C"]:
        """Return the logits of each position; those of padding mean nothing."""
        return self.logits(self.model(batch.tokens, batch.mask))

    def _states(self, batch: TokenClassificationBatch) -> tuple[Float[Tensor, "M D"], Int[Tensor, " M"]]:
        """Return the states of the words' first tokens, row after row, and the words' classes."""
        labels = batch.labels[batch.mask]
        at = (labels != IGNORED).nonzero().squeeze(1)
        return self.model.hidden(batch.tokens, batch.mask, at=at), labels[at]

    def loss(self, batch: TokenClassificationBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the cross-entropy summed over words, smoothed in training only, and the number of words."""
        return self.labelled_states(batch).cross_entropy()

    def labelled_states(self, batch: TokenClassificationBatch) -> LabelledStates:
        """Return the states of the words' first tokens, and the words' classes; smoothed in training only."""
        (states, labels), smoothing = self._states(batch), self.label_smoothing if self.training else 0.0
        return LabelledStates(self.dropout(states), self.head.weight, labels, self.head.bias, smoothing=smoothing)

    def judge(
        self, batch: TokenClassificationBatch, split: str
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""], list[Row]]:
        """Return for each part its sentence, and the right class, the predicted one and its probability of each word."""
        states, labels = self._states(batch)
        logits = self.logits(states)
        loss_sum = F.cross_entropy(logits, labels, reduction="sum")
        probabilities, classes = logits.softmax(dim=1).max(dim=1)
        sizes = (batch.labels != IGNORED).sum(dim=1).tolist()
        columns = (column.cpu().split(sizes) for column in (labels, classes, probabilities))
        rows = [
            {
                "id": part,
                "sentence": sentence,
                "labels": wanted.tolist(),
                "predictions": made.tolist(),
                "probabilities": [round(value, DIGITS) for value in sure.tolist()],
            }
            for part, sentence, wanted, made, sure in zip(
                batch.ids.tolist(), batch.sentences.tolist(), *columns, strict=True
            )
        ]
        return loss_sum, labels.new_tensor(len(labels)), rows

    def answers(self, batch: TokenClassificationBatch) -> list[Row]:
        """Return for each part its sentence, and the name of the predicted class and its probability of each word."""
        _, _, rows = self.judge(batch, self.evaluated_split)
        kept = ("id", "sentence", "probabilities")
        return [{**{key: row[key] for key in kept}, "tags": self._names(row["predictions"])} for row in rows]

    def training_flops(
        self, lengths: Int[np.ndarray, " N"], counts: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"] | None:
        """Return the operations of training on each part once; None: unknown, the encoder is another library's."""
        flops = encoder_flops(self.model, lengths, counts)
        if flops is None:
            return None
        flops.add_product(self.head.weight, counts)
        return flops.total

    # Evaluation

    def concluded(self, rows: list[Row], split: str) -> list[Row]:
        """Return a row for each sentence, with the names of its words' right and predicted tags."""
        sentences = []
        for number, parts in groupby(rows, key=lambda row: row["sentence"]):
            row: Row = {"id": number, "labels": [], "predictions": [], "probabilities": []}
            for part in parts:
                row["labels"] += self._names(part["labels"])
                row["predictions"] += self._names(part["predictions"])
                row["probabilities"] += part["probabilities"]
            sentences.append(row)
        return sentences

    def _names(self, classes: Sequence[int]) -> list[str]:
        return [self.facts.classes[number] for number in classes]

    @classmethod
    def statistics(cls, rows: Sequence[Row], metrics: Mapping[str, TagMetric], facts: Facts) -> dict[str, Statistics]:
        """Return what the scores of the metrics are computed from, by their names."""
        outputs, labels = ([row[name] for row in rows] for name in ("predictions", "labels"))
        return {name: metric.statistics(outputs, labels, facts.classes) for name, metric in metrics.items()}

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return the words with their right and their predicted tags; with a scheme, the spans."""
        words = self._words(row, split)
        return {
            "text": BETWEEN.join(words),
            "labels": self._told(words, row["labels"]),
            "predictions": self._told(words, row["predictions"]),
        }

    def _words(self, row: Row, split: str) -> list[str]:
        return cast(TaggedTexts, self.data).words_of(split, row["id"])

    def _told(self, words: Sequence[str], tags: Sequence[str]) -> str:
        if self.scheme is None:
            return BETWEEN.join(map(_word_and_tag, words, tags))
        spans = self.scheme.spans(tags)
        return "; ".join(f"{BETWEEN.join(words[start:end])} ({kind})" for start, end, kind in spans) or "(none)"

    def details(self, rows: Sequence[Row], split: str) -> dict[str, Any]:
        """Return the confusion of tags and the sentences with the most errors, with their spans if there is a scheme."""
        confusion: dict[str, dict[str, int]] = {}
        for label, prediction, count in _confusion(rows):
            confusion.setdefault(label, {})[prediction] = count
        wrong = [(self._errors(row), row) for row in rows]
        worst = sorted((pair for pair in wrong if pair[0]), key=lambda pair: (-pair[0], pair[1]["id"]))
        shown = [row for _, row in worst[:SHOWN_SENTENCES]]
        return {
            "confusion": confusion,
            "errors": [self.sample(row, split) for row in shown],
            "tagged": [self._shown(row, split) for row in shown],
            **self._kinds(rows),
        }

    def _errors(self, row: Row) -> int:
        """Return the number of words with a wrong tag, or of spans that are wrong or missed."""
        if self.scheme is None:
            return sum(map(str.__ne__, row["labels"], row["predictions"]))
        wanted, made = (set(self.scheme.spans(row[name])) for name in ("labels", "predictions"))
        return len(wanted ^ made)

    def _shown(self, row: Row, split: str) -> dict[str, Any]:
        """Return a sentence as the report shows it: words, and right and predicted spans of them."""
        words = self._words(row, split)
        return {"words": words, **{side: self._marked(row, side) for side in ("labels", "predictions")}}

    def _marked(self, row: Row, side: str) -> list[list[Any]]:
        """Return the spans of a side; without a scheme, the words whose tag is wrong."""
        if self.scheme is not None:
            return [list(span) for span in self.scheme.spans(row[side])]
        pairs = enumerate(zip(row["labels"], row["predictions"], strict=True))
        return [[place, place + 1, row[side][place]] for place, (label, predicted) in pairs if label != predicted]

    def _kinds(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the numbers of labelled, predicted and right spans of each kind, if there is a scheme."""
        if self.scheme is None:
            return {}
        counts: dict[str, Counter[str]] = {}
        for row in rows:
            wanted, made = (set(self.scheme.spans(row[name])) for name in ("labels", "predictions"))
            for name, spans in (("labelled", wanted), ("predicted", made), ("right", wanted & made)):
                for span in spans:
                    counts.setdefault(span.kind, Counter())[name] += 1
        names = ("labelled", "predicted", "right")
        return {"spans": {kind: {name: counts[kind][name] for name in names} for kind in sorted(counts)}}

    def curves(self, rows: Sequence[Row]) -> dict[str, tuple[list[str], list[list[Any]]]]:
        """Return the confusion matrix of tags, and the numbers of spans of each kind if there is a scheme."""
        if not rows:
            return {}
        tables = {"confusion": (["label", "prediction", "count"], _confusion(rows))}
        if spans := self._kinds(rows).get("spans"):
            columns = ["kind", "labelled", "predicted", "right"]
            tables["spans"] = (columns, [[kind, *counts.values()] for kind, counts in spans.items()])
        return tables

    # Predictions for texts that are not part of the data

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the texts of a record."""
        return ("text",)

    def predictions(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prediction]:
        """Return each word of a line, which white space divides, with its tag: `word/TAG`."""
        return [
            Prediction((Output(BETWEEN.join(map(_word_and_tag, text.words, text.tags))),), text.cut)
            for text in self._tagged(texts, tokenizer)
        ]

    def answer_records(self, records: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> list[RecordAnswer]:
        """Return words, tags and probabilities, and with a scheme the spans as `entities` with their characters."""
        texts = [record["text"] for record in records]
        return [
            RecordAnswer(self._values(text, tagged), tagged.cut)
            for text, tagged in zip(texts, self._tagged(texts, tokenizer), strict=True)
        ]

    def _values(self, text: str, tagged: _TaggedText) -> dict[str, Any]:
        values = {"words": list(tagged.words), "tags": tagged.tags, "probabilities": tagged.probabilities}
        if self.scheme is None:
            return values
        spans = self.scheme.spans([tag or OUTSIDE for tag in tagged.tags])
        return values | {"entities": list(_entities(text, tagged.words, spans))}

    @torch.no_grad()
    def _tagged(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[_TaggedText]:
        """Return the words of each text with their tags; a long text is read in parts, as in the data."""
        sentences = [text.split() for text in texts]
        encoded = encode_words(tokenizer, sentences)
        parts = [(row, part) for row, words in enumerate(encoded) for part in words.parts(self.model.max_length - 2)]
        tags: list[list[str]] = [[] for _ in texts]
        probabilities: list[list[float]] = [[] for _ in texts]
        for start in range(0, len(parts), PARTS_AT_ONCE):
            some = parts[start : start + PARTS_AT_ONCE]
            for (row, _), (best, sure) in zip(some, self._read_parts(encoded, some), strict=True):
                tags[row] += self._names(best)
                probabilities[row] += [round(value, DIGITS) for value in sure]
        cut = {row for row, part in parts if part.cut}
        return [
            _TaggedText(words, _at(tokens, tags[row]), _at(tokens, probabilities[row]), row in cut)
            for row, (words, tokens) in enumerate(zip(sentences, encoded, strict=True))
        ]

    def _read_parts(
        self, texts: Sequence[WordTokens], parts: Sequence[tuple[int, Part]]
    ) -> Iterator[tuple[list[int], list[float]]]:
        """Yield the predicted class of each word of some parts, and its probability."""
        rows = [texts[row].ids[part.start : part.end] for row, part in parts]
        ids = [torch.tensor([self.facts.bos, *row.tolist(), self.facts.eos]) for row in rows]
        tokens = pad_sequence(ids, batch_first=True, padding_value=self.facts.pad).to(self.device)
        mask = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True)
        probabilities, classes = self.logits(self.model(tokens, mask.to(self.device))).softmax(dim=2).max(dim=2)
        for line, (row, part) in enumerate(parts):
            firsts = texts[row].firsts[texts[row].firsts >= 0][part.first_word : part.end_word]
            at = torch.from_numpy(firsts - part.start + 1).to(self.device)
            yield classes[line, at].tolist(), probabilities[line, at].tolist()

    def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
        """Return the encoder's attention to a text (see `ShowsAttention`)."""
        ids = encode_whole("text", text, tokenizer, self.model.max_length - 2)
        return encoder_attention(self.model, [self.facts.bos, *ids, self.facts.eos], target)


def _confusion(rows: Sequence[Row]) -> list[list[Any]]:
    """Return right and predicted tags with the number of their words."""
    pairs = Counter(pair for row in rows for pair in zip(row["labels"], row["predictions"], strict=True))
    return [[*pair, count] for pair, count in sorted(pairs.items())]


def _at(tokens: WordTokens, values: Sequence[Any]) -> list[Any]:
    """Return the values of the words that have a token, and None for the others."""
    found: Bool[np.ndarray, " W"] = tokens.firsts >= 0
    remaining = iter(values)
    return [next(remaining) if has_token else None for has_token in found]


def _word_and_tag(word: str, tag: str | None) -> str:
    return f"{word}/{tag or UNTAGGED}"


def _entities(text: str, words: Sequence[str], spans: Sequence[Span]) -> Iterator[dict[str, Any]]:
    """Yield each span with its kind, its text and its first and one past its last character."""
    starts, place = list[int](), 0
    for word in words:
        place = text.index(word, place)
        starts.append(place)
        place += len(word)
    for first, after, kind in spans:
        start, end = starts[first], starts[after - 1] + len(words[after - 1])
        yield {"kind": kind, "text": text[start:end], "start": start, "end": end}
