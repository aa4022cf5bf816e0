"""The small experiments of whole runs, for dashboards of them."""

from __future__ import annotations

from tests.runs.conftest import composed as composed
from tests.runs.conftest import overrides as overrides
from tests.runs.conftest import small_data as small_data
