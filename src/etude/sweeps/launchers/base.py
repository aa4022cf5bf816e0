"""What a sweep asks of a launcher: to start members, to say which have ended, and to pass a signal on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

LOG = "log.txt"
"""File in a member's folder that takes what it writes on its standard streams."""

PRUNING = "ETUDE_PRUNING"
"""Variable that is 1 in a member that waits after each validation for the word of its sweep."""


@dataclass(frozen=True)
class Job:
    """A member that is to run.

    Attributes:
        number: Its number.
        folder: Its run's folder, absolute.
        values: Its configuration as plain values.
        overrides: The words that the configuration records.
        trust: Packages that the person trusts.
        devices: Devices that it takes on one machine.
        threads: Threads that compute in each of its processes.
        prunes: Whether it waits after each validation for the word of its sweep.
    """

    number: int
    folder: Path
    values: Mapping[str, Any]
    overrides: tuple[str, ...]
    trust: tuple[str, ...]
    devices: int
    threads: int
    prunes: bool

    def plain(self) -> dict[str, Any]:
        """Return the job as values of JSON."""
        return {**vars(self), "folder": str(self.folder), "overrides": list(self.overrides), "trust": list(self.trust)}


class Ending(NamedTuple):
    """How a process of a member ended.

    Attributes:
        number: The member's number.
        code: Its exit code; negative: the signal that killed it.
        reason: What it said; empty if it said nothing.
        lost: Whether it ended through no fault of its own, such as the loss of its node.
    """

    number: int
    code: int
    reason: str = ""
    lost: bool = False


class MemberLauncher(ABC):
    """Runs members, some at a time."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """Devices that members share."""

    @property
    @abstractmethod
    def cores(self) -> int:
        """Cores that members share, for those that compute on them."""

    @abstractmethod
    def fits(self, devices: int) -> bool:
        """Return whether a member with so many devices can start now."""

    @abstractmethod
    def start(self, job: Job) -> None:
        """Start a member that fits."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Ending]:
        """Wait for at most so long until a member ends; return those that have ended."""

    @abstractmethod
    def send(self, number: int, signal_number: int) -> None:
        """Send a signal to a member that runs."""

    @abstractmethod
    def close(self) -> None:
        """End what still runs at once, and give back what was held."""
