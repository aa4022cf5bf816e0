"""Compiled layers: what they compute, when they are not used, and a compiler that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import jaxtyping
import pytest
import torch
from torch import Tensor

from etude.models.decoder import Decoder
from etude.models.recomputation import recompute_activations
from etude.tasks.training_progress import TrainingProgress
from etude.training.callbacks.compilation import FAILED, SECONDS, Compilation
from etude.types import Facts

FACTS = Facts(40, pad=0, bos=1, eos=2)


@pytest.fixture(autouse=True)
def untraced_checks() -> Iterator[None]:
    """Shape checks of tests cannot be traced."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    torch._dynamo.reset()
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def model() -> Decoder:
    torch.manual_seed(3)
    return Decoder(FACTS, width=8, heads=2, layers=2, feed_forward=12, dropout=0.0, max_length=20).double().train()


def computed(decoder: Decoder, *lengths: int) -> list[Tensor]:
    """The hidden states of texts of these lengths, and the gradients of all weights."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(3, 40, mask.shape, generator=torch.Generator().manual_seed(max(lengths)))
    states = decoder.hidden(tokens, mask)
    weights = list(decoder.parameters())
    return [states.detach(), *torch.autograd.grad(states.square().sum(), weights, allow_unused=True)]


class Counting:
    """A backend that counts the graphs that it is given, and runs them as they are."""

    def __init__(self, error: Exception | None = None) -> None:
        self.graphs, self.error = 0, error

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        self.graphs += 1
        if self.error is not None:
            raise self.error
        return cast(Callable[..., Any], graph.forward)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: counting)
    return counting


def test_states_and_gradients_are_those_of_the_plain_layers_at_any_length(backend: Counting) -> None:
    plain, compiled = model(), model()
    Compilation("eager").apply(compiled)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for lengths in ((5, 3), (9, 2, 7), (4, 1)):
        for ours, theirs in zip(computed(compiled, *lengths), computed(plain, *lengths), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert 0 < backend.graphs <= 2  # all layers and all lengths share what is compiled


def test_a_grid_without_padding_is_another_graph_and_evaluation_is_none(backend: Counting) -> None:
    compiled = model()
    Compilation("eager").apply(compiled)
    compiled.eval()
    computed(compiled, 5, 3)
    with torch.no_grad():
        compiled.train().hidden(torch.full((1, 4), 5), torch.ones(1, 4, dtype=torch.bool))
    assert backend.graphs == 0
    computed(compiled, 5, 3)
    first = backend.graphs
    computed(compiled, 4, 4)
    assert backend.graphs > first


def test_a_compiler_that_fails_is_done_without_and_that_is_said_once(
    backend: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    backend.error = RuntimeError("no C++ compiler\nand more")
    plain, compiled = model(), model()
    compilation = Compilation("inductor")
    compilation.apply(compiled)
    with caplog.at_level(logging.WARNING):
        for lengths in ((5, 3), (4, 4)):
            for ours, theirs in zip(computed(compiled, *lengths), computed(plain, *lengths), strict=True):
                torch.testing.assert_close(ours, theirs)
    said = [record.getMessage() for record in caplog.records if "trainer.compile" in record.getMessage()]
    assert said == ["the model trains without trainer.compile=inductor, which failed: no C++ compiler"]
    assert compilation.failed
    assert backend.graphs == 1


@pytest.mark.slow
def test_layers_can_be_compiled_and_recomputed() -> None:
    plain, both = model(), model()
    Compilation("aot_eager").apply(both)
    recompute_activations(both)
    for ours, theirs in zip(computed(both, 6, 4), computed(plain, 6, 4), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_time_of_compiling_is_told_once_and_left_out_of_the_speed(
    backend: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    compiled, progress = model(), TrainingProgress()
    compilation = Compilation("eager")
    compilation.apply(compiled)
    task = cast(Any, SimpleNamespace(leave_out_of_speed=progress.leave_out))
    compilation.setup(cast(Any, None), task, "fit")
    computed(compiled, 5, 3)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            compilation.on_train_batch_end(cast(Any, None), task, None, None, 0)
    compilation.teardown(cast(Any, None), task, "fit")
    values = compilation.values()
    assert FAILED not in values
    assert progress.losses.seconds == values[SECONDS] > 0
    assert compilation.values() == {}
    assert len([record for record in caplog.records if "compiled by eager" in record.getMessage()]) == 1
    torch._dynamo.reset()
    computed(compiled, 5, 3)
    compilation.on_train_batch_end(cast(Any, None), task, None, None, 0)
    assert compilation.values() == {}  # after the training nothing is told
