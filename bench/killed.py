"""What becomes of the item of a consumer that is killed in the middle of it, and of one that lives.

A consumer is held in the middle of its first item. Another one starts beside it: does it take that item
too? Then the same with the first one killed: is the item executed again, and after how long; else is it
still there (stranded) or gone (lost)?
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from bench import commands, measure
from bench.contenders import number
from bench.drain import PEERS, Row, Say, ground
from bench.peers import CONTENDERS, there

#: Items of the queue, and how long is waited for the one that was in hand.
ITEMS = 20
#: How long the second one looks while the first one lives.
_BESIDE = 0.5


def killed(where: Path, patience: float, say: Say) -> list[Row]:
    """Hold and kill a consumer of each."""
    rows = [
        _row(where, name, patience) for name in ("mkdir-race", "hypervisor", "sqlite", *PEERS) if there(name)
    ]
    rows += commands.killed(where, ITEMS)
    rows = [{**row, "patience_s": patience} for row in rows]
    for row in rows:
        say(f"killed: {row}")
    return rows


def _row(where: Path, name: str, patience: float) -> Row:
    with ground(where) as folder:
        _, beside = _second(folder, name, _BESIDE, kill=False)
    with ground(where) as folder:
        item, answer = _second(folder, name, patience, kill=True)
    ran = Counter(answer["ran"])
    fate = "again" if ran[item] else "stranded" if answer["kept"] else "lost"
    return {
        "name": name,
        "fate": fate,
        "after_s": None if answer["after"] is None else round(answer["after"], 3),
        "others_never": sum(ran[other] == 0 for other in range(ITEMS) if other != item),
        "beside": "left alone" if beside["after"] is None else "executed twice",
    }


def _second(folder: Path, name: str, patience: float, *, kill: bool) -> tuple[int, dict[str, Any]]:
    """Hold a consumer and let another one drain; return the item in hand, and what the other one tells."""
    CONTENDERS[name].fill(folder, ITEMS)
    (first,) = measure.consumers([name, str(folder), "--hold"], 1)
    try:
        measure.go(first)
        item = measure.line(first).removeprefix("holding ")
        if kill:
            first.kill()
            first.wait()
        words = [name, str(folder), f"--watch={item}", f"--patience={patience}"]
        (second,) = measure.consumers(words, 1)
        measure.go(second)
        return number(item), measure.told(second)
    finally:
        first.kill()
        first.wait()
