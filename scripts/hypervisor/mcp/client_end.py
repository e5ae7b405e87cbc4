"""The end of a client: what its agents held is released.

Its hooks have no say then: the server is told to end before the client's own end. A client that was killed
closes its server's pipe, and the server releases what was held; one that ends by itself gives the server a
tenth of a second, and a process of its own (`main`) does it as soon as the client is gone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..core.process import Identity, life_of, this_process
from ..core.settings import with_store_url

if TYPE_CHECKING:
    from .context import ToolContext

#: For how long a client whose pipe has closed may still count as living, in seconds.
_DYING_SECONDS = 5.0
#: For how long one that ends by itself may take: hooks of other plugins have their say. One that lives on has
#: only ended its server, and starts another.
_ENDING_SECONDS = 60.0


def end_of_client(context: ToolContext, sessions: Iterable[str] = ()) -> None:
    """Release what the agents of a client held that is gone; one that lives may go on with another server.

    Args:
        context: The server's.
        sessions: The client's sessions, beside the one that the server was started for.
    """
    client = context.client
    known = {*sessions, context.session} - {""}
    if client is None or not known or not context.project.state.is_dir():
        return
    # Its pipes are closed a moment before it counts as dead: the kernel ends a process in that order.
    if _dies(client, _DYING_SECONDS):
        _release(context, known, "the client of its session was killed")


def release_later(client: Identity, sessions: Iterable[str], environ: Mapping[str, str]) -> None:
    """Start a process that releases what the agents of *sessions* hold once the client is gone."""
    subprocess.Popen(
        [sys.executable, *sys.argv[:1], "end", json.dumps(client.to_json()), *sessions],
        env=with_store_url(environ), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def main(words: Sequence[str]) -> int:
    """Wait for a client's end; then release what the agents of its sessions hold."""
    from .context import ToolContext  # noqa: PLC0415 - a server lists its tools before

    client, sessions = Identity(**json.loads(words[0])), words[1:]
    context = ToolContext(dict(os.environ), client)
    if _dies(client, _ENDING_SECONDS):
        _release(context, sessions, "its session ended (the client is gone)")
    return 0


def _dies(client: Identity, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while life_of(client, this_process()) != "dead":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _release(context: ToolContext, sessions: Iterable[str], why: str) -> None:
    from ..hooks.call import Call  # noqa: PLC0415 - at the very end
    from ..hooks.delivery import settle  # noqa: PLC0415

    store = context.open_store()
    if store is None:
        return
    with context.service({}) as service:
        for session in sessions:
            service.end_session(session, why)
    for session in sessions:  # what it was not told is told when it is resumed
        queue = store.notices(session)
        settle(queue, Call(event="SessionEnd", session=session, transcript=queue.transcript))
