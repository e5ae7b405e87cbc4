"""Failing, cutting short or killing an act at any one of its system calls, and looking at what is left.

The act runs in a forked child that is traced (ptrace(2)), so that no call can pass by unseen, whoever
makes it: `os`, `io`, `pathlib`, filelock or SQLite. The child prepares itself untraced; then each call
that has to do with files is counted, and the one that a `Fault` names does not happen, or happens and
says that it did not, or is the child's last. Linux on x86-64 only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import io
import json
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from choreography import PATIENCE
from hypervisor.claims.records import End, Owner
from hypervisor.core.errors import ClaimLost, HypervisorError
from hypervisor.core.keys import split_generation

AVAILABLE = sys.platform == "linux" and platform.machine() == "x86_64"

#: Calls that have to do with files, by number (linux/arch/x86/entry/syscalls/syscall_64.tbl).
FILE_CALLS = {
    0: "read", 1: "write", 2: "open", 3: "close", 4: "stat", 5: "fstat", 6: "lstat", 8: "lseek",
    17: "pread64", 18: "pwrite64", 19: "readv", 20: "writev", 21: "access", 40: "sendfile", 72: "fcntl",
    73: "flock", 74: "fsync", 75: "fdatasync", 76: "truncate", 77: "ftruncate", 78: "getdents",
    79: "getcwd", 80: "chdir", 82: "rename", 83: "mkdir", 84: "rmdir", 85: "creat", 86: "link",
    87: "unlink", 88: "symlink", 89: "readlink", 90: "chmod", 91: "fchmod", 92: "chown", 93: "fchown",
    94: "lchown", 132: "utime", 133: "mknod", 137: "statfs", 138: "fstatfs", 217: "getdents64",
    235: "utimes", 257: "openat", 258: "mkdirat", 259: "mknodat", 260: "fchownat", 261: "futimesat",
    262: "newfstatat", 263: "unlinkat", 264: "renameat", 265: "linkat", 266: "symlinkat",
    267: "readlinkat", 268: "fchmodat", 269: "faccessat", 277: "sync_file_range", 280: "utimensat",
    285: "fallocate", 295: "preadv", 296: "pwritev", 306: "syncfs", 316: "renameat2",
    326: "copy_file_range", 327: "preadv2", 328: "pwritev2", 332: "statx", 437: "openat2",
    439: "faccessat2", 452: "fchmodat2",
}  # fmt: skip
#: Calls that an act may make beside those, as they touch no file: memory, signals, time, who am I.
HARMLESS = {
    9: "mmap", 10: "mprotect", 11: "munmap", 12: "brk", 13: "rt_sigaction", 14: "rt_sigprocmask",
    15: "rt_sigreturn", 16: "ioctl", 24: "sched_yield", 25: "mremap", 28: "madvise", 35: "nanosleep",
    39: "getpid", 63: "uname", 96: "gettimeofday", 102: "getuid", 107: "geteuid", 186: "gettid",
    202: "futex", 228: "clock_gettime", 230: "clock_nanosleep", 318: "getrandom",
}  # fmt: skip
#: Made by the child before and after the act, and by nothing else.
_MARK = 110  # getppid

_NAMING = ("mkdir", "rmdir", "link", "symlink", "rename", "unlink")
_WRITING = frozenset({"write", "writev", "pwrite64", "pwritev"})
#: Calls after which the disk is not as it was.
_CHANGING = (
    frozenset({*_NAMING, *(f"{name}at" for name in _NAMING), "renameat2", "chmod", "fchmod", "fchmodat"})
    | frozenset({"utimensat", "ftruncate", "truncate", "fallocate"})
    | _WRITING
)
#: Calls that need room; an open is one where it may make the file.
_ROOM = frozenset({"mkdir", "symlink", "link", "fallocate"}) | _WRITING
_SYNCING = frozenset({"fsync", "fdatasync"})
_LOOKING = frozenset({"stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2"})
#: Calls that a signal may interrupt, and that the interpreter then makes again (PEP 475).
_INTERRUPTIBLE = frozenset({"openat", "read", "pread64", "flock"}) | _WRITING | _SYNCING

#: Of an act of more calls than that, each gets one error only, in turn, and every other look gets none.
_MANY = 100

FaultKind = Literal["none", "error", "done", "short", "full", "broken", "blind", "dies"]


@dataclass(frozen=True, slots=True)
class SystemCall:
    """One call that an act made."""

    name: str
    #: What it looks at or makes; the last of two names. Only in a run without a fault.
    path: str = ""
    #: The first of two names.
    source: str = ""
    #: Whether it is an open that may make the file.
    makes: bool = False
    #: Whether it is an open of a folder.
    folder: bool = False

    @property
    def cache(self) -> bool:
        """Whether it is one of SQLite's, on a file that may be thrown away."""
        return "/index.sqlite3" in self.path

    @property
    def changes(self) -> bool:
        """Whether the disk may be another after it."""
        return self.makes or self.name in _CHANGING


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens, and at which call.

    Kinds: ``error``: the call is not made and says `code`; ``done``: it is made, and says so all the
    same; ``short``: a write takes half of what it is given, and the disk is full from then on;
    ``full``: from here on every call that needs room says that there is none; ``broken``: from here
    on every call says EIO; ``blind``: from here on every look at what is there does; ``dies``: the
    process ends in place of the call.
    """

    kind: FaultKind = "none"
    index: int = 0
    code: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {errno.errorcode.get(self.code, '')}".strip()


def faults_for(calls: Sequence[SystemCall], *, thorough: bool) -> Iterator[Fault]:  # noqa: PLR0912 - a table
    """Yield what is to be tried on an act that makes *calls*.

    Without *thorough*, a disk is only full where room is asked for, a process dies only where the disk
    is not as it was at the death before, and less is tried on a cache, and on each call of an act that
    makes very many.
    """
    changed = True
    for index, call in enumerate(calls):
        if call.cache and not thorough:  # and SQLite tries for seconds to lock a file
            if index % 4 == 0 and call.name not in ("fcntl", "close", "lseek"):
                yield Fault("error", index, errno.EIO)
            if index % 4 == 1 and call.changes:
                yield Fault("dies", index)
            changed = changed or call.changes
            continue
        # A close gives its descriptor up even where it says no.
        kind: FaultKind = "done" if call.name == "close" else "error"
        codes = [errno.EIO, errno.EACCES]
        if thorough or call.makes or call.name in _ROOM | _SYNCING or call.changes:
            codes += [errno.ENOSPC, errno.EDQUOT]
        elif call.name in ("close", "lseek", "fstat", "read", "pread64", "fcntl", "flock"):
            codes = [errno.EIO]
        some = len(calls) > _MANY and not thorough
        if some and index % 2 and not (call.changes or changed or call.name in _SYNCING):
            continue
        for code in [codes[index % len(codes)]] if some else codes:
            yield Fault(kind, index, code)
        if call.name in _INTERRUPTIBLE and not call.folder:
            yield Fault("error", index, errno.EINTR)
        if call.name in _NAMING or call.name in _SYNCING:
            yield Fault("done", index, errno.EIO)
        if call.name in _WRITING:
            yield Fault("short", index, errno.ENOSPC)
        if (call.makes or call.name in _ROOM) and not (some and index % 2):
            yield Fault("full", index, errno.ENOSPC)
        if call.name in _LOOKING and not some:
            yield Fault("blind", index, errno.EIO)
        if thorough or (call.changes and not (some and index % 2 == 0)):
            yield Fault("broken", index, errno.EIO)
        if changed or thorough:
            yield Fault("dies", index)
        changed = call.changes
    yield Fault("dies", len(calls))


def not_synced(calls: Sequence[SystemCall]) -> list[str]:
    """Return which names a power loss could take, or fill with less than all: a line each.

    Bytes are synced before their file is given another name, and the folder of that name after it. The
    claims' own folders are left out: what may be lost there is another matter (docs/claims.md, Power).
    """
    found: list[str] = []
    dirty: set[str] = set()
    unsettled: dict[str, str] = {}
    for call in calls:
        if call.name in _WRITING:
            dirty.add(call.path)
        elif call.name in _SYNCING:
            dirty.discard(call.path)
            unsettled.pop(call.path.rstrip("/"), None)
        elif call.name in ("link", "rename"):
            if call.source in dirty:
                found.append(f"{call.path}: its bytes were not synced before it had this name")
            folder = os.path.dirname(call.path)
            if not re.search(r"/(locks|trash|workers)(/|$)", folder):
                unsettled[folder] = call.path
    return found + [f"{path}: its folder was not synced" for path in unsettled.values()]


# ---------------------------------------------------------------------- what came of it


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an act returned or raised, as its caller is told."""

    value: Any = None
    #: The class of what was raised, "" if nothing was.
    error: str = ""
    #: ``os``: OSError; ``said``: an error of the product's own; ``lost``: ClaimLost; else ``other``.
    kind: str = ""
    code: int = 0
    text: str = ""
    token: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing was raised."""
        return not self.error


@dataclass(slots=True)
class Told:
    """What is known of an act, and of the process that it ran in."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    fault: Fault = Fault()
    calls: list[SystemCall] = field(default_factory=list)
    #: Calls beside those, by number.
    others: set[int] = field(default_factory=set)
    first: Outcome | None = None
    #: Of the same act, called again in the same process once the fault was gone.
    again: Outcome | None = None
    #: Descriptors that the first call left open.
    leaked: int = 0
    died: bool = False
    #: What went wrong with the test itself.
    trouble: str = ""

    @property
    def outcomes(self) -> list[Outcome]:
        """All that anybody was told."""
        return [outcome for outcome in (self.first, self.again) if outcome is not None]


@dataclass(frozen=True, slots=True)
class Play:
    """An act, ready to begin."""

    act: Callable[[], Any]
    #: What the checks have to know.
    facts: Mapping[str, Any] = field(default_factory=dict)


Prepare = Callable[[Path], Play]


@contextlib.contextmanager
def played(prepare: Prepare, folder: Path, fault: Fault = Fault(), *, again: bool = False) -> Iterator[Told]:
    """Run an act in a child with *fault*; the child lives on, idle, until the context is left.

    Args:
        prepare: Called in the child, untraced; returns the act.
        folder: Handed to it.
        fault: What happens.
        again: Whether the child calls the act once more, untraced, where it raised an error.
    """
    reading, writing = os.pipe()
    waiting, going = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of other tests, which do nothing here
        pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.close(going)
        _child(prepare, folder, writing, waiting, again=again)
    os.close(writing)
    os.close(waiting)
    told = Told(fault=fault)
    try:
        tracer = _Tracer(pid, fault)
        tracer.run()
        told.calls, told.others, told.died = tracer.calls, tracer.others, tracer.ended
        told.trouble = tracer.trouble
        for line in _lines(reading):
            _take_in(told, json.loads(line))
        yield told
    finally:
        os.close(reading)
        os.close(going)
        if not told.died:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _lines(descriptor: int) -> Iterator[bytes]:
    # Until the child says that it waits, or is gone.
    data = b""
    while not data.endswith(b'"idle"\n') and (chunk := os.read(descriptor, 65536)):
        data += chunk
    yield from (line for line in data.splitlines() if line != b'"idle"')


def _take_in(told: Told, record: dict[str, Any]) -> None:
    told.facts = record.get("facts", told.facts)
    told.trouble = record.get("trouble", told.trouble)
    told.leaked = record.get("leaked", told.leaked)
    if "first" in record:
        told.first = Outcome(**record["first"])
    if "again" in record:
        told.again = Outcome(**record["again"])


# ------------------------------------------------------------------------- the child


def _child(prepare: Prepare, folder: Path, writing: int, waiting: int, *, again: bool) -> None:
    def say(record: object) -> None:
        os.write(writing, json.dumps(record).encode() + b"\n")

    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(PATIENCE))
        gc.disable()
        gc.freeze()
        sys.stdout = sys.stderr = io.StringIO()
        play = prepare(folder)
        say({"facts": play.facts})
        _libc().ptrace(_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        before = len(os.listdir("/proc/self/fd"))
        first = _outcome(play.act)
        leaked = len(os.listdir("/proc/self/fd")) - before
        if leaked:
            gc.collect()  # not before, as it takes longer than the rest
            leaked = len(os.listdir("/proc/self/fd")) - before
        say({"first": _plain(first), "leaked": leaked})
        if again and not first.ok:
            say({"again": _plain(_outcome(play.act, marks=False))})
    except BaseException as error:  # noqa: BLE001 - told to the parent, which fails
        say({"trouble": f"{type(error).__name__}: {error}"})
    finally:
        say("idle")
        os.read(waiting, 1)
        os._exit(0)


def _outcome(act: Callable[[], Any], *, marks: bool = True) -> Outcome:
    try:
        if marks:
            os.getppid()
        try:
            value = act()
        finally:
            if marks:
                os.getppid()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is what the caller is told
        kind = "other"
        for known, word in ((ClaimLost, "lost"), (OSError, "os"), (HypervisorError, "said")):
            if isinstance(error, known):
                kind = word
                break
        code = error.errno or 0 if isinstance(error, OSError) else 0
        return Outcome(error=type(error).__name__, kind=kind, code=code, text=str(error))
    return Outcome(value=value)


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {name: getattr(outcome, name) for name in Outcome.__dataclass_fields__}


# ------------------------------------------------------------------------ the tracer

_TRACEME, _SYSCALL, _DETACH = 0, 24, 17
_GETREGS, _SETREGS, _SETOPTIONS = 12, 13, 0x4200
_SYSGOOD, _EXITKILL = 1, 0x00100000


class _Registers(ctypes.Structure):
    # struct user_regs_struct (sys/user.h)
    _fields_ = [
        (name, ctypes.c_ulonglong)
        for name in (
            "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi",
            "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs",
            "gs",
        )
    ]  # fmt: skip


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    return libc


class _Tracer:
    """Sees every system call of a child between its two marks, and lets the fault happen."""

    def __init__(self, pid: int, fault: Fault) -> None:
        self.calls: list[SystemCall] = []
        self.others: set[int] = set()
        self.ended = False
        self.trouble = ""
        self._pid = pid
        self._fault = fault
        self._ptrace = _libc().ptrace
        self._registers = _Registers()
        self._marks = 0

    def run(self) -> None:
        """Trace the child up to its second mark, or its end."""
        if not self._wait():
            return
        self._ptrace(_SETOPTIONS, self._pid, None, _SYSGOOD | _EXITKILL)
        recording = self._fault.kind == "none"
        with (
            open(f"/proc/{self._pid}/mem", "rb", buffering=0)
            if recording
            else contextlib.nullcontext() as mem
        ):
            while self._next():
                if self._entered(mem):
                    break

    def _entered(self, memory: io.FileIO | None) -> bool:
        """Look at a call that begins; return whether there is nothing more to see."""
        registers = self._registers
        self._ptrace(_GETREGS, self._pid, None, ctypes.addressof(registers))
        number = registers.orig_rax
        if number == _MARK:
            self._marks += 1
            if self._marks == 2 and self._fault.kind == "dies":
                return self._kill()
        elif self._marks == 1 and number not in FILE_CALLS:
            self.others.add(number)
        elif self._marks == 1:
            call = self._call(FILE_CALLS[number], memory)
            index = len(self.calls)
            self.calls.append(call)
            if self._hit(call, index):
                if self._fault.kind == "dies":
                    return self._kill()
                if not self._carried_out(call, index):
                    return True
                if self._fault.kind in ("error", "done"):
                    self._ptrace(_DETACH, self._pid, None, None)
                    return True
                return False
        if not self._next():  # to the call's end
            return True
        if self._marks == 2:
            self._ptrace(_DETACH, self._pid, None, None)
            return True
        return False

    def _call(self, name: str, memory: io.FileIO | None) -> SystemCall:
        registers = self._registers
        flags = registers.rdx if name == "openat" else registers.rsi if name == "open" else 0
        path = source = ""
        if memory is not None:
            two = name in ("link", "symlink", "rename")
            path = self._text(registers.rsi if two or name.endswith("at") else registers.rdi, memory)
            source = self._text(registers.rdi, memory) if two else ""
        return SystemCall(
            name, path, source, makes=bool(flags & os.O_CREAT), folder=bool(flags & os.O_DIRECTORY)
        )

    def _text(self, at: int, memory: io.FileIO) -> str:
        with contextlib.suppress(OSError, OverflowError):
            if at < 1 << 16:
                return os.readlink(f"/proc/{self._pid}/fd/{at}")
            memory.seek(at)
            return memory.read(4096).partition(b"\0")[0].decode("utf-8", "replace")
        return ""

    def _hit(self, call: SystemCall, index: int) -> bool:
        fault = self._fault
        if fault.kind in ("error", "done", "dies"):
            return index == fault.index
        if index < fault.index or fault.kind == "none":
            return False
        if fault.kind == "full" or (fault.kind == "short" and index > fault.index):
            return call.makes or call.name in _ROOM
        return fault.kind != "blind" or call.name in _LOOKING

    def _carried_out(self, call: SystemCall, index: int) -> bool:
        """Let the fault happen in place of a call; return whether the child lives."""
        registers, fault = self._registers, self._fault
        kind = fault.kind
        if kind == "short" and index == fault.index:
            registers.rdx = registers.rdx // 2 or 1
            self._set()
            return self._next()
        if kind == "broken" and call.name == "close":
            kind = "done"
        if kind != "done":
            registers.orig_rax = (1 << 64) - 1  # no such call: it is passed over
            self._set()
        if not self._next():
            return False
        self._ptrace(_GETREGS, self._pid, None, ctypes.addressof(registers))
        if kind != "done" or registers.rax < 1 << 63:  # an error of its own stays
            registers.rax = (1 << 64) - fault.code
            self._set()
        return True

    def _set(self) -> None:
        self._ptrace(_SETREGS, self._pid, None, ctypes.addressof(self._registers))

    def _kill(self) -> bool:
        self._registers.orig_rax = (1 << 64) - 1
        self._set()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self.ended = True
        return True

    def _next(self) -> bool:
        """Let the child run to where a call begins or ends; False if it has ended."""
        handed_on = 0
        while True:
            self._ptrace(_SYSCALL, self._pid, None, handed_on)
            if not self._wait():
                return False
            if self._stopped_by == signal.SIGTRAP | 0x80:
                return True
            handed_on = self._stopped_by

    def _wait(self) -> bool:
        _, status = os.waitpid(self._pid, 0)
        if os.WIFSTOPPED(status):
            self._stopped_by = os.WSTOPSIG(status)
            return True
        self.ended = True
        self.trouble = f"the child ended by itself, with {os.waitstatus_to_exitcode(status)}"
        return False


# ------------------------------------------------------------------ what stands on the disk


def scratch() -> Path:
    """Return a new folder, in memory where there is such a place: nothing here is about power."""
    memory = "/dev/shm"
    return Path(tempfile.mkdtemp(prefix="faults-", dir=memory if os.access(memory, os.W_OK) else None))


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a new folder for as long as the context lasts."""
    folder = scratch()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def broken_invariants(root: str, before: Mapping[str, bytes] | None = None) -> list[str]:
    """Look at a store's plain files; return what of I1 - I5 does not hold, a line each.

    Args:
        root: The store.
        before: The results as they were at an earlier look (`results_of`).
    """
    broken = []
    results = results_of(root)
    for key, data in (before or {}).items():
        if results.get(key) != data:
            broken.append(f"I5: the result of {key} was {data!r} and is {results.get(key)!r}")
    for key, data in results.items():
        try:
            record = json.loads(data)
            if record["key"] != key or not record["token"] or int(record["generation"]) < 1:
                broken.append(f"I1: the result of {key} is another's: {record}")
        except (ValueError, KeyError, TypeError):
            broken.append(f"torn: the result of {key} is {data!r}")
    for key, generations in claims_of(root).items():
        broken += _broken_claims(root, key, generations, results.get(key))
    return broken


def _broken_claims(root: str, key: str, generations: list[int], result: bytes | None) -> Iterator[str]:
    ends = {}
    for generation in generations:
        try:
            ends[generation] = end_of(root, key, generation)
            owner_of(root, key, generation)
        except (ValueError, KeyError, TypeError) as error:
            yield f"torn: {key} generation {generation}: {error}"
            return
        end = ends[generation]
        if end is not None and end.how == "done" and result is not None:
            path = f"{root}/locks/{_claim(key, generation)}/end"
            if not os.path.samefile(path, f"{root}/results/{key}.json"):
                yield f"I1: {key} generation {generation} is done, and the result is another's"
    if result is not None:
        winner = ends.get(int(json.loads(result)["generation"]))
        if winner is not None and winner.how != "done":
            yield f"I4: {key} was {winner.how} and became the result"
        return
    if generations != list(range(1, len(generations) + 1)):
        yield f"I2: {key} has the generations {generations}"
    for generation in generations[:-1]:
        end = ends[generation]
        if end is None or end.how == "done":
            how = end.how if end else "open"
            yield f"I2: {key} has generation {generation + 1}, and {generation} is {how}"
    if sum(end is None for end in ends.values()) > 1:
        yield f"I3: {key} has more than one open claim"


def results_of(root: str) -> dict[str, bytes]:
    """Return the results of a store, by key, as they stand in their files."""
    with contextlib.suppress(FileNotFoundError):
        return {
            path.name.removesuffix(".json"): path.read_bytes() for path in Path(root, "results").iterdir()
        }
    return {}


def claims_of(root: str) -> dict[str, list[int]]:
    """Return the generations of every key that stand in a store, in order."""
    found: dict[str, list[int]] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(os.path.join(root, "locks")):
            key, generation = split_generation(name)
            found.setdefault(key, []).append(generation)
    return {key: sorted(generations) for key, generations in found.items()}


def end_of(root: str, key: str, generation: int) -> End | None:
    """Return how a generation ended, read from its file alone."""
    path = f"{root}/locks/{_claim(key, generation)}/end"
    if os.path.islink(path):
        end = End.from_text(os.readlink(path))
        if end.how not in ("revoked", "released") or not re.fullmatch(
            r"\w+:.*", os.readlink(path), re.DOTALL
        ):
            raise ValueError(f"no end: {os.readlink(path)!r}")
        return end
    if not os.path.lexists(path):
        return None
    record = json.loads(Path(path).read_bytes())
    if (record["key"], record["generation"]) != (key, generation):
        raise ValueError(f"the end of another claim: {record}")
    return End(how="done", token=record["token"])


def owner_of(root: str, key: str, generation: int) -> Owner | None:
    """Return who signed a generation, read from its file alone."""
    path = f"{root}/locks/{_claim(key, generation)}/owner"
    return Owner.from_text(os.readlink(path)) if os.path.lexists(path) else None


def _claim(key: str, generation: int) -> str:
    return key if generation == 1 else f"{key}~{generation}"
