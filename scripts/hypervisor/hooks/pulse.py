"""The heartbeat of a worker inside a client's session: what most calls of its hooks come to.

Every tool call of every worker passes here. Where its claims are as it left them, they are renewed and
there is nothing to say; this module does that with the least that Python can start with. All else is
`hooking`'s: a claim that is lost, a receipt, the end of an agent, whatever is not understood at once.

A heartbeat decides nothing: it moves the time of the claim's folder (docs/claims.md), after a look that
the claim is the noted one and has not ended.
"""

import json
import os

#: What may be nothing but a sign of life.
_EVENTS = ("PreToolUse", "PostToolUse", "PostToolUseFailure")
#: Tools that are more than that: the client's own for agents, and ours.
_MORE = ("Agent", "Task")
_OURS = "mcp__plugin_hypervisor_"


def is_all(data: bytes, state: str = "") -> bool:
    """Renew the claims of the agent that a hook's call tells of.

    Args:
        data: The call, as the client sent it.
        state: The project's state folder; "" where it is not known.

    Returns:
        Whether that was all; False: nothing may have been done, and `hooking` has to look.
    """
    try:
        call = json.loads(data)
        agent, session = call["agent_id"], call["session_id"]
        tool = call["tool_name"]
        more = call["hook_event_name"] not in _EVENTS or tool in _MORE or tool.startswith(_OURS)
        if more or not (state and _is_plain(agent) and _is_plain(session)):
            return False
        if call["hook_event_name"] == "PreToolUse" and _names(f"{state}/bulk"):
            return False  # it may be what nobody has approved
        folder = f"{state}/sessions/{session}"
        for name in _names(f"{folder}/{agent}"):
            if name.endswith(".json") and not _renew(f"{folder}/{agent}/{name}", state):
                return False
        if call["hook_event_name"] != "PreToolUse":
            _touch_if_there(f"{folder}/.running/{agent}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return True


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:  # it holds nothing, or there is nothing of that kind
        return []


def _renew(path: str, state: str) -> bool:
    """Renew one noted claim, if it is open and leaves no receipts."""
    with open(path, "rb") as file:
        note = json.loads(file.read())
    generation = note["generation"]
    claim = f"{state}/locks/{note['key']}" + ("" if generation == 1 else f"~{generation}")
    owner = json.loads(os.readlink(f"{claim}/owner"))
    if note["receipts"] or owner["token"] != note["token"] or os.path.lexists(f"{claim}/end"):
        return False
    os.utime(claim)
    return True


def _touch_if_there(path: str) -> None:
    try:
        os.utime(path)
    except FileNotFoundError:  # an agent that is no worker
        return


def _is_plain(name: str) -> bool:
    """Tell whether a name from outside is a file's as it stands; see `sessions.file_name`."""
    inner = name.replace("-", "").replace("_", "")
    plain = inner.isascii() and inner.isalnum() and name[0].isalnum()
    return plain and len(name) <= 100 and name != "unknown"
