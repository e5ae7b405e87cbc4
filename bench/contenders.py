"""What is drained, and how: the raw system calls, and our store. The others are in `peers`.

Each contender lays out a queue of no-op items, and each of its consumers, a process, takes items until
there are none. *Claim only* ends with the item in hand; the *whole life* also completes it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from hypervisor.claims.directory import DirectoryStore, Policy
from hypervisor.claims.files import Files
from hypervisor.claims.port import Claim, Holder, HolderKind
from hypervisor.claims.workers import new_worker_id
from hypervisor.core.keys import canonical, item_key
from hypervisor.core.model import Outcome, Report
from hypervisor.queue.batches import open_folder
from hypervisor.queue.heart import Stop
from hypervisor.queue.worker import BLOCK, Orders, Worker
from hypervisor.runners.port import Work

Run = Callable[[str], None]


def items(count: int) -> Iterator[str]:
    """Yield the items of a queue; `number` is the way back."""
    return (f"item-{number:07}" for number in range(count))


def number(item: str) -> int:
    """Return the number of an item."""
    return int(item[5:])


class Contender:
    """A queue in *folder*, open for the consumer *share* of *shares*."""

    #: How it is called on the command line, and on the page.
    name: ClassVar[str]
    label: ClassVar[str]
    #: What one claim, and one life, is here.
    claims: ClassVar[str] = ""
    lives: ClassVar[str] = ""
    #: The module that has to be there.
    needs: ClassVar[str] = "sys"

    def __init__(self, folder: Path, share: int, shares: int) -> None:
        self.folder, self.share, self.shares = folder, share, shares

    @classmethod
    def fill(cls, folder: Path, count: int) -> None:
        """Lay out a queue of *count* items."""
        (folder / "queue.txt").write_text("".join(f"{item}\n" for item in items(count)), "utf-8")
        (folder / "locks").mkdir()

    def drain(self, run: Run, *, whole: bool) -> None:
        """Execute items until there are none; with *whole* complete each."""
        raise NotImplementedError

    def kept(self, item: str) -> bool:
        """Tell whether an item is still there, not completed."""
        raise NotImplementedError

    def wait_for_others(self, *, wait: bool) -> None:
        """Whether to wait for what others hold; for those who can."""


class Mkdir(Contender):
    """The yardstick: the one system call, with the names at hand and nobody to race with."""

    name, label = "mkdir", "mkdir (yardstick)"
    claims = "`mkdir`, each process for a share of its own, the names made before"

    @classmethod
    def fill(cls, folder: Path, count: int) -> None:
        super().fill(folder, count)
        (folder / "count").write_text(str(count), "utf-8")

    def __init__(self, folder: Path, share: int, shares: int) -> None:
        super().__init__(folder, share, shares)
        mine = list(items(int((folder / "count").read_text("utf-8"))))[share::shares]
        self.names = [(item, self.path(item)) for item in mine]

    def path(self, item: str) -> str:
        """Return the directory that claims an item: the names are ours, as a longer one costs more."""
        return f"{self.folder}/locks/{item_key(canonical(item, str(self.folder)))}"

    def drain(self, run: Run, *, whole: bool) -> None:  # noqa: ARG002 - it has no more to its life
        for item, path in self.names:
            os.mkdir(path)
            run(item)


class MkdirRace(Mkdir):
    """A mkdir worker as they are written: each reads the queue from the top and tries each item."""

    name, label = "mkdir-race", "mkdir, all from the top"
    claims = "`mkdir` of each item by every process; it exists: the next one"

    def drain(self, run: Run, *, whole: bool) -> None:  # noqa: ARG002 - it has no more to its life
        with open(self.folder / "queue.txt", encoding="utf-8") as queue:
            for text in queue:
                item = text.rstrip("\n")
                try:
                    os.mkdir(self.path(item))
                except FileExistsError:
                    continue
                run(item)

    def kept(self, item: str) -> bool:
        return os.path.isdir(self.path(item))


class Ours(Contender):
    """The product: its queue, its store, and for the whole life its worker."""

    name, label = "hypervisor", "**Hypervisor**"
    claims = "`Queue.take` of blocks of 8, `Batch.pin`, `DirectoryStore.claim`: looks, intent, `mkdir`, owner"
    lives = "`Worker.run` with a runner that does nothing, to the end of its sweep, only without its fsyncs"

    class _Unsynced(Files):
        """The store's system calls but for fsync, which the SQLite of the peers leaves out as well."""

        def write_new(self, path: str, data: bytes) -> None:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            with open(descriptor, "wb") as file:
                file.write(data)

        def sync(self, directory: str) -> None:
            pass

    files: ClassVar[type[Files]] = _Unsynced

    def __init__(self, folder: Path, share: int, shares: int) -> None:
        super().__init__(folder, share, shares)
        self.batch = open_folder(str(folder), cwd=str(folder))
        self.holder = Holder(
            id=new_worker_id("bench", os.getpid()), kind=HolderKind.PROCESS, name="bench", lease_seconds=900
        )
        self.wait = True

    def drain(self, run: Run, *, whole: bool) -> None:
        if not whole:
            return self._claim(run)
        worker = Worker(
            self.batch, _NoOp(run), self.holder,
            policy=Policy(), orders=Orders(wait=self.wait), tell=lambda _: None, stop=Stop(),
            open_store=partial(DirectoryStore, files=self.files()),
        )  # fmt: skip
        worker.run()
        return None

    def _claim(self, run: Run) -> None:
        store = DirectoryStore(self.batch.folder, self.holder, files=self.files())
        queue = self.batch.queue
        while block := queue.take(BLOCK):
            for place in self.batch.pin(line.item for line in block):
                if isinstance(store.claim(place.key, place.item), Claim):
                    run(place.item)

    def kept(self, item: str) -> bool:
        return not self.batch.layout(self.batch.folder).finished(self.batch.place(item).key)

    def wait_for_others(self, *, wait: bool) -> None:
        self.wait = wait


class Cursor(Ours):
    """What is compared with the yardstick: our cursor under flock, and nothing more than mkdir."""

    name, label = "cursor", "cursor + mkdir"
    claims = "our `Queue.take` of blocks of 8 under flock, the item's key, and `mkdir`"
    lives = ""

    def drain(self, run: Run, *, whole: bool) -> None:  # noqa: ARG002 - it has no more to its life
        queue, base, locks = self.batch.queue, self.batch.manifest.base, f"{self.folder}/locks/"
        while block := queue.take(BLOCK):
            for line in block:
                os.mkdir(locks + item_key(canonical(line.item, base)))
                run(line.item)


class OursDurable(Ours):
    """The product as it is."""

    name = "hypervisor-durable"
    lives = (
        "`Worker.run` with a runner that does nothing: two fsyncs an item, of the result and of its folder"
    )
    files = Files


class Floor(Mkdir):
    """What a durable claim and completion cannot do without."""

    name, label = "floor", "system calls (yardstick)"
    lives = "`mkdir`, a new file written and fsynced, `link` to `results/`, fsync of that; a share each"

    @classmethod
    def fill(cls, folder: Path, count: int) -> None:
        super().fill(folder, count)
        (folder / "results").mkdir()

    def drain(self, run: Run, *, whole: bool) -> None:  # noqa: ARG002 - it is its whole life
        results = f"{self.folder}/results"
        for item, path in self.names:
            os.mkdir(path)
            run(item)
            Files().write_new(f"{path}/r", b"x" * 400)
            os.link(f"{path}/r", f"{results}/{os.path.basename(path)}")
            Files().sync(results)


class _NoOp:
    """A runner that only tells what it was given."""

    name = "no-op"

    def __init__(self, run: Run) -> None:
        self._run = run

    def run(self, work: Work) -> Report:
        self._run(work.item)
        return Report(status=Outcome.SUCCESS, outcome="did nothing")
