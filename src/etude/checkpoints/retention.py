"""Retention of checkpoints: the newest, so that a broken one can be skipped, the best, and milestones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from etude.atomic import replace_link, storage_errors
from etude.checkpoints.checkpoint import remove
from etude.checkpoints.integrity import CheckpointBrokenError, checkpoint_folder, checkpoints, read_manifest

LINKS = ("last", "best")


class Saved(NamedTuple):
    """A checkpoint: its step, and the score of its validation if it has one."""

    step: int
    score: float | None = None


@dataclass(frozen=True)
class Retention:
    """Numbers of checkpoints to keep. The rules of the configuration check them (`etude.config.rules`).

    Attributes:
        keep_last: Number of the newest, at least 2, since one may turn out to be broken.
        keep_best: Number of those with the best scores; of equal scores the earlier is better.
        mode: `min` if low scores are good, `max` if high ones are.
        keep_every: Steps between milestones, counted from the start of the run; None: no milestones.
        keep_scored: Number of the newest among those that have a score.
    """

    keep_last: int = 2
    keep_best: int = 1
    mode: Literal["min", "max"] = "min"
    keep_every: int | None = None
    keep_scored: int = 0

    def is_milestone(self, step: int) -> bool:
        """Return whether a checkpoint of this step is written and kept in any case."""
        return self.keep_every is not None and step % self.keep_every == 0

    def ranked(self, saved: Sequence[Saved]) -> list[int]:
        """Return the steps that have a finite score, best first."""
        sign = 1 if self.mode == "min" else -1
        scored = [(sign * score, step) for step, score in saved if score is not None and math.isfinite(score)]
        return [step for _, step in sorted(scored)]

    def kept(self, saved: Sequence[Saved]) -> set[int]:
        """Return the steps whose checkpoints are kept."""
        newest = sorted(step for step, _ in saved)[-self.keep_last :]
        milestones = (step for step, _ in saved if self.is_milestone(step))
        scored = newest_scored(saved)[: self.keep_scored]
        return {*newest, *scored, *self.ranked(saved)[: self.keep_best], *milestones}

    def is_better(self, score: float, than: float) -> bool:
        """Return whether a finite score is strictly better than another."""
        return self.ranked([Saved(1, score), Saved(0, than)])[:1] == [1]

    def links(self, saved: Sequence[Saved]) -> dict[str, int]:
        """Return the steps that `last` and `best` point to; without a link that has no target."""
        last = [max(step for step, _ in saved)] if saved else []
        best = self.ranked(saved)[: self.keep_best]
        return {name: steps[0] for name, steps in {"last": last, "best": best}.items() if steps}


def newest_scored(saved: Sequence[Saved]) -> list[int]:
    """Return the steps that have a score, the newest first."""
    return sorted((step for step, score in saved if score is not None), reverse=True)


def saved_checkpoints(folder: Path, newest: int) -> list[Saved]:
    """Return the checkpoints in a folder, up to a step, that have a readable manifest; no other file is read."""
    saved = []
    for step, path in checkpoints(folder).items():
        if step <= newest:
            try:
                saved.append(Saved(step, read_manifest(path).score))
            except CheckpointBrokenError:
                continue  # neither counted nor removed: a person may want to look at it
    return saved


def apply(retention: Retention, folder: Path, newest: int) -> None:
    """Set the links `last` and `best` in a folder of checkpoints, then remove what is not kept.

    Args:
        retention: Numbers of checkpoints to keep.
        folder: Folder of checkpoints.
        newest: Step that was just saved. Later ones, which a run continued from an older checkpoint has not reached again,
            may be broken and do not count.

    Raises:
        StorageError: If a link cannot be written or a checkpoint cannot be removed.
    """
    saved = saved_checkpoints(folder, newest)
    links = retention.links(saved)
    for name in LINKS:
        if name in links:
            replace_link(folder / name, checkpoint_folder(folder, links[name]).name)
        else:
            with storage_errors(folder / name):
                (folder / name).unlink(missing_ok=True)
    for step in {step for step, _ in saved} - retention.kept(saved):
        remove(checkpoint_folder(folder, step))
