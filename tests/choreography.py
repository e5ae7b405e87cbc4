"""Stopping, failing and killing the claim protocol between any two of its system calls.

`Steps` takes the place of the store's `Files`. One `Steps` stands for one process: rules are set on
it, and fire at the n-th call that fits. Nothing here sleeps: a thread that has to wait waits for an
event, and fails after `PATIENCE` seconds.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from hypervisor.claims.directory import DirectoryStore, Policy
from hypervisor.claims.files import Files
from hypervisor.claims.port import Busy, Claim, ClaimStore, Done, Holder, HolderKind
from hypervisor.claims.workers import new_worker_id
from hypervisor.core.errors import ClaimLost
from hypervisor.core.machine import Identity, this_process

T = TypeVar("T")

#: How long any thread of a test waits for another, in seconds; reached only when a test fails.
PATIENCE = 20.0
#: The errors that a full or broken disk, or missing rights, give.
DISK_ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES)


class Died(BaseException):
    """The process ended here: nothing after this call happened, no handler of it ran."""


class Gate:
    """A place at which a thread stands until the test lets it go on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self) -> None:
        """Stand here."""
        self._reached.set()
        if not self._opened.wait(PATIENCE):
            raise TimeoutError("nobody opened the gate")

    def wait(self) -> None:
        """Wait until a thread stands here."""
        assert self._reached.wait(PATIENCE), "no thread came to the gate"

    def open(self) -> None:
        """Let the thread go on."""
        self._opened.set()


class Running(Generic[T]):
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._value: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # noqa: BLE001 - handed on to whoever asks for the result
            self._error = error

    def result(self) -> T:
        """Wait for the call; return or raise what it did."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the thread never ended"
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # T may be None itself


@dataclass(slots=True)
class _Rule:
    name: str
    part: str
    nth: int
    last: int
    after: bool
    act: Callable[[], object]
    seen: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that was made."""

    name: str
    path: str


class Steps(Files):
    """System calls that a test has its hand on.

    A rule says at which call (name, ``*`` for any; a part of the path), at which of those (`nth`,
    from 1; up to `last`) and whether before or after it is carried out.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Count from here, without any rule."""
        with self._lock:
            self.calls, self._rules = [], []

    def at(
        self,
        name: str,
        part: str = "",
        *,
        act: Callable[[], object],
        nth: int = 1,
        last: int | None = None,
        after: bool = False,
    ) -> None:
        """Do *act* at a call."""
        with self._lock:
            self._rules.append(_Rule(name, part, nth, last or nth, after, act))

    def stop(self, name: str, part: str = "", *, nth: int = 1, after: bool = False) -> Gate:
        """Stop the thread at a call."""
        gate = Gate()
        self.at(name, part, act=gate, nth=nth, after=after)
        return gate

    def fail(
        self,
        name: str,
        part: str = "",
        *,
        code: int,
        nth: int = 1,
        last: int | None = None,
        after: bool = False,
    ) -> None:
        """Let a call fail; with *after*, it is carried out and says that it was not."""

        def act() -> None:
            raise OSError(code, os.strerror(code))

        self.at(name, part, act=act, nth=nth, last=last, after=after)

    def die(self, name: str, part: str = "", *, nth: int = 1, after: bool = False) -> None:
        """End the process at a call, and at every later one: handlers must not run on."""

        def act() -> None:
            raise Died

        self.at(name, part, act=act, nth=nth, after=after)

    def _step(self, name: str, path: str, call: Callable[[], T]) -> T:
        with self._lock:
            self.calls.append(Call(name, path))
            due = []
            for rule in self._rules:
                if rule.name in ("*", name) and rule.part in path:
                    rule.seen += 1
                    if rule.nth <= rule.seen <= rule.last:
                        due.append(rule)
        for rule in due:
            if not rule.after:
                self._act(rule)
        value = call()
        for rule in due:
            if rule.after:
                self._act(rule)
        return value

    def _act(self, rule: _Rule) -> None:
        try:
            rule.act()
        except Died:
            # A dead process makes no further call, whatever handler the exception passes.
            with self._lock:
                self._rules = [_Rule("*", "", 1, 1 << 60, False, rule.act)]
            raise

    def exists(self, path: str) -> bool:
        return self._step("exists", path, lambda: super(Steps, self).exists(path))

    def lstat(self, path: str) -> os.stat_result:
        return self._step("lstat", path, lambda: super(Steps, self).lstat(path))

    def mkdir(self, path: str) -> None:
        self._step("mkdir", path, lambda: super(Steps, self).mkdir(path))

    def rmdir(self, path: str) -> None:
        self._step("rmdir", path, lambda: super(Steps, self).rmdir(path))

    def symlink(self, text: str, path: str) -> None:
        self._step("symlink", path, lambda: super(Steps, self).symlink(text, path))

    def readlink(self, path: str) -> str:
        return self._step("readlink", path, lambda: super(Steps, self).readlink(path))

    def link(self, source: str, path: str) -> None:
        self._step("link", path, lambda: super(Steps, self).link(source, path))

    def write_new(self, path: str, data: bytes) -> None:
        self._step("write_new", path, lambda: super(Steps, self).write_new(path, data))

    def read(self, path: str) -> bytes:
        return self._step("read", path, lambda: super(Steps, self).read(path))

    def sync(self, directory: str) -> None:
        self._step("sync", directory, lambda: super(Steps, self).sync(directory))

    def touch(self, path: str) -> None:
        self._step("touch", path, lambda: super(Steps, self).touch(path))

    def rename(self, source: str, target: str) -> None:
        self._step("rename", source, lambda: super(Steps, self).rename(source, target))

    def names(self, directory: str) -> list[str]:
        return self._step("names", directory, lambda: super(Steps, self).names(directory))

    def delete_tree(self, directory: str) -> None:
        self._step("delete_tree", directory, lambda: super(Steps, self).delete_tree(directory))


def abandon(store: DirectoryStore) -> None:
    """Let the store's process die: the kernel drops its lock, and nothing is taken away."""
    descriptor = store.lock_descriptor
    if descriptor is not None:
        os.close(descriptor)
        store._worker = None


@dataclass(slots=True)
class Ledger:
    """What the workers of one item were told, and whether it can all be true."""

    accepted: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def complete(self, store: ClaimStore, claim: Claim, word: str = "done") -> Mapping[str, Any] | None:
        """Complete *claim* and note what came of it; None where it is lost or undecided."""
        try:
            result = store.complete(claim, {"item": claim.key, "status": "success", "word": word})
        except ClaimLost:
            self.lost.append(claim.token)
            return None
        except OSError:
            return None
        assert result["token"] == claim.token
        self.accepted.append(claim.token)
        return result

    def check(self, result: Mapping[str, Any] | None) -> None:
        """Hold what was told against what is there."""
        assert result is not None, "the item has no result"
        assert set(self.accepted) <= {result["token"]}, "accepted, and another result is there"
        assert result["token"] not in self.lost, "told that it is lost, and won"


class World:
    """A directory store and the processes on it, each of which may die by itself."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._stores: list[DirectoryStore] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for store in self._stores:
            store.close()

    def holder(
        self, name: str = "worker", kind: HolderKind = HolderKind.PROCESS, lease_seconds: float = 900.0
    ) -> Holder:
        """Return a holder that never was before."""
        return Holder(id=new_worker_id(name, os.getpid()), kind=kind, name=name, lease_seconds=lease_seconds)

    def open(
        self,
        name: str = "worker",
        *,
        files: Files | None = None,
        kind: HolderKind = HolderKind.PROCESS,
        lease_seconds: float = 900.0,
        here: Identity | None = None,
        **policy: Any,
    ) -> DirectoryStore:
        """Start a process that claims; its lease is also the one it grants to a claim unsigned."""
        store = DirectoryStore(
            self.root,
            self.holder(name, kind, lease_seconds),
            policy=Policy(lease_seconds=lease_seconds, **policy),
            files=files,
            here=here,
        )
        self._stores.append(store)
        return store

    def agent(self, name: str = "agent", *, lease_seconds: float = 900.0, **rest: Any) -> DirectoryStore:
        """Start a process that claims in an agent's name; with a lease of 0 it is always silent."""
        return self.open(name, kind=HolderKind.LEASE, lease_seconds=lease_seconds, **rest)

    def reader(self, files: Files | None = None) -> DirectoryStore:
        """Open the store to look at it."""
        return DirectoryStore(self.root, None, files=files)

    def finish(self, key: str, ledger: Ledger, *, here: Identity | None = None) -> Mapping[str, Any]:
        """Let a fresh process complete *key*, whatever was left behind; return the result."""
        store = self.open("fresh", lease_seconds=0.0, here=here, attempts=99)
        answer: Claim | Busy | Done = Busy(key=key, detail="")
        # One look for each thing that may have to be taken over or published first.
        for _ in range(4):
            answer = store.claim(key, "item")
            if isinstance(answer, Claim):
                ledger.complete(store, answer, "fresh")
            if isinstance(answer, Done):
                break
        assert isinstance(answer, Done), f"{key} is stuck: {answer}"
        result = store.result(key)
        ledger.check(result)
        assert result is not None
        return result


def taken(store: ClaimStore, key: str = "k", item: str = "item") -> Claim:
    """Claim *key*, which must be free."""
    claim = store.claim(key, item)
    assert isinstance(claim, Claim), claim
    return claim


def after_reboot() -> Identity:
    """Return this process as it would be had the machine been started again."""
    return replace(this_process(), boot="another-boot")
