"""What is missing or wrong on this machine, and what to type about it."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import config
from .errors import ConfigError
from .machine import file_system_of, on_network
from .paths import Project

#: Below this a batch may fill the disk with what its agents write.
_LEAST_FREE_BYTES = 1 << 30
_LEAST_FREE_NAMES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The outcome of one check."""

    check: str
    ok: bool
    text: str
    #: What to type; "" where nothing helps.
    do: str = ""
    #: Whether all but some kinds of work go without it.
    optional: bool = False


def examine(project: Project, environ: Mapping[str, str]) -> list[Finding]:
    """Look at the machine and the project; leaves nothing behind."""
    folder = project.state if project.state.is_dir() else project.root
    return [
        _python(),
        _program("uv", environ, "starts every command of this plugin", "python3 -m pip install uv"),
        _program("git", environ, "is needed for agents that change code", "install git"),
        _program(
            "claude", environ, "is needed for Claude workers", "npm install -g @anthropic-ai/claude-code"
        ),
        _program("gemini", environ, "is needed for Gemini workers", "npm install -g @google/gemini-cli"),
        _settings(project),
        _permissions(project),
        _file_system(folder),
        _promises(folder),
        _room(folder),
    ]


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding(check="python", ok=sys.version_info >= (3, 11), text=version, do="uv python install 3.12")


def _program(name: str, environ: Mapping[str, str], use: str, do: str) -> Finding:
    path = shutil.which(name, path=environ.get("PATH", os.defpath))
    return Finding(
        check=name, ok=path is not None, text=path or f"not found; it {use}", do=do, optional=name != "uv"
    )


def _settings(project: Project) -> Finding:
    path = project.state / "config.toml"
    try:
        config.load(project.state)
    except ConfigError as error:
        return Finding(check="settings", ok=False, text=str(error), do=f"edit {path}")
    return Finding(check="settings", ok=True, text=str(path) if path.exists() else "all defaults")


def _permissions(project: Project) -> Finding:
    if not project.state.is_dir():
        ok = os.access(project.root, os.W_OK)
        text = f"{project.state} will be made" if ok else f"{project.root} is not writable"
        return Finding(check="state folder", ok=ok, text=text, do=f"chmod u+w {project.root}")
    mode = project.state.stat().st_mode & 0o777
    private = mode & 0o077 == 0 and os.access(project.state, os.W_OK)
    return Finding(
        check="state folder",
        ok=private,
        text=f"{project.state} (mode {mode:o})",
        do=f"chmod 700 {project.state}",
    )


def _file_system(folder: Path) -> Finding:
    kind = file_system_of(str(folder)) or "unknown"
    if not on_network(str(folder)):
        return Finding(check="file system", ok=True, text=kind)
    text = f"{kind} is a network file system: locks are not trusted, the dead are seen after a lease only"
    return Finding(
        check="file system", ok=False, text=text, do="set HYPERVISOR_HOME to a local folder", optional=True
    )


def _promises(folder: Path) -> Finding:
    """Try what the claims rely on: exclusive mkdir, links that refuse to overwrite, locks."""
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as scratch:
            faults = _try_promises(scratch)
    except OSError as error:
        return Finding(
            check="claims", ok=False, text=f"{error}", do="name another folder with HYPERVISOR_HOME"
        )
    text = "mkdir, links and locks hold" if not faults else f"does not hold: {', '.join(faults)}"
    return Finding(check="claims", ok=not faults, text=text, do="set HYPERVISOR_HOME to a local folder")


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
        os.link(first, first + ".link")
        try:
            os.link(first, first + ".link")
            faults.append("link never overwrites")
        except FileExistsError:
            pass
        fcntl.flock(one, fcntl.LOCK_EX)
        try:
            fcntl.flock(two, fcntl.LOCK_SH | fcntl.LOCK_NB)
            faults.append("flock excludes")
        except BlockingIOError:
            pass
    os.symlink("text", first + ".symlink")
    return faults


def _room(folder: Path) -> Finding:
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    names = found.f_favail
    # Some file systems count no names and say 0 of 0.
    enough = free >= _LEAST_FREE_BYTES and (found.f_files == 0 or names >= _LEAST_FREE_NAMES)
    text = f"{free / (1 << 30):.1f} GiB free" + (f", {names} names" if found.f_files else "")
    return Finding(check="disk", ok=enough, text=text, do=f"make room on the file system of {folder}")
