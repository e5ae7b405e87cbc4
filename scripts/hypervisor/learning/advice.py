"""What running agents at once gains: what was seen of a lane in, how many to run and why out. Pure.

The formulas, and where they come from, stand in docs/learning.md; nothing else decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .learner import Known, Observed

#: What does so much of what the fastest does is as fast.
AS_FAST = 0.98
#: The share of attempts that may be refused ("too many requests") before so many at once count as too many,
#: and how many at least: a single one may be anybody's doing.
_REFUSED_SHARE, _REFUSED_LEAST = 0.05, 2
#: From this share of the cores on the processor is what is short; from this benefit on nothing is.
_BUSY_CORES, _FREE = 0.7, 0.8
#: Attempts after which a figure is believed, or as many as run at once if that is more; and after which no
#: more are made only to be surer.
_LEAST, _ENOUGH = 6, 20
Bottleneck = Literal["none", "cpu", "memory", "rate limit", "lock", "unknown"]

#: What there is too little of, in words.
_WANT = {
    "cpu": "processors", "memory": "memory", "rate limit": "its service's leave",
    "lock": "something that one at a time can have",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What there is to run agents with."""

    cores: float
    #: Memory that is free, in MB.
    ram_mb: float
    #: The most that may run at once.
    cap: int
    #: From which benefit on more at once is worth what it costs.
    worth: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """How many of a lane to run at once, and why."""

    concurrency: int
    #: One line, with the number of attempts that it rests on.
    why: str
    #: How much of an agent's worth each further agent adds; None where that is not known.
    benefit: float | None = None
    bottleneck: Bottleneck = "unknown"
    #: Attempts that were seen.
    samples: int = 0
    #: Whether this level is tried to learn of it.
    explores: bool = False


# --------------------------------------------------------------------- formulas


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What so many at once bring on in a second, and by how much of it that may be wrong."""

    value: float
    doubt: float
    tries: int
    #: Cores that each agent kept busy; 0 where that is not known.
    busy: float = 0.0

    @property
    def least(self) -> float:
        """What it is at least, as far as can be said."""
        return self.value * (1 - self.doubt)

    @property
    def most(self) -> float:
        """What it may be."""
        return self.value * (1 + self.doubt)


Rates = Mapping[int, Rate]


def rates_of(levels: Mapping[int, Observed]) -> dict[int, Rate]:
    """Return the throughput of each number at once that is believed: k done / seconds (Little)."""
    top = ceiling(levels)
    return {
        number: Rate(
            value=number * seen.done / seen.seconds,
            doubt=seen.doubt,
            tries=seen.tries,
            busy=seen.cpu_seconds / seen.seconds,
        )
        for number, seen in sorted(levels.items())
        if seen.seconds > 0 and seen.tries >= max(_LEAST, number) and number <= top
    }


def ceiling(levels: Mapping[int, Observed]) -> float:
    """Return how many at once are not refused; infinite if none ever was."""
    too_many = [
        number
        for number, seen in levels.items()
        if seen.refused >= _REFUSED_LEAST and seen.refused > _REFUSED_SHARE * seen.tries
    ]
    return max(1, min(too_many) - 1) if too_many else float("inf")


def knee(rates: Rates) -> int | None:
    """Return the fewest at once that no other number beats beyond doubt; None if nothing is known."""
    least = AS_FAST * max((rate.least for rate in rates.values()), default=0.0)
    return min((number for number, rate in rates.items() if least and rate.most >= least), default=None)


def benefit(rates: Rates) -> float | None:
    """Return what each agent adds beyond the first, as a share of what one does alone; None if unknown.

    That is *p* in S(k) = 1 + p (k - 1), Gustafson's law, solved for two numbers at once. What lies within the
    doubt of the two counts as gained.
    """
    best = knee(rates)
    if best is None or len(rates) < 2:
        return None
    low = min(rates)
    high = best if best != low else max(rates)
    if not rates[low].value:
        return None
    ratio = rates[high].value / rates[low].value
    ratio = (
        min(max(ratio, high / low), ratio * (1 + rates[low].doubt + rates[high].doubt))
        if best != low
        else ratio
    )
    under = (high - 1) - ratio * (low - 1)
    return 1.0 if under <= 0 else min(1.0, max(0.0, (ratio - 1) / under))


def bottleneck(known: Known, room: Room) -> Bottleneck:
    """Return what keeps more from being done by more at once."""
    if ceiling(known.levels) < float("inf"):
        return "rate limit"
    rates, most = rates_of(known.levels), fits(known, room)
    best, gain = knee(rates), benefit(rates)
    if most < room.cap and (best is None or best >= most):
        return "memory"
    if best is None or gain is None:
        return "unknown"
    if best == max(rates) and gain >= _FREE:
        return "none"
    if not known.totals.cpu_known_seconds:
        return "unknown"
    # Above the knee is where it is short: there the cores are looked at, if that was seen.
    number = min((number for number in rates if number > best), default=best)
    seen = known.levels[number]
    busy = number * seen.cpu_seconds / seen.seconds / room.cores
    return "cpu" if busy >= _BUSY_CORES else "lock"


def fits(known: Known, room: Room) -> int:
    """Return how many have room in memory, one at least, and at most the cap."""
    ram = known.ram_mb
    return room.cap if not ram else max(1, min(room.cap, int(room.ram_mb / ram)))


# ----------------------------------------------------------------------- advice


def advise(known: Known, room: Room, *, explores: bool, now: int = 0) -> Advice:
    """Return how many of a lane to run at once.

    Args:
        known: What was seen of it, and said.
        room: What there is to run with.
        explores: Whether to try numbers of which too little is known.
        now: How many may run now, 0 before any did.
    """
    top = int(min(fits(known, room), ceiling(known.levels)))
    rates = {number: rate for number, rate in rates_of(known.levels).items() if number <= top}
    gain, short, tries = benefit(rates), bottleneck(known, room), known.totals.tries

    def say(concurrency: int, why: str, *, to_learn: bool = False) -> Advice:
        seen = f"{why}; {tries} attempt{'' if tries == 1 else 's'} seen"
        return Advice(
            concurrency=concurrency, why=seen, benefit=gain, bottleneck=short, samples=tries,
            explores=to_learn,
        )  # fmt: skip

    best = knee(rates)
    if best is None or (len(rates) < 2 and not explores):
        return say(*_untried(known, room, top, explores=explores))
    told = ", ".join(f"{number}: {rate.value * 60:.3g}/min" for number, rate in rates.items())
    if explores and (probe := _probe(rates, best, top, now)):
        return say(probe, f"to learn of it ({told})", to_learn=True)
    if best == max(rates) < top and gain is not None and gain >= room.worth:
        return say(top, f"each further one adds {gain:.2f} of one ({told})")
    want = f", for want of {_WANT[short]}" if short in _WANT else ""
    refused = "more are refused" if top < fits(known, room) else "as many as may"
    return say(best, (refused if best == top else "more is not faster") + f" ({told}){want}")


def _untried(known: Known, room: Room, top: int, *, explores: bool) -> tuple[int, str]:
    """Return a level for a lane of which no two levels are known, and why."""
    told = known.told
    if told is not None and told.benefit is not None:
        if told.benefit < room.worth:
            return 1, f"said to gain {told.benefit:g} of one by each further agent"
        return top, f"said to gain {told.benefit:g} of one by each further agent"
    if ceiling(known.levels) < float("inf"):
        return top, "more were refused"
    if explores:
        # Half of what may run: from there it is one step up, and few down.
        return max(1, (top + 1) // 2), "nothing is known yet"
    return top, "too little is known to run fewer"


def _probe(rates: Rates, best: int, top: int, now: int) -> int | None:
    """Return a number that might be faster than the best, or as fast with fewer; None if none is left.

    Where nothing is known beyond the best, that is twice the best, or half of it; else the middle between it
    and its neighbour. Throughput is taken to bend downwards only as more run, so that the line through two
    numbers bounds what lies beyond: what could not be worth it even so is not tried. At last, the best and
    the fastest are made surer of.
    """
    goal = max(rate.value for rate in rates.values())
    above = min((number for number in rates if number > best), default=None)
    below = max((number for number in rates if number < best), default=0)
    up = min(top, 2 * best) if above is None else (best + above) // 2
    low = rates[below].least if below else 0.0
    line = rates[best].most + (rates[best].most - low) / (best - below) * (up - best)
    faster = up not in rates and line * AS_FAST >= goal
    down = (best + below) // 2 if below else best // 2
    # Between 0 and the fewest that were tried nothing is known: one agent may do all. But one that keeps a
    # processor busy all the time waits for no other, so that fewer do less.
    as_fast = down >= 1 and down not in rates and rates[best].busy < _FREE
    if below:
        as_fast = as_fast and rates[below].most * down / below >= AS_FAST * goal
    if faster and (above is None or not as_fast):
        return up
    if as_fast:
        return down
    fastest = max(rates, key=lambda number: rates[number].value)
    unsure = [number for number in {best, fastest} if rates[number].tries < _ENOUGH]
    if not unsure or best == fastest:
        return None
    # Not one after the other in turns: what changes all the time is measured at no number.
    return now if now in unsure else min(unsure)
