"""A task takes the metrics of its kind, and says so when it is given others."""

from __future__ import annotations

from typing import Any

import pytest

from etude.errors import ConfigurationError
from etude.metrics.classification import Accuracy
from etude.metrics.multilabel import LabelSetMatch
from etude.metrics.question_answering import AnswerF1
from etude.metrics.regression import Pearson
from etude.metrics.tagging import TagAccuracy
from etude.metrics.translation import BLEU
from etude.tasks.base import Task
from etude.tasks.classification import Classification
from etude.tasks.multilabel import Multilabel
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.regression import Regression
from etude.tasks.token_classification import TokenClassification
from etude.tasks.translation import Translation

METRICS: dict[type[Task], Any] = {
    Translation: BLEU(),
    Classification: Accuracy(),
    Multilabel: LabelSetMatch(),
    Regression: Pearson(),
    TokenClassification: TagAccuracy(),
}


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("of", METRICS)
def test_the_metrics_of_another_task_are_refused(kind: type[Task], of: type[Task]) -> None:
    if kind is of:
        assert kind.checked_metrics({"score": METRICS[of]}) == {"score": METRICS[of]}
        return
    name = type(METRICS[of]).__name__
    text = rf"^task\.metrics\.score: {name} does not compare the outputs of {kind.__name__}; take metrics such as \w+"
    with pytest.raises(ConfigurationError, match=text):
        kind.checked_metrics({"score": METRICS[of]})


def test_texts_are_texts_whatever_the_task() -> None:
    assert QuestionAnswering.checked_metrics({"bleu": BLEU()}).keys() == {"bleu"}
    assert Translation.checked_metrics({"f1": AnswerF1()}).keys() == {"f1"}
    assert Translation.checked_metrics(None).keys() == Translation.STANDARD.keys()
    assert Translation.checked_metrics({}) == {}


def test_what_is_no_metric_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"BLEU, ChrF, TER, or write ~task\.metrics\.loss"):
        Translation.checked_metrics({"loss": object()})
