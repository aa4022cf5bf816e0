"""Watch over ranks that train together: one that hangs ends the training in one line that names it and its place.

An operation of several ranks waits for the last of them, and cannot tell which one that is. So each rank notes where it is
(see `etude.training.callbacks.rank_places`), and a thread of its own writes that, with the line of code that its main thread
is at, to the store through which the ranks found each other. Who has passed the fewest places is the one that is waited for.
The thread goes on while the main thread hangs, in whatever it hangs, unless that holds Python's lock.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch.distributed
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store

from etude.errors import EtudeError
from etude.training import launch

MARGIN = 30.0
"""Seconds by which operations of several ranks wait longer than the watch, which says more than they can."""

LIBRARIES = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
"""Folders of Python's and other libraries' code."""

_WAITING = ("torch/distributed/", "torch/autograd/graph.py")  # where a main thread waits for other ranks
_LONGEST_POLL = 5.0
_SHOWN = 4  # ranks that are listed by place
_LATE, _OVER = "late", "over"


class RankLostError(EtudeError):
    """Another rank of the same training is gone, and the process that knows the cause reports it; or it does not go on."""

    exit_code = launch.LOST


@contextmanager
def detecting_lost_ranks(run: Path) -> Iterator[None]:
    """Turn the error of an operation of several ranks, of which one is gone or has not come, into one line.

    Raises:
        RankLostError: If another rank is gone, or did not come in time.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise
        rank, reason = launch.global_rank(), str(error).partition("\n")[0]
        if any(words in reason.lower() for words in ("timed out", "timeout")):
            stack = reversed(list(traceback.walk_tb(error.__traceback__)))
            raise RankLostError(
                f"rank {rank} waited for another rank longer than trainer.timeout allows, in {own_line(stack)}; mend what "
                f"hangs, or write a longer trainer.timeout, and continue with: etude resume {run} ({reason})"
            ) from error
        raise RankLostError(
            f"rank {rank} lost another rank, which was ended or has failed; see what that one says; "
            f"continue with the same command ({run}; {reason})"
        ) from error


class RankPlace(NamedTuple):
    """Where a rank is.

    Attributes:
        passed: Number of places that it has passed.
        place: Words for the place, such as `in the forward pass of step 5`.
        code: Line of code that its main thread is at.
        waits: Whether its main thread is in an operation of several ranks.
    """

    passed: int = 0
    place: str = ""
    code: str = ""
    waits: bool = False


class RankWatch:
    """Ends a rank's process, and thereby the training, when it has not come to its next place for too long.

    Args:
        timeout: That time, in seconds.
        setting: The timeout as it is configured, for the message.
        run: Folder of the run.
    """

    def __init__(self, timeout: float, setting: str, run: Path) -> None:
        self.timeout = timeout
        self.setting = setting
        self.run = run
        self._poll = min(_LONGEST_POLL, timeout / 4)
        self._stopped, self._ending = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._main = threading.main_thread().ident
        self._passed = 0
        self._place = "at the start"
        self._moved = time.monotonic()

    def start(self) -> None:
        """Start the thread; the ranks have found each other before."""
        self._moved = time.monotonic()
        self._stopped.clear()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; does not return if the process is being ended, since what fails then is a consequence."""
        self._stopped.set()
        if self._thread is not None and self._ending.is_set():
            self._thread.join()

    def note(self, place: str) -> None:
        """Note that this rank has come to its next place; ranks pass the same places."""
        self._passed, self._place, self._moved = self._passed + 1, place, time.monotonic()

    @property
    def _is_late(self) -> bool:
        return time.monotonic() - self._moved > self.timeout

    def _watch(self) -> None:
        try:
            store = self._connect()
            while not self._stopped.wait(self._poll):
                self._look(store)
        except torch.distributed.DistError:
            return  # the process with the store has ended, which the operations of several ranks notice

    def _connect(self) -> Store:
        # A connection of its own: a main thread that hangs may hold the other one. Under torchrun a store outlives an attempt.
        connection = _get_default_store().clone()  # type: ignore[attr-defined]
        return PrefixStore(f"etude/watch/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", connection)

    def _look(self, store: Store) -> None:
        """Write where this rank is, and end it if it is late, or if another one that is has reported why."""
        store.set(f"{launch.global_rank()}", json.dumps(self._here()))
        if store.check([_OVER]):
            self._leave()
        if self._is_late and store.add(_LATE, 1) == 1:
            places = self._places(store)
            if self._is_late:
                self._end(store, places)
            store.delete_key(_LATE)

    def _here(self) -> RankPlace:
        """Return where this rank's main thread is."""
        frame = sys._current_frames().get(self._main or 0)
        code = own_line(traceback.walk_stack(frame)) if frame is not None else "no line"
        return RankPlace(self._passed, self._place, code, waits(frame))

    def _places(self, store: Store) -> dict[int, RankPlace]:
        """Return the places of all ranks, once each has had the time to write a new one."""
        time.sleep(2 * self._poll)
        own = launch.global_rank()
        places = {own: self._here()}
        for rank in range(torch.distributed.get_world_size()):
            if rank != own:
                places[rank] = RankPlace(*json.loads(store.get(f"{rank}"))) if store.check([f"{rank}"]) else RankPlace()
        return dict(sorted(places.items()))

    def _end(self, store: Store, places: Mapping[int, RankPlace]) -> None:
        """Report the error and end the process, as the others do then."""
        if self._stopped.is_set():
            return
        launch.report_error(RankLostError(explained(places, self.setting, self.run)))
        store.set(_OVER, "1")
        self._leave()

    def _leave(self) -> None:
        # Not before all know that it is over: of one that has gone they would say that it was lost.
        self._ending.set()
        time.sleep(2 * self._poll)
        os._exit(launch.LOST)


def explained(places: Mapping[int, RankPlace], setting: str, run: Path) -> str:
    """Return one line about ranks that wait for each other: which are late, where they are, and what to do.

    Args:
        places: Place of each rank.
        setting: The time that they have waited, as configured.
        run: Folder of the run.
    """
    late = late_ranks(places)
    waiting = [rank for rank in places if rank not in late]
    said = f"{_named(late)} of {len(places)} kept the others waiting" if waiting else "no rank has come further"
    where = "; ".join(_located(rank, places[rank]) for rank in [*late, *waiting][:_SHOWN])
    return (
        f"{said} for {setting} (trainer.timeout): {where}; mend what hangs there, or write a longer trainer.timeout, and "
        f"continue with: etude resume {run}"
    )


def late_ranks(places: Mapping[int, RankPlace]) -> list[int]:
    """Return the ranks that others wait for: those that passed the fewest places, or of equals those that do not wait."""
    fewest = min(place.passed for place in places.values())
    late = [rank for rank, place in places.items() if place.passed == fewest]
    if len(late) < len(places):
        return late
    return [rank for rank in late if not places[rank].waits] or late


def own_line(stack: Iterable[tuple[FrameType, int]]) -> str:
    """Return the innermost line outside of libraries, `function (file.py:12)`.

    Args:
        stack: Frames and their lines, the innermost first, as `traceback.walk_stack` yields them.
    """
    for frame, line in stack:
        if not _of_library(frame):
            return f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{line})"
    return "an unknown line"


def _of_library(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith((*LIBRARIES, "<"))


def waits(frame: FrameType | None) -> bool:
    """Return whether a stack is in an operation of several ranks, or in a backward pass, which has some at its end."""
    for inner, _ in traceback.walk_stack(frame) if frame is not None else ():
        if any(part in inner.f_code.co_filename for part in _WAITING):
            return True
        if not _of_library(inner):
            break
    return False


def _named(ranks: list[int]) -> str:
    listed = ", ".join(map(str, ranks[:_SHOWN])) + (f" and {len(ranks) - _SHOWN} more" if len(ranks) > _SHOWN else "")
    return f"rank {listed}" if len(ranks) == 1 else f"ranks {listed}"


def _located(rank: int, place: RankPlace) -> str:
    if not place.place:
        return f"rank {rank} has told nothing"
    verb = "waits" if place.waits else "is"
    return f"rank {rank} {verb} {place.place}, in {place.code}"
