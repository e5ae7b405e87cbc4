"""Where `.hypervisor/locks/` exists a claim is also a directory; `.hypervisor/results/` gets every result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervisor.core.errors import Refused, Taken
from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.store.claims import Claims
from hypervisor.store.directories import LockDirectories
from hypervisor.tasks.completion import TaskCompletion
from hypervisor.tasks.eligibility import Wanted
from hypervisor.tasks.service import TaskService
from hypervisor.tasks.view import Asked
from task_place import TaskPlace

Services = Callable[..., TaskService]

DONE = TaskCompletion(outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="made it")


@pytest.fixture
def locks(place: TaskPlace) -> Path:
    """The folder, made by the user."""
    folder = place.project.state / "locks"
    folder.mkdir(parents=True)
    return folder


def test_a_claim_is_a_directory_named_by_the_task_until_it_ends(
    place: TaskPlace, service: Services, locks: Path
) -> None:
    place.task()
    for end in ("release", "finish"):
        service().claim("t-1")
        assert os.listdir(locks) == ["t-1"]
        if end == "release":
            service().release("t-1", "x")
        else:
            service().finish("t-1", DONE)
        assert os.listdir(locks) == []


@pytest.mark.parametrize("end", ["cancel", "rescue", "give back", "agent"])
def test_every_other_end_removes_the_directory_too(
    place: TaskPlace, service: Services, locks: Path, end: str
) -> None:
    place.task()
    mine = service(session="s-1", agent="a1")
    mine.claim("t-1")
    if end == "cancel":
        service("zoe").cancel("t-1", "no")
    elif end == "rescue":
        place.fall_silent()
        service("zoe").rescue()
    elif end == "give back":
        mine.give_back("t-1", "x", 1, counted=True)
    else:
        assert service("zoe").release_agent("s-1", "a1", "it ended") == ["t-1"]
    assert os.listdir(locks) == []


@pytest.mark.parametrize("entry", ["t-1", "t-1.lock"])
def test_a_foreign_lock_refuses_the_claim_and_is_named_by_preflight(
    place: TaskPlace, service: Services, locks: Path, entry: str
) -> None:
    path = place.task()
    place.task("t-2", priority="low")
    before = path.read_bytes()
    (locks / entry).mkdir() if entry == "t-1" else (locks / entry).touch()
    why = f"held by a lock directory in {locks}"
    with pytest.raises(Refused) as refused:
        service().claim("t-1")
    assert str(refused.value) == f"t-1: {why}"
    assert path.read_bytes() == before
    with service().catalog.view() as view:
        assert view.plan((), "")[0].by_reason() == {why: ["t-1"]}
        assert [task.id for task in view.listed(Asked(), ready=True)[0]] == ["t-2"]
        assert view.listed(Asked(), ready=True)[1] == 1
    taken = service().claim_next(Wanted())
    assert not isinstance(taken, str)
    assert taken[0].id == "t-2"
    assert service().claim_next(Wanted()) == f"nothing is ready: 1 {why}; 1 held by claude"
    (locks / entry).rmdir() if entry == "t-1" else (locks / entry).unlink()
    assert service("gemini").claim("t-1")[1].attempt == 1, "what was refused cost a number"


def test_a_foreign_lock_made_in_the_moment_of_the_claim_wins(
    place: TaskPlace, service: Services, locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place.task()
    before = path.read_bytes()
    take = LockDirectories.take

    def late(self: LockDirectories, name: str, ours: object) -> str:
        (locks / name).mkdir(exist_ok=True)
        return take(self, name, ours)  # type: ignore[arg-type]

    monkeypatch.setattr(LockDirectories, "take", late)
    with pytest.raises(Taken, match=r"t-1 is held by a lock directory: .*/locks/t-1; take another, or wait"):
        service().claim("t-1")
    assert path.read_bytes() == before
    assert (locks / "t-1").is_dir()
    assert place.attempts() == []


def test_a_directory_that_a_crash_left_is_known_as_ours_and_one_removed_by_us_is_not(
    place: TaskPlace, service: Services, locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.task()
    service().claim("t-1")
    place.fall_silent()
    with monkeypatch.context() as crash:  # the rescuer dies before it removes the directory
        crash.setattr(LockDirectories, "drop", lambda *_: None)
        crash.setattr(Claims, "forget_locks", lambda *_: None)
        service("zoe").rescue()
    assert os.listdir(locks) == ["t-1"]
    assert service("gemini").claim("t-1")[1].attempt == 2
    service("gemini").release("t-1", "x")
    assert os.listdir(locks) == []
    (locks / "t-1").mkdir()  # somebody else's now
    with pytest.raises(Refused, match="held by a lock directory"):
        service("gemini").claim("t-1")


def test_who_makes_no_folder_gets_no_directories(place: TaskPlace, service: Services) -> None:
    place.task()
    service().claim("t-1")
    assert not (place.project.state / "locks").exists()
    assert not (place.project.state / "results").exists()


def test_a_folder_for_results_gets_each_with_its_task(place: TaskPlace, service: Services) -> None:
    results = place.project.state / "results"
    results.mkdir(parents=True)
    place.task()
    service().claim("t-1")
    service().finish("t-1", DONE)
    assert json.loads((results / f"{place.key('t-1')}.json").read_bytes()) == place.result()
