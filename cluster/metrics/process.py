"""The Ray actor of an exporter: the only process of a runtime that loads what serves HTTP.

Not here: what it serves (`exporter.py`), what keeps it with its coordinator (`cluster/keeping.py`).
"""

from __future__ import annotations

from cluster.keeping import Kept
from cluster.metrics.exporter import Exporter


class ExporterProcess(Kept, Exporter):
    """An exporter, as a process of a runtime."""

    def _is_open(self) -> bool:
        return self._url is not None

    def _before_the_end(self) -> None:
        self.withdraw()
