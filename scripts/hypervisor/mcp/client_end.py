"""The end of a client: what its agents held is released by the server, which outlives it for a moment."""

from __future__ import annotations

import time

from .context import ToolContext

#: For how long a client whose pipe has closed may still count as living, in seconds.
_DYING_SECONDS = 5.0


def end_of_client(context: ToolContext) -> None:
    """Release what the agents of a client held that is gone.

    Its own hooks had no say if it was killed; while it lives, its session may go on with another server.
    """
    from ..core.process import life_of, this_process  # noqa: PLC0415

    client, session = context.client, context.session
    if client is None or not session or not context.project.state.is_dir():
        return
    # Its pipes are closed a moment before it counts as dead: the kernel ends a process in that order.
    deadline = time.monotonic() + _DYING_SECONDS
    while life_of(client, this_process()) != "dead":
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)
    with context.service({}) as service:
        service.end_session(session, "the client of its session was killed")
