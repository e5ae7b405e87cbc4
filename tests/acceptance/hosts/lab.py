"""A laboratory of hosts: each a network, host name and process namespace of its own, with its own clone.

A host reaches a PostgreSQL server and a git server over a bridge. It can be cut off from one of them or from
both, killed as a whole, stopped and continued, and given a clock that is hours ahead. Needs root and Linux.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

import postgres
from commands import ROOT, write_task

#: An agent that works for a moment, notes where it ran, and commits.
AGENT = """#!/bin/sh
set -e
echo "$HYPERVISOR_TASK_ID $HYPERVISOR_ATTEMPT $(hostname)" >> {log}
sleep {seconds}
mkdir -p src
echo "$HYPERVISOR_TASK_ID by $(hostname)" > "src/$HYPERVISOR_TASK_ID.txt"
git add src
git commit --quiet -m "Work on $HYPERVISOR_TASK_ID"
"""
_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long ahead(void) { const char *s = getenv("CLOCK_AHEAD"); return s ? atol(s) : 0; }
int clock_gettime(clockid_t clock, struct timespec *t) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(clock, t);
    if (clock == CLOCK_REALTIME) t->tv_sec += ahead();
    return answer;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""
#: Short leases, so that a test takes seconds. A host that is cut off is given up after LEASE_SECONDS.
LEASE_SECONDS = 6.0
CONFIG = f"""[claims]
lease_seconds = {LEASE_SECONDS}
beat_seconds = 1
attempts = 20
[git]
remote_seconds = 3
lease_seconds = {LEASE_SECONDS}
[machine]
stagger_seconds = 0
"""


def missing() -> str:
    """Return why there can be no laboratory here, "" if there can."""
    if not postgres.programs():
        return f"no PostgreSQL here: {postgres.INSTALL}"
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        return "network namespaces need root and `apt-get install iproute2 util-linux`"
    probe = subprocess.run(["unshare", "--net", "--uts", "--pid", "--fork", "true"], check=False)
    return "network namespaces are not allowed here" if probe.returncode else ""


def shifted_clock(folder: Path, seconds: int) -> dict[str, str]:
    """Return an environment in which the wall clock is so many seconds ahead; empty without a C compiler.

    Only that clock: the monotonic clock and timers are as they are.
    """
    library, compiler = folder / "clock.so", shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return {}
    source = folder / "clock.c"
    source.write_text(_CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(seconds)}


def git(folder: Path, *words: str, check: bool = True) -> str:
    """Return what git prints."""
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "safe.directory=*")
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass(slots=True)
class Command:
    """A command that runs on a host."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def text(self) -> str:
        """All that it printed so far."""
        return self.output.read_text("utf-8", "replace")

    def wait(self, seconds: float = 120.0) -> int:
        """Wait for its end; return its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {seconds:g} s:\n{self.text[-3000:]}") from None

    def pids(self) -> list[int]:
        """Return its processes, parents first."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop(0)
            found.append(pid)
            with contextlib.suppress(OSError):
                for thread in os.listdir(f"/proc/{pid}/task"):
                    todo += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        return found

    def signal(self, number: int) -> None:
        """Send a signal to all its processes."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@dataclass(slots=True)
class Host:
    """One machine."""

    lab: Lab
    name: str
    namespace: str
    folder: Path
    #: More environment, such as a clock that is ahead.
    extra: dict[str, str] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)

    @property
    def clone(self) -> Path:
        """Its clone of the repository."""
        return self.folder / "clone"

    def start(self, *words: str) -> Command:
        """Start ``hypervisor`` with *words* in its clone."""
        output = self.folder / f"out-{len(self.commands)}"
        python = [sys.executable, str(ROOT / "scripts/hypervisor_cli.py"), *words]
        inside = ["sh", "-c", 'hostname "$0" && exec "$@"', self.name, *python]
        apart = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        environment = {
            "PATH": os.defpath + ":/usr/local/bin:/usr/sbin:/sbin", "HOME": str(self.folder),
            "HYPERVISOR_STORE": self.lab.url, **self.extra,
        }  # fmt: skip
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *apart, *inside], cwd=self.clone, env=environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        command = Command(process, output)
        self.commands.append(command)
        return command

    def run(self, *words: str, seconds: float = 120.0) -> Command:
        """Run ``hypervisor`` to its end."""
        command = self.start(*words)
        command.wait(seconds)
        return command

    def work(self, *words: str) -> Command:
        """Start ``hypervisor run`` on all tasks."""
        agent = (
            "--agent",
            "exec",
            "--exec",
            str(self.lab.agent),
            "-j",
            "2",
            "--no-scope-gate",
            "--sandbox",
            "off",
        )
        return self.start("run", *(words or ("--all",)), *agent, "--trust")

    def kill(self) -> None:
        """Kill all that runs on it, at once."""
        for command in self.commands:
            command.signal(signal.SIGKILL)
            command.process.wait()

    def pause(self) -> None:
        """Stop all its processes where they are."""
        for command in self.commands:
            if command.process.poll() is None:
                command.signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let them go on."""
        for command in self.commands:
            if command.process.poll() is None:
                command.signal(signal.SIGCONT)

    def cut(self, *what: str) -> None:
        """Cut it off from ``database``, ``remote`` or both: what it sends gets nowhere."""
        for one in what:
            _ip("-n", self.namespace, "route", "replace", "blackhole", f"{self.lab.addresses[one]}/32")

    def mend(self) -> None:
        """Undo `cut`."""
        for address in self.lab.addresses.values():
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("-n", self.namespace, "route", "del", "blackhole", f"{address}/32")


@dataclass(slots=True)
class Lab:
    """The servers, the remote repository and the hosts."""

    folder: Path
    server: postgres.Server
    #: Addresses of ``database`` and ``remote``.
    addresses: Mapping[str, str]
    git_port: int
    bridge: str
    hosts: list[Host] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The URL of the database, with a short patience."""
        return str(self.server).replace("connect_timeout=60", "connect_timeout=6")

    @property
    def remote(self) -> Path:
        """The bare repository."""
        return self.folder / "remote.git"

    @property
    def agent(self) -> Path:
        """The agent's command."""
        return self.folder / "agent"

    def make_agent(self, seconds: str = "0.2", text: str = AGENT) -> None:
        """Write the agent's command."""
        self.agent.write_text(text.format(log=self.folder / "agents.log", seconds=seconds))
        self.agent.chmod(0o755)

    def make_tasks(self, count: int, **keys: Any) -> None:
        """Commit *count* tasks, each with a scope of its own, and push them."""
        seed = self.folder / "seed"
        git(self.folder, "clone", "-q", str(self.remote), str(seed))
        for number in range(1, count + 1):
            name = f"t-{number}"
            words = {"files": f"[src/{name}.txt]", "verify": f"test -f src/{name}.txt"}
            more = {key: value(number) if callable(value) else value for key, value in keys.items()}
            write_task(
                seed / f"tasks/{name}.md", **{key: value for key, value in (words | more).items() if value}
            )
        (seed / "README.md").write_text("# A project\n")
        git(seed, "add", "--all")
        git(seed, "commit", "-qm", "Tasks")
        git(seed, "push", "-q", "origin", "HEAD:main")

    def add_host(self, name: str, **extra: str) -> Host:
        """Add a machine, with a clone of its own."""
        number = len(self.hosts)
        namespace = f"{self.bridge}-{number}"
        folder = self.folder / name
        folder.mkdir()
        ends = f"{self.bridge}o{number}", f"{self.bridge}i{number}"
        _ip("netns", "add", namespace)
        _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns", namespace)
        _ip("link", "set", ends[0], "master", self.bridge, "up")
        network = self.addresses["database"].rsplit(".", 1)[0]
        _ip("-n", namespace, "addr", "add", f"{network}.{10 + number}/24", "dev", ends[1])
        _ip("-n", namespace, "link", "set", ends[1], "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        host = Host(self, name, namespace, folder, dict(extra))
        self.hosts.append(host)
        git(folder, "clone", "-q", str(self.remote), "clone")
        url = f"git://{self.addresses['remote']}:{self.git_port}/remote.git"
        for words in (("remote", "set-url", "origin", url), ("config", "user.name", name),
                      ("config", "user.email", f"{name}@example.org")):  # fmt: skip
            git(host.clone, *words)
        state = host.clone / ".hypervisor"
        state.mkdir(mode=0o700)
        (state / ".gitignore").write_text("*\n")
        (state / "config.toml").write_text(CONFIG)
        joined = host.run("store", "init")
        assert joined.process.returncode == 0, joined.text
        return host

    # --------------------------------------------------------------- what came of it

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what a query of the store finds."""
        with psycopg.connect(self.url) as connection:
            connection.execute("SET search_path TO hypervisor")
            return connection.execute(query).fetchall()

    def states(self) -> dict[str, str]:
        """Return the state of each item's latest cycle, by its text."""
        return dict(self.rows(
            "SELECT text, state FROM work AS w"
            " WHERE cycle = (SELECT max(cycle) FROM work AS l WHERE l.key = w.key)"
        ))  # fmt: skip

    def delivered(self) -> int:
        """Return how many results are published."""
        with contextlib.suppress(psycopg.Error):
            return int(self.rows("SELECT count(*) FROM work WHERE published_at IS NOT NULL")[0][0])
        return 0

    def runs(self) -> list[tuple[str, str, str]]:
        """Return what agents ran: task, attempt and host."""
        log = self.folder / "agents.log"
        found = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [(one[0], one[1], one[2]) for one in found]

    def merges(self) -> list[str]:
        """Return the tasks that the remote's history merged, in order, as often as they were."""
        words = ("log", "--first-parent", "--merges", "--reverse", "--format=%(trailers)", "main")
        lines = git(self.remote, *words)
        return [line.split()[-1] for line in lines.splitlines() if line.startswith("Hypervisor-Task:")]

    def done_files(self) -> list[str]:
        """Return the task files that say done on the remote's branch."""
        found = git(self.remote, "grep", "-l", "^status: done", "main", "--", "tasks/", check=False)
        return [line.removeprefix("main:") for line in found.splitlines()]

    def faults(self) -> dict[str, int]:
        """Return what must be zero: counted over the store, the remote's history and the agents' runs."""
        states, merges = self.states(), self.merges()
        accepted = self.rows(
            "SELECT w.key FROM attempt AS a JOIN work AS w ON w.id = a.work WHERE a.outcome = 'success'"
            " GROUP BY w.key HAVING count(*) > 1"
        )
        late = self.rows(
            "SELECT a.id FROM attempt AS a JOIN work AS w ON w.id = a.work"
            " WHERE a.outcome = w.state AND a.ended_at < (SELECT max(b.ended_at) FROM attempt AS b"
            " WHERE b.work = a.work AND b.number > a.number AND b.outcome = w.state)"
        )
        tasks = git(self.remote, "ls-tree", "--name-only", "main", "tasks/").splitlines()
        there = set(git(self.remote, "ls-tree", "--name-only", "main", "src/").splitlines())
        done = [name for name in tasks if states.get(name) == "success"]
        return {
            "doubles": len(accepted),
            "lost": len([name for name in tasks if name not in states]),
            "stuck": len([name for name in tasks if states.get(name, "ready") in ("ready", "running")]),
            "merged twice": len(merges) - len(set(merges)),
            "work lost": len([one for one in done if f"src/{Path(one).stem}.txt" not in there]),
            "not done": len(tasks) - len(done),
            "files that lie": len(set(done) ^ set(self.done_files())),
            "zombie completions accepted": len(late),
        }

    def table(self) -> dict[str, dict[str, int]]:
        """Return who did what: by host, agents that ran and results that were accepted."""
        found: dict[str, dict[str, int]] = {}
        for _, _, host in self.runs():
            found.setdefault(host, {"agents": 0, "results": 0})["agents"] += 1
        for name, count in self.rows(
            "SELECT split_part(k.host, '/', 1), count(*) FROM attempt AS a"
            " JOIN worker AS k ON k.id = a.worker"
            " WHERE a.outcome = 'success' GROUP BY 1"
        ):
            found.setdefault(name, {"agents": 0, "results": 0})["results"] = count
        return found


@contextlib.contextmanager
def laboratory(folder: Path) -> Iterator[Lab]:
    """Give a laboratory without hosts; remove all of it at the end."""
    pid = os.getpid()
    network = f"10.{64 + pid % 64}.{pid // 64 % 256}"
    bridge = f"hv{pid % 1000000}"
    addresses = {"database": f"{network}.1", "remote": f"{network}.2"}
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "--bare", "--initial-branch=main", "remote.git")
    git(folder / "remote.git", "config", "daemon.receivepack", "true")
    _ip("link", "add", bridge, "type", "bridge")
    lab = None
    try:
        for address in addresses.values():
            _ip("addr", "add", f"{address}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(postgres.start_server(addresses["database"], f"{network}.0/24"))
            port = _free_port(addresses["remote"])
            daemon = subprocess.Popen(
                ["git", "daemon", f"--listen={addresses['remote']}", f"--port={port}", "--export-all",
                 "--reuseaddr", f"--base-path={folder}", str(folder)],
                stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            stack.callback(daemon.wait)
            stack.callback(os.killpg, daemon.pid, signal.SIGTERM)
            lab = Lab(folder, server, addresses, port, bridge)
            lab.make_agent()
            eventually(lambda: _listens(addresses["remote"], port), "git daemon")
            try:
                yield lab
            finally:
                for host in lab.hosts:
                    host.wake()
                    host.kill()
    finally:
        for host in lab.hosts if lab else ():
            subprocess.run(["ip", "netns", "del", host.namespace], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)


def eventually(look: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until *look* returns something true."""
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _listens(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
        return True
    return False
