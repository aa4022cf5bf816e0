"""What can go wrong in a way that a person can mend: one line of text and an exit code for each kind."""

from __future__ import annotations


class EtudeError(Exception):
    """An error whose message is the whole answer: what, where, and what to do. Shown without a traceback."""

    exit_code = 1


class ConfigurationError(EtudeError):
    """The configuration asks for something that does not exist or does not fit together."""

    exit_code = 78


class DataError(EtudeError):
    """A data file is missing, unreadable, misaligned or empty."""

    exit_code = 65


class MemoryExhaustedError(EtudeError):
    """The machine or its GPU has no more memory."""

    exit_code = 71


class FolderInUseError(EtudeError):
    """Another process works in the run's folder."""

    exit_code = 73


class StorageError(EtudeError):
    """A file could not be written: the disk is full or read-only."""

    exit_code = 74


class NonFiniteError(EtudeError):
    """A loss or gradient became infinite or not a number."""

    exit_code = 1
