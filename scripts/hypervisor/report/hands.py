"""Who is at work on a batch at this moment, and on what. Reads; changes nothing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection
from typing import Any

from ..claims.workers import lock_state
from ..core import printable
from ..queue.batch import Batch
from .follow import Follower, Row
from .story import Story

#: How the ids of `batch_worker.py`'s processes begin.
_PROCESS = "worker-"


def at_work(follower: Follower, story: Story, name_of: Callable[[Row], str]) -> list[dict[str, Any]]:
    """Return the claims in hand: row, name, holder, since when, and when an agent last said something.

    Args:
        follower: The batch, after a look.
        story: Its log.
        name_of: What people call an item.
    """
    found = []
    for number in sorted(follower.unfinished):
        row = follower.rows[number]
        if row.state != "running":
            continue
        store, name = follower.store(row.place.root), name_of(row)
        one: dict[str, Any] = {"row": number, "name": name, "holder": "", "id": "", "since": None}
        held = store.held(row.place.key)
        if held is not None:
            one |= {
                "holder": printable.line(held.holder.name, 60), "id": held.holder.id,
                "generation": held.generation, "silent": round(held.silent_seconds, 1),
            }  # fmt: skip
            with contextlib.suppress(OSError):  # the link is made when the claim is signed
                path = store.layout.claim_path(row.place.key, held.generation)
                one["since"] = round(os.lstat(f"{path}/owner").st_mtime, 3)
        agent = story.progress.at_work.get(name)
        if agent is not None:
            one["output_ago"] = round(agent.silent_seconds(time.time()), 1)
        found.append(one)
    return found


def idle(batch: Batch, busy: Collection[str]) -> list[str]:
    """Return the worker processes of the batch's own store that live and hold nothing at the moment."""
    folder = batch.layout(batch.folder).workers
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(folder) if name.startswith(_PROCESS) and name not in busy]
        return sorted(name for name in names if lock_state(folder, name) == "held")
    return []
