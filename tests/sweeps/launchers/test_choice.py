"""Every choice of hydra/launcher that runs members opens its launcher, with the keys of its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from etude.errors import ConfigurationError
from etude.sweeps.launchers.base import MemberLauncher
from etude.sweeps.launchers.choice import open_launcher, runs_members
from etude.sweeps.launchers.local import LocalLauncher
from etude.sweeps.launchers.ray import RayLauncher
from etude.sweeps.launchers.slurm import SubmititLauncher
from etude.sweeps.sweep_plan import read_plan
from tests.sweeps.launchers.pretended_slurm import install


def launcher(*words: str) -> Mapping[str, Any]:
    """Hydra's configuration of a launcher, as a sweep reads it."""
    return read_plan(["seed=1,2", *words]).launcher


@pytest.mark.parametrize(
    ("words", "kind", "slots"),
    [
        (["hydra.launcher.slots=3"], LocalLauncher, 3),
        (["hydra/launcher=local", "hydra.launcher.slots=2"], LocalLauncher, 2),
        (["hydra/launcher=submitit_local"], SubmititLauncher, 1),
        (["hydra/launcher=submitit_slurm", "hydra.launcher.array_parallelism=5"], SubmititLauncher, 5),
        (["hydra/launcher=submitit_slurm", "hydra.launcher.slots=4"], SubmititLauncher, 4),
    ],
)
def test_a_choice_opens_its_launcher(
    words: list[str], kind: type[MemberLauncher], slots: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", install(tmp_path)["PATH"])
    configuration = launcher(*words)
    assert runs_members(configuration)
    opened = open_launcher(configuration)
    try:
        assert type(opened) is kind
        assert opened.slots == slots
    finally:
        opened.close()


def test_ray_is_opened_with_the_keys_of_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(RayLauncher, "__init__", lambda self, **keys: given.update(keys))
    opened = open_launcher(launcher("hydra/launcher=ray", "hydra.launcher.address=auto", "hydra.launcher.gpus=0.5"))
    assert type(opened) is RayLauncher
    assert given == {"address": "auto", "cpus": 1, "gpus": 0.5, "slots": None, "shared": None}


@pytest.mark.parametrize("name", ["SlurmLauncher", "LocalLauncher"])
def test_the_configuration_of_hydras_plugin_is_taken_too(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", install(tmp_path)["PATH"])
    target = f"hydra_plugins.hydra_submitit_launcher.submitit_launcher.{name}"
    opened = open_launcher({"_target_": target, "submitit_folder": str(tmp_path), "timeout_min": 60, "nodes": 1})
    assert type(opened) is SubmititLauncher


def test_a_launcher_that_only_starts_jobs_is_refused() -> None:
    configuration = launcher("hydra/launcher=basic")
    assert not runs_members(configuration)
    with pytest.raises(ConfigurationError, match="hydra/launcher=local"):
        open_launcher(configuration)
