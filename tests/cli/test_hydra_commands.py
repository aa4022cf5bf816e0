"""Options of Hydra: read among overrides, refused where they are unknown, exclude each other or are not for etude."""

from __future__ import annotations

import pytest

from etude.cli.hydra_commands import read_options
from etude.errors import ConfigurationError


def test_overrides_stand_before_and_after_options() -> None:
    options = read_options(["seed=1", "--cfg", "job", "--resolve", "model.width=8", "--config-dir", "mine"])
    assert options.overrides == ["seed=1", "model.width=8"]
    assert (options.cfg, options.resolve, options.config_dir, options.multirun) == ("job", True, "mine", False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cfg", "job", "-m"], "--multirun and --cfg exclude each other|--cfg and --multirun exclude each other"),
        (["--resolve"], "--resolve belongs to --cfg job"),
        (["--config-path", "conf"], "add a folder with --config-dir"),
        (["--no-such-option"], "--no-such-option"),
        (["--cfg", "everything"], "everything"),
    ],
)
def test_what_cannot_be_asked_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        read_options(words)
    assert "\n" not in str(refused.value)
