"""The commands that a run starts, where each comes from, and which of them the user has to trust first.

Commands of a repository are those of its settings and the `verify` of its tasks. What the user wrote here is
the user's word; what came with the repository is asked for once, by its text (docs/security.md).
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..core.errors import ConfigError, HypervisorError, Refused, Unreadable
from ..core.model import Task, TaskHead
from ..core.project import Project
from ..core.settings import CONFIG_FILE, default_settings, settings_in
from ..core.text import safe_text
from ..core.trust import TrustRecord
from ..git.git import GitError
from ..git.origins import brought
from ..runners.base import Agent
from ..tasks.files import read_content, read_task
from ..tasks.rewriting import read_file
from .options import RunOptions
from .reviewing import asks_for_review, reviewer_of
from .router import router_of

Kind = Literal[
    "agent", "setup", "teardown", "verify", "review", "merge", "notify", "runner", "spawn", "setting"
]
#: Files of one text that are looked at: where that many came with the repository, so did the text.
_FILES = 100
#: Commands that a refusal names, and characters of each.
_NAMED, _LINE = 3, 80


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCommand:
    """A command that a run would start, or a setting that gives commands more room."""

    kind: Kind
    text: str
    #: The files that it stands in; none for what the user types, or what is ours.
    files: tuple[Path, ...] = ()
    #: The tasks that it verifies.
    tasks: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What is trusted: its text, and whether that is run."""
        return ("setting" if self.kind == "setting" else "command", self.text)


def commands_of_settings(settings: Mapping[str, Any], file: Path) -> list[WantedCommand]:
    """Return the commands in a project's settings, and the settings that give commands more room."""
    worktree, runners = settings["worktree"], settings["runners"]
    found: list[tuple[Kind, str]] = [
        *(("setup", text) for text in worktree["setup"]),
        *(("teardown", text) for text in worktree["teardown"]),
        ("review", settings["review"]["command"]),
        ("merge", settings["merge"]["command"]),
        ("notify", settings["notify"]["command"]),
        ("spawn", settings["spawn"]["command"]),
        *(("runner", text) for table in runners.values() if (text := _line(table))),
        *(("setting", text) for text in _wider(settings)),
    ]
    return [WantedCommand(kind=kind, text=text, files=(file,)) for kind, text in dict.fromkeys(found) if text]


def _line(table: object) -> str:
    command = table.get("command") if isinstance(table, Mapping) else None
    return shlex.join(map(str, command)) if isinstance(command, list) else ""


def _wider(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings that let a command or an agent do more than the defaults, each as a line."""
    usual = default_settings()
    if settings["run"]["sandbox"] == "off":
        yield 'run.sandbox = "off"'
    for name in ("readable", "writable", "environment"):
        if settings["sandbox"][name]:
            yield f"sandbox.{name} = {settings['sandbox'][name]}"
    if set(usual["sandbox"]["hidden"]) - set(settings["sandbox"]["hidden"]):
        yield f"sandbox.hidden = {settings['sandbox']['hidden']}"
    if settings["notify"]["url"]:
        yield f'notify.url = "{settings["notify"]["url"]}"'
    if settings["spawn"]["allow"]:
        yield f"spawn.allow = {settings['spawn']['allow']}"


def commands_of_tasks(tasks: Iterable[TaskHead]) -> list[WantedCommand]:
    """Return the `verify` commands of tasks, each once."""
    found: dict[str, list[TaskHead]] = {}
    for task in tasks:
        if task.verify:
            found.setdefault(task.verify, []).append(task)
    return [
        WantedCommand(
            kind="verify", text=text, tasks=tuple(one.id for one in of),
            files=tuple(Path(one.path) for one in of),
        )
        for text, of in found.items()
    ]  # fmt: skip


def commands_of_run(
    options: RunOptions, settings: Mapping[str, Any], project: Project, tasks: Sequence[TaskHead]
) -> list[WantedCommand]:
    """Return what a run of *tasks* would start: its agents, and what stands in the project's files.

    Raises:
        ConfigError: The settings name an agent that there is not.
    """
    router, config = router_of(options, settings), project.state / CONFIG_FILE
    found: list[WantedCommand] = []
    for agent in router.agents():
        if text := _line(settings["runners"].get(agent.name)):
            found.append(WantedCommand(kind="runner", text=text, files=(config,)))
        elif agent.name not in router.out:
            found.append(WantedCommand(kind="agent", text=shlex.join(agent.words(options.allowed))))
    for one in commands_of_settings(settings, config):
        in_folders = one.kind in ("setup", "teardown") and options.isolation != "none"
        merges = one.kind == "merge" and any(agent.name == "exec" for agent in router.agents())
        if in_folders or merges or one.kind in ("notify", "setting"):
            found.append(one)
    for task in _reviewed(tasks, settings):
        for worker in router.agents():
            # Where there is no such reviewer, the review itself says so, and leaves the work to a person.
            with contextlib.suppress(ConfigError):
                found.append(_review(reviewer_of(task, worker, options, settings), settings, config))
    return [*dict.fromkeys(found), *commands_of_tasks(tasks)]


def _review(reviewer: Agent, settings: Mapping[str, Any], config: Path) -> WantedCommand:
    if reviewer.name == "exec" and (text := settings["review"]["command"]):
        return WantedCommand(kind="review", text=text, files=(config,))
    return WantedCommand(kind="review", text=shlex.join(reviewer.words()))


def _reviewed(tasks: Sequence[TaskHead], settings: Mapping[str, Any]) -> Iterator[Task]:
    """Yield tasks whose work is reviewed, one for each word in `review`; few files are parsed."""
    known: set[object] = set()
    for task in tasks:
        path = Path(task.path)
        with contextlib.suppress(OSError, Unreadable):
            all_alike = settings["review"]["all"] and not known
            if all_alike or b"review" in read_file(path, settings["tasks"]["max_bytes"]):
                read = read_task(path, settings)
                said = str(read.front.get("review"))
                if asks_for_review(read, settings) and said not in known:
                    known.add(said)
                    yield read


def repository_commands(
    project: Project, settings: Mapping[str, Any], tasks: Iterable[TaskHead]
) -> list[WantedCommand]:
    """Return the commands that stand in a project's files: those of its settings, and those of *tasks*."""
    return [*commands_of_settings(settings, project.state / CONFIG_FILE), *commands_of_tasks(tasks)]


def untrusted(
    project: Project, settings: Mapping[str, Any], wanted: Sequence[WantedCommand], record: TrustRecord
) -> list[WantedCommand]:
    """Return the commands that came with the repository, and were not trusted yet.

    Raises:
        Refused: The record of what is trusted may hold what others have written.
    """
    known = record.read()
    new = [one for one in wanted if one.files and one.key not in known]
    if not new:
        return []
    config = project.state / CONFIG_FILE

    def texts_in(path: Path, content: bytes) -> frozenset[str] | None:
        try:
            if path == config:
                kept = settings_in(content.decode("utf-8"), path)
                return frozenset(one.text for one in commands_of_settings(kept, path))
            return frozenset({read_content(path, content, settings).verify})
        except (HypervisorError, UnicodeDecodeError, ValueError, RecursionError):
            return None

    asked: dict[Path, frozenset[str]] = {}
    for one in new:
        for path in one.files[:_FILES]:
            asked[path] = asked.get(path, frozenset()) | {one.text}
    try:
        of_others = brought(project.root, asked, texts_in)
    except GitError:
        return new  # nobody can say whose they are
    # The user has written a text that stands in one file of the user's.
    return [
        one for one in new
        if all(one.text in of_others.get(path, frozenset()) for path in one.files[:_FILES])
    ]  # fmt: skip


def in_words(commands: Sequence[WantedCommand]) -> str:
    """Return the first commands in one line."""
    named = ", ".join(
        f"{one.kind} `{line if len(line) <= _LINE else line[: _LINE - 1] + '…'}`"
        for one in commands[:_NAMED]
        if (line := safe_text(" ".join(one.text.split())))
    )
    return f"{named}, and {len(commands) - _NAMED} more" if len(commands) > _NAMED else named


def require_trusted(project: Project, settings: Mapping[str, Any], wanted: Sequence[WantedCommand]) -> None:
    """Raise unless commands of the project's files may be run.

    Raises:
        Refused: Some came with the repository, and nobody has trusted them.
    """
    if new := untrusted(project, settings, wanted, TrustRecord.of(project.root, os.environ)):
        raise Refused(refusal_of(new))


def refusal_of(new: Sequence[WantedCommand]) -> str:
    """Return in one line that commands are not trusted, and what to type."""
    what = "a command" if len(new) == 1 else f"{len(new)} commands"
    return (
        f"this repository brings {what} that you have not trusted: {in_words(new)}; "
        "look at them with `hypervisor trust`, which trusts them with --yes"
    )
