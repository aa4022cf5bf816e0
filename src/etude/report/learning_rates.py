"""What a sweep of range tests has found: a proposal for `optimizer.lr`, as a file and as a page with the curve."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import etude
from etude.atomic import write_json, write_text
from etude.report.charts import Scale, path_through
from etude.report.range_curve import LAG, NoDescentError, Proposal, RangeCurve, written
from etude.report.sweep_charts import WIDE, Line, Mark, Plot
from etude.report.templates import environment
from etude.runs.record import RECORD, read
from etude.sweeps.saved_sweep import SavedMember, SavedSweep
from etude.sweeps.space import setting
from etude.sweeps.sweep_results import SweepResults, TrialResult

LEARNING_RATES = "learning_rates"
"""Name of the file and of the page in the sweep's folder, without their endings."""

RANGE_TEST = "etude.optim.schedules.RangeTest"
LOSS, RATE = "train/loss", "train/learning_rate"


@dataclass(frozen=True)
class FoundRate:
    """What the range tests of one trial have found.

    Attributes:
        words: Values of the sweep's parameters, as on a command line; empty where nothing varies.
        curve: The mean curve over seeds.
        proposal: The proposal; None: there is none.
        refusal: Why there is none, in one line; empty if there is one.
        plot: The curve, drawn; None if it is too short for that.
    """

    words: str
    curve: RangeCurve
    proposal: Proposal | None
    refusal: str
    plot: Plot | None

    @property
    def line(self) -> str:
        """The proposal in one line, or why there is none."""
        where = f" ({self.words})" if self.words else ""
        if self.proposal is None:
            return f"{self.refusal}{where}"
        diverges = self.proposal.diverges
        end = (
            "the loss does not diverge, a higher optimizer.lr goes further"
            if diverges is None
            else f"the loss diverges above {written(diverges)}"
        )
        return f"proposed{where}: optimizer.lr={written(self.proposal.rate)} ({self.proposal.why}; {end})"

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "words": self.words,
            "runs": self.curve.runs,
            "proposal": None if self.proposal is None else asdict(self.proposal),
            "refusal": self.refusal,
            "rates": self.curve.rates.tolist(),
            "losses": self.curve.losses.tolist(),
            "smoothed": self.curve.smoothed.tolist(),
        }


@dataclass(frozen=True)
class LearningRates:
    """What a sweep of range tests has found.

    Attributes:
        page: The page with the curves.
        found: What each trial has found, in the order of the trials.
    """

    page: Path
    found: list[FoundRate]

    @property
    def proposes(self) -> bool:
        """Whether any trial has a proposal."""
        return any(one.proposal is not None for one in self.found)


def is_range_test(sweep: SavedSweep) -> bool:
    """Return whether a member of the sweep that came to its end is a range test."""
    return any(_tests(member) for member in sweep.finished)


def write_learning_rates(sweep: SavedSweep) -> LearningRates:
    """Read the curves of a sweep's range tests, and write what they propose into its folder.

    Trials are judged apart, the seeds of a trial by their mean curve.

    Raises:
        BrokenFileError: If a record is damaged.
        DataError: If the seeds of a trial do not have the same learning rates.
        StorageError: If a file cannot be written.
    """
    trials = sorted(SweepResults.read(sweep).trials, key=lambda trial: trial.number)
    found = [_find(trial) for trial in trials if any(map(_tests, trial.ended))]
    write_json(sweep.path / f"{LEARNING_RATES}.json", {"trials": [one.plain() for one in found]})
    page = sweep.path / f"{LEARNING_RATES}.html"
    template = environment().get_template("learning_rates.html.jinja")
    document = sweep.document
    folder = [] if document.extra is None else ["--config-dir", document.extra]
    command = shlex.join(["etude", "sweep", *folder, *document.command])
    write_text(
        page, template.render(sweep=sweep, found=found, command=command, version=etude.__version__, written=written)
    )
    return LearningRates(page, found)


def _tests(member: SavedMember) -> bool:
    return (member.document.config.get("scheduler") or {}).get("_target_") == RANGE_TEST


def _find(trial: TrialResult) -> FoundRate:
    words = " ".join(f"{name}={setting(value)}" for name, value in trial.assignment.items())
    curve = RangeCurve.mean([_curve(member) for member in trial.ended if _tests(member)])
    try:
        proposal, refusal = curve.propose(), ""
    except NoDescentError as error:
        proposal, refusal = None, str(error)
    return FoundRate(words, curve, proposal, refusal, draw(curve, proposal) if len(curve.rates) > LAG + 1 else None)


def _curve(member: SavedMember) -> tuple[list[float], list[float]]:
    events = [event.values for event in read(member.path / RECORD) if LOSS in event.values and RATE in event.values]
    return [values[RATE] for values in events], [values[LOSS] for values in events]


def draw(curve: RangeCurve, proposal: Proposal | None) -> Plot:
    """Draw the losses of a curve, the smoothed ones, and what is proposed, over the logarithm of the rate.

    Losses far above the start run along the upper edge: those of thousands, as they are where it diverges, would flatten the
    descent.

    Args:
        curve: The curve, of at least `LAG` + 2 points.
        proposal: What it proposes; None: nothing.
    """
    frame, losses = WIDE, curve.losses
    low, top = float(losses.min()), float(losses[: max(3, len(losses) // 10)].max())
    high = min(float(losses.max()), top + 0.5 * (top - low))
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    first, last = np.log10(curve.rates[[0, -1]]).tolist()
    across = Scale(first, last, frame.left, frame.right, logarithmic=True)
    scale = Scale(low - room, high + room, frame.bottom, frame.top)
    rates, averages = curve.centred
    lines = [
        Line(path_through(across(curve.rates), scale(np.minimum(losses, high))), "loss of each step", "finished"),
        Line(path_through(across(rates), scale(np.minimum(averages, high))), "smoothed loss", "leader"),
    ]
    marks = []
    for rate, text, kind in _readings(proposal):
        at = float(np.clip(across(np.array([rate]))[0], frame.left, frame.right))
        height = float(np.interp(np.log(rate), np.log(rates), averages))
        marks.append(Mark(at, float(scale(np.array([min(height, high)]))[0]), f"{text}: {written(rate)}", kind))
        if kind == "best":
            lines.append(Line(f"M{at:.1f} {frame.top}L{at:.1f} {frame.bottom}", f"{text}: {written(rate)}", kind))
    return Plot(frame, across.ticks(8), scale.ticks(6), "", lines, marks)


def _readings(proposal: Proposal | None) -> list[tuple[float, str, str]]:
    """Return the rates that are marked, what each is, and its class in the style sheet."""
    if proposal is None:
        return []
    readings = [
        (proposal.steepest, "steepest descent", "finished"),
        (proposal.lowest, "least loss", "finished"),
        (proposal.rate, "proposed", "best"),
    ]
    return readings if proposal.diverges is None else [(proposal.diverges, "divergence", "pruned"), *readings]
