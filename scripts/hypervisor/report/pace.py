"""How fast a batch goes, and when it may be done. Pure."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass

from ..store.progress import Speed

#: The window over which items a minute are counted, in seconds.
WINDOW = 300.0
#: The last completions from which the time that is left is estimated.
RECENT = 40
#: Completions in one group: several workers end at the same moment, so single gaps say little.
_GROUP = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast items end."""

    #: Completions a minute within the last `window` seconds; None before the first.
    per_minute: float | None = None
    #: `WINDOW`, or the time since the batch began where that is less.
    window: float = 0.0
    #: Seconds until all are done at the pace of the last `standing_on` completions; None if not known.
    eta: float | None = None
    standing_on: int = 0
    #: Seconds since the last completion; None before the first.
    quiet: float | None = None
    #: Seconds since the first start, of a batch that is done until its last completion; None before any end.
    elapsed: float | None = None


def pace_of(speed: Speed, left: int) -> Pace:
    """Return the pace of a batch; of one that is done over all its time: it changes no more.

    The time that is left is the number of items that are left, times the median of the time between two
    completions, as the last `RECENT` show it in groups of eight. A median, so that a night's pause among
    them counts for nothing; with fewer than nine completions it is their mean since the first start.

    Args:
        speed: What the store counted over `WINDOW`, with at least the last ``RECENT + 1`` ends.
        left: Items that have no result.
    """
    if not speed.last:
        return Pace()
    now, last = speed.now / 1000, sorted(end / 1000 for end in speed.last[: RECENT + 1])
    first = min(last[0] if speed.first is None else speed.first / 1000, last[0])
    elapsed = max(0.0, (now if left else last[-1]) - first)
    window, ended = max(1.0, min(WINDOW, elapsed)), speed.recent
    if not left:
        window, ended = max(1.0, elapsed), speed.ended
    gap, count = _gap(last, first)
    return Pace(
        per_minute=round(60 * ended / window, 3), window=round(window, 1),
        eta=round(gap * left, 1) if left else 0.0, standing_on=count,
        quiet=round(max(0.0, now - last[-1]), 1), elapsed=round(elapsed, 1),
    )  # fmt: skip


def _gap(last: list[float], first: float) -> tuple[float, int]:
    """Return the seconds from one completion to the next, and from how many completions that is."""
    if len(last) <= _GROUP:
        return (last[-1] - first) / len(last), len(last)
    # The groups end with the newest completion; what is left over at the other end is the oldest.
    edges = last[::-1][::_GROUP]
    groups = [(newer - older) / _GROUP for newer, older in itertools.pairwise(edges)]
    return statistics.median(groups), _GROUP * len(groups)


def duration(seconds: float) -> str:
    """Return a duration as people say it: ``45 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
