"""Which programs are there, in which version, and whether they may talk to their services."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..core.bootstrap import has_environment
from ..core.project import Project, cache_folder
from ..runners.sandbox import fault
from .checkup import CheckFinding, failure, found, warning

#: The first that merges without a checkout (`git merge-tree --write-tree`).
_GIT = (2, 38)
#: How long a program may take to say its version or its login, in seconds.
_PATIENCE = 20.0
#: The first Claude Code whose hooks can ask our server.
_HOOKS = (2, 1, 118)
#: In Claude Code's folder: the servers that it does not try to reach for a while; and its name of ours.
_PASSED_OVER, _SERVER = "mcp-needs-auth-cache.json", "plugin:hypervisor:task_manager"
_SCRIPTS = Path(__file__).resolve().parents[2]


def examine(project: Project, environ: Mapping[str, str]) -> Iterator[CheckFinding]:
    """Yield what is found of Python, uv, git and the clients of agents."""
    machine = _Machine(project.root if project.root.is_dir() else Path("/"), environ)
    version = ".".join(str(part) for part in sys.version_info[:3])
    yield found("python", f"{version}, {sys.executable}")
    yield _uv(machine)
    yield _packages()
    yield _git(machine)
    yield _sandbox()
    yield from _claude(machine)
    yield from _gemini(machine)


class _Machine:
    """The programs that a command finds in a folder."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder, self.environ = folder, environ

    @property
    def cache(self) -> str:
        """Our folder in the user's cache."""
        return str(cache_folder(self.environ) / "hypervisor")

    def find(self, name: str) -> str | None:
        return shutil.which(name, path=self.environ.get("PATH", os.defpath))

    def ask(self, *words: str) -> tuple[int, str]:
        """Return exit code and output of a program; -1 and why, if it could not be asked."""
        try:
            done = subprocess.run(
                words, cwd=self.folder, env=dict(self.environ), stdin=subprocess.DEVNULL, text=True,
                capture_output=True, timeout=_PATIENCE, check=False, errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return -1, f"does not answer within {_PATIENCE:g} s"
        except OSError as error:
            return -1, f"does not start: {error.strerror}"
        return done.returncode, (done.stdout or done.stderr).strip()

    def version(self, path: str) -> str:
        """Return the version that a program tells, "" if it tells none."""
        code, text = self.ask(path, "--version")
        told = re.search(r"\d+(?:\.\d+)+", text) if code == 0 else None
        return told[0] if told else ""


def _uv(machine: _Machine) -> CheckFinding:
    own = os.path.join(machine.cache, "uv/bin/uv")
    faults = []
    for path in (machine.find("uv"), own if os.access(own, os.X_OK) else None):
        if path is None:
            continue
        code, text = machine.ask(path, "lock", "--help")
        if code == 0 and "--script" in text:
            return found("uv", f"{machine.version(path)}, {path}")
        version = machine.version(path)
        faults.append(f"{path} {version}: is too old" if version
                      else f"{path} does not run here")  # fmt: skip
    if faults:
        return failure("uv", faults[0], "uv self update, or: python3 -m pip install --upgrade uv")
    text = "not found; it fetches the packages of this plugin"
    return failure("uv", text, "python3 -m pip install uv")


def _packages() -> CheckFinding:
    if not has_environment():
        text = "not fetched yet: the first session may begin before its tools are there"
        return warning("packages", text, str(_SCRIPTS / "prepare"))
    return found("packages", "fetched; a session starts without a network")


def _sandbox() -> CheckFinding:
    if why := fault():
        text, _, do = why.rpartition("; ")
        do = do.removeprefix("type: ")
        return warning("sandbox", f"none: {text or why}; agents can write wherever you can", do)
    return found("sandbox", "works; agents write to their own clone only")


def _git(machine: _Machine) -> CheckFinding:
    path = machine.find("git")
    if path is None:
        text = "not found; it is needed for agents that change code"
        return warning("git", text, "install git (Debian: apt install git; macOS: xcode-select --install)")
    version = machine.version(path)
    if not version:
        return warning("git", f"{path} does not run here", "git --version")
    if tuple(int(part) for part in version.split(".")[:2]) < _GIT:
        text = f"{version}, {path}: `hypervisor run` needs {'.'.join(map(str, _GIT))} or later"
        return warning("git", text, "install a newer git")
    return found("git", f"{version}, {path}")


def _client(machine: _Machine, name: str, package: str) -> tuple[str, CheckFinding]:
    """Return where a client that runs is, "" for none, and what there is to say."""
    path = machine.find(name)
    if path is None:
        text = f"not found; it is needed for {name.capitalize()} workers"
        return "", warning(name, text, f"npm install -g {package}")
    version = machine.version(path)
    if not version:
        return "", warning(name, f"{path} does not run here", f"{name} --version")
    return path, found(name, f"{version}, {path}")


def _claude(machine: _Machine) -> Iterator[CheckFinding]:
    path, finding = _client(machine, "claude", "@anthropic-ai/claude-code")
    yield finding
    if not path:
        return
    yield from _hooks_and_tools(machine, path)
    # It looks at what it has itself, and calls no service.
    code, text = machine.ask(path, "auth", "status", "--json")
    try:
        said = json.loads(text)
        logged_in = bool(said["loggedIn"])
    except (ValueError, TypeError, KeyError):
        why = (text or f"ended by signal {-code}") if code < 0 else "this version does not tell"
        yield found("claude login", f"not checked: {why}")
        return
    if logged_in:
        yield found("claude login", f"logged in ({said.get('authMethod', 'method not told')})")
    else:
        yield warning(
            "claude login", "not logged in; `hypervisor run` would stop at once", "claude auth login"
        )


def _hooks_and_tools(machine: _Machine, path: str) -> Iterator[CheckFinding]:
    """Yield what keeps a session of Claude Code from our hooks and tools."""
    version = machine.version(path)
    if version and tuple(int(part) for part in version.split(".")[:3]) < _HOOKS:
        text = f"{version} runs none of our hooks; {'.'.join(map(str, _HOOKS))} does, as they ask our server"
        hooks = _SCRIPTS.parent / "hooks"
        do = f"claude update; or: cp {hooks}/hooks.command.json {hooks}/hooks.json"
        yield warning("claude hooks", text, do)
    usual = os.path.join(machine.environ.get("HOME", ""), ".claude")
    kept = os.path.join(machine.environ.get("CLAUDE_CONFIG_DIR") or usual, _PASSED_OVER)
    with contextlib.suppress(OSError):
        if _SERVER in Path(kept).read_text("utf-8", "replace"):
            text = "the client remembers that our tools could not be reached, and does not try for a while"
            yield warning("claude tools", text, f"rm {shlex.quote(kept)}, and begin a new session")


def _gemini(machine: _Machine) -> Iterator[CheckFinding]:
    path, finding = _client(machine, "gemini", "@google/gemini-cli")
    yield finding
    if not path:
        return
    # It has no command that tells; whether there is something to log in with can be seen.
    keys = [name for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY") if machine.environ.get(name)]
    if keys:
        yield found("gemini login", f"{keys[0]} is set; not tried")
    elif os.path.exists(os.path.join(machine.environ.get("HOME", ""), ".gemini/oauth_creds.json")):
        yield found("gemini login", "logged in once; not tried")
    else:
        yield warning("gemini login", "neither a key nor a login is to be seen", "gemini, and log in there")
