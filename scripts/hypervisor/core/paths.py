"""Where a project's root is, and what lies where below its state folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

STATE = ".hypervisor"


@dataclass(frozen=True, slots=True)
class Project:
    """A root folder and its state folder; neither need exist yet."""

    root: Path
    #: ``<root>/.hypervisor``, or what ``HYPERVISOR_HOME`` names.
    state: Path

    @property
    def batches(self) -> Path:
        """Folder of the batches, one folder each."""
        return self.state / "batches"

    def prepare(self) -> None:
        """Make the state folder: for its owner only, and ignored by git."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore = self.state / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")


def find_project(start: Path, environ: Mapping[str, str]) -> Project:
    """Return the project that *start* (a folder) belongs to.

    The first that exists: ``HYPERVISOR_HOME`` (a state folder; the root is its parent);
    the nearest ``.hypervisor`` upwards; the main checkout of the git repository, from a
    linked worktree too; ``CLAUDE_PROJECT_DIR``; *start* itself.
    """
    home = environ.get("HYPERVISOR_HOME")
    if home:
        state = Path(os.path.realpath(home))
        return Project(state.parent, state)
    start = Path(os.path.realpath(start))
    found = state_above(start)
    if found is not None:
        return Project(found.parent, found)
    root = _git_root(start)
    if root is None and environ.get("CLAUDE_PROJECT_DIR"):
        root = Path(os.path.realpath(environ["CLAUDE_PROJECT_DIR"]))
    root = root or start
    return Project(root, root / STATE)


def session_project(environ: Mapping[str, str]) -> Project:
    """Return the project of the client's session that this process serves.

    A session has one project, whatever folder its agents work in: the client says where it began.
    """
    return find_project(Path(environ.get("CLAUDE_PROJECT_DIR") or Path.cwd()), environ)


def state_above(start: Path) -> Path | None:
    """Return the nearest ``.hypervisor`` folder at or above *start*, or None."""
    for folder in (start, *start.parents):
        candidate = folder / STATE
        try:
            if candidate.is_dir():
                return candidate
        except OSError:  # a name that is too long, or a folder that is closed to us: not there
            continue
    return None


def _git_root(start: Path) -> Path | None:
    # Read from the files instead of asking git: this runs in hooks, where a process costs
    # more than the whole decision. Layout: gitrepository-layout(5), "commondir".
    for folder in (start, *start.parents):
        mark = folder / ".git"
        if mark.is_dir():
            return folder
        if mark.is_file():
            try:
                line = mark.read_text("utf-8").strip()
                gitdir = (folder / line.removeprefix("gitdir:").strip()).resolve()
                common = (gitdir / (gitdir / "commondir").read_text("utf-8").strip()).resolve()
            except (OSError, UnicodeDecodeError):
                return folder
            return common.parent if common.name == ".git" else folder
    return None


def file_lock_path(path: str, environ: Mapping[str, str]) -> Path:
    """Return the lock file that guards edits of the task file *path*.

    It stands in the state folder of the project that the file lies in, so that no lock
    litters the user's folders; for a file of no project, in the user's cache folder.
    """
    real = Path(os.path.realpath(path))
    name = hashlib.blake2b(os.fsencode(real), digest_size=16).hexdigest() + ".lock"
    state = state_above(real.parent)
    if state is None:
        cache = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME", "/"), ".cache")
        state = Path(cache) / "hypervisor"
    folder = state / "filelocks"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / name
