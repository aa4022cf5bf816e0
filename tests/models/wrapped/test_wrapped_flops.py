"""Measured operations are those of each text by itself, worked by hand and counted by torch, and measuring changes nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from etude.models.layers.flop_counts import Flops
from etude.models.wrapped.flops import CHECKED, FITTED, dummy_texts, measured_flops

VOCABULARY, WIDTH, INNER = 11, 4, 7


class Attending(nn.Module):
    """Embeddings, a linear layer, and the two products of attention: of a text with itself, or of a pair across."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.inner = nn.Linear(WIDTH, INNER, bias=False)
        self.dropout = nn.Dropout(0.5)
        self.config = SimpleNamespace(_attn_implementation="fused")
        self.asked: list[tuple[int, ...]] = []

    def set_attn_implementation(self, name: str) -> None:
        self.config._attn_implementation = name

    def states(self, lengths: Any) -> Tensor:
        states: Tensor = self.dropout(self.inner(self.embedding(dummy_texts(lengths, self.embedding.weight)[0])))
        return states

    def run(self, lengths: Any) -> Tensor:
        """Return the attended states of each row of lengths."""
        assert self.config._attn_implementation == "eager"
        self.asked += [tuple(row) for row in lengths.tolist()]
        sides = [self.states(side) for side in lengths.T]
        return (sides[0] @ sides[-1].transpose(1, 2)).softmax(2) @ sides[-1]


def counted(flops: Flops | None) -> list[int]:
    assert flops is not None
    return flops.total.tolist()


def measured(model: Attending, lengths: list[list[int]], longest: int = 64) -> Flops | None:
    return measured_flops(model, model.run, np.array(lengths), longest)


# What is counted


@settings(max_examples=25)
@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=5))
def test_a_text_by_hand(lengths: list[int]) -> None:
    """One linear layer and two products of attention, each forward and for both of its factors."""
    texts = np.array([lengths], np.int32).T
    model = Attending()
    flops = measured_flops(model, model.run, texts, 64)
    assert counted(flops) == [3 * 2 * L * WIDTH * INNER + 2 * 3 * 2 * L * L * INNER for L in lengths]
    assert flops is not None and flops.trains and flops.total.dtype == np.int64


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 9_000), st.integers(1, 9_000)), min_size=1, max_size=4))
def test_a_pair_by_hand(pairs: list[tuple[int, int]]) -> None:
    found = measured(Attending(), [list(pair) for pair in pairs])
    assert counted(found) == [3 * 2 * (S + T) * WIDTH * INNER + 2 * 3 * 2 * S * T * INNER for S, T in pairs]


@pytest.mark.parametrize("lengths", [[1], [2], [13], [50], [1, 2], [2, 1], [13, 5], [5, 13], [40, 40]])
@pytest.mark.parametrize("frozen", [(), ("embedding",), ("inner",)])
def test_it_is_what_torch_counts_of_that_text(lengths: list[int], frozen: tuple[str, ...]) -> None:
    model = Attending().eval()
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    found = counted(measured(model, [lengths]))
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model.run(np.array([lengths])).sum().backward()
    assert found == [counter.get_total_flops()]


def test_of_a_frozen_model_only_the_pass_forward_counts() -> None:
    model = Attending().requires_grad_(False)
    found = measured(model, [[5], [2]])
    assert counted(found) == [2 * L * WIDTH * INNER + 2 * 2 * L * L * INNER for L in (5, 2)]
    assert found is not None and not found.trains


def test_what_occurs_once_in_a_batch_does_not_count() -> None:
    model, plain = Attending(), counted(measured(Attending(), [[6], [9]]))

    def run(lengths: Any) -> Tensor:
        factors = torch.ones(3, 5, requires_grad=True) @ torch.ones(5, 2)
        return model.run(lengths) + factors.sum()

    assert counted(measured_flops(model, run, np.array([[6], [9]]), 64)) == plain


def test_training_is_counted_where_gradients_are_switched_off() -> None:
    trained = counted(measured(Attending(), [[6]]))
    with torch.no_grad():
        assert counted(measured(Attending(), [[6]])) == trained


def test_no_example_costs_nothing() -> None:
    model = Attending()
    assert counted(measured_flops(model, model.run, np.zeros((0, 1), np.int64), 64)) == []


# What is run


@pytest.mark.parametrize("sides", [1, 2])
def test_as_many_lengths_are_fitted_as_the_polynomial_has_terms_and_they_determine_it(sides: int) -> None:
    lengths = np.array(FITTED[sides])
    assert lengths.shape == (math.comb(sides + 2, 2), sides)
    products = [lengths[:, i] * lengths[:, j] for i in range(sides) for j in range(i, sides)]
    terms = np.stack([np.ones(len(lengths)), *lengths.T, *products], axis=1)
    assert np.linalg.matrix_rank(terms) == len(lengths)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize(("longest", "checked"), [(1000, CHECKED), (21, 21)])
def test_no_text_is_longer_than_the_model_reads(sides: int, longest: int, checked: int) -> None:
    model = Attending()
    measured(model, [[900] * sides], longest)
    assert set(model.asked) == {*FITTED[sides], (checked,) * sides}


def test_texts_repeat_the_last_id_and_are_not_padded() -> None:
    tokens, mask = dummy_texts(np.array([3, 3, 3, 3]), torch.zeros(VOCABULARY, 2))
    assert torch.equal(tokens, torch.full((4, 3), VOCABULARY - 1)) and tokens.dtype == torch.long
    assert torch.equal(mask, torch.ones(4, 3, dtype=torch.bool))
    assert dummy_texts(np.array([3]), torch.zeros(2, 5, device="meta"))[0].device.type == "meta"


# What is left as it was


def fails(model: Attending) -> Callable[[Any], Tensor]:
    def run(lengths: Any) -> Tensor:
        model.run(lengths).sum().backward()
        raise ValueError("no\n such   text")

    return run


@pytest.mark.parametrize("how", [lambda model: model.run, fails], ids=["measured", "failed"])
def test_measuring_changes_nothing(how: Callable[[Attending], Any]) -> None:
    model = Attending().train()
    model.inner.eval()
    gradient, draws = torch.ones(VOCABULARY, WIDTH), torch.get_rng_state()
    model.embedding.weight.grad = gradient
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        measured_flops(model, how(model), np.array([[5]]), 64)
        assert not torch.is_grad_enabled()
    assert model.asked
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert model.embedding.weight.grad is gradient and torch.equal(gradient, torch.ones(VOCABULARY, WIDTH))
    assert model.inner.weight.grad is None
    assert model.config._attn_implementation == "fused"
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


# What is not known

POLYNOMIAL = (
    "the operations of Attending are not counted: they do not grow as a polynomial of second degree in a text's length"
)


def constant(lengths: Any, size: int) -> Any:
    return np.full_like(lengths, size)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize(
    ("read", "why"),
    [
        (lambda lengths: constant(lengths, 9), "whatever the text, the same"),
        (lambda lengths: -(-lengths // 4) * 4, "windows of 4"),
        (lambda lengths: np.minimum(lengths, 20), "the beginning alone"),
        (lambda lengths: 40 - lengths, "the longer, the less"),
    ],
    ids=["same", "windows", "beginning", "less"],
)
def test_what_is_no_polynomial_is_not_known(
    sides: int, read: Callable[[Any], Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = Attending()
    with caplog.at_level(logging.INFO):
        assert measured_flops(model, lambda lengths: model.run(read(lengths)), np.array([[6] * sides]), 64) is None, why
    assert caplog.messages == [POLYNOMIAL]


def test_the_cube_of_a_length_is_no_polynomial_of_second_degree(caplog: pytest.LogCaptureFixture) -> None:
    model = Attending()

    def run(lengths: Any) -> Tensor:
        length = int(lengths[0, 0])
        return model.run(lengths).sum() + (torch.ones(len(lengths), length, length) @ torch.ones(length, length)).sum()

    with caplog.at_level(logging.INFO):
        assert measured_flops(model, run, np.array([[6]]), 64) is None
    assert caplog.messages == [POLYNOMIAL]


@pytest.mark.parametrize("reason", ["no such\n   text", "x" * 300])
def test_a_model_that_does_not_run_is_one_line(reason: str, caplog: pytest.LogCaptureFixture) -> None:
    def run(lengths: Any) -> Tensor:
        raise RuntimeError(reason)

    with caplog.at_level(logging.INFO):
        assert measured_flops(Attending(), run, np.array([[6]]), 64) is None
    shown = "no such text" if "no" in reason else "x" * 200
    assert caplog.messages == [f"the operations of Attending are not counted: {shown}"]
