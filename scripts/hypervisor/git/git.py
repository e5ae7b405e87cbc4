"""Asking git: no prompts, no pager, no hooks of ours, names of files as they are.

What the caller's environment says of another repository is taken away, as it is there when we run
below a git hook, and would turn every command to that repository.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import posixpath
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from ..core.errors import HypervisorError

#: How long another's lock on the index or a ref is waited for, in seconds.
LOCK_WAIT = 10.0
#: Variables of git that say who and how; all others say where, and are taken away.
_KEPT = (
    "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "GIT_EXEC_PATH",
    "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_",
    "GIT_CONFIG_VALUE_", "GIT_SSL", "GIT_SSH", "GIT_DISCOVERY_ACROSS_FILESYSTEM", "GIT_TEMPLATE_DIR",
)  # fmt: skip
_OURS = {
    "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "SSH_ASKPASS": "true", "GIT_PAGER": "cat",
    "GIT_EDITOR": "true", "GIT_SEQUENCE_EDITOR": "true", "GIT_MERGE_AUTOEDIT": "no",
    "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C",
    # History is what the objects say, and not what somebody has put in the place of one.
    "GIT_NO_REPLACE_OBJECTS": "1", "GIT_GRAFT_FILE": os.devnull,
}  # fmt: skip
#: Settings of the user's that would start programs, wait for a key, or answer a conflict for us.
_SETTINGS = (
    "core.hooksPath=/dev/null", "commit.gpgsign=false", "core.fsmonitor=false", "gc.auto=0",
    "maintenance.auto=false", "rerere.enabled=false", "submodule.recurse=false",
    "advice.detachedHead=false", "core.quotePath=false",
)  # fmt: skip
_COMMITTING = frozenset({"commit", "commit-tree", "merge"})
#: Files in a worktree's git folder that tell of something begun and not ended.
_BEGUN = {
    "MERGE_HEAD": "merge", "rebase-merge": "rebase", "rebase-apply": "rebase",
    "CHERRY_PICK_HEAD": "cherry-pick", "REVERT_HEAD": "revert", "BISECT_LOG": "bisect",
}  # fmt: skip


class GitError(HypervisorError):
    """Raised when git says no; the message has its words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A path that is not as the commit has it."""

    #: Relative to the top of the repository; a nested repository ends in "/".
    path: str
    #: Two letters, index and files (``M.``, ``.D``); ``??`` untracked, ``uu`` in conflict.
    code: str
    #: What the index has (mode and object), and what git says of a submodule.
    staged: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What ``git status`` says."""

    #: The commit, or "" before the first one.
    head: str
    #: None where no branch is checked out.
    branch: str | None
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Git:
    """Git in a folder."""

    cwd: Path
    #: Folder at or above which no repository is looked for, so that a worktree that lost its
    #: ``.git`` is not taken for the repository around it.
    ceiling: Path | None = None
    #: Descriptors that git inherits: a lock held there outlives us until git ends.
    keep: tuple[int, ...] = ()
    #: More variables, such as ``GIT_DIR``.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: More settings, each ``name=value``.
    settings: tuple[str, ...] = ()
    #: Variables that name an author where the user has none; None: git's settings are asked first.
    identity: Mapping[str, str] | None = None
    #: What `inherited` returned, to be used again; None to ask anew.
    inherited: Mapping[str, str] | None = None
    #: Seconds after which a command counts as hanging, and is ended with what it started; None for never.
    seconds: float | None = None

    def run(self, *words: str, check: bool = True, input: str | None = None) -> str:  # noqa: A002
        """Return what git printed, without the last line end.

        Raises:
            GitError: Git ended with an error and *check* is true.
        """
        code, out, said = self._run(words, input)
        if check and code != 0:
            raise self._error(words, code, out, said)
        return out.removesuffix("\n")

    def answer(self, *words: str, input: str | None = None) -> tuple[int, str, str]:  # noqa: A002
        """Return git's exit code, what it printed, and what it said on standard error."""
        return self._run(words, input)

    def ok(self, *words: str) -> bool:
        """Tell whether git ended without an error."""
        return self._run(words, None)[0] == 0

    def lines(self, *words: str, nul: bool = True) -> list[str]:
        """Return what git printed as pieces; with *nul*, the words ask for NUL ends (``-z``)."""
        return [piece for piece in self.run(*words).split("\0" if nul else "\n") if piece]

    def write_to(self, file: BinaryIO, *words: str, input: str) -> None:  # noqa: A002
        """Let git write to *file*.

        Raises:
            GitError: Git ended with an error.
        """
        code, out, said = self._run(words, input, to=file)
        if code != 0:
            raise self._error(words, code, out, said)

    def read_from(self, file: BinaryIO, *words: str) -> None:
        """Let git read *file*.

        Raises:
            GitError: Git ended with an error.
        """
        code, out, said = self._run(words, None, source=file)
        if code != 0:
            raise self._error(words, code, out, said)

    def _error(self, words: Sequence[str], code: int, out: str, said: str) -> GitError:
        why = said.strip() or out.strip() or f"exit {code}"
        return GitError(f"git {words[0]} in {self.cwd}: {why}")

    def _run(
        self,
        words: Sequence[str],
        text: str | None,
        *,
        source: BinaryIO | None = None,
        to: BinaryIO | None = None,
    ) -> tuple[int, str, str]:
        environment = {**(self.inherited or inherited()), **self.environment}
        if self.ceiling is not None:
            environment["GIT_CEILING_DIRECTORIES"] = os.path.realpath(self.ceiling)
        if words[0] in _COMMITTING:
            fallback = self._identity(environment) if self.identity is None else self.identity
            environment = {**fallback, **environment}
        settings = [word for setting in (*_SETTINGS, *self.settings) for word in ("-c", setting)]
        deadline = time.monotonic() + LOCK_WAIT
        wait = 0.01
        while True:
            try:
                started = subprocess.Popen(
                    [_program(environment.get("PATH", os.defpath)), *settings, *words],
                    cwd=self.cwd,
                    env=environment,
                    stdin=source or subprocess.PIPE,
                    stdout=to or subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=self.keep,
                    # Ctrl-C is for us: a git that dies of it would look like a fault of the repository.
                    process_group=0,
                )
            except FileNotFoundError as error:
                missing = "git is not installed" if self.cwd.is_dir() else f"{self.cwd}: no such folder"
                raise GitError(missing) from error
            with started:
                out, err = self._answer_of(started, None if source else os.fsencode(text or ""))
            said = err.decode("utf-8", "replace")
            if started.returncode == 0 or not _is_contention(said) or time.monotonic() > deadline:
                return started.returncode, os.fsdecode(out or b""), said
            time.sleep(wait)
            wait = min(2 * wait, 0.5)

    def _answer_of(self, started: subprocess.Popen[bytes], text: bytes | None) -> tuple[bytes, bytes]:
        """Return what git prints until it ends; a git that hangs is ended with the programs it started."""
        try:
            return started.communicate(text, self.seconds)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            out, err = started.communicate()
            return out, err + f"\nfatal: no answer within {self.seconds:g} s".encode()

    def _identity(self, environment: Mapping[str, str]) -> dict[str, str]:
        asked = self._run(
            ("config", "--name-only", "--get-regexp", r"^(user|author|committer)\.(name|email)$"), None
        )
        return fallback_identity(asked[1].splitlines(), environment)

    @property
    def top_level(self) -> Path:
        """The folder of the checkout; GitError where there is none."""
        return Path(self.run("rev-parse", "--show-toplevel"))

    @property
    def folder(self) -> Path:
        """The git folder of this very checkout."""
        return Path(self.run("rev-parse", "--absolute-git-dir"))

    @property
    def common(self) -> Path:
        """The git folder that all worktrees share."""
        return Path(os.path.realpath(self.cwd / self.run("rev-parse", "--git-common-dir")))

    def head(self) -> str:
        """Return the commit that is checked out, or "" before the first one."""
        return self.commit("HEAD")

    def branch(self) -> str | None:
        """Return the branch that is checked out, or None."""
        return self.run("symbolic-ref", "-q", "HEAD", check=False).removeprefix("refs/heads/") or None

    def exists(self, ref: str) -> bool:
        """Tell whether *ref* names a commit."""
        return bool(self.commit(ref))

    def commit(self, name: str) -> str:
        """Return the commit that *name* (a full name, a commit, a branch, or anything) means, or ""."""
        exact = name == "HEAD" or name.startswith("refs/") or is_full(name)
        for full in (name,) if exact else (f"refs/heads/{name}", name):
            if not full.startswith("-"):
                found = self.run("rev-parse", "-q", "--verify", f"{full}^{{commit}}", check=False)
                if found:
                    return found
        return ""

    def contains(self, newer: str, older: str) -> bool:
        """Tell whether *older* is *newer* or one of its ancestors."""
        return self.ok("merge-base", "--is-ancestor", older, newer)

    def begun(self) -> str:
        """Return what was begun here and not ended ("merge", "rebase" ...), or ""."""
        return begun_in(self.folder)

    def status(self, *words: str) -> Status:
        """Look at the whole checkout; renames are told as both of their names."""
        fields = iter(
            self.lines("status", "--porcelain=v2", "-z", "--branch", "--untracked-files=all",
                       "--no-renames", "--ignore-submodules=none", *words)
        )  # fmt: skip
        head, branch, entries = "", None, []
        for one in fields:
            kind, _, rest = one.partition(" ")
            if kind == "#":
                name, _, value = rest.partition(" ")
                if name == "branch.oid" and value != "(initial)":
                    head = value
                elif name == "branch.head" and value != "(detached)":
                    branch = value
            elif kind == "1":
                code, sub, _, mode, _, _, staged, path = rest.split(" ", 7)
                entries.append(Entry(path=path, code=code, staged=f"{mode} {staged} {sub}"))
            elif kind == "u":
                parts = rest.split(" ", 9)
                entries.append(Entry(path=parts[9], code="uu", staged=" ".join(parts[6:9])))
            elif kind == "?":
                entries.append(Entry(path=rest, code="??"))
        return Status(head=head, branch=branch, entries=tuple(entries))


def begun_in(folder: Path) -> str:
    """Return what was begun in the checkout with this git folder and not ended, or ""."""
    return next((what for name, what in _BEGUN.items() if os.path.lexists(folder / name)), "")


def fallback_identity(known: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables that name an author for what neither the settings *known* nor *environ* name.

    Git would guess from the machine's names, or stop where it must not guess.
    """
    settings, found = set(known), {}
    for who in ("author", "committer"):
        for what, fallback in (("name", "Hypervisor"), ("email", "hypervisor@localhost")):
            variable = f"GIT_{who}_{what}".upper()
            if not environ.get(variable) and not settings & {f"user.{what}", f"{who}.{what}"}:
                found[variable] = fallback
    return found


def is_full(name: str) -> bool:
    """Tell whether *name* is the whole hash of an object."""
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) is not None


def inherited() -> dict[str, str]:
    """Return what git gets of this process's environment, and what it always gets."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith(_KEPT)}
    return {**kept, **_OURS}


@lru_cache(maxsize=4)
def _program(path: str) -> str:
    """Return where git is; looked for once, as a search at each start costs more than the start."""
    return shutil.which("git", path=path) or "git"


def _is_contention(said: str) -> bool:
    if "exists; cannot create" in said or "but expected" in said:
        return False
    return (".lock'" in said and ("File exists" in said or "No such file or directory" in said)) or (
        "could not lock config file" in said and "File exists" in said
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock file *path* against other threads and processes; give its descriptor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def from_top(path: str, prefix: str) -> str:
    """Return *path* (relative to the top) relative to the folder at *prefix*; "../x" if outside."""
    if not prefix or path.startswith(prefix):
        return path[len(prefix) :]
    return posixpath.relpath(path, prefix) + ("/" if path.endswith("/") else "")


def shown(path: str) -> str:
    """Return a path for people: as it is, or quoted where it has characters that do not print."""
    return path if path.isprintable() else repr(path)
