"""The machine that this process runs on, for whoever looks at a batch on it while nobody tells its state."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ..core.config import settings_of
from ..monitor.readings import Sampler
from ..monitor.zones import Bounds, Gauge
from ..queue.batch import Batch


@dataclass(slots=True)
class Here:
    """Looks at the machine, each time that it is asked."""

    sampler: Sampler
    gauge: Gauge

    @classmethod
    def of(cls, batch: Batch) -> Here:
        """Return one that judges by the settings of the batch's project.

        Raises:
            ConfigError: A setting makes no sense.
        """
        settings = settings_of(batch.project.state if batch.project else None)
        return cls(Sampler(batch.folder), Gauge(Bounds.of(settings["machine"], cpu=True)))

    def zone(self) -> dict[str, Any]:
        """Return zone and figures as of now, in the shape of a report's ``zone``."""
        standing = self.gauge.read(self.sampler.read())
        figures = standing.reading.figures()
        return {
            "word": standing.zone.word, "why": standing.why, "at": round(time.time(), 3),
            **{name: figures.get(name) for name in ("cpu_percent", "ram_percent", "pressure_percent")},
        }  # fmt: skip
