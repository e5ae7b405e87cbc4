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
import stat
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .errors import Refused
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
    the nearest ``.hypervisor`` upwards, not above the repository; the main checkout of the git
    repository, from a linked worktree too; ``CLAUDE_PROJECT_DIR``; *start* itself.

    Raises:
        Refused: The state folder is another user's, or everybody may write to it.
    """
    home = environ.get("HYPERVISOR_HOME")
    if home:
        state = Path(os.path.realpath(home))
        _require_ours(state)
        return Project(state.parent, state)
    start = Path(os.path.realpath(start))
    found = state_above(start)
    if found is not None:
        _require_ours(found)
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
    """Return the nearest ``.hypervisor`` folder at or above *start*, or None.

    It is looked for up to the top of the repository: what stands above that is no part of it, as ``/tmp`` is
    no part of a project in it. Another user's above *start* is passed over.
    """
    inside = STATE in start.parts  # an agent's folder is a repository of its own, within the project
    for folder in (start, *start.parents):
        candidate = folder / STATE
        try:
            if candidate.is_dir() and (folder == start or not foreign(candidate)):
                return candidate
            if not inside and (folder / ".git").is_dir():
                return None
        except OSError:  # a name that is too long, or a folder that is closed to us: not there
            continue
    return None


def foreign(folder: Path) -> str:
    """Return why a folder of state, cache or settings may hold what others have written, "" if it may not."""
    found = os.stat(folder)
    if found.st_uid not in (os.geteuid(), 0, _sudo_uid()):
        return f"it belongs to the user with id {found.st_uid}, not to you"
    return "everybody may write to it; `chmod o-w` it" if found.st_mode & stat.S_IWOTH else ""


def _sudo_uid() -> int:
    asked = os.environ.get("SUDO_UID", "")
    return int(asked) if os.geteuid() == 0 and asked.isdecimal() else os.geteuid()


def _require_ours(state: Path) -> None:
    try:
        why = foreign(state)
    except FileNotFoundError:
        return
    if why:
        raise Refused(f"{state}: {why}; nothing of others is used. HYPERVISOR_HOME names another folder")


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the user's cache folder. As the XDG specification says, a relative one is not used."""
    named = environ.get("XDG_CACHE_HOME", "")
    return Path(named if os.path.isabs(named) else os.path.join(environ.get("HOME", "/"), ".cache"))


def state_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the folder of the user's own state, likewise; None where the user has no home."""
    named, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    if os.path.isabs(named):
        return Path(named)
    return Path(home, ".local/state") if os.path.isabs(home) else None


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
        state = cache_folder(environ) / "hypervisor"
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
