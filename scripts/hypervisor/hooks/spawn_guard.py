"""Whether a worker may be started by a session: the facts for `hooks.spawn`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from ..core.paths import Project
from ..crowd import Crowd
from . import hooks
from .hookcall import Call
from .hooks import Answer

if TYPE_CHECKING:
    from ..tasks.desk import Desk


def answer(
    call: Call, project: Project, settings: Mapping[str, Any], crowd: Crowd, desk: Callable[[], Desk]
) -> Answer | None:
    """Decide on an `Agent` call, and count the worker that is let through.

    Args:
        call: The call.
        project: The session's project.
        settings: The project's.
        crowd: The session's workers.
        desk: Opens the project's tasks, which takes a while.
    """
    if not hooks.is_worker(call):
        return None
    task = hooks.pulled(call)
    refusal = _refusal(task, desk()) if task else None
    agents = settings["agents"]
    project.prepare()
    with crowd.counted() as running:
        room = hooks.Room(
            running=running, cap=agents["per_session"],
            ram=_ram_percent() if running else 0.0, max_ram=agents["max_ram_percent"],
        )  # fmt: skip
        decided = hooks.spawn(call, refusal, room)
        if decided is None and call.use:
            crowd.ask(call.use)
    return decided


def _refusal(task: str, desk: Desk) -> str | None:
    try:
        found = desk.find(task)
    except UsageError as error:
        return str(error)
    why = desk.why_not(found)
    return f"{found.id}: {why}" if why else None


def _ram_percent() -> float:
    import psutil  # noqa: PLC0415 - 100 ms, and only where a worker is started

    return float(psutil.virtual_memory().percent)
