"""How good the machine's state is, from its figures: safe, warning, danger, emergency. Pure.

A figure that gets worse counts at once. One that gets better counts once it is better by a margin, and
has been so for a while: what was stopped for want of memory must not be started again a second later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from ..core.errors import ConfigError
from .metrics import Reading

#: A bound of so many percent is never passed.
_NEVER = 100.0


class Zone(IntEnum):
    """How good the machine's state is; the larger, the worse."""

    SAFE = 0
    WARNING = 1
    DANGER = 2
    EMERGENCY = 3

    @property
    def word(self) -> str:
        """What people read."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneBounds:
    """Where the zones begin; `[machine]` of the settings."""

    #: Below these, in percent, the machine is safe.
    safe_cpu: float = 60.0
    safe_ram: float = 70.0
    #: Above these it is in danger.
    danger_cpu: float = 80.0
    danger_ram: float = 85.0
    #: With less memory left than this share of it, it is an emergency.
    emergency_available: float = 5.0
    #: So is memory that all work waits for, in percent of the time, for so many seconds.
    emergency_pressure: float = 20.0
    pressure_seconds: float = 5.0
    #: In danger, so is memory that would be used up within this time at its present speed; 0 for never.
    run_out_seconds: float = 1.0
    #: With less free space than this it is in danger, in bytes.
    danger_disk: float = 0.0
    #: By how much a figure must be better than a bound, in percent, and for how many seconds.
    margin: float = 3.0
    calm_seconds: float = 5.0
    #: The time that CPU is averaged over, in seconds: a single busy moment says nothing.
    cpu_seconds: float = 3.0
    #: Whether CPU counts at all.
    cpu: bool = True

    @classmethod
    def of(cls, table: Mapping[str, Any], *, cpu: bool) -> ZoneBounds:
        """Return the bounds of the settings' table ``machine``.

        Raises:
            ConfigError: They are in no order.
        """
        if table["safe_cpu_percent"] >= _NEVER:  # always safe, so it is never in danger either
            table = {**table, "danger_cpu_percent": table["safe_cpu_percent"]}
        for low, high in (
            ("safe_cpu_percent", "danger_cpu_percent"),
            ("safe_ram_percent", "danger_ram_percent"),
        ):
            if not 0 < table[low] <= table[high]:
                raise ConfigError(f"`machine.{low}` must be more than 0, and at most `machine.{high}`")
        return cls(
            safe_cpu=table["safe_cpu_percent"],
            safe_ram=table["safe_ram_percent"],
            danger_cpu=table["danger_cpu_percent"],
            danger_ram=table["danger_ram_percent"],
            emergency_available=table["emergency_available_percent"],
            emergency_pressure=table["emergency_pressure_percent"],
            pressure_seconds=table["pressure_seconds"],
            run_out_seconds=table["run_out_seconds"],
            danger_disk=table["danger_disk_mib"] * 2**20,
            margin=table["margin_percent"],
            calm_seconds=table["calm_seconds"],
            cpu_seconds=table["cpu_seconds"],
            cpu=cpu,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineState:
    """The machine's state at one moment."""

    zone: Zone = Zone.SAFE
    #: The figures that put it there, in words; "" if it is safe.
    why: str = ""
    reading: Reading = field(default_factory=lambda: Reading(at=0.0))
    #: What that reading alone says: better than `zone` while it is not yet trusted.
    now: Zone = Zone.SAFE


class ZoneTracker:
    """Tells the zone from one reading after the other."""

    def __init__(self, bounds: ZoneBounds) -> None:
        self.bounds = bounds
        self.state = MachineState()
        self._before: Reading | None = None
        self._cpu: list[tuple[float, float]] = []
        self._stalled_since: float | None = None
        #: Why the zone that holds was come to.
        self._why = ""
        #: Since when every reading was better than the zone that holds, and the worst of those.
        self._better_since: float | None = None
        self._better = Zone.SAFE

    def read(self, reading: Reading) -> MachineState:
        """Take a reading; return the state that holds now."""
        found = self._judge(reading)
        self._before = reading
        if found.zone >= self.state.zone:
            self.state, self._better_since = found, None
            self._why = found.why
            return found
        if self._better_since is None:
            self._better_since, self._better = reading.at, found.zone
        self._better = max(self._better, found.zone)
        if reading.at - self._better_since >= self.bounds.calm_seconds:
            self._better_since = None
            self._why = found.why or self._why
            zone = self._better
        else:
            zone = self.state.zone
        why = found.why if zone is found.zone else f"was {self._why}"
        self.state = MachineState(zone=zone, why=why, reading=reading, now=found.zone)
        return self.state

    # ---------------------------------------------------------------- details

    def _judge(self, reading: Reading) -> MachineState:
        found: dict[Zone, list[str]] = {zone: [] for zone in Zone}
        bounds, now = self.bounds, self.state.zone

        def over(value: float | None, bound: float, zone: Zone, what: str) -> None:
            # While a zone holds, its bounds are harder to get below than they were to get above.
            least = bound - bounds.margin if now >= zone else bound
            if bound >= _NEVER:
                return
            if value is not None and (value > least if zone is Zone.DANGER else value >= least):
                found[zone].append(f"{what} {value:.0f} %")

        cpu = self._mean_cpu(reading) if bounds.cpu else None
        over(cpu, bounds.safe_cpu, Zone.WARNING, "CPU")
        over(cpu, bounds.danger_cpu, Zone.DANGER, "CPU")
        over(reading.ram_percent, bounds.safe_ram, Zone.WARNING, "RAM")
        over(reading.ram_percent, bounds.danger_ram, Zone.DANGER, "RAM")
        if reading.disk_free_bytes is not None and reading.disk_free_bytes < bounds.danger_disk:
            found[Zone.DANGER].append(f"free disk {reading.disk_free_bytes / 2**20:.0f} MiB")
        found[Zone.EMERGENCY] = self._emergency(reading, held=now is Zone.EMERGENCY)
        zone = max((zone for zone, why in found.items() if why), default=Zone.SAFE)
        return MachineState(zone=zone, why=", ".join(found[zone]), reading=reading, now=zone)

    def _emergency(self, reading: Reading, *, held: bool) -> list[str]:
        bounds, found = self.bounds, []
        left = reading.available_percent
        if left is not None and left < bounds.emergency_available + (bounds.margin if held else 0.0):
            found.append(f"available RAM {left:.1f} %")
        stall = reading.pressure_percent
        if stall is None or stall <= bounds.emergency_pressure:
            self._stalled_since = None
        elif self._stalled_since is None:
            self._stalled_since = reading.at
        if self._stalled_since is not None and reading.at - self._stalled_since >= bounds.pressure_seconds:
            found.append(f'memory pressure "full" {stall:.0f} %')
        if not found and (seconds := self._runs_out(reading)) is not None:
            found.append(
                f"RAM {reading.ram_percent:.0f} %, which is used up in {seconds:.1f} s at this speed"
            )
        return found

    def _runs_out(self, reading: Reading) -> float | None:
        """Return in how many seconds the memory is used up, None if not soon."""
        before, left = self._before, reading.available_bytes
        if before is None or left is None or before.available_bytes is None or reading.ram_percent is None:
            return None
        if reading.ram_percent <= self.bounds.danger_ram or reading.at <= before.at:
            return None
        speed = (before.available_bytes - left) / (reading.at - before.at)
        soon = speed > 0 and left / speed < self.bounds.run_out_seconds
        return left / speed if soon else None

    def _mean_cpu(self, reading: Reading) -> float | None:
        if reading.cpu_percent is not None:
            self._cpu.append((reading.at, reading.cpu_percent))
        self._cpu = [one for one in self._cpu if reading.at - one[0] <= self.bounds.cpu_seconds]
        return sum(value for _, value in self._cpu) / len(self._cpu) if self._cpu else None
