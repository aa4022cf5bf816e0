"""The process that calls etude's functions: it is shown what a command shows, and is left as it was."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from etude.console import QUIET, configure_console
from etude.signals import SIGNALS


@contextmanager
def garbage_collected() -> Iterator[None]:
    """Collect garbage when the block ends: a trainer and its model refer to each other, so that Python would free them later.

    Until then a second training in a notebook would find the weights, gradients and moments of the first on its device.
    """
    try:
        yield
    finally:
        gc.collect()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Show progress and messages while the block runs, and give the process back as it was.

    What is given back: generators of Python, NumPy and torch, torch's number of threads and its deterministic mode, the
    environment, handlers of signals, loggers, and filters of warnings.
    """
    with _random_state(), _torch_settings(), _environment(), _signals(), _console(), warnings.catch_warnings():
        yield


@contextmanager
def _random_state() -> Iterator[None]:
    python, numpy, devices = random.getstate(), np.random.get_state(), range(torch.cuda.device_count())
    with torch.random.fork_rng(devices if torch.cuda.is_initialized() else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _torch_settings() -> Iterator[None]:
    threads, warn_only = torch.get_num_threads(), torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic, fill = torch.are_deterministic_algorithms_enabled(), _deterministic().fill_uninitialized_memory
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        _deterministic().fill_uninitialized_memory = fill


def _deterministic() -> Any:
    return torch.utils.deterministic


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _signals() -> Iterator[None]:
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS} if in_main_thread else {}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _console() -> Iterator[None]:
    """Show etude's messages as a command does, unless the caller has set up logging for them."""
    logger = logging.getLogger("etude")
    before = (logger.handlers[:], logger.propagate, logger.level)
    levels = {name: logging.getLogger(name).level for name in QUIET}
    if not logger.hasHandlers():
        configure_console()
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before[0], before[1]
        logger.setLevel(before[2])
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
