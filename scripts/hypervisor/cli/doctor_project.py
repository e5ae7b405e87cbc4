"""Whether a project's repository and its rules are as agents need them, and what runs have left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import HypervisorError
from ..core.project import Project
from ..core.settings import settings_of
from ..git.git import Git, GitError
from ..queue import leftovers, retention
from ..tasks.discovery import find_task_files
from .checkup import CheckFinding, found, warning

#: Beyond this it is worth a word what the outputs of old batches take.
_MANY_BYTES = 1 << 30
#: What a worker that changes code uses: tools, and commands of git's.
_NEEDED = ("Edit", "Write", "git add", "git commit")


def examine(project: Project, environ: Mapping[str, str]) -> Iterator[CheckFinding]:
    """Yield what is found of the repository, the workers' permissions, outputs and leftovers."""
    yield _repository(project, environ)
    uses_us = project.state.is_dir() or _has_tasks(project)
    if uses_us:
        yield _permissions(project, environ)
    if project.state.is_dir():
        yield _outputs(project)
        yield _leftovers(project)


def _repository(project: Project, environ: Mapping[str, str]) -> CheckFinding:
    check = "repository"
    if shutil.which("git", path=environ.get("PATH", os.defpath)) is None:
        return found(check, "not checked without git")
    git = Git(project.root)
    try:
        if not git.ok("rev-parse", "--is-inside-work-tree"):
            text = f"{project.root} is in no git repository: agents that change code get no worktrees"
            return warning(check, text, "git init && git add --all && git commit -m Begin")
        if not git.ok("rev-parse", "--verify", "--quiet", "HEAD^{commit}"):
            return warning(check, "there is no commit yet", "git add --all && git commit -m Begin")
        if not git.ok("var", "GIT_COMMITTER_IDENT") or not git.ok("var", "GIT_AUTHOR_IDENT"):
            text = "git knows no name or address to commit with"
            return warning(check, text, 'git config user.name "..." && git config user.email "..."')
        if begun := git.begun():
            text = f"a {begun} is in progress: no work can be merged into the branch meanwhile"
            return warning(check, text, "git status, and end it")
        branch = git.branch()
        if branch is None:
            text = "no branch is checked out: what agents do cannot be merged into one"
            return warning(check, text, "git switch BRANCH, or: hypervisor run --merge branch")
    except (GitError, HypervisorError) as error:
        return warning(check, str(error), "git status")
    return found(check, f"branch {branch}")


def _has_tasks(project: Project) -> bool:
    return any(_task_files(project))


def _task_files(project: Project) -> Iterator[Path]:
    """Yield the task files, as far as they can be found: that they cannot is another check's."""
    with contextlib.suppress(HypervisorError, OSError):
        yield from find_task_files(project.root, settings_of(project.state))


def _permissions(project: Project, environ: Mapping[str, str]) -> CheckFinding:
    """Look which rules for a session's workers stand in the client's settings, and at nothing else there."""
    own = environ.get("CLAUDE_CONFIG_DIR") or os.path.join(environ.get("HOME", ""), ".claude")
    places = [
        project.root / ".claude/settings.json",
        project.root / ".claude/settings.local.json",
        Path(own, "settings.json"),
    ]
    allowed: list[str] = []
    for place in places:
        rules = _rules(place)
        if rules.get("defaultMode") == "bypassPermissions":
            return found("permissions", f"workers may do everything ({place})")
        if rules.get("defaultMode") == "acceptEdits":
            allowed += ["Edit", "Write"]
        if isinstance(rules.get("allow"), list):
            allowed += [rule for rule in rules["allow"] if isinstance(rule, str)]
    missing = [needed for needed in _NEEDED if not any(_allows(rule, needed) for rule in allowed)]
    if not missing:
        return found("permissions", "workers may edit and commit")
    text = f"no rule allows workers of a session to use {', '.join(missing)}, and they cannot ask"
    rule = '{"permissions": {"allow": ["Edit", "Write", "Bash(git add *)", "Bash(git commit *)"]}}'
    return warning("permissions", text, f"put into {places[0]}: {rule}")


def _rules(place: Path) -> dict[str, Any]:
    try:
        found = json.loads(place.read_bytes()).get("permissions")
    except (OSError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def _allows(rule: str, needed: str) -> bool:
    """Tell whether a rule such as ``Edit`` or ``Bash(git *)`` covers a tool, or a command of git's."""
    if not needed.startswith("git "):
        return rule == needed
    inside = re.fullmatch(r"Bash(?:\((.*?)(?::?\*)?\))?", rule)
    return inside is not None and needed.startswith((inside[1] or "").strip())


def _outputs(project: Project) -> CheckFinding:
    try:
        kept = retention.survey(retention.batches_of(project))
    except (HypervisorError, OSError):
        return found("outputs", "not measured without the store")
    total = sum(one.size.bytes for one in kept)
    text = f"{retention.in_words_of_size(total)} of {len(kept)} batch(es)"
    if total > _MANY_BYTES:
        return warning("outputs", text, "hypervisor clean --outputs --older-than 30d --dry-run")
    return found("outputs", text)


def _leftovers(project: Project) -> CheckFinding:
    left = leftovers.find(project.state, {str(path.parent) for path in _task_files(project)})
    if left:
        return warning("leftovers", f"{len(left)} of crashed processes", "hypervisor clean")
    return found("leftovers", "none")
