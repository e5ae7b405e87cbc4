"""The heartbeat of a worker inside a client's session: what most calls of its hooks come to.

Every tool call of every worker passes here, as a process of its own. Where nothing has happened to its
claims they are renewed, and that is all; this module does that with the least that Python can start with. All
else is `handler`'s: a claim that is lost, a receipt, the end of an agent, whatever is not understood at once.
"""

import json
import os
from pathlib import Path

#: What may be nothing but a sign of life.
_EVENTS = ("PreToolUse", "PostToolUse", "PostToolUseFailure")
#: Tools that are more than that: the client's own for agents, and ours.
_MORE = ("Agent", "Task")
_OURS = "mcp__plugin_hypervisor_"


def is_all(data: bytes, state: str = "") -> bool:
    """Renew the claims of the agent in which a hook was called.

    Args:
        data: The call, as the client sent it.
        state: The project's state folder; "" where it is not known.

    Returns:
        Whether that was all; False: nothing may have been done, and `handler` has to look.
    """
    try:
        call = json.loads(data)
        event, agent, session, tool = (
            call["hook_event_name"], call["agent_id"], call["session_id"], call["tool_name"],
        )  # fmt: skip
        more = event not in _EVENTS or tool in _MORE or tool.startswith(_OURS)
        if more or not (state and agent and session and isinstance(agent, str) and isinstance(session, str)):
            return False
        if event == "PreToolUse" and os.path.isfile(os.path.join(state, "bulk")):
            return False  # it may be what nobody has approved
        return _beat(state, session, agent)
    except (ImportError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _beat(state: str, session: str, agent: str) -> bool:
    # Here, as the packages may not be there: the script says so then.
    from ..core.errors import HypervisorError  # noqa: PLC0415
    from ..core.settings import settings_of  # noqa: PLC0415
    from ..store.heartbeat import beat  # noqa: PLC0415
    from ..store.sqlite import FILE, SqliteEngine  # noqa: PLC0415

    try:
        lease = settings_of(Path(state))["claims"]["lease_seconds"]
        engine = SqliteEngine(os.path.join(state, FILE), create=False)
        try:
            return beat(engine, session, agent, round(lease * 1000))
        finally:
            engine.close()
    except HypervisorError:
        return False
