"""Extractive question answering: where in a passage the answer begins and ends, if it is there at all.

Axes: B windows, L positions, D model width.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import ClassVar, Literal, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from etude.metrics.question_answering import AnswerExactMatch, AnswerF1, best_null_threshold
from etude.metrics.score import Score, Statistics
from etude.metrics.text_metrics import TextMetric, text_statistics
from etude.models.base import TextEncoder
from etude.models.generation.answer_spans import best_spans
from etude.models.model_flops import encoder_flops
from etude.tasks.answer_selection import answers_of, chosen, null_difference
from etude.tasks.base import Schedule, Task
from etude.tasks.prediction import RecordAnswer
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.tokenization.windows import Windows
from etude.types import IGNORED, Facts, Question, QuestionBatch

WINDOWS_AT_ONCE = 64
"""Windows that are read together in predictions."""

STANDARD_METRICS: dict[str, TextMetric] = {"exact_match": AnswerExactMatch(), "f1": AnswerF1()}

_log = logging.getLogger(__name__)


class QuestionTexts(Protocol):
    """What the task asks of the data module of its trainer besides `Texts`."""

    def question(self, split: str, number: int) -> Question:
        """Return a question of a split."""
        ...


class QuestionAnswering(Task):
    """Two linear scores of each token, as the first and as the last of the answer (Devlin et al. 2019, sections 4.2, 4.3).

    The token that starts a window stands for "not in this window". Scores are taken at it and at the passage's tokens;
    padding and the question are no choices.

    Attributes:
        null_threshold: How much higher than the best answer's the score of no answer must be for there to be none. It is
            stored with the weights.

    Args:
        facts: Vocabulary and special ids.
        model: The encoder.
        optimizer: Makes the optimizer of groups of parameters.
        scheduler: The learning rate's course.
        windows: How questions and passages become windows; those of the data.
        metrics: By the name of their scores; None: `STANDARD_METRICS`.
        null_threshold: See above; None: each time the val split is scored, the one with the best F1 there. It is never
            chosen on another split.
        max_answer: Most tokens of an answer.
        n_best: Answers that are kept of each question.
        gradient_clip: Largest norm of the gradient; None: not clipped.
    """

    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/exact_match", "val/f1")
    """With `STANDARD_METRICS`; others given take the place of all but the loss."""

    STANDARD: ClassVar[Mapping[str, TextMetric]] = STANDARD_METRICS
    BATCH: ClassVar[str] = "QuestionBatch"
    FORMAT: ClassVar[Literal["text", "jsonl"]] = "jsonl"
    model: TextEncoder
    null_threshold: Tensor

    def __init__(
        self,
        facts: Facts,
        model: TextEncoder,
        optimizer: Callable[..., Optimizer],
        scheduler: Schedule,
        windows: Windows,
        metrics: Mapping[str, TextMetric] | None = None,
        null_threshold: float | None = None,
        max_answer: int = 30,
        n_best: int = 5,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(facts, model, optimizer, scheduler, gradient_clip)
        self.windows = windows
        self.metrics = dict(STANDARD_METRICS if metrics is None else metrics)
        self.given_threshold = null_threshold
        self.max_answer, self.n_best = max_answer, n_best
        self.head = nn.Linear(model.width, 2)
        given = model.output_layer("span")
        if given is not None:
            _log.info("the head is that of %s", given.model)
            self.head.load_state_dict({"weight": given.weight, "bias": given.bias})
        self.register_buffer("null_threshold", torch.tensor(0.0))

    @property
    def threshold(self) -> float:
        """The threshold in use: that of the configuration, or the one that was chosen."""
        return float(self.null_threshold) if self.given_threshold is None else self.given_threshold

    def logits(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], fronts: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Return the scores of each position as the first and as the last of the answer, and where the passage is.

        Scores are -inf where no answer can be.
        """
        places = torch.arange(tokens.shape[1], device=tokens.device)
        behind = places >= fronts[:, None]
        passage = behind & (places < mask.sum(dim=1, keepdim=True) - 1)
        scores = self.head(self.model(tokens, mask, (behind & mask).long())).float()
        open_ = passage | (places == 0)
        starts, ends = scores.masked_fill(~open_[:, :, None], -torch.inf).unbind(dim=2)
        return starts, ends, passage

    def loss(self, batch: QuestionBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the mean of the cross-entropies of first and last token, summed over windows."""
        starts, ends, _ = self.logits(batch.tokens, batch.mask, batch.fronts)
        return self._loss(starts, ends, batch)

    def training_flops(
        self, lengths: Int[np.ndarray, " N"], counts: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"] | None:
        """Return the operations of training on each window once; None: the encoder is another library's."""
        flops = encoder_flops(self.model, lengths, lengths)
        if flops is None:
            return None
        flops.multiply(self.head.weight, lengths)
        return flops.total

    @staticmethod
    def _loss(
        starts: Float[Tensor, "B L"], ends: Float[Tensor, "B L"], batch: QuestionBatch
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        first = F.cross_entropy(starts, batch.starts, reduction="sum", ignore_index=IGNORED)
        last = F.cross_entropy(ends, batch.ends, reduction="sum", ignore_index=IGNORED)
        return (first + last) / 2, (batch.starts != IGNORED).sum()

    def judge(self, batch: QuestionBatch, split: str) -> tuple[Float[Tensor, ""], Int[Tensor, ""], list[Row]]:
        """Return, for each window, whose it is, the score of no answer and the best spans of the passage's tokens."""
        starts, ends, passage = self.logits(batch.tokens, batch.mask, batch.fronts)
        found = self._spans(starts, ends, passage, batch.origins - batch.fronts)
        rows = [
            {"id": window, "number": number, **row}
            for window, number, row in zip(batch.ids.tolist(), batch.questions.tolist(), found, strict=True)
        ]
        return *self._loss(starts, ends, batch), rows

    def _spans(
        self,
        starts: Float[Tensor, "B L"],
        ends: Float[Tensor, "B L"],
        passage: Bool[Tensor, "B L"],
        shifts: Int[Tensor, " B"],
    ) -> list[Row]:
        """Return the score of no answer and the best spans of each window; `shifts` turns places into the passage's tokens."""
        spans = best_spans(starts, ends, passage, self.max_answer, self.n_best)
        nulls = (starts[:, 0] + ends[:, 0]).tolist()
        columns = (spans.first + shifts[:, None], spans.last + shifts[:, None], spans.scores)
        found = zip(*(column.tolist() for column in columns), strict=True)
        return [
            {"null_score": null, "spans": [span for span in zip(*window, strict=True) if span[2] > -math.inf]}
            for null, window in zip(nulls, found, strict=True)
        ]

    def concluded(self, rows: list[Row], split: str) -> list[Row]:
        """Return a row for each question, with its answer; on val the threshold is chosen first."""
        data = cast(QuestionTexts, self.texts)
        found = []
        for number, windows in groupby(rows, key=lambda row: row["number"]):
            question = data.question(split, number)
            row = answers_of(question, list(windows), self.n_best)
            references = list(dict.fromkeys(question.answers)) or [""]
            found.append(
                {"id": number, "name": question.name, "question": question.text, "references": references, **row}
            )
        if split == "val" and self.given_threshold is None:
            self.null_threshold.fill_(_best_threshold(found))
        answers = [chosen(row, self.threshold) for row in found]
        return [
            {**row, "output": answer["text"], "start": answer["start"], "end": answer["end"]}
            for row, answer in zip(found, answers, strict=True)
        ]

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        """Return the scores of the metrics over all questions, and the threshold, if there is one."""
        found = super().scores(rows)
        return found | ({"null_threshold": Score(self.threshold)} if math.isfinite(self.threshold) else {})

    @classmethod
    def statistics(cls, rows: Sequence[Row], metrics: Mapping[str, TextMetric], facts: Facts) -> dict[str, Statistics]:
        """Return what the scores of the metrics are computed from, by their names."""
        outputs, references = ([row[name] for row in rows] for name in ("output", "references"))
        return text_statistics(metrics, outputs, references)

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return question, wanted answers and answer."""
        return {
            "question": row["question"],
            "wanted": " | ".join(text or "(no answer)" for text in row["references"]),
            "answer": row["output"] or "(no answer)",
        }

    # Questions that somebody writes

    @property
    def fields(self) -> tuple[str, ...]:
        """The texts that are asked with."""
        return "question", "context"

    def answer_records(self, records: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> list[RecordAnswer]:
        """Return the answer to each question, an empty one if there is none, with its characters and all that are kept.

        A question or a passage of nothing but white space is refused.
        """
        blank = [next((field for field in self.fields if not record[field].strip()), None) for record in records]
        asked = [record for record, field in zip(records, blank, strict=True) if field is None]
        answered = iter(self._answered(asked, tokenizer) if asked else ())
        return [next(answered) if field is None else RecordAnswer.refusal(f"{field} is empty") for field in blank]

    def _answered(self, asked: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> list[RecordAnswer]:
        questions = [one["question"].strip() for one in asked]
        ids = tokenizer.encode(questions)
        passages = tokenizer.encode_with_offsets([one["context"] for one in asked])
        found = self._read_windows(ids, [tokens for tokens, _ in passages])
        answers = []
        for text, one, tokens, (_, pairs), rows in zip(questions, asked, ids, passages, found, strict=True):
            offsets = np.array(pairs, np.int64).reshape(-1, 2)
            row = answers_of(Question("", text, one["context"], offsets), rows, self.n_best)
            answer = chosen(row, self.threshold)
            values = {"answer": answer["text"], **{key: answer[key] for key in ("start", "end", "score")}, **row}
            answers.append(RecordAnswer(values, len(tokens) > self.windows.max_question))
        return answers

    @torch.no_grad()
    def _read_windows(self, questions: Sequence[list[int]], passages: Sequence[list[int]]) -> list[list[Row]]:
        """Return what the windows of each question say, as `judge` does."""
        lengths = [np.array([len(ids) for ids in texts], np.int64) for texts in (questions, passages)]
        numbers = self.windows.numbers(*lengths)
        places = [(row, k * self.windows.stride) for row, number in enumerate(numbers) for k in range(number)]
        found: list[list[Row]] = [[] for _ in questions]
        for begin in range(0, len(places), WINDOWS_AT_ONCE):
            part = places[begin : begin + WINDOWS_AT_ONCE]
            made = [
                self.windows.window(
                    np.array(questions[row], np.int64),
                    np.array(passages[row], np.int64),
                    origin,
                    self.facts.bos,
                    self.facts.eos,
                )
                for row, origin in part
            ]
            windows = [torch.from_numpy(ids) for ids, _ in made]
            tokens = pad_sequence(windows, batch_first=True, padding_value=self.facts.pad).to(self.device)
            mask = pad_sequence([torch.ones_like(ids, dtype=torch.bool) for ids in windows], batch_first=True)
            fronts = torch.tensor([front for _, front in made], device=self.device)
            origins = torch.tensor([origin for _, origin in part], device=self.device)
            scored = self._spans(*self.logits(tokens, mask.to(self.device), fronts), origins - fronts)
            for (row, _), window in zip(part, scored, strict=True):
                found[row].append(window)
        return found


def _best_threshold(rows: Sequence[Row]) -> float:
    """Return the threshold with the best F1 over questions; inf where all have an answer, so that all get one."""
    if all(any(row["references"]) for row in rows):
        return math.inf
    metric = AnswerF1()
    answered = [metric.value(chosen(row, math.inf)["text"], row["references"]) for row in rows]
    silent = [metric.value("", row["references"]) for row in rows]
    return best_null_threshold([null_difference(row) for row in rows], answered, silent)
