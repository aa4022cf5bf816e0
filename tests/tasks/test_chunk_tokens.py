"""`task.chunk_tokens`: what a task computes in chunks, it computes alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from etude.errors import ConfigurationError
from etude.tasks.masked_lm import MaskedLM
from tests.bench import synthetic

MAKERS: dict[str, Callable[..., synthetic.Work]] = {
    "causal_lm": synthetic.causal_lm,
    "masked_lm": synthetic.masked_lm,
    "translation": synthetic.translation,
}
SIZES: dict[str, Any] = {"width": 8, "heads": 2, "layers": 1, "length": 11, "dropout": 0.0}


@pytest.mark.parametrize("name", MAKERS)
def test_a_chunk_changes_the_loss_by_rounding_alone(name: str) -> None:
    work = MAKERS[name](40, 3, **SIZES)
    task: Any = work.task
    batch = work.batch()
    weight = task.model.output_weight
    whole, count = task.loss(batch)
    (expected,) = torch.autograd.grad(whole, [weight])
    task.chunk_tokens = 2
    chunked, again = task.loss(batch)
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(torch.autograd.grad(chunked, [weight])[0], expected)
    assert int(count) == int(again)


def test_masked_tokens_are_judged_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    task = synthetic.masked_lm(40, 3, **SIZES).task
    assert isinstance(task, MaskedLM)
    features, labels = torch.randn(7, 8), torch.randint(40, (7,))
    losses, predictions = task._judged(features, labels)
    sizes: list[int] = []
    logits = task.logits
    monkeypatch.setattr(task, "logits", lambda part: sizes.append(len(part)) or logits(part))  # type: ignore[func-returns-value]
    task.chunk_tokens = 3
    chunked, again = task._judged(features, labels)
    assert sizes == [3, 3, 1]
    torch.testing.assert_close(chunked, losses)
    assert torch.equal(again, predictions)
    empty = task._judged(features[:0], labels[:0])
    assert [len(each) for each in empty] == [0, 0]


def test_no_task_takes_a_chunk_of_nothing() -> None:
    task = synthetic.masked_lm(40, 3, **SIZES).task
    assert isinstance(task, MaskedLM)
    with pytest.raises(ConfigurationError, match=r"task.chunk_tokens = 0 is out of range"):
        MaskedLM(task.facts, task.model, task.optimizer, task.scheduler, chunk_tokens=0)
