"""What may follow `etude sweep`."""

from __future__ import annotations

import pytest

from etude.cli.command_table import COMMANDS
from etude.cli.sweep_commands import run_on_sweeps, usage
from etude.errors import ConfigurationError


@pytest.mark.parametrize("kind", ["status", "stop", "resume"])
def test_usage_says_what_is_typed(kind: str) -> None:
    text = usage(kind)
    assert f"usage: etude sweep {kind} SWEEP" in text
    assert ("[key=value…]" in text) == (kind == "resume")


@pytest.mark.parametrize("kind", ["status", "stop", "resume"])
def test_each_needs_one_sweep(kind: str) -> None:
    with pytest.raises(ConfigurationError, match=f"etude sweep {kind} takes one sweep"):
        run_on_sweeps(COMMANDS["sweep"], [kind, "paths.outputs=x"])


def test_all_kinds_are_of_the_table() -> None:
    assert set(COMMANDS["sweep"].kinds) == {"status", "stop", "resume", "wandb"}
