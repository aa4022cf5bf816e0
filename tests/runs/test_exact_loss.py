"""Law 3: the gradient of a step is that of the whole global batch, however it is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from etude.data.loader import Slice
from etude.models.losses.consistency import RDrop
from etude.training.build import Experiment, build
from tests.runs.conftest import TASKS

NO_DROPOUT = ("model.dropout=0.0",)


def gradients(experiment: Experiment, step: int, world: int, micro_batches: int) -> dict[str, torch.Tensor]:
    """The gradient that DDP and Lightning arrive at: averages over ranks, sums over micro-batches."""
    task, data = experiment.task.double().train(), experiment.data
    task.zero_grad()
    plan, examples = data.plan(0), data.splits["train"]
    for rank in range(world):
        for micro_batch in range(micro_batches):
            chosen = plan.examples(step, rank, world, micro_batch, micro_batches)
            filler = not len(chosen)
            part = Slice(plan.examples(step)[:1] if filler else chosen, 0, plan.count(step), filler)
            batch = examples.batch(part)
            (task.training_loss(batch)[0] / batch.step_count).backward()
    return {name: parameter.grad for name, parameter in task.named_parameters() if parameter.grad is not None}


def assert_cut_alike(experiment: Experiment, world: int, micro_batches: int) -> dict[str, torch.Tensor]:
    """Compare the gradient of a batch that ranks and micro-batches share with that of the whole batch, which is returned."""
    whole = {name: gradient.clone() for name, gradient in gradients(experiment, 1, 1, 1).items()}
    cut = gradients(experiment, 1, world, micro_batches)
    assert whole.keys() == cut.keys()
    scale = max(float(gradient.abs().max()) for gradient in whole.values())
    assert scale > 1e-4
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-6, atol=1e-9 * scale, msg=name)
    return whole


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("world", "micro_batches"),
    [*(pytest.param(*cut, marks=pytest.mark.slow) for cut in ((2, 1), (1, 2), (1, 4))), (2, 3), (1, 64)],
)
def test_gradients_do_not_depend_on_how_a_batch_is_cut(
    composed: Callable[..., Any], task: str, world: int, micro_batches: int
) -> None:
    extra = ("task.head_dropout=0.0",) if task.endswith("classification") else ()
    experiment = build(composed(task, *NO_DROPOUT, *extra))
    assert_cut_alike(experiment, world, micro_batches)


@pytest.mark.parametrize(("world", "micro_batches"), [(2, 1), (1, 4), (1, 64)])
def test_gradients_of_drawn_segmentations_do_not_either(
    composed: Callable[..., Any], world: int, micro_batches: int
) -> None:
    drawn = (
        "data.sampling={_target_:etude.data.subword_regularization.BPEDropout,source:0.1,target:0.2}",
        "task.consistency={_target_:etude.models.losses.consistency.RDrop,alpha:2.0}",
    )
    experiment = build(composed("translation", *NO_DROPOUT, *drawn))
    assert_cut_alike(experiment, world, micro_batches)


@pytest.mark.parametrize("task", ["classification", "token_classification"])
def test_gradients_of_two_passes_do_not_either(composed: Callable[..., Any], task: str) -> None:
    two = ("task/consistency=r_drop", "task.head_dropout=0.0")
    assert_cut_alike(build(composed(task, *NO_DROPOUT, *two)), 2, 3)


@pytest.mark.parametrize("task", ["translation", "classification", "token_classification"])
def test_two_passes_differ_by_dropout(composed: Callable[..., Any], task: str) -> None:
    experiment = build(composed(task, "task/consistency=r_drop"))
    batch = experiment.data.splits["train"].batch(Slice(experiment.data.plan(0).examples(1), 0, 1, False))
    losses = []
    for alpha in (0.0, 5.0):
        experiment.task.consistency = RDrop(alpha)
        torch.manual_seed(1)
        losses.append(float(experiment.task.train().training_loss(batch)[0].detach()))
    assert losses[1] > 1.001 * losses[0]
