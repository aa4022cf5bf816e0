"""Evaluations that were asked for with settings other than the run's own: each has a name, and so files, for itself.

What `etude compare` holds against other runs is the evaluation that a run's configuration describes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.runs.folder import changes, within
from etude.runs.stored import stored_configuration
from etude.training.restore import find_checkpoint

SAME_RESULTS = ("batch", "trainer", "paths")
"""Keys, with all below them, that change no result; but `PRECISION`."""

PRECISION = "trainer.precision"
METRICS = "task.metrics"
_PLAIN = re.compile(r"[\w.+-]{1,40}")
_LONGEST = 120


def other_settings(run: Path, values: Mapping[str, Any], changed: Mapping[str, Any], which: str) -> dict[str, Any]:
    """Return what was asked of an evaluation that gives other results than the run's own: a part of what was asked.

    Args:
        run: The run's folder.
        values: Its configuration, with what was asked.
        changed: What was asked: dotted keys and values. A metric that is added changes none of the others.
        which: The checkpoint that was asked for.
    """
    own = stored_configuration(run)
    metrics = own["task"].get("metrics") or {}
    different = [
        key
        for key in changes(own, values)
        if key == PRECISION or not (within(key, SAME_RESULTS) or _added(key, metrics))
    ]
    asked = {key: value for key, value in changed.items() if any(within(one, (key,)) for one in different)}
    if find_checkpoint(run, which) != find_checkpoint(run, "best"):
        asked["checkpoint"] = which
    return asked


def named(name: str, settings: Mapping[str, Any]) -> str:
    """Return the name of an evaluation with such settings: `test-decoding.beams=1`. Values that are long are told by a hash."""
    full = "".join([name, *(f"-{key}={_short(value)}" for key, value in sorted(settings.items()))])
    return full if len(full) <= _LONGEST else f"{name}-{_hash(dict(settings))}"


def _added(key: str, metrics: Mapping[str, Any]) -> bool:
    return within(key, (METRICS,)) and not within(key, [f"{METRICS}.{name}" for name in metrics])


def _short(value: Any) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else _hash(value)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]
