"""The launcher that Hydra's configuration names, as one that runs members."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from etude.errors import ConfigurationError
from etude.sweeps.launchers.base import MemberLauncher
from etude.sweeps.launchers.local import LocalLauncher
from etude.sweeps.launchers.ray import RayLauncher
from etude.sweeps.launchers.slurm import SubmititLauncher

LAUNCHERS: Mapping[str, Callable[..., MemberLauncher]] = {
    "hydra_plugins.etude_sweeps.LocalMembers": LocalLauncher,
    "hydra_plugins.etude_sweeps.RayMembers": RayLauncher,
    "hydra_plugins.etude_sweeps.SlurmMembers": partial(SubmititLauncher, "slurm"),
    "hydra_plugins.etude_sweeps.LocalJobs": partial(SubmititLauncher, "local"),
    # Hydra's plugin, where it is installed, gives its own configuration under the same names.
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": partial(SubmititLauncher, "slurm"),
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher": partial(SubmititLauncher, "local"),
}
"""Launchers of members by the class of the plugin that `hydra/launcher=…` chooses."""

TARGET = "_target_"


def runs_members(launcher: Mapping[str, Any]) -> bool:
    """Return whether a launcher runs the members of a sweep that can be continued."""
    return launcher.get(TARGET) in LAUNCHERS


def open_launcher(launcher: Mapping[str, Any]) -> MemberLauncher:
    """Return a launcher.

    Args:
        launcher: Hydra's configuration of it.

    Raises:
        ConfigurationError: If it is one of Hydra's that only starts jobs, or cannot be had.
    """
    target = str(launcher.get(TARGET))
    if target not in LAUNCHERS:
        raise ConfigurationError(
            f"hydra/launcher is {target}, which starts jobs and does not say how they end; write hydra/launcher=local, or use it "
            "with etude train -m"
        )
    return LAUNCHERS[target](**{name: value for name, value in launcher.items() if name != TARGET})
