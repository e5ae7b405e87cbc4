"""A program in a sandbox of the kernel's: bubblewrap on Linux, sandbox-exec on macOS.

It sees the machine read-only. Only what a `Sandbox` names is writable, with a home and a ``/tmp`` of its own;
what belongs to others is not there: credentials, sockets of other programs, the state of the project. It has
an environment by allow-list and, on Linux, a process namespace, at whose end all that it started is dead. The
network stays, as clients need it.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..core.process import LINUX

#: What programs find of the caller's environment; a pattern may end in ``*``. No entry may hold a secret.
ENVIRONMENT = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TERM", "COLORTERM",
    "NO_COLOR", "FORCE_COLOR", "CI", "COLUMNS", "LINES", "PYTHONPATH", "PYTHONPYCACHEPREFIX",
    "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "CONDA_PREFIX", "JAVA_HOME", "GOROOT", "GOPATH", "GOFLAGS",
    "GOPROXY", "RUSTUP_HOME", "NVM_DIR", "NODE_PATH", "NODE_OPTIONS", "NODE_EXTRA_CA_CERTS", "PNPM_HOME",
    "BUN_INSTALL", "DOTNET_ROOT", "ANDROID_HOME", "PKG_CONFIG_PATH", "LD_LIBRARY_PATH", "CC", "CXX", "CFLAGS",
    "LDFLAGS", "MAKEFLAGS", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "UV_SYSTEM_CERTS", "GIT_SSL_CAINFO", "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME",
    "GIT_COMMITTER_EMAIL", "GIT_CONFIG_NOSYSTEM", "GIT_ALLOW_PROTOCOL", "HTTP_PROXY", "HTTPS_PROXY",
    "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy", "HYPERVISOR_TASK_*",
    "HYPERVISOR_ITEM", "HYPERVISOR_BATCH", "HYPERVISOR_ATTEMPT", "HYPERVISOR_ROOT", "HYPERVISOR_HOME",
    "HYPERVISOR_BRANCH", "HYPERVISOR_PORT", "HYPERVISOR_PYTHON", "HYPERVISOR_RELAY", "HYPERVISOR_RUN",
    "HYPERVISOR_WORKER", "HYPERVISOR_WITHIN", "HYPERVISOR_COORDINATOR", "HYPERVISOR_SESSION",
)  # fmt: skip
#: Hidden entries of a home that hold programs or the plain settings of tools; all others stay hidden.
HOME = (
    ".local/bin", ".local/lib", ".local/share/uv", ".local/share/pipx", ".local/share/pnpm",
    ".local/share/mise", ".local/share/fnm", ".cargo/bin", ".cargo/env", ".rustup", ".nvm", ".fnm", ".volta",
    ".bun", ".deno", ".pyenv", ".rbenv", ".rvm", ".nodenv", ".goenv", ".jenv", ".asdf", ".sdkman", ".ghcup",
    ".juliaup", ".dotnet", ".npm-global", ".yarn/bin", ".nix-profile", ".tool-versions", ".gitconfig",
    ".config/git/config", ".config/git/ignore", ".config/git/attributes", ".bashrc", ".bash_profile",
    ".profile", ".zshrc", ".zshenv", ".zprofile",
)  # fmt: skip
#: Written by whoever is root in there too, where the kernel looks at the user's number only.
_PROC = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "pressure", "mtrr", "driver", "scsi")
#: Folders of sockets: a read-only mount does not keep anybody from talking to those.
_RUN = ("/run", "/var/run")
#: What is needed of them: the resolver's settings, and the programs of NixOS.
_OF_RUN = (
    "/run/current-system",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager/resolv.conf",
)
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - those of the sandbox
_SHM_BYTES = 2**28
#: Where the socket to the coordinator is found in there.
RELAYED = "/run/hypervisor/relay"
#: A probe that takes longer counts as failed, in seconds.
_PATIENCE = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What a program finds in its sandbox. Paths are absolute."""

    #: A folder of this start alone, on a disk: its home and its ``/tmp`` are in there.
    scratch: str
    #: The user's home, in whose place its own is.
    home: str
    #: What it may change.
    writable: tuple[str, ...] = ()
    #: What it may read although it lies in a place that is hidden.
    readable: tuple[str, ...] = ()
    #: What is not there at all; what lies below and is named above is there again.
    hidden: tuple[str, ...] = ()
    #: Places that are folders of its own, and what those are called in `scratch`.
    own: tuple[tuple[str, str], ...] = ()
    #: Files and sockets from elsewhere: where they are, and where they are found.
    bound: tuple[tuple[str, str], ...] = ()
    #: Patterns of variables that it finds, beside `ENVIRONMENT`.
    environment: tuple[str, ...] = ()

    def showing(
        self,
        *,
        readable: Iterable[str] = (),
        writable: Iterable[str] = (),
        own: Iterable[tuple[str, str]] = (),
        environment: Iterable[str] = (),
    ) -> Sandbox:
        """Return the same sandbox with more in it; see the fields."""
        return replace(
            self, readable=(*self.readable, *readable), writable=(*self.writable, *writable),
            own=(*self.own, *own), environment=(*self.environment, *environment),
        )  # fmt: skip

    def variables(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a program in there, from the one that it would have outside."""
        patterns = (*ENVIRONMENT, *self.environment)
        kept = {
            name: value
            for name, value in environ.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        }
        temporary = _TEMPORARY[0] if LINUX else os.path.join(self.scratch, "tmp")
        home = self.home if LINUX else f"{self.scratch}/home"
        own = {name: temporary for name in kept if name.endswith("_TMPDIR")}
        return {**kept, **own, "HOME": home, "TMPDIR": temporary}

    def make(self) -> None:
        """Make its own folders."""
        for name in ("tmp", "home", *(name for _, name in self.own)):
            os.makedirs(f"{self.scratch}/{name}", mode=0o700, exist_ok=True)
        if not LINUX:  # nothing can be put in the place of a home there: it has links to what it may read
            for path in self._of_home():
                link = f"{self.scratch}/home{path.removeprefix(self.home)}"
                os.makedirs(os.path.dirname(link), exist_ok=True)
                if not os.path.lexists(link):
                    os.symlink(path, link)

    def wrap(self, words: Sequence[str], cwd: str, status: int) -> list[str]:
        """Return the command line that runs *words* in *cwd* in there; *status* gets its pid and its end."""
        return self._bwrap(words, cwd, status) if LINUX else self._seatbelt(words)

    # ------------------------------------------------------------------ Linux

    def _bwrap(self, words: Sequence[str], cwd: str, status: int) -> list[str]:
        made = [
            _program("bwrap"), "--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent",
            "--new-session", "--cap-drop", "ALL", "--ro-bind", "/", "/",
            "--dev", "/dev", "--remount-ro", "/dev",
            "--perms", "1777", "--size", str(_SHM_BYTES), "--tmpfs", "/dev/shm",  # noqa: S108 - its own
            "--proc", "/proc",
        ]  # fmt: skip
        for name in _PROC:
            made += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
        return [*made, *self._mounts(), "--json-status-fd", str(status), "--chdir", cwd, "--", *words]

    def _mounts(self) -> list[str]:
        """Return what is mounted over the machine's files, parents before what lies in them."""
        places = self._places()
        made, last, kinds = list[str](), list[str](), dict[str, str]()
        for path in sorted(places):
            kind, source = places[path]
            around = next((kinds[one] for one in _parents(path) if one in kinds), "readable")
            if kind == around == "readable" or (kind == "hidden" and around in ("hidden", "own")):
                continue
            kinds[path] = kind
            if kind == "readable":
                made += ["--ro-bind", path, path]
            elif kind != "hidden":
                made += ["--bind", source, path]
            elif os.path.isdir(path):
                made += ["--tmpfs", path]
                last += ["--remount-ro", path]
            else:
                made += ["--ro-bind", "/dev/null", path]
        return made + last

    def _places(self) -> dict[str, tuple[str, str]]:
        """Return each path that is not as it is outside: how it is, and where it is taken from."""
        resolver = [path for path in (os.path.realpath("/etc/resolv.conf"),) if path.startswith("/run/")]
        shown = [*resolver, *_OF_RUN, *self._of_home(), *self.readable]
        found = {path: ("readable", path) for path in shown if os.path.exists(path)}
        found |= {path: ("hidden", "") for path in (*_RUN, *self.hidden) if _is_real(path)}
        own = [(path, "tmp") for path in _TEMPORARY if _is_real(path)]
        for path, name in (*own, (self.home, "home"), *self.own):
            found[path] = ("own", f"{self.scratch}/{name}")
        found |= {path: ("writable", path) for path in self.writable if _is_real(path)}
        return found | {path: ("bound", source) for source, path in self.bound}

    def _of_home(self) -> list[str]:
        """Return what is shown of the user's home: folders and files with plain names, and `HOME`."""
        try:
            names = sorted(os.listdir(self.home))
        except OSError:
            names = []
        plain = [f"{self.home}/{name}" for name in names if not name.startswith(".")]
        tools = [path for name in HOME if os.path.exists(path := f"{self.home}/{name}")]
        return plain + tools

    # ------------------------------------------------------------------ macOS

    def _seatbelt(self, words: Sequence[str]) -> list[str]:
        return ["/usr/bin/sandbox-exec", "-p", self.profile(), *words]

    def profile(self) -> str:
        """Return the same as a profile of sandbox-exec: the last rule that fits counts."""
        hidden = [f"(subpath {json.dumps(path)})" for path in self.hidden]
        readable = [f"(subpath {json.dumps(path)})" for path in (*self.readable, *self._of_home())]
        writable = [f"(subpath {json.dumps(path)})" for path in (self.scratch, *self.writable)]
        writable += [f"(subpath {json.dumps(source)})" for source, _ in self.bound]
        secret = f'(regex #"^{_escaped(self.home)}/\\.")'
        lines = [
            "(version 1)", "(allow default)", "(deny file-write*)",
            '(allow file-write* (subpath "/dev"))',
            f"(deny file-read* {secret} {' '.join(hidden)})",
            '(deny network-outbound (subpath "/private/var/run") (subpath "/var/run"))',
            '(allow network-outbound (literal "/private/var/run/mDNSResponder"))',
            f"(allow file-read* {' '.join(readable)})" if readable else "",
            f"(allow file-read* file-write* network-outbound {' '.join(writable)})",
            "(deny process-info* (target others))", "(allow process-info* (target same-sandbox))",
            "(deny signal (target others))", "(allow signal (target same-sandbox))",
        ]  # fmt: skip
        return "\n".join(line for line in lines if line)


def fault() -> str:
    """Return why no sandbox can be had here, and what to do; "" if one can."""
    return _fault(os.environ.get("PATH", os.defpath))


@lru_cache(maxsize=4)
def _fault(path: str) -> str:
    name = "bwrap" if LINUX else "sandbox-exec"
    if not shutil.which(name, path=path):
        return _how_to_install(path) if LINUX else f"{sys.platform} has no sandbox-exec"
    words = [
        "bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--cap-drop", "ALL",
        "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", _TEMPORARY[0], "true",
    ] if LINUX else ["sandbox-exec", "-p", "(version 1)(allow default)", "true"]  # fmt: skip
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_PATIENCE, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{name} does not start ({error})"
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return f"{said[:200]}; {_how_to_allow()}"


def _how_to_install(path: str) -> str:
    for manager, words in (
        ("apt-get", "install"), ("dnf", "install"), ("zypper", "install"), ("pacman", "-S"), ("apk", "add"),
    ):  # fmt: skip
        if shutil.which(manager, path=f"{path}:/usr/bin:/bin:/sbin:/usr/sbin"):
            return f"bubblewrap is not installed; type: sudo {manager} {words} bubblewrap"
    return "bubblewrap is not installed; install the package `bubblewrap`"


def _how_to_allow() -> str:
    """Return what to do where the kernel forbids it."""
    for name, wanted in (("apparmor_restrict_unprivileged_userns", "0"), ("unprivileged_userns_clone", "1")):
        try:
            is_now = Path("/proc/sys/kernel", name).read_text("ascii").strip()
        except OSError:
            continue
        if is_now != wanted:
            return f"allow user namespaces: sudo sysctl kernel.{name}={wanted}"
    return "user namespaces are forbidden here; start the container with --security-opt seccomp=unconfined"


def of_program(name: str, path: str) -> list[str]:
    """Return the folders without which a program that is found on *path* does not start."""
    found = shutil.which(name, path=path)
    if not found:
        return []
    real = os.path.realpath(found)
    folder, mark, _ = real.partition("/node_modules/")
    return [
        os.path.dirname(os.path.abspath(found)),
        f"{folder}/node_modules" if mark else os.path.dirname(real),
    ]


def expanded(patterns: Iterable[str], base: str, home: str) -> tuple[str, ...]:
    """Return the paths that patterns of the settings name: ``~/x`` of the home, others below *base*."""
    found: list[str] = []
    for pattern in patterns:
        whole = f"{home}/{pattern[2:]}" if pattern.startswith("~/") else os.path.join(base, pattern)
        found += sorted(glob.glob(whole, include_hidden=True)) or ([whole] if os.path.lexists(whole) else [])
    return tuple(found)


def _parents(path: str) -> Iterator[str]:
    while (path := os.path.dirname(path)) not in ("", "/"):
        yield path


def _is_real(path: str) -> bool:
    return os.path.exists(path) and not os.path.islink(path)


@lru_cache(maxsize=4)
def _program(name: str) -> str:
    return shutil.which(name) or name


def _escaped(path: str) -> str:
    return "".join(f"\\{c}" if c in '.^$*+?()[]{}|\\"' else c for c in path)
