"""Gates before what acts on many items at once: shut until a person has seen a dry run and approved it.

A batch whose manifest names tools under ``bulk`` has a gate in the project's ``bulk/`` folder, made before
the batch is. Whether it is open follows from the batch's waves alone; the gate says where those are. A gate
whose batch is gone shuts nothing.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoints import Waves
from .core import durable
from .core.errors import HypervisorError
from .manifest import read_manifest

FOLDER = "bulk"
#: ``Bash(mail archive *)``: a command that a shell is given.
_COMMAND = re.compile(r"Bash\((.+)\)$", re.DOTALL)
#: What begins another command within a line of the shell.
_BETWEEN = re.compile(r"[;&|()\n`]+|\$\(")
#: What opens a gate, or changes what is done behind it.
_DECIDES = re.compile(r"\bcheckpoint\b.*\b(?:approve|revise)\b")
_NOT_YOURS = (
    "Denied: what a checkpoint waits for is the user's word, and a worker cannot ask. Complete your task, "
    "or block it with the question as its next step."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The gate of one batch."""

    #: The batch's folder.
    folder: str
    #: Id of the task that the bulk action is done for, "" for none: nobody claims it while this is shut.
    task: str = ""

    @property
    def patterns(self) -> Sequence[str]:
        """The tools that wait here; none once the batch is gone."""
        manifest = read_manifest(Path(self.folder, "manifest.json"))
        return manifest.bulk if manifest else ()

    def why_shut(self) -> str:
        """Return why nothing may be done, "" if it may."""
        if not os.path.isdir(self.folder):
            return ""
        waves = Waves(Path(self.folder)).all()
        if waves and (last := waves[-1].decided) and last.verdict == "stop":
            return f"{last.by} has said stop"
        shown = waves[0].decided if waves and waves[0].is_dry_run else None
        return "" if shown and shown.verdict == "approve" else "nobody has approved it yet"

    def way(self) -> str:
        """Return what opens it, for people and agents."""
        there = shlex.quote(self.folder)
        return (
            f"`hypervisor checkpoint --dir {there}` shows the dry run: show it to the user and ask; only the "
            f"user's yes is `hypervisor checkpoint approve --dir {there}`"
        )


def put(state: Path, gate: Gate) -> None:
    """Make a gate; durable on return. Making it once more changes nothing."""
    folder = state / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    data = {"folder": gate.folder, "task": gate.task}
    durable.write_once(_path(state, gate.folder), json.dumps(data).encode() + b"\n")


def remove(state: Path, folder: str) -> None:
    """Take away the gate of a batch that is over."""
    _path(state, folder).unlink(missing_ok=True)


def gates_of(state: Path) -> Iterator[Gate]:
    """Yield the gates of a project; one that cannot be read is passed over."""
    try:
        names = sorted(os.listdir(state / FOLDER))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if name.endswith(".json"):
            try:
                yield Gate(**json.loads((state / FOLDER / name).read_bytes()))
            except (OSError, ValueError, TypeError):
                continue


def shut_for_task(gates: Iterable[Gate], task: str) -> str | None:
    """Return why nobody may claim *task*, None if no gate before it is shut."""
    for gate in gates:
        if gate.task and gate.task.casefold() == task.casefold() and (why := gate.why_shut()):
            return f"its bulk action waits: {why}; {gate.way()}"
    return None


def shut_for_tool(state: Path, tool: str, given: Mapping[str, Any], *, main: bool) -> str | None:
    """Return why a tool may not be called, None if no gate before it is shut.

    A batch that cannot be read shuts nothing, as hooks fail open.

    Args:
        state: The project's state folder.
        tool: The tool's name.
        given: Its input.
        main: Whether the session's own thread calls: no other agent can ask the user, and open a gate.
    """
    for gate in gates_of(state):
        if not main and tool == "Bash" and any(map(_DECIDES.search, _commands(given.get("command")))):
            return _NOT_YOURS
        try:
            pattern = matches(gate.patterns, tool, given)
            why = gate.why_shut() if pattern else ""
        except HypervisorError:
            continue
        if why:
            name = Path(gate.folder).name
            return f"Denied: `{pattern}` is a bulk action of {name}, and {why}. {gate.way()}."
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


def _path(state: Path, folder: str) -> Path:
    name = hashlib.blake2b(os.fsencode(os.path.realpath(folder)), digest_size=12).hexdigest()
    return state / FOLDER / f"{name}.json"
