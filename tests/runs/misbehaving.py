"""Callbacks of ranks that do something else than the others, and of ranks that tell what they do."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

CHANGES = frozenset(f"os.{name}" for name in ("rename", "remove", "mkdir", "rmdir", "link", "symlink", "truncate"))


class HangingRank(Callback):
    """Hangs one rank for ever at one of the places of a step, or of the validation after it.

    Args:
        rank: The rank.
        step: The number of the step.
        place: Name of the hook.
    """

    def __init__(self, rank: int, step: int, place: str) -> None:
        self.rank = rank
        self.step = step
        setattr(self, place, self.hang)

    def hang(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        if trainer.global_rank == self.rank and trainer.global_step + 1 == self.step:
            while True:
                time.sleep(60)


class UnequalKeys(Callback):
    """Logs a key on some ranks only.

    Args:
        name: The key.
        ranks: The ranks.
        hook: In which hook it is logged.
        reduced: Whether its value is reduced over ranks.
        meant: Whether it is logged as a key of the first rank alone.
        at_once: Whether it is a value of the step, which is reduced when it is logged.
    """

    def __init__(
        self,
        name: str,
        ranks: list[int],
        hook: str,
        reduced: bool = False,
        meant: bool = False,
        at_once: bool = False,
    ) -> None:
        self.name = name
        self.ranks = ranks
        self.reduced = reduced
        self.at_once = at_once
        self.meant = meant
        setattr(self, hook, self.tell)

    def tell(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any, **__: Any) -> None:
        if trainer.global_rank in self.ranks:
            module.log(
                self.name,
                1.0,
                on_step=self.at_once,
                on_epoch=not self.at_once,
                sync_dist=self.reduced,
                rank_zero_only=self.meant,
            )


def note_changed_files(notes: Path) -> None:
    """From now on, note each file that this process, or one that it forks, writes, renames or removes: `RANK PATH`."""
    descriptor = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes or event in CHANGES) and isinstance(arguments[0], str | bytes | os.PathLike):
            line = f"{os.environ.get('RANK', 'command')} {os.fsdecode(arguments[0])}\n"
            os.write(descriptor, line.encode())

    sys.addaudithook(hear)


class DiesOnce(Callback):
    """Kills one rank after a step, the first time that it comes there.

    Args:
        rank: The rank.
        step: The number of the step.
        marker: A file that says that it has died.
    """

    def __init__(self, rank: int, step: int, marker: str) -> None:
        self.rank = rank
        self.step = step
        self.marker = Path(marker)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
