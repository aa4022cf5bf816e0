"""Durations of training, written with their unit: `20000step`, `10epoch`, `300Mtok`, `30min`.

Epochs and tokens are converted to steps before a run starts, exactly, because the plan cuts every epoch into the same
number of steps of equal cost. Durations in seconds cannot be converted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from etude.errors import ConfigurationError

UNITS = {
    "step": "step",
    "steps": "step",
    "epoch": "epoch",
    "epochs": "epoch",
    "tok": "token",
    "token": "token",
    "tokens": "token",
    "s": "second",
    "sec": "second",
    "min": "minute",
    "h": "hour",
}
SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
_NUMBER_AND_UNIT = re.compile(r"(\d+(?:\.\d+)?)\s*(.*)")


@dataclass(frozen=True)
class Duration:
    """A length of training with its unit.

    Attributes:
        amount: Number of units.
        unit: `step`, `epoch`, `token` or `second`.
    """

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Return the duration that a text such as `20000step`, `1.5epoch`, `300Mtok`, `90s`, `30min` or `2h` states.

        Raises:
            ConfigurationError: If the number or the unit is missing or unknown.
        """
        match = _NUMBER_AND_UNIT.fullmatch(str(text).strip())
        if match:
            amount, suffix = float(match[1]), match[2]
            for scale, factor in SCALES.items():
                unit = UNITS.get(suffix[len(scale) :]) if suffix.startswith(scale) else None
                if unit in SECONDS and not scale:
                    return cls(amount * SECONDS[unit], "second")
                if unit is not None and unit not in SECONDS:
                    return cls(amount * factor, unit)
        raise ConfigurationError(
            f"{text!r} is not a duration; write a number and a unit: 20000step, 10epoch, 300Mtok, 90s, 30min or 2h"
        )

    def __str__(self) -> str:
        return f"{self.amount:g}{ {'token': 'tok', 'second': 's'}.get(self.unit, self.unit) }"


@dataclass(frozen=True)
class Clock:
    """Conversion of durations to steps, for one plan.

    Attributes:
        steps_per_epoch: Optimizer updates in each epoch.
        tokens_per_step: Mean real tokens of a global batch.
    """

    steps_per_epoch: int
    tokens_per_step: float

    def steps(self, duration: Duration) -> int | None:
        """Return a duration in steps, at least one unless it is zero; None if it is in seconds."""
        if duration.unit == "second":
            return None
        per_unit = {"step": 1.0, "epoch": float(self.steps_per_epoch), "token": 1 / self.tokens_per_step}
        return max(int(duration.amount > 0), round(duration.amount * per_unit[duration.unit]))
