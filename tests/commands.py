"""Starting the real commands as a user's shell does: real processes, real signals, real files.

A command gets an environment built from nothing. Nothing here sleeps in order to be on time: what a
test waits for is a file, a line of output or the end of a process, looked at until it is there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import selectors
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil
import pytest

from hypervisor.queue.batches import open_folder
from hypervisor.queue.summary import entries
from hypervisor.runners.sandbox import fault

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
BATCH_WORKER = (sys.executable, str(ROOT / "scripts/batch_worker.py"))
HYPERVISOR = (sys.executable, str(ROOT / "scripts/hypervisor_cli.py"))
#: How long anything is waited for, in seconds; reached only when a test fails.
PATIENCE = 20.0


def eventually(look: Callable[[], T], what: str, *, seconds: float = PATIENCE) -> T:
    """Look until there is something; return it."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.005)


def own_environment(home: Path, python: str) -> Path:
    """Write an environment as `scripts/prepare` does, whose python is a shell script; return its folder."""
    made = Path(f"{home}/.cache/hypervisor/environments{ROOT}/.venv")
    (made / "bin").mkdir(parents=True, exist_ok=True)
    script(made / "bin", "python", python)
    mark, lock = made / "hypervisor-ready", (ROOT / "uv.lock").stat()
    mark.touch()
    os.utime(mark, ns=(lock.st_mtime_ns, lock.st_mtime_ns))
    return made


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str
    out_bytes: bytes = b""

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document that it is."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """The lines of standard output."""
        return self.out.splitlines()

    def refused(self, code: int, *words: str) -> str:
        """Hold that the command said no, in one line with *words* and no traceback; return it."""
        assert self.code == code, f"exit {self.code}: {self.err}{self.out}"
        assert "Traceback" not in self.err, self.err
        lines = self.err.splitlines()
        assert len(lines) == 1, f"not one line: {self.err!r}"
        for word in words:
            assert word in lines[0], f"{word!r} is not in {lines[0]!r}"
        return lines[0]

    def passed(self) -> Self:
        """Hold that the command did what it was asked."""
        assert self.code == 0, f"exit {self.code}: {self.err}{self.out}"
        assert "Traceback" not in self.err, self.err
        return self


class Running:
    """A command that runs."""

    def __init__(
        self, words: Sequence[str], cwd: Path, environment: Mapping[str, str], **options: Any
    ) -> None:
        self.process = subprocess.Popen(
            words,
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **options,
        )
        self._said = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def line(self, part: str) -> str:
        """Wait until a line with *part* stands on standard output; return it."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while True:
                for line in self._said.decode("utf-8", "replace").splitlines():
                    if part in line:
                        return line
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                chunk = os.read(self.process.stdout.fileno(), 65536) if ready else b""
                assert chunk, f"no line with {part!r}: {self._said!r}"
                self._said += chunk

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process itself."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash does (SIGKILL); nothing of it runs on, its children are not touched."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def end(self, seconds: float = PATIENCE) -> Ended:
        """Wait for its end."""
        out, err = self.process.communicate(timeout=seconds)
        out = self._said + out
        return Ended(
            self.process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), out
        )

    def close(self) -> None:
        """End it and its process group, and let go of its pipes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None and not pipe.closed:
                pipe.close()


@dataclass(slots=True)
class Shell:
    """A user in a folder, with an environment of nothing but PATH and HOME."""

    home: Path
    cwd: Path
    extra: dict[str, str] = field(default_factory=dict)
    _started: list[Running] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._started:
            running.close()

    @property
    def environment(self) -> dict[str, str]:
        """All that a command finds."""
        # Agents of a test meet it at files outside of their clones; a test of the sandbox says otherwise.
        base = {"PATH": os.defpath + ":/usr/local/bin", "HOME": str(self.home), "HYPERVISOR_SANDBOX": "off"}
        return {**base, **self.extra}

    def start(self, *words: str, cwd: Path | None = None, **options: Any) -> Running:
        """Start ``batch_worker.py`` with *words*."""
        return self._start([*BATCH_WORKER, *words], cwd, options)

    def start_hypervisor(self, *words: str, cwd: Path | None = None, **options: Any) -> Running:
        """Start ``hypervisor`` with *words*."""
        return self._start([*HYPERVISOR, *words], cwd, options)

    def _start(self, words: Sequence[str], cwd: Path | None, options: dict[str, Any]) -> Running:
        running = Running(words, cwd or self.cwd, self.environment, **options)
        self._started.append(running)
        return running

    def worker(self, *words: str, cwd: Path | None = None, **options: Any) -> Ended:
        """Run ``batch_worker.py`` with *words* to its end."""
        return self.run([*BATCH_WORKER, *words], cwd=cwd, **options)

    def hypervisor(self, *words: str, cwd: Path | None = None, **options: Any) -> Ended:
        """Run ``hypervisor`` with *words* to its end."""
        return self.run([*HYPERVISOR, *words], cwd=cwd, **options)

    def here(self, *words: str, stdin: bytes = b"", cwd: Path | None = None) -> Ended:
        """Run ``hypervisor`` with *words* in this process, as a user's shell would: ten times as fast."""
        from inprocess import InProcess  # noqa: PLC0415 - it loads the commands, which not every test needs

        return InProcess(self.home, self.cwd, self.extra).hypervisor(*words, cwd=cwd, stdin=stdin)

    def run(
        self, words: Sequence[str | bytes], *, cwd: Path | None = None, stdin: bytes = b"", **options: Any
    ) -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            words,
            cwd=cwd or self.cwd,
            env=self.environment,
            input=stdin,
            capture_output=True,
            timeout=options.pop("timeout", 60),
            check=False,
            **options,
        )
        return Ended(
            done.returncode,
            done.stdout.decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
            done.stdout,
        )


class Gate:
    """A FIFO at which an item's command says that it runs, and one at which it waits to go on.

    A command passes it with `words` (in a shell's spelling, for ``sh -c``).
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.come, self.go = folder / f"{name}.come", folder / f"{name}.go"
        os.mkfifo(self.come)
        os.mkfifo(self.go)
        # Opened for both, so that neither side waits for the other to open it.
        self._come = os.open(self.come, os.O_RDWR | os.O_NONBLOCK)
        self._go = os.open(self.go, os.O_RDWR)

    @property
    def words(self) -> str:
        """What a shell does to say that it is here, with its pid, and to wait."""
        return f"echo $$ > {self.come}; read line < {self.go}"

    def wait(self, count: int = 1) -> list[int]:
        """Wait until *count* commands stand here; return their pids."""
        said = b""

        def look() -> bool:
            nonlocal said
            with contextlib.suppress(BlockingIOError):
                said += os.read(self._come, 65536)
            return said.count(b"\n") >= count

        eventually(look, f"{count} command(s) at {self.come.name}")
        return [int(word) for word in said.split()]

    def open(self, count: int = 1) -> None:
        """Let *count* commands go on."""
        os.write(self._go, b"\n" * count)

    def close(self) -> None:
        """Let go of the FIFOs."""
        os.close(self._come)
        os.close(self._go)


def script(folder: Path, name: str, text: str) -> str:
    """Write an executable shell script; return its path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(0o755)
    return str(path)


def results(folder: Path) -> list[dict[str, Any]]:
    """Return every result of a batch folder, in the order of their items."""
    with open_folder(folder, cwd=str(folder), write=False) as batch:
        found = [dict(entry.result) for entry in entries(batch) if entry.result is not None]
    return sorted(found, key=lambda result: str(result.get("item")))


def result_of(folder: Path, item: str) -> dict[str, Any]:
    """Return the one result of *item*."""
    found = [result for result in results(folder) if result.get("item") == item]
    assert len(found) == 1, f"{len(found)} results of {item!r}: {results(folder)}"
    return found[0]


def tree(folder: Path) -> dict[str, str]:
    """Return what stands below *folder*: kind, mode, content and time of each name."""
    found: dict[str, str] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        state = path.lstat()
        if stat.S_ISLNK(state.st_mode):
            what = os.readlink(path)
        elif stat.S_ISREG(state.st_mode):
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            what = ""
        found[str(path.relative_to(folder))] = f"{state.st_mode:o} {state.st_mtime_ns} {what}"
    return found


def alive(pid: int) -> bool:
    """Tell whether a process runs (a zombie does not)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise
        return False
    return text[text.rindex(")") + 2] not in "ZX"


def gone(*pids: int) -> None:
    """Wait until none of *pids* runs any more."""
    eventually(lambda: not any(alive(pid) for pid in pids), f"the end of {pids}")


def children(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


def write_task(path: Path, **keys: str) -> Path:
    """Write a task file; *keys* take the place of the usual ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = {"id": path.stem, "title": f"Task {path.stem}", "status": "active", **keys}
    front = "".join(f"{key}: {value}\n" for key, value in words.items())
    path.write_text(f"---\n{front}---\n# {words['title']}\n\nChange one line.\n", "utf-8")
    return path


@contextlib.contextmanager
def shell(folder: Path) -> Iterator[Shell]:
    """Give a user whose home and current folder lie below *folder*; end all that it started."""
    home, cwd = folder / "home", folder / "here"
    home.mkdir(exist_ok=True)
    cwd.mkdir(exist_ok=True)
    with Shell(home, cwd) as made:
        yield made


def needs_sandbox() -> None:
    """Skip the test where no sandbox can be had, with what to type; but never in CI."""
    if why := fault():
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


def resident(words: str) -> list[int]:
    """Return the pids of all programs with this command line, whoever started them."""
    wanted = words.split()
    return [one.pid for one in psutil.process_iter() if _words(one) == wanted]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
