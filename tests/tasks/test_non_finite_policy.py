"""A step that is not finite is detected, and one that is left out leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from etude.errors import ConfigurationError, NonFiniteError
from etude.tasks.non_finite import NonFinitePolicy, SkipNonFinite, StopOnNonFinite
from etude.tasks.running_sums import Sums

NAN, INF = float("nan"), float("inf")


def begun(policy: NonFinitePolicy) -> NonFinitePolicy:
    policy.begin(
        torch.device("cpu"), lambda step: list(range(10 * step, 10 * step + 11)), Path("outputs/x"), scaled=False
    )
    return policy


def see(policy: NonFinitePolicy, step: int, loss: float, norm: float = 1.0) -> None:
    policy.record_loss(step, torch.tensor(loss))
    policy.record_norm(step, torch.tensor(norm))


def test_a_policy_finds_the_first_broken_step() -> None:
    policy = begun(StopOnNonFinite())
    for step, loss in enumerate((1.0, 2.0, NAN, 4.0), start=1):
        see(policy, step, loss, INF if step == 4 else 1.0)
    event = policy.first_non_finite()
    assert event is not None
    assert (event.step, event.gradient_norm) == (3, 1.0)
    assert policy.first_non_finite() is None


def test_stop_takes_every_step_and_stops_when_it_is_asked() -> None:
    policy = begun(StopOnNonFinite())
    see(policy, 7, 1.0, INF)
    assert not policy.skips_step()
    with pytest.raises(NonFiniteError, match=r"^step 7: .*norm inf; .*: 70, 71, .*, 77 and 3 more; .*x step=7; "):
        policy.check()
    policy.check()
    with pytest.raises(NonFiniteError, match="step 8: its update left weights"):
        policy.check_weights(8, [torch.ones(3), torch.tensor([1.0, NAN])])


def test_skip_leaves_out_broken_steps_up_to_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    policy = begun(SkipNonFinite(limit=2))
    answers = []
    for step, (loss, norm) in enumerate([(1.0, 1.0), (INF, 1.0), (1.0, NAN), (2.0, 2.0)], start=1):
        see(policy, step, loss, norm)
        answers.append(policy.skips_step())
    assert answers == [False, True, True, False]
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "step 2 is left out, 1 of at most 2",
        "step 3 is left out, 2 of at most 2",
    ]
    assert policy.values() == {"train/skipped_steps": 2}
    policy.check()
    continued = begun(SkipNonFinite(limit=2))
    continued.load_state_dict(policy.state_dict())
    see(continued, 5, INF)
    with pytest.raises(NonFiniteError, match=r"^step 5: .* after 2 steps were left out \(non_finite.limit=2\)"):
        continued.skips_step()


def test_skip_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ConfigurationError, match=r"non_finite\.limit=0"):
        SkipNonFinite(limit=0)
    with pytest.raises(ConfigurationError, match="16-mixed"):
        SkipNonFinite().begin(torch.device("cpu"), lambda step: [], Path(), scaled=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda weights: torch.optim.AdamW(weights, weight_decay=0.1, fused=True),
        lambda weights: torch.optim.Adam(weights, amsgrad=True),
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True),
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=True),
    ],
)
def test_an_optimizer_without_gradients_changes_nothing(make: Callable[..., torch.optim.Optimizer]) -> None:
    """What `Task` relies on to leave out a step, also the very first one: no decay, no moments, no count."""
    weights = nn.Linear(3, 2)
    optimizer = make(weights.parameters())
    for step in range(3):
        before = copy.deepcopy((weights.state_dict(), optimizer.state_dict()))
        optimizer.zero_grad()
        optimizer.step()
        assert_equal((weights.state_dict(), optimizer.state_dict()), before)
        weights(torch.full((1, 3), float(step + 1))).sum().backward()
        optimizer.step()


def assert_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


def test_sums_forget_a_step_that_is_left_out() -> None:
    module: Any = nn.Linear(1, 1)
    module.device = torch.device("cpu")
    sums = Sums(loss_sum=1.5, count=3)
    sums.add(torch.tensor(INF), torch.tensor(2))
    sums.drop()
    assert sums.total(module) == (1.5, 3)
    for loss in (1.0, 2.0):
        sums.add(torch.tensor(loss), torch.tensor(4))
    sums.settle()
    sums.add(torch.tensor(1.0), torch.tensor(4))
    sums.add(torch.tensor(NAN), torch.tensor(4))
    sums.drop()
    assert sums.total(module) == (4.5, 11)
