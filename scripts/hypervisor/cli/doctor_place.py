"""Whether the folder of a project's state can hold a store, and has room."""

from __future__ import annotations

import fcntl
import os
import resource
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..core.errors import ConfigError, StoreUnusable
from ..core.files import file_system_of, on_network
from ..core.project import Project
from ..core.settings import CONFIG_FILE, load_settings
from ..queue.leftovers import TRIAL
from ..store.sqlite import FILE, SqliteEngine
from .checkup import CheckFinding, failure, found, warning

#: Below this a batch may fill the disk with what its agents write; and below that nothing can be claimed.
_FEW_BYTES, _NO_BYTES = 1 << 30, 10 << 20
_FEW_NAMES, _NO_NAMES = 10_000, 100
#: How far a file's time may lie from the machine's, in seconds.
_CLOCK_SECONDS = 5.0
#: An agent takes a few files of its coordinator, and a client some dozens of threads.
_FEW_FILES, _FEW_PROCESSES = 256, 512
_ELSEWHERE = "set HYPERVISOR_HOME to a local folder"


def examine(project: Project) -> Iterator[CheckFinding]:
    """Yield what is found of settings, state folder, file system, disk, clock and limits."""
    folder = project.state if project.state.is_dir() else project.root
    yield _settings(project)
    yield _state(project)
    yield _file_system(folder)
    yield from _promises(folder)
    yield _room(folder)
    yield _limits()


def _settings(project: Project) -> CheckFinding:
    path = project.state / CONFIG_FILE
    try:
        load_settings(project.state)
    except ConfigError as error:
        return failure("settings", str(error), f"edit {path}")
    except OSError as error:
        return failure("settings", f"{path}: {error.strerror}", f"chmod u+r {path}")
    return found("settings", str(path) if path.exists() else "all defaults")


def _state(project: Project) -> CheckFinding:
    state = project.state
    if not state.is_dir():
        if os.path.lexists(state):
            return failure("state folder", f"{state} is no folder", f"mv {state} {state}.old")
        if not os.access(project.root, os.W_OK | os.X_OK):
            return failure("state folder", f"{project.root} is not writable", f"chmod u+w {project.root}")
        return found("state folder", f"{state} will be made")
    seen = state.stat()
    text = f"{state} (mode {seen.st_mode & 0o777:o})"
    if seen.st_uid != os.geteuid():
        if os.geteuid() == 0:
            text += f" is user {seen.st_uid}'s: what root makes in it, that user cannot end"
            return warning("state folder", text, f"su $(id -un {seen.st_uid}), and work as that user")
        return failure("state folder", f"{text} is user {seen.st_uid}'s", f"sudo chown -R $(id -u) {state}")
    if not os.access(state, os.W_OK | os.X_OK) or seen.st_mode & 0o022:
        return failure("state folder", text, f"chmod 700 {state}")
    # One of another user's (of a `sudo hypervisor ...`) keeps everybody from claiming.
    for name in ("workers", "batches", "logs", "sessions", "locks", "results"):
        path = state / name
        if path.is_dir() and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            return failure("state folder", f"{path} is not writable", f"sudo chown -R $(id -u) {state}")
    if seen.st_mode & 0o077:  # made by hand, for the settings: others may read what agents print
        return warning("state folder", f"{text}: others can read it", f"chmod 700 {state}")
    return found("state folder", text)


def _file_system(folder: Path) -> CheckFinding:
    kind = file_system_of(str(folder)) or "unknown"
    if not on_network(str(folder)):
        return found("file system", kind)
    text = f"{kind} is a network file system, which cannot hold the database"
    return failure("file system", text, _ELSEWHERE)


def _promises(folder: Path) -> Iterator[CheckFinding]:
    """Try what claims rely on: exclusive mkdir, locks, a database; and the clock."""
    try:
        with tempfile.TemporaryDirectory(prefix=TRIAL, dir=folder) as scratch:
            faults = _try_promises(scratch)
            now, written = time.time(), os.stat(scratch).st_mtime
    except StoreUnusable as error:
        yield failure("claims", f"no database can be made here: {error}", _ELSEWHERE)
        return
    except OSError as error:
        text = f"cannot be tried in {folder}: {error.strerror}"
        yield failure("claims", text, f"chmod u+rwx {folder}, make room, or {_ELSEWHERE}")
        return
    if faults:
        yield failure("claims", f"does not hold: {', '.join(faults)}", _ELSEWHERE)
    else:
        yield found("claims", "mkdir and locks hold, and a database can be written")
    source = Path(__file__).stat().st_mtime
    if abs(now - written) > _CLOCK_SECONDS:
        text = f"files are dated {written - now:+.0f} s beside this machine's clock"
        yield warning("clock", text, "set the clocks of both machines (timedatectl set-ntp true)")
    elif now < source - _CLOCK_SECONDS:
        yield warning("clock", "behind the date of this program", "timedatectl set-ntp true")
    else:
        yield found("clock", "agrees with the file system's")


def _try_promises(scratch: str) -> list[str]:
    faults = []
    path = os.path.join(scratch, secrets.token_hex(4))
    os.mkdir(path)
    try:
        os.mkdir(path)
        faults.append("mkdir is exclusive")
    except FileExistsError:
        pass
    first = os.path.join(scratch, "first")
    with open(first, "wb") as one, open(first, "rb") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        try:
            fcntl.flock(two, fcntl.LOCK_SH | fcntl.LOCK_NB)
            faults.append("flock excludes")
        except BlockingIOError:
            pass
    if not on_network(scratch):  # said by another check
        SqliteEngine(os.path.join(scratch, FILE)).close()
    return faults


def _room(folder: Path) -> CheckFinding:
    try:
        seen = os.statvfs(folder)
    except OSError as error:
        return failure("disk", f"{folder}: {error.strerror}", _ELSEWHERE)
    free, names = seen.f_bavail * seen.f_frsize, seen.f_favail
    # Some file systems count no names and say 0 of 0.
    counted = seen.f_files > 0
    text = f"{free / (1 << 30):.1f} GiB free" + (f", {names} names" if counted else "")
    do = f"hypervisor clean --dry-run; make room on the file system of {folder}"
    if free < _NO_BYTES or (counted and names < _NO_NAMES):
        return failure("disk", text, do)
    if free < _FEW_BYTES or (counted and names < _FEW_NAMES):
        return warning("disk", text, do)
    return found("disk", text)


def _limits() -> CheckFinding:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    text = f"{_counted(files)} open files, {_counted(processes)} processes"
    if files != resource.RLIM_INFINITY and files < _FEW_FILES:
        return warning("limits", text, "ulimit -n 1024")
    if processes != resource.RLIM_INFINITY and processes < _FEW_PROCESSES:
        return warning("limits", text, "ulimit -u 4096")
    return found("limits", text)


def _counted(limit: int) -> str:
    return "any number of" if limit == resource.RLIM_INFINITY else str(limit)
