"""Extractive question answering: the span of a passage that answers a question, if there is one.

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
from etude.optim.schedules import Schedule
from etude.tasks.answer_selection import merge_windows, null_margin, select_answer
from etude.tasks.base import Task
from etude.tasks.prediction import RecordAnswer
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.tokenization.windows import Windows
from etude.types import IGNORED, Facts, Question, QuestionBatch

WINDOWS_AT_ONCE = 64
"""Number of windows that predictions read together."""

STANDARD_METRICS: dict[str, TextMetric] = {"exact_match": AnswerExactMatch(), "f1": AnswerF1()}

_log = logging.getLogger(__name__)


class QuestionTexts(Protocol):
    """What the task asks of the data module of its trainer besides `TaskData`."""

    def question(self, split: str, number: int) -> Question:
        """Return a question of a split."""
        ...


class QuestionAnswering(Task):
    """Two linear scores of each token, as the first and as the last of the answer (Devlin et al. 2019, sections 4.2, 4.3).

    The token that starts a window stands for "not in this window"; its score is the null score. Scores are computed for
    it and for the passage's tokens, not for padding and the question.

    Attributes:
        null_threshold: Smallest margin of the null score over the best answer's for a question to have no answer. It is
            stored with the weights.

    Args:
        facts: Vocabulary and special ids.
        model: The encoder.
        optimizer: Makes the optimizer from groups of parameters.
        scheduler: Learning rate schedule.
        windows: Division of questions and passages into windows; the data's.
        metrics: Metrics by the name of their scores; None: `STANDARD_METRICS`.
        null_threshold: See above; None: the one with the best F1 on val, each time that split is scored. It is never
            chosen on another split.
        max_answer: Largest number of tokens of an answer.
        n_best: Number of answers kept for each question.
        gradient_clip: Largest norm of the gradient; None: not clipped.
    """

    MODEL: ClassVar[type[nn.Module]] = TextEncoder
    METRICS: ClassVar[tuple[str, ...]] = ("val/loss", "val/exact_match", "val/f1")
    """Names with `STANDARD_METRICS`; other metrics replace all but the loss."""

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
        self.metrics = self.checked_metrics(metrics)
        self.fixed_threshold = null_threshold
        self.max_answer, self.n_best = max_answer, n_best
        self.head = nn.Linear(model.width, 2)
        pretrained = model.output_layer("span")
        if pretrained is not None:
            _log.info("the head is that of %s", pretrained.model)
            self.head.load_state_dict({"weight": pretrained.weight, "bias": pretrained.bias})
        self.register_buffer("null_threshold", torch.tensor(0.0))

    @property
    def threshold(self) -> float:
        """The threshold in use: the configuration's, or the one chosen on val."""
        return float(self.null_threshold) if self.fixed_threshold is None else self.fixed_threshold

    def logits(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], fronts: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Return the scores of each position as the first and as the last of the answer, and a mask of the passage.

        Scores are -inf at positions where no answer can be.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        after_question = positions >= fronts[:, None]
        passage = after_question & (positions < mask.sum(dim=1, keepdim=True) - 1)
        scores = self.head(self.model(tokens, mask, (after_question & mask).long())).float()
        candidates = passage | (positions == 0)
        starts, ends = scores.masked_fill(~candidates[:, :, None], -torch.inf).unbind(dim=2)
        return starts, ends, passage

    def forward(self, batch: QuestionBatch) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B L"]]:
        """Return the scores of each position as the first and as the last of the answer; -inf where none can be."""
        starts, ends, _ = self.logits(batch.tokens, batch.mask, batch.fronts)
        return starts, ends

    def loss(self, batch: QuestionBatch) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return the mean of the cross-entropies of first and last token, summed over windows."""
        starts, ends = self.forward(batch)
        return self._loss(starts, ends, batch)

    def training_flops(
        self, lengths: Int[np.ndarray, " N"], counts: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"] | None:
        """Return the operations of training on each window once; None: unknown, the encoder is another library's."""
        flops = encoder_flops(self.model, lengths, lengths)
        if flops is None:
            return None
        flops.add_product(self.head.weight, lengths)
        return flops.total

    @staticmethod
    def _loss(
        starts: Float[Tensor, "B L"], ends: Float[Tensor, "B L"], batch: QuestionBatch
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        first = F.cross_entropy(starts, batch.starts, reduction="sum", ignore_index=IGNORED)
        last = F.cross_entropy(ends, batch.ends, reduction="sum", ignore_index=IGNORED)
        return (first + last) / 2, (batch.starts != IGNORED).sum()

    def judge(self, batch: QuestionBatch, split: str) -> tuple[Float[Tensor, ""], Int[Tensor, ""], list[Row]]:
        """Return the question's number, the null score and the best spans of the passage's tokens for each window."""
        starts, ends, passage = self.logits(batch.tokens, batch.mask, batch.fronts)
        spans = self._spans(starts, ends, passage, batch.origins - batch.fronts)
        rows = [
            {"id": window, "number": number, **row}
            for window, number, row in zip(batch.ids.tolist(), batch.questions.tolist(), spans, strict=True)
        ]
        return *self._loss(starts, ends, batch), rows

    def answers(self, batch: QuestionBatch) -> list[Row]:
        """Return the answer that each window alone gives to its question.

        `number` of the question, `answer` (empty: none), its first and last characters in the passage (`start`, `end`), its
        `score`, and `null_score` and `answers`, which `answer_selection.merge_windows` merges if a passage has several windows.
        """
        data, split = cast(QuestionTexts, self.data), self.evaluated_split
        _, _, windows = self.judge(batch, split)
        rows = []
        for window in windows:
            question = data.question(split, window["number"])
            row = merge_windows(question, [window], self.n_best)
            answer = select_answer(row, self.threshold)
            values = {"answer": answer["text"], **{key: answer[key] for key in ("start", "end", "score")}, **row}
            rows.append({"id": window["id"], "number": window["number"], **values})
        return rows

    def _spans(
        self,
        starts: Float[Tensor, "B L"],
        ends: Float[Tensor, "B L"],
        passage: Bool[Tensor, "B L"],
        shifts: Int[Tensor, " B"],
    ) -> list[Row]:
        """Return null score and best spans of each window; `shifts` turns positions into indices of the passage's tokens."""
        spans = best_spans(starts, ends, passage, self.max_answer, self.n_best)
        nulls = (starts[:, 0] + ends[:, 0]).tolist()
        columns = (spans.first + shifts[:, None], spans.last + shifts[:, None], spans.scores)
        windows = zip(*(column.tolist() for column in columns), strict=True)
        return [
            {"null_score": null, "spans": [span for span in zip(*window, strict=True) if span[2] > -math.inf]}
            for null, window in zip(nulls, windows, strict=True)
        ]

    def concluded(self, rows: list[Row], split: str) -> list[Row]:
        """Return a row for each question, with its answer; on val the threshold is chosen first."""
        data = cast(QuestionTexts, self.data)
        questions = []
        for number, windows in groupby(rows, key=lambda row: row["number"]):
            question = data.question(split, number)
            row = merge_windows(question, list(windows), self.n_best)
            references = list(dict.fromkeys(question.answers)) or [""]
            questions.append(
                {"id": number, "name": question.name, "question": question.text, "references": references, **row}
            )
        if split == "val" and self.fixed_threshold is None:
            self.null_threshold.fill_(_best_threshold(questions))
        answers = [select_answer(row, self.threshold) for row in questions]
        return [
            {**row, "output": answer["text"], "start": answer["start"], "end": answer["end"]}
            for row, answer in zip(questions, answers, strict=True)
        ]

    def scores(self, rows: list[Row]) -> dict[str, Score]:
        """Return the scores of the metrics over all questions, and the threshold, if there is one."""
        return super().scores(rows) | (
            {"null_threshold": Score(self.threshold)} if math.isfinite(self.threshold) else {}
        )

    @classmethod
    def statistics(cls, rows: Sequence[Row], metrics: Mapping[str, TextMetric], facts: Facts) -> dict[str, Statistics]:
        """Return what the scores of the metrics are computed from, by their names."""
        outputs, references = ([row[name] for row in rows] for name in ("output", "references"))
        return text_statistics(metrics, outputs, references)

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return question, reference answers and answer."""
        return {
            "question": row["question"],
            "wanted": " | ".join(text or "(no answer)" for text in row["references"]),
            "answer": row["output"] or "(no answer)",
        }

    # Predictions for questions that are not part of the data

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the texts of a record."""
        return "question", "context"

    def answer_records(self, records: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> list[RecordAnswer]:
        """Return the answer to each question (empty: none) with its characters, and the other answers kept.

        A question or a passage of white space only is refused.
        """
        blank = [next((field for field in self.fields if not record[field].strip()), None) for record in records]
        complete = [record for record, field in zip(records, blank, strict=True) if field is None]
        answers = iter(self._answered(complete, tokenizer) if complete else ())
        return [next(answers) if field is None else RecordAnswer.refusal(f"{field} is empty") for field in blank]

    def _answered(self, records: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> list[RecordAnswer]:
        questions = [record["question"].strip() for record in records]
        ids = tokenizer.encode(questions)
        passages = tokenizer.encode_with_offsets([record["context"] for record in records])
        windows = self._read_windows(ids, [tokens for tokens, _ in passages])
        answers = []
        for text, record, tokens, (_, pairs), rows in zip(questions, records, ids, passages, windows, strict=True):
            offsets = np.array(pairs, np.int64).reshape(-1, 2)
            row = merge_windows(Question("", text, record["context"], offsets), rows, self.n_best)
            answer = select_answer(row, self.threshold)
            values = {"answer": answer["text"], **{key: answer[key] for key in ("start", "end", "score")}, **row}
            answers.append(RecordAnswer(values, len(tokens) > self.windows.max_question))
        return answers

    @torch.no_grad()
    def _read_windows(self, questions: Sequence[list[int]], passages: Sequence[list[int]]) -> list[list[Row]]:
        """Return null score and best spans of the windows of each question, as `judge` does."""
        lengths = [np.array([len(ids) for ids in texts], np.int64) for texts in (questions, passages)]
        numbers = self.windows.numbers(*lengths)
        origins_of = [(row, k * self.windows.stride) for row, number in enumerate(numbers) for k in range(number)]
        rows: list[list[Row]] = [[] for _ in questions]
        for begin in range(0, len(origins_of), WINDOWS_AT_ONCE):
            part = origins_of[begin : begin + WINDOWS_AT_ONCE]
            windows = [
                self.windows.window(
                    np.array(questions[row], np.int64),
                    np.array(passages[row], np.int64),
                    origin,
                    self.facts.bos,
                    self.facts.eos,
                )
                for row, origin in part
            ]
            texts = [torch.from_numpy(ids) for ids, _ in windows]
            tokens = pad_sequence(texts, batch_first=True, padding_value=self.facts.pad).to(self.device)
            mask = pad_sequence([torch.ones_like(ids, dtype=torch.bool) for ids in texts], batch_first=True)
            fronts = torch.tensor([front for _, front in windows], device=self.device)
            origins = torch.tensor([origin for _, origin in part], device=self.device)
            spans = self._spans(*self.logits(tokens, mask.to(self.device), fronts), origins - fronts)
            for (row, _), window in zip(part, spans, strict=True):
                rows[row].append(window)
        return rows


def _best_threshold(rows: Sequence[Row]) -> float:
    """Return the threshold with the best F1 over questions; inf if all have an answer, so that all get one."""
    if all(any(row["references"]) for row in rows):
        return math.inf
    metric = AnswerF1()
    with_answer = [metric.value(select_answer(row, math.inf)["text"], row["references"]) for row in rows]
    without_answer = [metric.value("", row["references"]) for row in rows]
    return best_null_threshold([null_margin(row) for row in rows], with_answer, without_answer)
