"""Approvals of bulk actions: what acts on many items waits until a person has seen its dry run.

A gate is shut until the batch's first wave, the dry run, is approved, and again after a stop
(`Review.why_shut`). `shut_for_task` of the store asks for claims; this asks for calls of tools.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import HypervisorError, Refused
from ..store.review import Review
from ..store.review_records import ApprovalGate

if TYPE_CHECKING:  # hooks ask for tools only
    from .plan import ChunkedBatch, ChunkPlan

#: ``Bash(mail archive *)``: a command that a shell is given.
_COMMAND = re.compile(r"Bash\((.+)\)$", re.DOTALL)
#: What begins another command within a line of the shell.
_BETWEEN = re.compile(r"[;&|()\n`]+|\$\(")
#: What opens a gate, or changes what is done behind it.
_DECIDES = re.compile(r"\bcheckpoint\b.*\b(?:approve|revise)\b")
_NOT_YOURS = (
    "Denied: a checkpoint waits for the user's decision, and a worker cannot ask. Complete your task, "
    "or block it with the question as its next step."
)


def begin_dry_run(made: ChunkedBatch, plan: ChunkPlan) -> None:
    """Begin the first wave of a batch that acts in bulk: it shows all chunks, and none is done in it."""
    if plan.bulk and not made.review.waves(made.number):
        made.review.begin_wave(made.number, 1, {}, "", checkpoint=True)


def require_approved(made: ChunkedBatch, plan: ChunkPlan) -> None:
    """Raise unless what a batch does in bulk is approved.

    Raises:
        Refused: It is not.
    """
    gate = ApprovalGate(folder=str(made.folder))
    if plan.bulk and (why := made.review.why_shut(gate)):
        raise Refused(f"{made.folder.name}: its bulk action waits: {why}; {gate.next_step()}")


def require_shown(made: ChunkedBatch, plan: ChunkPlan, chunks: Iterable[str]) -> None:
    """Raise unless *chunks* were part of the dry run.

    Raises:
        Refused: One was not.
    """
    begun = made.review.begun(made.number) if plan.bulk else {}
    for name in chunks if plan.bulk else ():
        if name not in begun:
            raise Refused(f"{name}: was not in the dry run that was approved; cut it as a batch of its own")


def shut_for_tool(review: Review, tool: str, given: Mapping[str, Any], *, main: bool) -> str | None:
    """Return why a tool may not be called, None if no gate before it is shut.

    A batch that cannot be read shuts nothing, as hooks fail open.

    Args:
        review: `Store.review` of the project.
        tool: The tool's name.
        given: Its input.
        main: Whether the session's own thread calls: no other agent can ask the user, and open a gate.
    """
    for gate in review.gates():
        if not main and tool == "Bash" and any(map(_DECIDES.search, _commands(given.get("command")))):
            return _NOT_YOURS
        pattern = matches(gate.patterns, tool, given)
        try:
            why = review.why_shut(gate) if pattern else ""
        except (HypervisorError, OSError):
            continue
        if why:
            name = Path(gate.folder).name
            return f"Denied: `{pattern}` is a bulk action of {name}, and {why}. {gate.next_step()}."
    return None


def matches(patterns: Sequence[str], tool: str, given: Mapping[str, Any]) -> str:
    """Return the first pattern that means this call, "" for none. Pure.

    Args:
        patterns: Names of tools with ``*`` and ``?``, or ``Bash(COMMAND)`` with them, which is compared with
            each command of a line.
        tool: The tool's name.
        given: Its input.
    """
    for pattern in patterns:
        command = _COMMAND.match(pattern)
        if command is None:
            if fnmatch.fnmatchcase(tool, pattern):
                return pattern
        elif tool == "Bash" and any(
            fnmatch.fnmatchcase(one, command[1]) for one in _commands(given.get("command"))
        ):
            return pattern
    return ""


def _commands(line: object) -> list[str]:
    text = line if isinstance(line, str) else ""
    return [" ".join(one.split()) for one in [text, *_BETWEEN.split(text)]]
