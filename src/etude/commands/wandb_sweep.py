"""`etude sweep wandb`: a sweep as the file that `wandb sweep` takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etude.commands.sweep import check_members
from etude.sweeps.sweep_plan import read_plan
from etude.sweeps.wandb_sweeps import as_yaml


def wandb_sweep(words: Sequence[str], extra: Path | None = None) -> str:
    """Return the file that `wandb sweep` takes for the sweep that the words describe, whose members are checked first.

    Args:
        words: As after `etude sweep`: `search=NAME`, keys with one value, and keys that are swept over.
        extra: A folder of the user's own configuration groups.

    Raises:
        ConfigurationError: If a member's configuration does not fit, or W&B cannot do what the sweep does.
    """
    plan = read_plan(words, extra)
    return as_yaml(plan, check_members(plan)[0])
