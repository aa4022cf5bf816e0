"""What a run has cost, for people."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from etude.report.cost_rows import cost_rows, joules
from etude.runs.documents import Cost, Parameters

CPU = Cost(
    parameters=Parameters(total=9, trainable=9),
    steps=8,
    tokens=5000,
    flops=1_234_560_000_000_000,
    flops_are="counted",
    model_flops_utilisation=0.4567,
    peak_flops=2e11,
    peak_is="measured",
    seconds=3600.0,
    validation_seconds=75.0,
    cpu_seconds=7200.0,
    gpu_seconds=0.0,
    peak_memory_mb=1300.0,
    peak_gpu_memory_mb=0.0,
    energy_joules=86400.0,
    energy_estimated=True,
    energy_estimated_joules=86400.0,
    energy_is="estimated",
)


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5 J"), (999.0, "999 J"), (1000.0, "1 kJ"), (86400.0, "86.4 kJ"), (2.5e6, "2.5 MJ")]
)
def test_an_energy_has_the_unit_of_its_size(value: float, text: str) -> None:
    assert joules(value) == text


def test_rows_of_a_cpu_say_nothing_of_gpus() -> None:
    rows = dict(cost_rows(CPU))
    assert rows["FLOPs of training"] == "1.235e+15"
    assert rows["Model FLOPs utilisation"].startswith("0.457 of ")
    assert rows["Model FLOPs utilisation"].endswith(", measured")
    assert rows["Energy"] == "86.4 kJ (estimated)"
    assert not any("GPU" in name for name in rows)


def test_what_is_not_known_is_said_or_left_out() -> None:
    rows = dict(cost_rows(replace(CPU, flops=None, model_flops_utilisation=None, gpu_seconds=60.0)))
    assert rows["FLOPs of training"] == "not known"
    assert "Model FLOPs utilisation" not in rows
    assert {"GPU time", "Largest memory of a GPU"} <= rows.keys()
