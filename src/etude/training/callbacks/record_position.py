"""Position of the record in each checkpoint, so that the record can be cut back to it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback

from etude.runs.record import Record


class RecordPosition(Callback):
    """Saves the record's position in each checkpoint, and cuts the record back when a run continues from it.

    Args:
        record: The record; None on ranks that do not write it.
    """

    def __init__(self, record: Record | None) -> None:
        self._record = record

    def state_dict(self) -> dict[str, Any]:
        """Return the position in bytes."""
        return {"bytes": self._record.position() if self._record else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Discard what was recorded after the checkpoint."""
        if self._record:
            self._record.cut(state_dict["bytes"])
