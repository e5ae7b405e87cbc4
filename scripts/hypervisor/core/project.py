"""A project: its root, what lies below its state folder, and the keys of items and tasks in its store.

**Canonical form of an item.** Two queue lines are one item when they name one place. An item that looks like
a text (it holds ``://``, or starts with ``{`` or ``[``) stands for itself, to the byte. Every other item is
read as a path: relative ones below the queue's base folder, with ``.``, ``..``, doubled slashes and the links
of its *folders* resolved. The last name is never resolved and need not exist: a command may move or delete
the file that it was given, and its key must not change under it.

**Key.** A readable slug and 128 bits of a hash of the canonical form: never the file's stem alone, of which a
tree may hold hundreds (``README.md``).
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .files import real_path

STATE = ".hypervisor"
#: Longest slug: with hash, number and endings an output's name stays well below the 255 bytes that file
#: systems allow.
SLUG_LENGTH = 80
_HASH_BYTES = 16
_UNSLUG = re.compile(r"[^a-z0-9]+")


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
    litters the user's folders. Files of no project share 256 locks in the user's cache folder:
    a lock that is removed could be held twice, and one a note would stay for ever.
    """
    real = Path(real_path(path))
    digest = hashlib.blake2b(os.fsencode(real), digest_size=16).hexdigest()
    name = f"{digest}.lock"
    state = state_above(real.parent)
    if state is None:
        name = f"{digest[:2]}.lock"
        cache = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME", "/"), ".cache")
        state = Path(cache) / "hypervisor"
    folder = state / "filelocks"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / name


# ------------------------------------------------------------------------ keys


def canonical(item: str, base: str) -> str:
    """Return the form of *item* that is equal for all its spellings.

    Args:
        item: A queue line, verbatim.
        base: Absolute, real path of the folder that relative items are relative to.
    """
    if "://" in item or item[:1] in ("{", "["):
        return f"text:{item}"
    if "/" not in item and item not in ("", ".", ".."):
        return f"path:{item}"  # what `resolve` would say of it, in a tenth of the time
    path = resolve(item, base)
    below = base.rstrip("/") + "/"
    # Relative to the base where possible, so that a project may be moved between batches.
    return f"path:{path[len(below) :]}" if path.startswith(below) else f"path:{path}"


def resolve(item: str, base: str) -> str:
    """Return the absolute path that *item* names, the links of its folders resolved."""
    head, _, tail = item.rpartition("/")
    folder = (head or "/") if item.startswith("/") else f"{base}/{head}"
    if tail in ("", ".", ".."):
        return _real(os.path.join(folder, tail))
    return f"{_real(folder).rstrip('/')}/{tail}"


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    # Cached: a queue has few folders and many files, and each call costs an lstat a part.
    try:
        return real_path(folder)
    except (OSError, ValueError):  # a NUL, or a name longer than the system takes
        return os.path.normpath(folder)


def item_key(canonical_form: str, salt: str = "") -> str:
    """Return the name that an item bears in a store, from its canonical form.

    Args:
        canonical_form: See `canonical`.
        salt: Where a store is shared, the name of the batch that the item belongs to alone.
    """
    data = os.fsencode(f"{salt}\0{canonical_form}" if salt else canonical_form)
    digest = hashlib.blake2b(data, digest_size=_HASH_BYTES).hexdigest()
    return f"{_slug(canonical_form)}-{digest}"


def task_key(root: str | os.PathLike[str], path: str | os.PathLike[str]) -> str:
    """Return the key of a task in its project's store, from the project's root and the file's path."""
    return item_key(canonical(real_path(path), real_path(root)))


def _slug(canonical_form: str) -> str:
    words = canonical_form.partition(":")[2].rstrip("/").split("/")[-2:]
    text = "-".join(words).removesuffix(".md")[-4 * SLUG_LENGTH :]
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return _UNSLUG.sub("-", text.lower()).strip("-")[-SLUG_LENGTH:].strip("-") or "item"


def attempt_name(key: str, number: int) -> str:
    """Return the name of an attempt's outputs: ``key``, ``key~2``, ``key~3`` ..."""
    return key if number == 1 else f"{key}~{number}"
