"""Imported by the server that forks: no forked process need do again what was done here. Nothing here starts a thread."""

from __future__ import annotations

from etude.cli import hydra_commands as hydra_commands
from etude.commands import train as train
from etude.config.compose import compose

for task in ("translation", "masked_lm", "causal_lm", "classification", "token_classification"):
    compose(f"experiment={task}/demo")
