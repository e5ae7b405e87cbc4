"""May the agent of a task do this: write that file, read that one, run that command. Pure.

A task's body comes from anybody; whatever it asks for, its agent changes the task's files and no others,
leaves git alone, and reads no secrets. What slips through here is still seen afterwards, by `evidence`.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..git.work import in_scope

#: Programs that commit, push or publish. The coordinator commits what is left in the task's files.
_GIT = frozenset({"git", "gh", "hub", "glab"})
#: What separates the words of a command line, as far as it matters here.
_WORDS = re.compile(r"[^\s;&|()<>`\"'=$\\{}@:,]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the agent of a task is held to."""

    task: str
    #: Where it works: a worktree, or the project's root.
    folder: str
    #: The project's root, and its state folder.
    root: str
    #: Paths and globs that the task may touch; none for the whole project.
    files: tuple[str, ...]
    #: The command that verifies it, which may always be run.
    verify: str = ""
    #: Globs of names that hold secrets.
    secrets: tuple[str, ...] = ()
    is_task_file: Callable[[str], bool] = lambda _: False
    #: The task's file.
    file: str = ""

    def _below(self, path: str) -> str:
        """Return *path* relative to the folder that it lies in; what is outside begins with ``../``."""
        real = os.path.realpath(os.path.join(self.folder, os.path.expanduser(path)))
        return os.path.relpath(real, os.path.realpath(self.folder))

    def write(self, path: str) -> str | None:
        """Return why *path* may not be written, None if it may."""
        below = self._below(path)
        if below.split("/")[0] == ".git" or not in_scope(below, self.files, self.is_task_file):
            allowed = ", ".join(self.files) or "the project's own files"
            return f"{path} is outside of what {self.task} may change ({allowed})"
        return None

    def read(self, path: str) -> str | None:
        """Return why *path* may not be read, None if it may."""
        below = self._below(path)
        given = os.path.normpath(os.path.expanduser(path))
        hit = self._secret([*below.split("/"), *given.split("/")])
        if hit and not (self.files and in_scope(below, self.files)):
            return f"{path} may hold secrets ({hit}), and {self.task} does not name it"
        return None

    def run(self, command: str) -> str | None:
        """Return why *command* may not be run, None if it may."""
        if self.verify and command.strip() == self.verify.strip():
            return None
        for word in _WORDS.findall(command):
            if os.path.basename(word) in _GIT:
                return (
                    f"no {os.path.basename(word)}: what you leave in the files of {self.task} is committed "
                    f"for you"
                )
            hit = self._secret(word.split("/"))
            if hit and not (self.files and in_scope(self._below(word), self.files)):
                return f"{word} may hold secrets ({hit}), and {self.task} does not name it"
        return None

    def _secret(self, parts: Iterable[str]) -> str:
        for part in parts:
            for pattern in self.secrets:
                if fnmatch.fnmatchcase(part, pattern):
                    return pattern
        return ""


def first_refusal(bounds: Sequence[Bounds], judge: Callable[[Bounds], str | None]) -> str | None:
    """Return why nothing of what an agent holds allows this, None if something does, or it holds nothing."""
    reasons = [judge(one) for one in bounds]
    return reasons[0] if reasons and all(reasons) else None
