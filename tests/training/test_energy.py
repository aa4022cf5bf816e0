"""Energy is read from counters that wrap around, over continuations; an estimate is labelled as one."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.training.callbacks.cost_meter import LARGEST, Meter, Spent
from etude.training.cost import energy
from etude.training.energy import Nvml, Rapl

RANGE = 1000


def zone(powercap: Path, folder: str, name: str, value: int) -> Path:
    """Write a RAPL zone as Linux shows it."""
    place = powercap / folder
    place.mkdir(parents=True)
    (place / "name").write_text(f"{name}\n")
    (place / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (place / "energy_uj").write_text(f"{value}\n")
    return place


@given(used=st.lists(st.integers(0, RANGE - 1), max_size=20), start=st.integers(0, RANGE - 1))
def test_a_counter_that_wraps_around_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, used: list[int], start: int
) -> None:
    package = zone(tmp_path_factory.mktemp("powercap"), "intel-rapl:0", "package-0", start)
    rapl, total = Rapl([package]), start
    for joules in used:
        total += joules
        (package / "energy_uj").write_text(f"{total % RANGE}\n")
        assert rapl.joules() == pytest.approx((total - start) * 1e-6)
    assert rapl.joules() == pytest.approx(sum(used) * 1e-6)


def test_packages_and_memory_are_counted_and_nothing_twice(tmp_path: Path) -> None:
    counted = [
        zone(tmp_path, "intel-rapl:0", "package-0", 0),
        zone(tmp_path, "intel-rapl:1", "package-1-die-0", 0),
        zone(tmp_path, "intel-rapl:0:2", "dram", 0),
    ]
    others = [
        zone(tmp_path, "intel-rapl:0:0", "core", 0),
        zone(tmp_path, "intel-rapl:0:1", "uncore", 0),
        zone(tmp_path, "intel-rapl:2", "psys", 0),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0),
    ]
    (tmp_path / "intel-rapl").mkdir()
    rapl = Rapl.find(tmp_path)
    assert rapl is not None
    for number, place in enumerate([*counted, *others]):
        (place / "energy_uj").write_text(str(10**number))
    assert rapl.joules() == pytest.approx(111e-6)


def test_without_a_readable_counter_nothing_is_measured(tmp_path: Path) -> None:
    assert Rapl.find(tmp_path / "nowhere") is None
    assert Rapl.find(tmp_path) is None
    hidden = zone(tmp_path, "intel-rapl:0", "package-0", 0) / "energy_uj"
    hidden.unlink()
    hidden.mkdir()  # unreadable even for root
    assert Rapl.find(tmp_path) is None


def test_a_counter_that_vanishes_keeps_its_value(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 5)
    rapl = Rapl([package])
    (package / "energy_uj").write_text("9")
    assert rapl.joules() == pytest.approx(4e-6)
    (package / "energy_uj").unlink()
    assert rapl.joules() == pytest.approx(4e-6)


def test_a_gpu_is_addressed_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = {"GPU-abc": 5000}
    library = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetTotalEnergyConsumption=counters.__getitem__,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    nvml = Nvml.find(torch.device("cuda", 0))
    assert nvml is not None
    counters["GPU-abc"] += 2500
    assert nvml.joules() == 2.5
    assert Nvml.find(torch.device("cpu")) is None
    counters.clear()  # like a GPU without a counter
    assert Nvml.find(torch.device("cuda", 0)) is None


def test_an_estimate_is_labelled_with_its_basis() -> None:
    measured = energy(Spent(cpu_seconds=50, cpu_joules=400, gpu_joules=100), watts_per_core=12)
    assert (measured["energy_joules"], measured["energy_estimated"]) == (500, False)
    estimated = energy(Spent(cpu_seconds=50, unmetered_cpu_seconds=50), watts_per_core=8)
    assert (estimated["energy_joules"], estimated["energy_estimated"]) == (400, True)
    assert "8 W (trainer.watts_per_core)" in estimated["energy_is"]
    both = energy(Spent(cpu_joules=400, unmetered_cpu_seconds=10, unmetered_gpu_seconds=7), watts_per_core=10)
    assert (both["energy_joules"], both["energy_estimated_joules"]) == (500, 100)
    assert both["energy_is"].startswith("RAPL")
    assert "not measured: 7 GPU seconds" in both["energy_is"]


def test_costs_add_up_except_memory_which_is_the_maximum() -> None:
    first, second = Spent(*range(1, 11)), Spent(*range(10, 0, -1))
    total = first + second
    assert total == second + first
    for name in Spent.__dataclass_fields__:
        pair = getattr(first, name), getattr(second, name)
        assert getattr(total, name) == (max(pair) if name in LARGEST else sum(pair))


def test_a_continued_meter_starts_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    monkeypatch.setattr("etude.training.energy.Rapl.find", lambda: Rapl([package]))
    trainer: Any = SimpleNamespace(local_rank=0, is_global_zero=True)
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    saved: dict[str, Any] = Spent(seconds=100, cpu_seconds=30, cpu_joules=7).__dict__
    meter = Meter()
    meter.load_state_dict(saved)
    meter.on_fit_start(trainer, module)
    (package / "energy_uj").write_text("900")
    spent = meter.spent()
    assert 100 < spent.seconds < 160
    assert spent.cpu_seconds >= 30
    assert spent.cpu_joules == pytest.approx(7 + 900e-6)
    assert spent.unmetered_cpu_seconds == 0
    again = Meter()
    again.load_state_dict(meter.state_dict())
    assert again.spent().cpu_joules == pytest.approx(spent.cpu_joules)
