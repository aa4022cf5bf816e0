"""Laws of distillation: zero where both agree, the gradients of a divergence written by hand, sums that add up."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.losses.distillation import Distillation, kl_divergence
from etude.models.losses.labelled_states import LabelledStates
from etude.types import IGNORED

N, D, E, V = 7, 4, 3, 5


@pytest.fixture
def states() -> tuple[LabelledStates, LabelledStates]:
    """A student of width D and a teacher of width E, in double precision; two positions do not count."""
    torch.manual_seed(5)
    labels = torch.tensor([1, IGNORED, 4, 0, 2, IGNORED, 3])

    def drawn(width: int) -> LabelledStates:
        tensors = [torch.randn(*shape, dtype=torch.float64) * 2 for shape in ((N, width), (V, width), (V,))]
        for tensor in tensors:
            tensor.requires_grad_()
        return LabelledStates(tensors[0], tensors[1], labels, bias=tensors[2])

    return drawn(D), drawn(E)


def logits(states: LabelledStates) -> Tensor:
    made = F.linear(states.hidden, states.weight, states.bias)
    return made if states.cap is None else states.cap * torch.tanh(made / states.cap)


def by_hand(student: LabelledStates, teacher: LabelledStates, temperature: float) -> Tensor:
    """The divergence as torch computes it, with its own gradients."""
    own = torch.log_softmax(logits(student) / temperature, 1)
    other = torch.log_softmax(logits(teacher) / temperature, 1).detach()
    each = F.kl_div(own, other, log_target=True, reduction="none").sum(1)
    weights = torch.ones(N, dtype=torch.float64) if student.weights is None else student.weights
    return (each * weights)[student.labels != IGNORED].sum()


def gradients(loss: Tensor, states: LabelledStates) -> list[Tensor]:
    assert states.bias is not None
    return list(torch.autograd.grad(loss, [states.hidden, states.weight, states.bias]))


@pytest.mark.parametrize(
    ("temperature", "more", "of_teacher"),
    [
        (1.0, {}, {}),
        (2.5, {"chunk": 2}, {}),
        (0.5, {"cap": 1.5}, {"cap": 3.0}),
        (3.0, {"weights": torch.linspace(0.5, 3.5, N, dtype=torch.float64), "chunk": 3}, {}),
    ],
)
def test_value_and_gradients_are_those_of_a_divergence_by_hand(
    states: tuple[LabelledStates, LabelledStates], temperature: float, more: dict[str, Any], of_teacher: dict[str, Any]
) -> None:
    student, teacher = dataclasses.replace(states[0], **more), dataclasses.replace(states[1], **of_teacher)
    ours, theirs = kl_divergence(student, teacher, temperature), by_hand(student, teacher, temperature)
    assert ours > 0
    torch.testing.assert_close(ours, theirs)
    for mine, expected in zip(gradients(3 * ours, student), gradients(3 * theirs, student), strict=True):
        torch.testing.assert_close(mine, expected)


def test_a_teacher_gets_no_gradient(states: tuple[LabelledStates, LabelledStates]) -> None:
    kl_divergence(*states).backward()
    assert states[0].hidden.grad is not None and states[1].hidden.grad is None and states[1].weight.grad is None


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_student_that_is_its_teacher_diverges_by_nothing(
    states: tuple[LabelledStates, LabelledStates], temperature: float
) -> None:
    student, _ = states
    divergence = kl_divergence(student, student, temperature)
    assert divergence.item() == 0.0
    assert all(not gradient.any() for gradient in gradients(divergence, student))


@pytest.mark.parametrize("weighted", [False, True])
def test_with_weight_0_it_is_the_plain_loss_bit_for_bit(
    states: tuple[LabelledStates, LabelledStates], weighted: bool
) -> None:
    student, teacher = states
    if weighted:
        student = dataclasses.replace(student, weights=(student.labels != IGNORED) * 1.7)
    plain, count = student.cross_entropy()
    loss = Distillation("RUN", temperature=2.0, weight=0.0)(student, teacher)
    assert torch.equal(loss.total, plain) and torch.equal(loss.count, count) and loss.distillation > 0
    for mine, expected in zip(gradients(loss.total, student), gradients(plain, student), strict=True):
        assert torch.equal(mine, expected)


def test_the_terms_make_the_loss_and_t_squared_is_in_it(states: tuple[LabelledStates, LabelledStates]) -> None:
    student, teacher = dataclasses.replace(states[0], smoothing=0.1), states[1]
    loss = Distillation("RUN", temperature=3.0, weight=0.25)(student, teacher)
    torch.testing.assert_close(loss.labels, student.cross_entropy()[0].detach())
    torch.testing.assert_close(loss.distillation, 9 * by_hand(student, teacher, 3.0).detach())
    torch.testing.assert_close(loss.total, 0.75 * loss.labels + 0.25 * loss.distillation)
    assert int(loss.count) == 5


def test_slices_of_a_batch_add_up_to_the_whole(states: tuple[LabelledStates, LabelledStates]) -> None:
    student, teacher = states
    distillation = Distillation("RUN", temperature=2.0, weight=0.5)

    def sliced(of: LabelledStates, rows: slice) -> LabelledStates:
        return dataclasses.replace(of, hidden=of.hidden[rows], labels=of.labels[rows])

    whole = distillation(student, teacher)
    parts = [distillation(sliced(student, rows), sliced(teacher, rows)) for rows in (slice(0, 3), slice(3, N))]
    assert int(whole.count) == sum(int(part.count) for part in parts)
    together = torch.stack([part.total for part in parts]).sum()
    torch.testing.assert_close(whole.total, together)
    for mine, expected in zip(gradients(together, student), gradients(whole.total, student), strict=True):
        torch.testing.assert_close(mine, expected)


def test_a_batch_of_which_nothing_counts(states: tuple[LabelledStates, LabelledStates]) -> None:
    student, teacher = (dataclasses.replace(one, labels=torch.full((N,), IGNORED)) for one in states)
    loss = Distillation("RUN")(student, teacher)
    assert loss.total.item() == 0.0 and int(loss.count) == 0
    assert all(not gradient.any() for gradient in gradients(loss.total, student))


@pytest.mark.parametrize(
    ("key", "value"), [("temperature", 0.0), ("temperature", float("inf")), ("weight", -0.1), ("weight", 1.1)]
)
def test_numbers_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"distillation.{key}={value} is out of range; write"):
        Distillation("RUN", **{key: value})
