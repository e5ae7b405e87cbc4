"""No error and no death at any system call loses an item, tears a file or tells a lie.

One test an act: it is run once to count its calls, and then once for each call and each fault of
`faults_for`. After each run another worker goes on, with the fault gone. ``FAULTS=all`` tries what makes
no difference, too.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock  # noqa: F401 - what acts import is imported before a fault is counted
import pytest

import hypervisor.cli.cli_opening
import hypervisor.core.machine
import hypervisor.documents.delimiters
import hypervisor.documents.frontmatter
import hypervisor.ledger
import hypervisor.tasks.tasks
from choreography import Died, Ledger, Steps, World, abandon, taken
from commands import write_task
from faults import (
    AVAILABLE,
    FILE_CALLS,
    HARMLESS,
    Fault,
    FaultKind,
    Play,
    Told,
    broken_invariants,
    claims_of,
    faults_for,
    not_synced,
    played,
    results_of,
    scratch_folder,
)
from hypervisor.claims.directory import DirectoryStore
from hypervisor.claims.port import Busy, Claim, Done
from hypervisor.core import config
from hypervisor.core.errors import ClaimLost, Taken
from hypervisor.core.model import FileEdit, KeyEdit, TaskStatus
from hypervisor.core.model import Outcome as TaskOutcome
from hypervisor.core.paths import Project
from hypervisor.events import Happening, read, tell
from hypervisor.queue.batches import create_of_tasks, newest, open_folder, open_named
from hypervisor.queue.queue import SEGMENT, Queue
from hypervisor.tasks.desk import Desk
from hypervisor.tasks.endings import Ending
from hypervisor.tasks.tasklist import Caller
from hypervisor.tasks.tasks import append_receipt, edit_file, find_task_files

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs ptrace as on Linux, x86-64")

THOROUGH = os.environ.get("FAULTS") == "all"
OK: Mapping[str, Any] = {"item": "item", "status": "success", "outcome": "fine"}
#: How many failures of one act are told.
_SHOWN = 25

Check = Callable[[Path, Told], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that the product does, and what must hold whatever becomes of it."""

    #: Run in the child; returns the act itself.
    prepare: Callable[[Path], Play]
    #: Run when the child is gone.
    check: Check
    #: Run while a child still lives that was told of an error, and where it was not the disk's end.
    living: Check | None = None
    #: Whether to call again after an error; else the process ends with it.
    again: bool = True
    #: Whether an error on a disk that stays broken may keep the item until the process ends.
    keeps: bool = False
    #: Whether it is an act whose names need not outlive a power loss.
    hints: bool = False


# ------------------------------------------------------------------- claims and results


def _store(folder: Path) -> str:
    return str(folder / "store")


def _claims_left(folder: Path, told: Told) -> None:
    """Another worker finishes the item, and everything that was told stays true."""
    root = _store(folder)
    assert broken_invariants(root) == []
    before, ledger = results_of(root), Ledger()
    for outcome in told.outcomes:
        if outcome.ok and isinstance(outcome.value, dict):
            ledger.accepted.append(outcome.value["token"])
        if outcome.kind == "lost":
            ledger.lost.append(told.facts["token"])
    with World(root) as world:
        world.finish("k", ledger)
        assert broken_invariants(root, before) == []
        world.open().tidy()
    assert claims_of(root) == {}
    assert os.listdir(f"{root}/trash") == []
    assert set(results_of(root)) == {"k"}


def _free_at_once(folder: Path, told: Told) -> None:
    """Who was told that a claim failed holds nothing: another gets it while he lives."""
    with World(_store(folder)) as world:
        store = world.open()
        answer = store.claim("k", "item")
        assert isinstance(answer, Claim), f"stuck as long as the process lives: {answer}"


def _open(folder: Path) -> tuple[World, DirectoryStore]:
    world = World(_store(folder))
    return world, world.open()


def _opening(folder: Path) -> Play:
    folder.mkdir()
    return Play(lambda: World(_store(folder)).open().close())


def _claiming(folder: Path) -> Play:
    _, store = _open(folder)
    return Play(lambda: _hand(store.claim("k", "item")))


def _hand(answer: Claim | Busy | Done) -> int:
    if not isinstance(answer, Claim):
        raise Taken(f"not handed out: {answer}")
    return answer.generation


def _leave_dead(world: World) -> None:
    dying = world.open("victim")
    taken(dying)
    abandon(dying)


def _taking_over(folder: Path) -> Play:
    world, store = _open(folder)
    _leave_dead(world)
    return Play(lambda: _hand(store.claim("k", "item")))


def _completing(folder: Path) -> Play:
    _, store = _open(folder)
    claim = taken(store)
    return Play(lambda: dict(store.complete(claim, OK)), {"token": claim.token})


def _releasing(folder: Path, *, counted: bool) -> Play:
    _, store = _open(folder)
    claim = taken(store)
    if counted:
        return Play(lambda: store.fail(claim, "trouble"), {"token": claim.token})
    return Play(lambda: store.release(claim, "not now"), {"token": claim.token})


def _released(folder: Path, told: Told) -> None:
    """What was told as given back is one ended attempt, and no more."""
    if any(outcome.ok for outcome in told.outcomes):
        with World(_store(folder)) as world:
            attempts = world.reader().attempts("k")
        assert [(a.generation, a.how) for a in attempts] == [(1, "released")], attempts
    _claims_left(folder, told)


def _annotating(folder: Path) -> Play:
    _, store = _open(folder)
    claim = taken(store)

    def act() -> None:
        with contextlib.suppress(FileExistsError):  # once a claim
            store.annotate(claim, {"a": "b" * 100})
        store.beat(claim)

    return Play(act, {"token": claim.token})


def _annotated(folder: Path, told: Told) -> None:
    """A note is whole or absent."""
    with World(_store(folder)) as world:
        note = world.reader().layout.note("k", 1)
    assert note == {"a": "b" * 100} or (not note and not any(outcome.ok for outcome in told.outcomes)), note
    _claims_left(folder, told)


def _reaping(folder: Path) -> Play:
    world, store = _open(folder)
    _leave_dead(world)
    return Play(lambda: store.reap() and None)


def _revoking(folder: Path) -> Play:
    world, store = _open(folder)
    claim = taken(world.agent())
    return Play(lambda: store.revoke("k", "cancelled") and None, {"token": claim.token})


def _revoked(folder: Path, told: Told) -> None:
    """Whoever is revoked cannot complete; whoever is not can."""
    claim = Claim(key="k", generation=1, token=told.facts["token"], holder="")
    with World(_store(folder)) as world:
        store = world.open()
        ended = store.layout.end("k", 1)
        assert ended is not None or not any(outcome.ok for outcome in told.outcomes)
        if ended is not None:
            assert (ended.how, ended.counted) == ("revoked", False)
            with pytest.raises(ClaimLost):
                store.complete(claim, OK)
        else:
            assert store.complete(claim, OK)
    _claims_left(folder, Told())


def _decided(folder: Path, call: str, part: str) -> tuple[World, str]:
    """Leave a completion whose worker died at a call."""
    world, files = World(_store(folder)), Steps()
    dying = world.open("victim", files=files)
    claim = taken(dying)
    files.forget()
    files.die(call, part)
    with contextlib.suppress(Died):
        dying.complete(claim, OK)
    abandon(dying)
    return world, claim.token


def _helping(folder: Path) -> Play:
    world, token = _decided(folder, "link", "/results/")
    store = world.open()
    return Play(lambda: _published(store, token), {"token": token})


def _published(store: DirectoryStore, token: str) -> None:
    answer = store.claim("k", "item")
    result = store.result("k")
    if not isinstance(answer, Done) or result is None or result["token"] != token:
        raise Taken(f"not published: {answer}")


def _winner_stays(folder: Path, told: Told) -> None:
    """What was decided becomes the result, whoever publishes it."""
    _claims_left(folder, told)
    assert json.loads(results_of(_store(folder))["k"])["token"] == told.facts["token"]


def _collecting(folder: Path) -> Play:
    world, token = _decided(folder, "rename", "/locks/")
    world.open("another").close()
    store = world.open()
    return Play(store.tidy, {"token": token})


def _claiming_finished(folder: Path) -> Play:
    _, store = _open(folder)
    claim = taken(store)
    store.complete(claim, OK)
    return Play(lambda: type(store.claim("k", "item")).__name__, {"token": claim.token})


def _never_again(folder: Path, told: Told) -> None:
    """What is finished is never handed out, whatever cannot be seen (I6)."""
    assert {outcome.value for outcome in told.outcomes if outcome.ok} <= {"Done"}
    _winner_stays(folder, told)


def _giving_up(folder: Path) -> Play:
    _, store = _open(folder)
    for _ in range(3):
        store.fail(taken(store), "trouble")
    return Play(lambda: _given_up(store))


def _given_up(store: DirectoryStore) -> None:
    answer = store.claim("k", "item")
    result = store.result("k")
    if not isinstance(answer, Done) or result is None or result["status"] != "failed":
        raise Taken(f"not given up: {answer}")


# ------------------------------------------------------------------------- task files

DONE = Ending(outcome=TaskOutcome.SUCCESS, status=TaskStatus.DONE, text="made it", commit="3f2c1ab")
_EDIT = KeyEdit(key="status", old="active", new="done")
#: How old a claim is made where its holder is to be silent, in seconds.
_LONG_AGO = 5000.0


def _project(folder: Path) -> Project:
    return Project(folder, folder / ".hypervisor")


def _task(folder: Path, name: str = "t-1") -> Path:
    return folder / "tasks" / f"{name}.md"


def _make_project(folder: Path, *names: str) -> Project:
    project = _project(folder)
    for name in names:
        write_task(_task(folder, name))
    project.prepare()
    (project.state / "filelocks").mkdir()
    return project


def _desk(folder: Path, name: str = "claude") -> Desk:
    project = _project(folder)
    return Desk(project, config.load(project.state), Caller(name=name))


def _index(folder: Path) -> None:
    """Let the index know the task, saved so long ago that it is not looked at again: else time decides."""
    then = time.time() - _LONG_AGO
    os.utime(_task(folder), (then, then))
    _desk(folder).tasks()


def _only_tasks(folder: Path, *names: str) -> None:
    """Whatever a dead writer has left beside the tasks is taken for none."""
    found = {path.name for path in find_task_files(folder, config.load(folder / ".hypervisor"))}
    assert found == {f"{name}.md" for name in names}


def _editing(folder: Path) -> Play:
    _make_project(folder, "t-1")
    path = _task(folder)
    path.chmod(0o640)
    edit = FileEdit(path=str(path), keys=(_EDIT,))
    return Play(lambda: edit_file(path, edit), {"old": path.read_text()})


def _edited(folder: Path, told: Told) -> None:
    """The file is the old or the new one to the byte; who comes next can edit it."""
    path, old = _task(folder), told.facts["old"]
    new = old.replace("status: active", "status: done")
    found = path.read_text()
    assert found in (old, new), found
    assert found == new or not any(outcome.ok for outcome in told.outcomes)
    assert path.stat().st_mode & 0o777 == 0o640
    assert edit_file(path, FileEdit(path=str(path), keys=(_EDIT,))) == []
    assert path.read_text() == new
    _only_tasks(folder, "t-1")


def _editable(folder: Path, told: Told) -> None:
    """Nothing stays locked by one who was told of an error, and no draft is left."""
    _nothing_is_left(folder, told)
    path = _task(folder)
    edit_file(path, FileEdit(path=str(path), keys=(KeyEdit(key="other", old=None, new="x"),)))
    edit_file(path, FileEdit(path=str(path), keys=(KeyEdit(key="other", old="x", new=None),)))


_RECEIPT = "- 3f2c1ab made it"


def _receipting(folder: Path) -> Play:
    _make_project(folder, "t-1")
    path = _task(folder)
    return Play(lambda: append_receipt(path, _RECEIPT), {"old": path.read_text()})


def _receipted(folder: Path, told: Told) -> None:
    """A receipt that was told as written stands there once; one that failed, at most once."""
    path, old = _task(folder), told.facts["old"]
    found = path.read_text()
    assert found in (old, f"{old}\n## Receipts\n\n{_RECEIPT}\n"), found
    assert found != old or not any(outcome.ok for outcome in told.outcomes), "lost"
    append_receipt(path, "- another")
    assert path.read_text().count("- another") == 1
    # One that came into the ledger and not into the body is put there by the next one.
    assert found.count(_RECEIPT) <= path.read_text().count(_RECEIPT) <= 1
    _only_tasks(folder, "t-1")


def _beginning(folder: Path) -> Play:
    _make_project(folder, "t-1")
    old = _task(folder).read_text()
    _index(folder)
    return Play(lambda: _desk(folder).claim("t-1")[1].generation, {"old": old})


def _fall_silent(folder: Path) -> None:
    for claim in (folder / ".hypervisor" / "locks").iterdir():
        then = claim.stat().st_mtime - _LONG_AGO
        os.utime(claim, (then, then))


def _begun(folder: Path, told: Told) -> None:
    """A task that was begun, or half begun, is another's after the lease, and its file is as it was."""
    old = told.facts["old"]
    found = _task(folder).read_text()
    begun = old.replace("status: active", "status: in_progress").replace(
        "\n---\n#", "\nassignee: claude\n---\n#"
    )
    assert found in (old, begun), found
    assert found == begun or not any(outcome.ok for outcome in told.outcomes)
    _goes_on(folder, old)
    assert broken_invariants(str(folder / ".hypervisor")) == []


def _goes_on(folder: Path, old: str) -> None:
    other = _desk(folder, "gemini")
    with contextlib.suppress(FileNotFoundError):  # no claim was ever made
        _fall_silent(folder)
    other.reap()
    task, hold = other.claim("t-1")
    assert task.assignee == ("gemini",)
    other.release("t-1", "not now", hold.generation)
    assert _task(folder).read_text() == old
    _only_tasks(folder, "t-1")


def _finishing(folder: Path) -> Play:
    _make_project(folder, "t-1")
    desk = _desk(folder)
    desk.claim("t-1")
    with desk._store() as store:
        token = store.layout.owner(store.layout.unfinished()[0], 1)
    assert token is not None
    _index(folder)
    old = _task(folder).read_text()
    return Play(lambda: dict(_desk(folder).finish("t-1", DONE, 1)), {"old": old, "token": token.token})


def _finished(folder: Path, told: Told) -> None:
    """The file is as it was or says that it is done, once; the same ending again is the same one."""
    path, old, token = _task(folder), told.facts["old"], told.facts["token"]
    root = str(folder / ".hypervisor")

    def whole() -> bool:
        found = path.read_text()
        if found == old:
            return False
        assert found.startswith(old.replace("in_progress", "done")), found
        assert found.count("## Completion") == 1
        assert found.count("- Outcome: success: made it\n") == 1
        return True

    done = whole()
    assert broken_invariants(root) == []
    before = results_of(root)
    assert len(before) <= 1
    if any(outcome.ok for outcome in told.outcomes):
        # A file that nobody may read is left as it is, and that is told (effects.write_edits).
        assert done or told.fault.code == errno.EACCES, "told that it is done, and the file does not say so"
        assert len(before) == 1
    if told.fault.code == errno.EACCES and not done and before:
        return
    try:
        result = _desk(folder).finish("t-1", DONE, 1)
    except ClaimLost as error:
        _fall_silent(folder)
        _desk(folder, "gemini").reap()
        if token in [json.loads(data)["token"] for data in results_of(root).values()]:
            pytest.fail(f"told that it was lost ({error}), and won")
        raise
    assert result["token"] == token
    assert broken_invariants(root, before) == []
    assert whole()
    assert len(results_of(root)) == 1
    _only_tasks(folder, "t-1")


# -------------------------------------------------------------------- queues and batches

_ITEMS = [f"tasks/{name}.md" for name in ("one", "two", "three", "four", "five")]


def _queue(folder: Path) -> Queue:
    return Queue(str(folder / "queue.txt"), str(folder / "cursor"))


def _make_queue(folder: Path, *, begun: bool) -> Queue:
    folder.mkdir()
    (folder / "queue.txt").write_text("".join(f"{item}\n" for item in _ITEMS))
    queue = _queue(folder)
    if begun:
        queue.take(1)
    return queue


def _taking(folder: Path, *, begun: bool) -> Play:
    queue = _make_queue(folder, begun=begun)
    return Play(lambda: [line.item for line in queue.take(2)], {"begun": begun})


def _handed_out(folder: Path, told: Told) -> None:
    """No line is handed out twice, none is told of that stays behind, and a sweep still finds them all."""
    queue, handed = _queue(folder), list(_ITEMS[:1] if told.facts["begun"] else [])
    for outcome in told.outcomes:
        if outcome.ok:
            handed += outcome.value
    lines = iter(lambda: queue.take(1), [])
    left = [line[0].item for line, _ in zip(lines, range(20), strict=False)]
    assert len(set(handed + left)) == len(handed + left), f"twice: {handed}, {left}"
    if not told.died and told.first and told.first.ok:
        assert handed + left == _ITEMS
    swept = [line.item for number in queue.unsettled()[1] for line in queue.segment(number)[0]]
    assert swept == _ITEMS


def _settling_segment(folder: Path) -> Play:
    queue = _make_queue(folder, begun=True)
    with (folder / "queue.txt").open("a") as file:
        file.write(f"{'x' * SEGMENT}\nlast\n")
    epoch = queue.cursor().epoch
    return Play(lambda: queue.settle(0, epoch))


def _segment_settled(folder: Path, told: Told) -> None:
    """The segment is settled or not, and nothing else is."""
    assert _queue(folder).unsettled()[1] in ([0, 1], [1])
    assert [line.item for line in _queue(folder).take(4)] == _ITEMS[1:]


def _reopening(folder: Path) -> Play:
    queue = _make_queue(folder, begun=True)
    queue.settle(0, queue.cursor().epoch)

    def act() -> None:
        with queue.reopening():
            (folder / "reopened").touch()

    return Play(act)


def _reopened(folder: Path, told: Told) -> None:
    """Items are opened again only where the next sweep looks at them."""
    if (folder / "reopened").exists():
        assert _queue(folder).unsettled()[1] == [0]


_NEW = [f"notes/a-rather-long-name-{number}.md" for number in range(400)]


def _appending(folder: Path) -> Play:
    _make_queue(folder, begun=True)
    data = "".join(f"{item}\n" for item in _NEW).encode()

    def act() -> None:
        sys.stdin = io.TextIOWrapper(io.BytesIO(data))
        options = Namespace(dir=str(folder), queue="-", nul=False)
        hypervisor.cli.cli_opening._take_in(options)

    return Play(act)


def _appended(folder: Path, told: Told) -> None:
    """No half of an item is ever handed out for a whole one."""
    found = [line.item for line in _queue(folder).lines()]
    assert found[: len(_ITEMS)] == _ITEMS
    torn = set(found) - set(_ITEMS) - set(_NEW)
    assert torn == set(), f"half an item: {sorted(torn)}"
    if any(outcome.ok for outcome in told.outcomes):
        assert set(found) == {*_ITEMS, *_NEW}


def _batching(folder: Path) -> Play:
    project = _make_project(folder, "a", "b", "c")
    return Play(lambda: _new_batch(project))


def _nothing_is_left(folder: Path, told: Told) -> None:
    """Who was told of an error has left no draft beside the files, unless it could not be deleted."""
    last = told.calls[told.fault.index].name if told.fault.index < len(told.calls) else ""
    if told.fault.kind in ("error", "short") and last != "unlink":
        found = [name for _, _, names in os.walk(folder) for name in names if name.startswith(".")]
        assert [name for name in found if name != ".gitignore"] == []


def _new_batch(project: Project) -> str:
    return create_of_tasks(project, ["tasks/a.md", "tasks/b.md"], [("tasks/c.md", "done")]).id


def _batched(folder: Path, told: Told) -> None:
    """A batch is whole or not there, and half of one keeps nobody from making another."""
    project = _project(folder)
    whole = newest(project)
    names = [outcome.value for outcome in told.outcomes if outcome.ok]
    for name in [*names, *([whole.name] if whole else [])]:
        batch = open_named(project, name)
        assert [line.item for line in batch.queue.lines()] == ["tasks/a.md", "tasks/b.md"]
        assert list(batch.manifest.skipped) == [{"item": "tasks/c.md", "reason": "done"}]
        assert len(os.listdir(f"{batch.folder}/results")) == 2
        assert all(place.task for place in batch.pin(["tasks/a.md", "tasks/b.md"]))
    another = _new_batch(project)
    assert open_named(project, another).manifest.tasks
    assert newest(project) is not None
    _only_tasks(folder, "a", "b", "c")


def _settling(folder: Path) -> Play:
    _make_queue(folder, begun=False)
    return Play(lambda: open_folder(str(folder), cwd=str(folder)).manifest.base)


def _settled(folder: Path, told: Told) -> None:
    """A manifest is whole or not there; the next worker settles the same."""
    path = folder / "manifest.json"
    found = path.read_bytes() if path.exists() else None
    assert found is not None or not any(outcome.ok for outcome in told.outcomes)
    batch = open_folder(str(folder), cwd=str(folder))
    assert batch.manifest.base == str(folder)
    assert found in (None, path.read_bytes())
    assert os.path.isdir(folder / "results")


def _telling(folder: Path) -> Play:
    project = _make_project(folder)
    tell(project, Happening.CLAIMED, "t-0")
    return Play(lambda: tell(project, Happening.COMPLETED, "t-1", why="made it " * 20))


def _listed(folder: Path, told: Told) -> None:
    """A line of the log is whole, or passed over; none spoils another's."""
    project = _project(folder)
    tell(project, Happening.CLAIMED, "t-2")
    tasks = [event["task"] for event in read(project)]
    assert [task for task in tasks if task != "t-1"] == ["t-0", "t-2"]
    assert tasks.count("t-1") <= 1 + len(told.outcomes)
    assert "t-1" in tasks or not any(outcome.ok for outcome in told.outcomes)


# ----------------------------------------------------------------------------- the acts

ACTS: dict[str, Act] = {
    "open": Act(prepare=_opening, check=_claims_left),
    "claim": Act(prepare=_claiming, check=_claims_left, living=_free_at_once, keeps=True),
    "take over": Act(prepare=_taking_over, check=_claims_left, living=_free_at_once, keeps=True),
    "complete": Act(prepare=_completing, check=_claims_left),
    "release": Act(prepare=lambda f: _releasing(f, counted=False), check=_released),
    "fail": Act(prepare=lambda f: _releasing(f, counted=True), check=_released),
    "annotate and beat": Act(prepare=_annotating, check=_annotated),
    "reap": Act(prepare=_reaping, check=_claims_left),
    "revoke": Act(prepare=_revoking, check=_revoked),
    "help": Act(prepare=_helping, check=_winner_stays),
    "collect": Act(prepare=_collecting, check=_winner_stays),
    "claim what is finished": Act(prepare=_claiming_finished, check=_never_again),
    "give up": Act(prepare=_giving_up, check=_claims_left, keeps=True),
    "edit a task": Act(prepare=_editing, check=_edited, living=_editable),
    "receipt": Act(prepare=_receipting, check=_receipted, living=_editable, again=False),
    "begin a task": Act(prepare=_beginning, check=_begun, keeps=True),
    "finish a task": Act(prepare=_finishing, check=_finished),
    "take from a new queue": Act(prepare=lambda f: _taking(f, begun=False), check=_handed_out, hints=True),
    "take from a queue": Act(prepare=lambda f: _taking(f, begun=True), check=_handed_out, hints=True),
    "settle a segment": Act(prepare=_settling_segment, check=_segment_settled, hints=True),
    "reopen": Act(prepare=_reopening, check=_reopened, hints=True),
    "append to a queue": Act(prepare=_appending, check=_appended),
    "make a batch": Act(prepare=_batching, check=_batched, living=_nothing_is_left),
    "settle a folder": Act(prepare=_settling, check=_settled, living=_nothing_is_left),
    "tell an event": Act(prepare=_telling, check=_listed),
}


@pytest.fixture(scope="module")
def tally() -> Iterator[dict[str, Counter[str]]]:
    """What was injected, by act; told at the end."""
    counts: dict[str, Counter[str]] = {}
    yield counts
    print("\nfaults injected:")
    for name, count in counts.items():
        print(
            f"  {name:24} {sum(count.values()):5}   {', '.join(f'{n} {k}' for k, n in sorted(count.items()))}"
        )
    print(f"  {'all':24} {sum(sum(count.values()) for count in counts.values()):5}")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory, and file locks that are not waited for."""
    monkeypatch.setattr(hypervisor.tasks.tasks, "_LOCK_SECONDS", 2.0)
    hypervisor.core.machine.this_process()  # what it remembers is read once a process
    with scratch_folder() as made:
        yield made


@pytest.mark.parametrize("name", ACTS)
def test_a_fault_at_any_call_loses_nothing(
    name: str,
    folder: Path,
    tally: dict[str, Counter[str]],
    record_property: Callable[[str, object], None],
) -> None:
    act, failures, counts = ACTS[name], [], tally.setdefault(name, Counter())
    with played(act.prepare, folder / "dry") as dry:
        assert not dry.trouble, dry.trouble
        assert dry.first is not None
        assert dry.first.ok, dry.first
    act.check(folder / "dry", dry)
    assert {number for number in dry.others if number not in HARMLESS} == set()
    assert not [call for call in dry.calls if call.path.endswith((".py", ".pyc"))], (
        "an import, to be made before"
    )
    if not act.hints:
        failures += not_synced(dry.calls)
    for fault in faults_for(dry.calls, thorough=THOROUGH):
        place = folder / f"{sum(counts.values()):05}"
        counts[fault.kind] += 1
        try:
            # Some call again in the same process, others end with the error.
            again = act.again and (fault.code in (errno.ENOSPC, errno.EDQUOT) or fault.kind != "error")
            with played(act.prepare, place, fault, again=again) as told:
                _fits(act, fault, dry, told)
                if act.living and told.first and not told.first.ok and told.again is None:
                    act.living(place, told)
            act.check(place, told)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - all are told, at the end
            failures.append(f"{_where(dry, fault)}: {type(error).__name__}: {error}".split("\nassert ")[0])
        shutil.rmtree(place, ignore_errors=True)
    record_property("calls", len(dry.calls))
    record_property("faults", sum(counts.values()))
    told_of = "\n".join(failures[:_SHOWN])
    if failures:
        pytest.fail(f"{name}: {len(failures)} of {sum(counts.values())} faults:\n{told_of}", pytrace=False)


def _where(dry: Told, fault: Fault) -> str:
    if fault.index == len(dry.calls):
        return f"{fault} after the last call"
    call = dry.calls[fault.index]
    path = re.sub(r"^/.*?/(dry|\d{5})/", "", call.path)
    return f"{fault} at call {fault.index}, {call.name} {path}"


def _fits(act: Act, fault: Fault, dry: Told, told: Told) -> None:
    """What a caller is told of a fault is an error of one line, and no more than is so."""
    assert not told.trouble, told.trouble
    assert told.died == (fault.kind == "dies")
    assert [c.name for c in told.calls[: fault.index + 1]] == [c.name for c in dry.calls[: fault.index + 1]]
    if told.died:
        return
    assert told.first is not None
    assert told.leaked == 0, "a descriptor is left open"
    for outcome in told.outcomes:
        assert outcome.kind in ("", "os", "said"), f"{outcome.error}: {outcome.text}"
        assert outcome.ok or (outcome.text and "\n" not in outcome.text), outcome
    if fault.code == errno.EINTR:
        assert told.first.ok, f"a signal is no error: {told.first}"
    call = dry.calls[fault.index]
    # A directory that was made, and said to be not: nobody can tell whose it is, and the lease frees it.
    lied = fault.kind == "done" and call.name == "mkdir"
    if call.name in ("fsync", "fdatasync") and fault.code != errno.EINTR and not call.cache:
        assert not told.first.ok, "not synced, and told as done"
    if told.again is not None and not (
        act.keeps and (fault.kind in ("full", "broken", "blind", "short") or lied)
    ):
        assert told.again.ok, f"the fault is gone, and it fails again: {told.again}"


# ------------------------------------------------------- whether it sees what it is to see

_PLAYED = """
import os, sys
from pathlib import Path
import hypervisor.core.machine, test_faults
hypervisor.core.machine.this_process()
play = test_faults.ACTS[sys.argv[1]].prepare(Path(sys.argv[2]))
os.getppid()
play.act()
os.getppid()
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("name", ["complete", "edit a task"])
def test_every_call_that_strace_sees_is_counted(name: str, folder: Path) -> None:
    log = folder / "log"
    tests = Path(__file__).parent
    subprocess.run(
        ["strace", "-f", "-o", str(log), sys.executable, "-B", "-c", _PLAYED, name, str(folder / "other")],
        env={**os.environ, "PYTHONPATH": f"{tests.parent / 'scripts'}:{tests}"},
        check=True,
    )
    lines = [re.sub(r"^\d+ +", "", line) for line in log.read_text("utf-8", "replace").splitlines()]
    first, last = (number for number, line in enumerate(lines) if line.startswith("getppid("))
    seen = [line.partition("(")[0] for line in lines[first + 1 : last]]
    with played(ACTS[name].prepare, folder / "dry") as dry:
        pass
    names = set(FILE_CALLS.values())
    assert [name for name in seen if name in names] == [call.name for call in dry.calls]
    assert set(seen) <= names | set(HARMLESS.values())


@pytest.mark.parametrize("kind", ["error", "done", "dies"])
def test_a_fault_is_where_it_is_meant_to_be(kind: FaultKind, folder: Path) -> None:
    def prepare(place: Path) -> Play:
        place.mkdir()

        def act() -> None:
            for name in "abc":
                os.mkdir(place / name)

        return Play(act)

    with played(prepare, folder / "x", Fault(kind, 1, errno.EIO)) as told:
        made = sorted(os.listdir(folder / "x"))
    assert made == (["a", "b"] if kind == "done" else ["a"])
    assert told.died == (kind == "dies")
    assert told.first is None or told.first.code == errno.EIO


def test_a_write_is_cut_and_the_disk_is_full_from_then_on(folder: Path) -> None:
    def prepare(place: Path) -> Play:
        place.mkdir()
        return Play(lambda: (place / "f").write_bytes(b"12345678"))

    dry_calls = ["openat", "newfstatat", "ioctl", "lseek", "write", "close"]
    with played(prepare, folder / "dry") as dry:
        names = [call.name for call in dry.calls]
    assert set(names) <= set(dry_calls)
    with played(prepare, folder / "x", Fault("short", names.index("write"), errno.ENOSPC)) as told:
        assert (folder / "x" / "f").read_bytes() == b"1234"
    assert told.first is not None
    assert told.first.code == errno.ENOSPC
