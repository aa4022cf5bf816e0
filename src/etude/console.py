"""Log lines and warnings on stderr: etude's own, and the few of its libraries that matter to a person."""

from __future__ import annotations

import logging
import sys
import warnings

QUIET = {
    "lightning.pytorch.utilities.rank_zero": logging.WARNING,
    "lightning.fabric.utilities.rank_zero": logging.WARNING,
    "lightning.fabric.utilities.distributed": logging.WARNING,
    # transformers imports torchao wherever it is installed, which warns of kernels for other machines.
    "torchao": logging.ERROR,
    "torch.utils._pytree": logging.ERROR,
}
"""Loggers that report at every start, and the level from which on they are shown."""

KNOWN = (
    "The number of training batches",  # Lightning's own logging interval is not used
    ".*does not have many workers.*",  # batches are made in far less time than a step takes
    ".*isinstance.treespec, LeafSpec.*",
    ".*sync_dist=True.*",  # scores are equal on all ranks: they are computed from all rows
    ".*exists and is not empty.*",
    ".*does not implement _stable_hash_for_caching.*",  # of torchao's moments: what is compiled of them is cached all the same
)
"""Patterns of warnings that do not apply here."""


def configure_console(rank: int = 0) -> None:
    """Show etude's lines on stderr; of ranks beyond the first only warnings.

    Args:
        rank: Rank of this process among those that train together.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("etude")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    for message in KNOWN:
        warnings.filterwarnings("ignore", message=message)
