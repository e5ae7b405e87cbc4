"""Workspaces of a run: set up by the commands of ``[worktree]``, each with its own port and temporary folder.

Clones are used again, so set-up runs once for each agent of `-j`. Between two attempts a clone gets a new git
folder and new tracked files. Of the rest, what set-up made stays if nothing in it has changed, and everything
else is removed. A clone in which an agent has changed what set-up made is set up anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import secrets
import shlex
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import HypervisorError
from ..core.files import remove_tree
from ..core.text import last_line
from ..git.clones import Clones
from ..git.git import GitError
from ..git.prepared import Entry, inputs_at, note_files, reset_files
from ..git.repository import Repository
from ..git.work import Gathered, Tree
from ..git.workspaces import Workspaces
from ..queue.batch import Batch
from ..runners.base import Assignment
from ..runners.child import run_child
from .containment import Containment
from .prompt import RUN_MARK

#: Where agents and the commands of ``[worktree]`` find their port.
PORT = "HYPERVISOR_PORT"
#: Ports to choose from: below those that systems give to outgoing connections.
_PORTS = range(20_000, 30_000)
_POOL = ".pool"


class SetupFailed(HypervisorError):
    """Raised when `worktree.setup` fails: no task's fault.

    Attributes:
        halts: Whether it has failed like this before in this run, so that the batch must stop.
    """

    def __init__(self, text: str, *, halts: bool) -> None:
        super().__init__(text)
        self.halts = halts


@dataclass(slots=True)
class Workspace:
    """A folder that attempts work in, one after another."""

    path: Path | None
    port: int
    #: Bound as long as the port is kept for this workspace.
    held: socket.socket
    temporary: str
    #: What set-up made; None before it ran.
    noted: dict[str, Entry] | None = None
    #: The files that set-up depends on, as it ran.
    inputs: frozenset[str] = frozenset()
    #: What an attempt works on in there; None between two.
    tree: Tree | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that name what is its own."""
        return {PORT: str(self.port), "TMPDIR": self.temporary}

    def give_up(self) -> None:
        """Free the port, and remove the temporary folder."""
        self.held.close()
        with contextlib.suppress(OSError):
            remove_tree(Path(self.temporary))


@dataclass(slots=True)
class WorkspacePool:
    """The workspaces of a run. Thread-safe."""

    trees: Workspaces
    #: The table ``[worktree]`` of the settings.
    settings: Mapping[str, Any]
    #: Folder for the outputs of set-up and teardown.
    logs: str
    #: Marks everything that set-up starts.
    mark: str
    #: Makes the sandboxes of its commands; None for none.
    containment: Containment | None = None
    #: What could not be torn down, a line each.
    notes: list[str] = field(default_factory=list)
    _idle: list[Workspace] = field(default_factory=list)
    _made: int = 0
    #: Failures of set-up, by command and exit.
    _failed: set[tuple[str, int | None]] = field(default_factory=set)
    #: The folder of merged work, by its inode, and what its set-up depended on.
    _merge: tuple[int, frozenset[str]] | None = None
    _folder: Path | None = None
    _lock_file: int = -1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def reuses(self) -> bool:
        """Whether workspaces are used again: clones that cost something to make."""
        return self.settings["reuse"] and bool(self.settings["setup"]) and isinstance(self.trees, Clones)

    def open(
        self,
        task: str,
        attempt: int | str,
        base: str,
        stopped: threading.Event,
        asked: int | None = None,
    ) -> Workspace:
        """Return a workspace with a tree for the attempt, made and set up if none is idle.

        Args:
            task: The task's id.
            attempt: The attempt's number.
            base: The commit that it begins from.
            stopped: Set when set-up must end at once.
            asked: The attempt whose folder and branch it goes on with, if any.

        Raises:
            SetupFailed: The commands of `worktree.setup` failed.
            Refused: See `Workspaces.open`.
        """
        attempt = asked or attempt
        if asked is not None and (left := self._left(task, asked, base)):
            return left
        inputs = self._inputs(base) if self.settings["setup"] else frozenset[str]()
        workspace = self._take()
        try:
            if workspace.noted is not None and (inputs != workspace.inputs or not _is_reset(workspace)):
                workspace.noted = None
            if workspace.path is not None and workspace.noted is None:
                remove_tree(workspace.path)
            workspace.tree = self.trees.open(task, attempt, base, workspace.path)
            if workspace.noted is None and self.settings["setup"]:
                self._set_up(workspace, workspace.tree, stopped)
                workspace.inputs = inputs
        except BaseException:
            if workspace.tree is not None:
                nothing = Gathered(place=workspace.tree.path)
                self.trees.close(workspace.tree, nothing, merged=False)
            elif workspace.path is not None:
                remove_tree(workspace.path)
            workspace.give_up()
            raise
        return workspace

    def close(self, workspace: Workspace, gathered: Gathered, *, merged: bool, spare: bool = False) -> None:
        """Give back a workspace that was gathered; it is kept if it holds work that is nowhere else.

        Args:
            workspace: It.
            gathered: What was gathered there.
            merged: Whether that is merged.
            spare: Whether its branch may be discarded by `hypervisor clean`: another's work was better.
        """
        tree, workspace.tree = workspace.tree, None
        assert tree is not None  # noqa: S101 - it is open
        reused = self.reuses and workspace.noted is not None
        if self.settings["teardown"] and not reused and gathered.is_all:
            self._tear_down(self.trees.place(tree), workspace)
        gone = self.trees.close(tree, gathered, merged=merged, keep_files=reused)
        if spare and gathered.commits:
            self.trees.set_spare(tree)
        if not (gone and reused):
            workspace.give_up()
            return
        for name in os.listdir(workspace.temporary):
            place = Path(workspace.temporary, name)
            remove_tree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
        with self._lock:
            self._idle.append(workspace)

    def prepare_merged(self, folder: Path, commit: str) -> str:
        """Set up the folder in which merged work is verified, if that is due; return why it failed, or ""."""
        if not self.settings["setup"]:
            return ""
        as_of = (os.stat(folder).st_ino, self._inputs(commit))
        if as_of == self._merge:
            return ""
        for command in self.settings["setup"]:
            if why := self._run(command, folder, {}, "setup-merge", threading.Event())[0]:
                return why
        self._merge = as_of
        return ""

    def shut(self) -> None:
        """Tear down and remove the workspaces that are idle."""
        for workspace in self._idle:
            assert workspace.path is not None  # noqa: S101 - only those are used again
            if self.settings["teardown"]:
                self._tear_down(workspace.path / self.trees.repository.prefix, workspace)
            with contextlib.suppress(OSError):
                remove_tree(workspace.path)
            workspace.give_up()
        self._idle.clear()
        if self._folder is not None:
            os.close(self._lock_file)
            _remove_unused(self.trees, self._folder, dry_run=False)
            self._folder = None

    # ---------------------------------------------------------------- details

    def _left(self, task: str, attempt: int, base: str) -> Workspace | None:
        """Return the workspace that an earlier attempt left as it was, None if its folder is gone."""
        ends = f"-{attempt}"
        left = [one for one in self.trees.found() if one.task == task and one.branch.endswith(ends)]
        if not any(one.path.is_dir() for one in left):
            return None
        port, held = free_port()
        made = Workspace(path=None, port=port, held=held, temporary=tempfile.mkdtemp(prefix="hypervisor-"))
        made.tree = self.trees.open(task, attempt, base)
        return made

    def _inputs(self, commit: str) -> frozenset[str]:
        return inputs_at(self.trees.repository.git(), commit, self.settings["inputs"])

    def _take(self) -> Workspace:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            path = self._new_path() if self.reuses else None
        port, held = free_port()
        return Workspace(path=path, port=port, held=held, temporary=tempfile.mkdtemp(prefix="hypervisor-"))

    def _new_path(self) -> Path:
        if self._folder is None:
            pool = self.trees.folder.absolute() / _POOL
            remove_unused(self.trees, dry_run=False)  # of runs that were killed
            folder = pool / secrets.token_hex(4)
            folder.mkdir(parents=True)
            self._lock_file = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            self._folder = folder
        self._made += 1
        return self._folder / str(self._made)

    def _set_up(self, workspace: Workspace, tree: Tree, stopped: threading.Event) -> None:
        for command in self.settings["setup"]:
            place, environment = self.trees.place(tree), workspace.environment
            why, code = self._run(command, place, environment, f"setup-{tree.name}", stopped)
            if why:
                raise SetupFailed(why, halts=not stopped.is_set() and self._again(command, code))
        left = self.trees.inspect(tree).uncommitted
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            text = f"worktree.setup left {left[0]}{more}, which git does not ignore; add it to .gitignore"
            raise SetupFailed(text, halts=self._again(text, None))
        if workspace.path is not None:
            tracked = self.trees.repository.git().lines("ls-tree", "-r", "-z", "--name-only", tree.base)
            workspace.noted = note_files(tree.path, tracked)

    def _again(self, command: str, code: int | None) -> bool:
        with self._lock:
            known = (command, code) in self._failed
            self._failed.add((command, code))
        return known

    def _tear_down(self, place: Path, workspace: Workspace) -> None:
        name, never = f"teardown-{place.name}", threading.Event()
        for command in self.settings["teardown"]:
            why, _ = self._run(command, place, workspace.environment, name, never, "worktree.teardown")
            if why and why not in self.notes:
                self.notes.append(why)

    def _run(
        self,
        command: str,
        place: Path,
        environment: Mapping[str, str],
        name: str,
        stopped: threading.Event,
        what: str = "worktree.setup",
    ) -> tuple[str, int | None]:
        """Run a command of ``[worktree]``; return why it failed, "" if it did not, and its exit code."""
        os.makedirs(self.logs, exist_ok=True)
        log, seconds = os.path.join(self.logs, name), float(self.settings["seconds"])
        said = [""]

        def hear(line: bytes) -> None:
            said[0] = line.decode("utf-8", "replace") if line.strip() else said[0]

        with contextlib.ExitStack() as held:
            sandbox = None
            if self.containment is not None:
                sandbox = held.enter_context(self.containment.around(name, place, ("sh",)))
            end = run_child(["sh", "-c", command], Assignment(
                task_id=name, prompt="", cwd=str(place), log=log, timeout=seconds, stopped=stopped,
                environment={**os.environ, **environment}, mark=(RUN_MARK, f"{self.mark}/{name}"),
                sandbox=sandbox,
            ), on_line=hear)  # fmt: skip
        if end.not_started:
            how = f"cannot be started: {end.not_started.strerror}"
        elif end.ended_by == "timed out":
            how = f"did not end within {seconds:g} s"
        elif end.ended_by:
            how = "was stopped"
        elif end.code:
            last = last_line(end.stderr) or said[0]
            how = f"exited {end.code}{f': {last[:200]}' if last else ' with no output'}"
        else:
            return "", 0
        return f"{what} failed: `{command}` {how}; see {shlex.quote(log)}.err", end.code


def _is_reset(workspace: Workspace) -> bool:
    """Bring a workspace back to what set-up made; return whether all of that is as it was."""
    assert workspace.path is not None  # noqa: S101 - only those are noted
    assert workspace.noted is not None  # noqa: S101 - asked before
    try:
        return not reset_files(workspace.path, workspace.noted)
    except OSError:
        return False


def prepares_merged(
    batch: Batch, repository: Repository, folder: Path, containment: Containment | None
) -> Callable[[Path, str], str]:
    """Return `Integration.prepare` for a batch that is merged outside of its run."""
    clones, settings = Clones(repository, folder, batch.id), batch.store.settings["worktree"]
    return WorkspacePool(clones, settings, batch.logs, batch.id, containment).prepare_merged


def free_port() -> tuple[int, socket.socket]:
    """Return a TCP port on which nothing listens, and a socket that keeps it from other runs.

    What is kept is the UDP port of the same number on 127.0.0.1, as the TCP port is for the agent. It is kept
    until the socket is closed or its process has ended.

    Raises:
        OSError: All ports are taken.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            held.bind(("127.0.0.1", port))
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(("", port))
            return port, held
        except OSError:
            held.close()
    raise OSError(f"no port from {_PORTS.start} to {_PORTS.stop - 1} is free")


def remove_unused(trees: Workspaces, *, dry_run: bool) -> list[Path]:
    """Remove prepared workspaces of runs that were killed; return them. Folders that hold work stay."""
    pool = trees.folder.absolute() / _POOL
    folders = sorted(pool.iterdir()) if pool.is_dir() else []
    return [path for folder in folders for path in _remove_unused(trees, folder, dry_run=dry_run)]


def _remove_unused(trees: Workspaces, folder: Path, *, dry_run: bool) -> list[Path]:
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return []
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return []  # its run is at work
    else:
        used = {tree.path for tree in trees.found()}
        unused = [path for path in sorted(folder.iterdir()) if path.name != "lock" and path not in used]
        if not dry_run:
            with contextlib.suppress(OSError, GitError):
                for path in unused:
                    remove_tree(path)
                if os.listdir(folder) == ["lock"]:
                    remove_tree(folder)
                    folder.parent.rmdir()
        return unused
    finally:
        os.close(lock)
