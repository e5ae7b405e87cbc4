"""One consumer, a process of its own: opens a queue, waits for the word, drains, and tells.

On standard output ``ready``; at the end one line of JSON. With ``--hold`` it prints ``holding`` and the
first item that it executes, and stays in the middle of it. With ``--watch`` it drains over and over until
it has executed that item, or its patience is at an end.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from bench.contenders import Contender, number
from bench.peers import CONTENDERS

_PAUSE = 0.02


def hold(item: str) -> None:
    """Stay in the middle of an item."""
    print(f"holding {item}", flush=True)
    while True:
        signal.pause()


def watch(consumer: Contender, item: str, patience: float) -> dict[str, Any]:
    """Drain until *item* is executed; tell after how long, and whether it is kept if it is not."""
    ran: list[tuple[str, float]] = []
    begun = time.monotonic()
    consumer.wait_for_others(wait=False)
    while True:
        consumer.drain(lambda one: ran.append((one, time.monotonic())), whole=True)
        again = [at - begun for one, at in ran if one == item]
        if again or time.monotonic() - begun > patience:
            break
        time.sleep(_PAUSE)
    after = again[0] if again else None
    return {
        "ran": [number(one) for one, _ in ran],
        "after": after,
        "kept": after is None and consumer.kept(item),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--of", type=int, default=1)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--watch", metavar="ITEM")
    parser.add_argument("--patience", type=float, default=5.0)
    options = parser.parse_args()
    consumer = CONTENDERS[options.contender](options.folder, options.number, options.of)
    print("ready", flush=True)
    sys.stdin.readline()
    if options.hold:
        consumer.drain(hold, whole=True)
    if options.watch:
        print(json.dumps(watch(consumer, options.watch, options.patience)))
        return
    ran: list[str] = []
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    consumer.drain(ran.append, whole=options.whole)
    ended, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu": cpu, "begun": begun, "ended": ended, "ran": [number(item) for item in ran]}))


if __name__ == "__main__":
    main()
