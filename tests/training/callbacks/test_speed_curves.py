"""Curves of speed: padding and operations of any steps are those of their examples, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from etude.config.compose import compose
from etude.training.build import Experiment, build
from etude.training.callbacks.speed_curves import GPU_MEMORY, MEMORY, PADDING, UTILISATION, SpeedCurves
from etude.training.cost import training_flops

WORDS = [
    *(
        "experiment=classification/demo",
        "logger=none",
        "trainer=cpu",
        "trainer.progress_bar=false",
        "model.width=16",
        "model.heads=2",
    ),
    *(
        "model.feed_forward=24",
        "model.layers=1",
        "limit.train=203",
        "limit.val=23",
        "limit.test=19",
        "batch.examples=13",
    ),
    *("batch.tokens=null", "scheduler.warmup=3step"),
]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return build(compose(*WORDS, f"paths.cache={tmp_path_factory.mktemp('cache')}"))


def curves(experiment: Experiment, slices: int, peak: float | None) -> SpeedCurves:
    made = SpeedCurves(experiment.task, experiment.data, "32-true", slices)
    examples = experiment.data.splits["train"]
    flops = experiment.task.training_flops(examples.lengths, examples.counts)
    assert flops is not None
    made._example_flops, made._peak = flops.astype(np.float64), peak
    return made


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize(("first", "last"), [(0, 1), (2, 7), (10, 40)])  # the last ones span three epochs
def test_any_steps_are_measured_as_their_examples_are(
    experiment: Experiment, slices: int, first: int, last: int
) -> None:
    data = experiment.data
    measured = curves(experiment, slices, 1e9).values(first, last, 2.0)
    whole = [training_flops(experiment.task, data, step) for step in (first, last)]
    assert whole[0] is not None and whole[1] is not None
    assert measured[UTILISATION] == pytest.approx((whole[1] - whole[0]) / 2.0 / 1e9)
    lengths, real, padded = data.splits["train"].lengths, 0, 0
    for step in range(first, last):
        epoch, place = divmod(step, data.clock.steps_per_epoch)
        for part in range(slices):
            rows = lengths[data.plan(epoch).examples(place, micro_batch=part, micro_batches=slices)]
            real, padded = real + rows.sum(), padded + len(rows) * max(rows)
    assert measured[PADDING] == pytest.approx(1 - real / padded)
    assert 0 <= measured[PADDING] < 1
    assert measured[MEMORY] > 10
    assert GPU_MEMORY not in measured


def test_what_is_not_known_is_not_recorded(experiment: Experiment) -> None:
    assert set(curves(experiment, 1, None).values(0, 3, 2.0)) == {MEMORY, PADDING}
    assert set(curves(experiment, 1, 1e9).values(3, 3, 0.0)) == {MEMORY}
