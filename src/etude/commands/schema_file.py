"""`etude schema`: the JSON Schema of experiments, by which an editor completes and checks them."""

from __future__ import annotations

import json
from pathlib import Path

from etude.config.experiment_schema import ExperimentSchema


def schema_text(extra: Path | None = None) -> str:
    """Return the JSON Schema of a file in `conf/experiment/` as text.

    Args:
        extra: A folder of the user's own configuration groups, whose choices and keys are then known too.

    Raises:
        ConfigurationError: If it is no folder, or a file in it cannot be composed.
    """
    return json.dumps(ExperimentSchema(extra).schema(), indent=1, ensure_ascii=False) + "\n"
