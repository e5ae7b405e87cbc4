"""How the tasks of a batch lean on each other: independent, pipeline, map-reduce. Pure.

A pattern is read off the dependencies, and never told beside them: two words for one thing would differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..core.errors import UsageError
from .stats import INDEPENDENT

PIPELINE, MAP_REDUCE = "pipeline", "map-reduce"
#: What a task is that gathers the results of others.
REDUCE = "reduce"
#: So many results are gathered by a reduce; one alone is handed on.
_GATHERED = 2


def patterns_of(tasks: Iterable[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Return the patterns of those tasks that are not independent.

    Args:
        tasks: Ids, each with those that it depends on; ids of no task in it count as met.

    Returns:
        By id: ``map-reduce`` for a task that waits for two or more, and for each of those; ``pipeline`` for
        every other one that waits, or is waited for.
    """
    waits = {name: tuple(others) for name, others in tasks}
    found: dict[str, str] = {}
    known = {name: [one for one in others if one in waits] for name, others in waits.items() if others}
    for name, others in known.items():
        for one in (name, *others) if others else ():
            found.setdefault(one, PIPELINE)
    for name, others in known.items():
        if len(others) >= _GATHERED:
            found.update(dict.fromkeys((name, *others), MAP_REDUCE))
    return found


def arranged(types: Sequence[str], pattern: str) -> list[list[int]]:
    """Return for each of some tasks the places of those that it waits for.

    Args:
        types: The types of the tasks, in their order.
        pattern: ``independent``; ``pipeline``: each waits for the one before; ``map-reduce``: those of the
            type ``reduce``, or else the last, wait for all others.

    Raises:
        UsageError: There are too few of them for the pattern.
    """
    places = range(len(types))
    if pattern == INDEPENDENT:
        return [[] for _ in places]
    if len(types) < 2:
        raise UsageError(f"{pattern} needs two tasks at least; leave the pattern away for one")
    if pattern == PIPELINE:
        return [[at - 1] if at else [] for at in places]
    reduces = {at for at in places if types[at] == REDUCE} or {len(types) - 1}
    maps = [at for at in places if at not in reduces]
    if not maps:
        raise UsageError("map-reduce needs a task that is no reduce; give the others another type")
    return [list(maps) if at in reduces else [] for at in places]
