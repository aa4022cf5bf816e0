"""What a range test proposes lies in the descent, does not depend on the scale of the loss, and survives noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.errors import DataError
from etude.report.charts import Floats
from etude.report.range_curve import LAG, LEAST, NoDescentError, Proposal, RangeCurve, two_digits, written

RATES = np.geomspace(1e-6, 1.0, 300)


def sigmoid(rates: Floats, at: float, width: float) -> Floats:
    return 1 / (1 + np.exp(-(np.log10(rates) - math.log10(at)) / width))


def losses(falls: float = 1e-4, diverges: float = 1e-1, start: float = 9.0, end: float = 6.0) -> Floats:
    """A loss that falls around one rate, and rises without end above another."""
    return start - (start - end) * sigmoid(RATES, falls, 0.2) + 0.05 * (RATES / diverges) ** 3


def noisy(curve: Floats, seed: int, deviation: float) -> Floats:
    return curve + deviation * np.random.default_rng(seed).standard_normal(len(curve))


def proposed(curve: Floats) -> Proposal:
    return RangeCurve(RATES, curve).propose()


@given(falls=st.floats(1e-5, 1e-3), apart=st.floats(30, 300), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_proposal_lies_between_start_and_divergence(falls: float, apart: float, seed: float) -> None:
    curve = noisy(losses(falls, falls * apart), int(seed), 0.1)
    found = proposed(curve)
    assert found.rate < found.lowest
    assert falls / 10 < found.rate < falls * apart / 5
    assert found.rate == pytest.approx(found.lowest / 10, rel=0.05)
    assert falls / 5 < found.steepest < 10 * falls
    assert found.diverges is None or found.lowest < found.diverges


@given(scale=st.sampled_from([1e-6, 0.03, 7.0, 1e5]), seed=st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_the_scale_of_the_loss_changes_nothing(scale: float, seed: int) -> None:
    curve = noisy(losses(), seed, 0.2)
    assert proposed(scale * curve) == proposed(curve)


def test_what_all_losses_have_in_common_changes_nothing() -> None:
    curve = noisy(losses(), 3, 0.2)
    assert proposed(curve + 100.0).rate == pytest.approx(proposed(curve).rate, rel=0.05)


@pytest.mark.parametrize("seed", range(20))
def test_noise_moves_a_proposal_little(seed: int) -> None:
    """Noise of a twentieth of the descent."""
    without, found = proposed(losses()), proposed(noisy(losses(), seed, 0.15))
    assert without.rate / 3 < found.rate < 3 * without.rate


def test_a_higher_range_shifts_the_proposal_with_it() -> None:
    curve = losses()
    found, shifted = RangeCurve(RATES, curve).propose(), RangeCurve(10 * RATES, curve).propose()
    assert shifted.rate == pytest.approx(10 * found.rate, rel=0.05)
    assert shifted.steepest == pytest.approx(10 * found.steepest)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rises", [0.0, 0.5])
def test_a_loss_that_does_not_fall_proposes_nothing(seed: int, rises: float) -> None:
    with pytest.raises(
        NoDescentError, match=r"^no learning rate is proposed: the loss did not fall .*sweep.seeds=\[1,2,3\]$"
    ):
        proposed(noisy(5.0 + rises * RATES, seed, 0.3))


def test_a_constant_loss_and_a_short_one_propose_nothing() -> None:
    with pytest.raises(NoDescentError, match="did not fall"):
        proposed(np.full(300, 2.0))
    with pytest.raises(NoDescentError, match=f"{LEAST - 1} steps with a finite loss are no curve"):
        RangeCurve(RATES[: LEAST - 1], losses()[: LEAST - 1]).propose()
    with pytest.raises(NoDescentError, match="0 steps"):
        RangeCurve.mean([]).propose()


def test_a_loss_that_only_falls_does_not_diverge() -> None:
    assert proposed(losses(diverges=1e6)).diverges is None
    diverges = proposed(losses(diverges=0.03)).diverges
    assert diverges is not None
    assert 0.03 < diverges < 0.3


def test_the_middle_of_a_flat_bottom_counts() -> None:
    """Its minimum is anywhere in it."""
    found = [proposed(noisy(losses(1e-4, 1.0), seed, 0.05)).lowest for seed in range(10)]
    assert max(found) < 1.5 * min(found)
    assert min(found) > 3e-3
    assert max(found) < 3e-2


def test_the_lag_of_the_average_is_taken_out() -> None:
    """The bottom of a symmetric valley is in its middle, whatever the smoothing."""
    valley = 5.0 + np.abs(np.log10(RATES) + 3.0)
    assert proposed(valley).lowest == pytest.approx(1e-3, rel=0.1)
    rates, averages = RangeCurve(RATES, valley).centred
    assert rates[np.argmin(averages)] == pytest.approx(1e-3, rel=0.35)
    assert len(rates) == len(averages) == len(RATES) - LAG


def test_the_average_is_corrected_for_its_start() -> None:
    assert RangeCurve(RATES[:5], np.full(5, 3.0)).smoothed.tolist() == pytest.approx([3.0] * 5)
    smoothed = RangeCurve(RATES[:2], np.array([1.0, 2.0])).smoothed
    assert smoothed.tolist() == pytest.approx([1.0, (0.9 * 0.1 + 0.1 * 2) / (1 - 0.81)])


class TestMean:
    def test_it_goes_as_far_as_all_are_finite(self) -> None:
        rates = [1.0, 2.0, 3.0, 4.0]
        curve = RangeCurve.mean(
            [(rates, [1.0, 2.0, 3.0, math.nan]), (rates[:2], [3.0, 4.0]), (rates, [5.0, 9.0, 1.0, 1.0])]
        )
        assert curve.rates.tolist() == [1.0, 2.0]
        assert curve.losses.tolist() == [3.0, 5.0]
        assert curve.runs == 3

    def test_seeds_reduce_the_noise(self) -> None:
        runs = [(RATES.tolist(), noisy(losses(), seed, 0.5).tolist()) for seed in range(9)]
        assert RangeCurve.mean(runs).noise < 0.5 * RangeCurve.mean(runs[:1]).noise

    @pytest.mark.parametrize("rates", [[1.0, 2.0, 2.0], [1.0, 3.0, 2.0], [0.0, 1.0, 2.0], [1.0, 2.0, 3.5]])
    def test_other_rates_are_refused(self, rates: list[float]) -> None:
        with pytest.raises(DataError, match="are not those of one range test"):
            RangeCurve.mean([(rates, [1.0] * 3), ([1.0, 2.0, 3.0], [1.0] * 3)])


@pytest.mark.parametrize(
    ("rate", "text"), [(3e-3, "3e-3"), (0.00254, "2.5e-3"), (1.0, "1e0"), (9.96e-5, "1e-4"), (20, "2e1")]
)
def test_a_rate_is_written_as_on_a_command_line(rate: float, text: str) -> None:
    assert written(rate) == text
    assert float(text) == two_digits(rate)
