"""A process dies at any step of a claim, an end or a rescue: the next call brings file and store together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from commands import ROOT
from hypervisor.core.errors import Refused
from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.core.project import file_lock_path
from hypervisor.tasks import claimer, publication, rewriting
from hypervisor.tasks.claimer import apply_claim_edit
from hypervisor.tasks.completion import TaskCompletion
from hypervisor.tasks.eligibility import Wanted
from hypervisor.tasks.service import TaskService
from task_place import TaskPlace

Services = Callable[..., TaskService]

DONE = TaskCompletion(outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="made it", commit="3f2c1ab")

_DIES = """
import os, sys
sys.path.insert(0, {scripts!r})
from pathlib import Path
from hypervisor.core.settings import load_settings
from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.core.project import Project
from hypervisor.store.claims import Claims
from hypervisor.tasks import claimer, finisher, publication, rewriting, service
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.completion import TaskCompletion

def die(*_, **__):
    os._exit(9)

def then_die(call):
    def both(*words, **rest):
        call(*words, **rest)
        os._exit(9)
    return both

what, _, step = {step!r}.partition(": ")
root = Path({root!r})
project = Project(root, root / ".hypervisor")
mine = service.TaskService(project, load_settings(project.state), Actor(name="claude"))
if what == "claim":
    if step == "committed":
        claimer.apply_claim_edit = die
    elif step == "drafted":
        rewriting.exchange = die
    elif step == "renamed":
        rewriting.exchange = then_die(rewriting.exchange)
    else:
        claimer.apply_claim_edit = then_die(claimer.apply_claim_edit)
    mine.claim("t-1")
mine.claim("t-1")
if what == "release":
    if step == "before":
        finisher.revert_claim_edit = die
    elif step == "restored":
        Claims.release = die
    else:
        Claims.set_restored = die
    mine.release("t-1", "x")
elif what == "complete":
    if step == "decided":
        finisher.publish = die
    elif step == "drafted":
        rewriting.exchange = die
    elif step == "written":
        Claims.set_published = die
    mine.finish("t-1", TaskCompletion(
        outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="made it", commit="3f2c1ab"))
elif what == "cancel":
    if step == "decided":
        finisher.publish = die
    elif step == "written":
        Claims.set_published = die
    mine.cancel("t-1", "no")
elif what == "rescue":
    store = mine.store
    store.engine.write(lambda tx: tx.run("UPDATE attempt SET lease_until = 0"))
    if step == "revoked":
        publication.restore = die
    elif step == "restored":
        Claims.set_restored = die
    mine.rescue()
elif what == "give back":
    if step == "decided":
        finisher.publish = die
    elif step == "written":
        Claims.set_published = die
    mine.give_back("t-1", "failed", 1, counted=True, limit=1)
"""


def die_at(place: TaskPlace, step: str) -> None:
    """Act in a process of its own, which is gone at *step*."""
    code = _DIES.format(scripts=str(ROOT / "scripts"), root=str(place.root), step=step)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=False)
    assert done.returncode == 9, done.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    ["claim: committed", "claim: drafted", "claim: renamed", "claim: edited", "release: before",
     "release: restored", "release: ended", "rescue: revoked", "rescue: restored"],
)  # fmt: skip
@pytest.mark.parametrize("then", ["rescue", "claim"])
def test_after_a_death_at_any_step_of_a_claim_the_file_is_as_before(
    place: TaskPlace, service: Services, step: str, then: str
) -> None:
    path = place.task(assignee="bot")
    before = path.read_bytes()
    die_at(place, step)
    place.fall_silent()
    if then == "rescue":
        service("hypervisor").rescue()
        assert path.read_bytes() == before
    task, _ = service("gemini").claim("t-1")
    assert task.assignee == ("gemini",)
    assert path.read_text().count("assignee") == 1
    service("gemini").release("t-1", "x")
    assert path.read_bytes() == before
    service("gemini").claim("t-1")
    service("gemini").finish("t-1", DONE)
    assert place.result()["worker"] == "gemini"


def open_it(service: Services) -> None:
    service("hypervisor").rescue()


def list_it(service: Services) -> None:
    with service("hypervisor").catalog.view() as view:
        assert view.find("t-1").status is not TaskStatus.IN_PROGRESS


def claim_next(service: Services) -> None:
    assert isinstance(service("gemini").claim_next(Wanted()), str)


def claim_it(service: Services) -> None:
    with pytest.raises(Refused, match=r"already complete|cancelled|its status is blocked"):
        service("gemini").claim("t-1")


def release_it(service: Services) -> None:
    with pytest.raises(Refused, match="t-1 is not held"):
        service("gemini").release("t-1", "x")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "status", "outcome"),
    [
        ("complete: decided", "done", "made it"),
        ("complete: drafted", "done", "made it"),
        ("complete: written", "done", "made it"),
        ("cancel: decided", "cancelled", "no"),
        ("cancel: written", "cancelled", "no"),
        ("give back: decided", "blocked", "gave up after 1 attempts: attempt 1: failed"),
        ("give back: written", "blocked", "gave up after 1 attempts: attempt 1: failed"),
    ],
)
@pytest.mark.parametrize("meet", [open_it, list_it, claim_next, claim_it, release_it])
def test_what_was_decided_is_published_once_by_whoever_meets_it(
    place: TaskPlace,
    service: Services,
    step: str,
    status: str,
    outcome: str,
    meet: Callable[[Services], None],
) -> None:
    path = place.task()
    die_at(place, step)
    meet(service)
    text = path.read_text()
    assert f"status: {status}\n" in text
    assert text.count("## Completion") == (0 if step.startswith("give back") else 1)
    assert ("assignee" in text) is (status == "done")
    assert place.result()["outcome"] == outcome
    service("hypervisor").rescue()
    assert path.read_text() == text


@pytest.mark.parametrize("step", ["complete: decided", "complete: written"])
def test_a_file_reopened_after_a_crash_begins_the_next_cycle_once_published(
    place: TaskPlace, service: Services, step: str
) -> None:
    path = place.task()
    die_at(place, step)
    service("hypervisor").rescue()
    path.write_text(path.read_text().replace("status: done", "status: active"))
    _, claim = service("gemini").claim("t-1")
    assert claim.attempt == 2
    assert claim.claim.cycle == 2
    service("gemini").finish("t-1", DONE)
    assert [one["worker"] for one in place.results()] == ["claude", "gemini"]


def test_an_owner_who_sets_it_active_before_its_result_is_published_has_reopened_it(
    place: TaskPlace, service: Services
) -> None:
    path = place.task()
    die_at(place, "complete: decided")
    path.write_text(path.read_text().replace("status: in_progress", "status: active"))
    _, claim = service("gemini").claim("t-1")
    assert (claim.claim.cycle, claim.attempt) == (2, 2)
    assert path.read_text().count("## Completion") == 1
    assert "assignee: gemini" in path.read_text()


def test_a_file_that_another_program_keeps_locked_holds_up_its_own_task_only(
    place: TaskPlace, service: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place.task()
    place.task("t-2")
    die_at(place, "complete: decided")
    monkeypatch.setattr(publication, "_PATIENCE", 0.05)
    monkeypatch.setattr(rewriting, "_LOCK_SECONDS", 0.05)
    with filelock.FileLock(file_lock_path(str(path), os.environ)):
        assert service("gemini").claim("t-2")[1].attempt == 1
        with pytest.raises(Refused, match="locked by another process"):
            service("gemini").claim("t-1")
    assert "status: in_progress" in path.read_text()
    service("hypervisor").rescue()
    assert "status: done" in path.read_text()


def test_a_completion_repeated_after_a_crash_is_answered_as_the_first(
    place: TaskPlace, service: Services
) -> None:
    path = place.task()
    die_at(place, "complete: decided")
    assert service().finish("t-1", DONE, 1) == place.result()
    assert path.read_text().count("## Completion") == 1


def test_a_file_that_is_gone_or_spoilt_keeps_no_result_from_being_published(
    place: TaskPlace, service: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place.task()
    die_at(place, "complete: decided")
    path.write_text("---\nstatus: [oops\n---\n")
    service("hypervisor").rescue()
    assert place.store().claims.unpublished() == []
    assert "t-1.md: not changed: " in capsys.readouterr().err
    path.unlink()
    service("hypervisor").rescue()


def test_an_owner_who_saves_the_file_in_the_moment_of_a_claim_wins(
    place: TaskPlace, service: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place.task()

    def late(edit: object) -> bytes | None:
        path.write_text(path.read_text().replace("status: active", "status: done"))
        return apply_claim_edit(edit)  # type: ignore[arg-type]

    monkeypatch.setattr(claimer, "apply_claim_edit", late)
    with pytest.raises(Refused, match="t-1: already complete"):
        service().claim("t-1")
    monkeypatch.undo()
    assert "status: done" in path.read_text()
    assert "assignee" not in path.read_text()
    path.write_text(path.read_text().replace("status: done", "status: active"))
    service("gemini").claim("t-1")


def test_a_disk_that_is_full_while_a_claim_is_written_leaves_nothing_held(
    place: TaskPlace, service: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place.task()
    before = path.read_bytes()

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(claimer, "apply_claim_edit", full)
    with pytest.raises(OSError, match="No space"):
        service().claim("t-1")
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert service("gemini").claim("t-1")[0].assignee == ("gemini",)


_CLAIM_ALL = """
import sys
sys.path.insert(0, {scripts!r})
from pathlib import Path
from hypervisor.core.settings import load_settings
from hypervisor.core.errors import Refused
from hypervisor.core.project import Project
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.service import TaskService
root = Path({root!r})
number = int(sys.argv[1])
mine = TaskService(Project(root, root / ".hypervisor"), load_settings(None), Actor(name=f"w{{number}}-agent"))
sys.stdin.readline()
for name in [f"t-{{(number * 5 + n) % 40}}" for n in range(40)]:
    try:
        mine.claim(name)
    except Refused:
        continue
    print(name, flush=True)
"""


@pytest.mark.slow
def test_of_eight_processes_each_task_has_one_holder(place: TaskPlace) -> None:
    paths: list[Path] = [place.task(f"t-{number}") for number in range(40)]
    code = _CLAIM_ALL.format(scripts=str(ROOT / "scripts"), root=str(place.root))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(8)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won: dict[str, str] = {}
    for number, racer in enumerate(racers):
        out, err = racer.communicate(timeout=60)
        assert racer.returncode == 0, err
        for name in out.split():
            assert name not in won, f"{name} was given to w{number} and {won[name]}"
            won[name] = f"w{number}-agent"
    assert len(won) == 40
    for path in paths:
        text = path.read_text()
        assert text.count("assignee: ") == 1
        assert f"assignee: {won[path.stem]}\n" in text
        assert "status: in_progress\n" in text
