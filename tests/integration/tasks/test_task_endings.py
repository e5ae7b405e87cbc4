"""Ends that are no result of the holder's: agents and sessions that end, undo; and many results at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervisor.core import files as core_files
from hypervisor.core.assignment import AssignedTask
from hypervisor.core.errors import ClaimLost, Refused
from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.core.process import this_process
from hypervisor.store.records import Completion, Worker, WorkerKind
from hypervisor.tasks import rewriting
from hypervisor.tasks.completion import CompletedBy, TaskCompletion, result_of
from hypervisor.tasks.files import open_task
from hypervisor.tasks.publication import publish, take_back
from hypervisor.tasks.service import TaskService
from task_place import TaskPlace

Services = Callable[..., TaskService]

DONE = TaskCompletion(outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="made it")


def test_an_agent_that_ends_gives_its_task_back_and_no_other(place: TaskPlace, service: Services) -> None:
    paths = [place.task(f"t-{number}") for number in (1, 2, 3)]
    before = [path.read_bytes() for path in paths]
    for number, agent in ((1, "a1"), (2, "a2"), (3, "main")):
        service(session="s-1", agent=agent).claim(f"t-{number}")
    assert service("").release_agent("s-1", "a1", "it ended without a word") == ["t-1"]
    assert paths[0].read_bytes() == before[0]
    assert paths[1].read_bytes() != before[1]
    assert [(one.outcome, one.counted, one.detail) for one in place.attempts()] == [
        ("again", False, "it ended without a word")
    ]
    assert service("").release_agent("s-1", "a1", "again") == []
    assert service("").end_session("s-1", "the session ended") == ["t-2", "t-3"]
    assert [path.read_bytes() for path in paths] == before


def test_an_agent_whose_claim_was_taken_is_told_until_it_claims_anew(
    place: TaskPlace, service: Services
) -> None:
    place.task()
    place.task("t-2")
    mine = service(session="s-1", agent="a1")
    mine.claim("t-1")
    place.fall_silent()
    service("gemini").claim("t-1")
    for act in (
        lambda: mine.finish("t-1", DONE),
        lambda: mine.release("t-1", "x"),
        lambda: mine.update("t-1", {}, "x"),
        lambda: mine.require_held("t-1"),
    ):
        with pytest.raises(ClaimLost, match=r"the claim on t-1 \(attempt 1\) is lost: revoked: silent for"):
            act()
    mine.claim("t-2")
    with pytest.raises(Refused, match="t-1 is held by gemini"):
        mine.finish("t-1", DONE)


def test_an_agent_that_was_started_for_a_task_holds_its_coordinators_claim(
    place: TaskPlace, service: Services, tmp_path: Path
) -> None:
    place.task(receipts="[mail]")
    service("coordinator").claim("t-1")
    agent = service("claude", session="s-9", agent="main")
    assigned = AssignedTask(task="t-1", attempt=1, report_path=str(tmp_path / "report.json"))
    task, hold = agent.assigned(assigned)
    assert (task.assignee, hold.attempt) == (("coordinator",), 1)
    with place.store() as store:
        (claim,) = store.sessions.open_claims("s-9", "main")
        assert (claim.assigned, claim.task.receipts) == (True, ("mail",))
    assert service("").end_session("s-9", "it ended") == []
    assert service("coordinator").finish("t-1", DONE, 1)["status"] == "success"
    with pytest.raises(ClaimLost, match="this attempt ended as success: made it"):
        agent.assigned(assigned)


@pytest.mark.parametrize("how", ["complete", "cancel", "give up", "release"])
def test_what_a_cycle_changed_is_undone_to_the_byte(place: TaskPlace, service: Services, how: str) -> None:
    path = place.task(status="To Do", assignee="'@bot' # ours")
    before = path.read_bytes()
    service().claim("t-1")
    if how == "complete":
        service().release("t-1", "x")
        service().claim("t-1")
        service().finish("t-1", DONE)
    elif how == "cancel":
        service("zoe").cancel("t-1", "no")
    elif how == "give up":
        assert service().give_back("t-1", "x", 1, counted=True, limit=1)
    else:
        service().release("t-1", "x")
    with place.store() as store:
        work = store.claims.latest(place.key("t-1"))
        assert work is not None
        assert take_back(store, work) == []
        assert path.read_bytes() == before


def test_what_its_owner_changed_since_is_not_undone_and_is_named(place: TaskPlace, service: Services) -> None:
    path = place.task()
    service().finish("t-1", DONE)
    path.write_text(path.read_text().replace("status: done", "status: review"))
    with place.store() as store:
        work = store.claims.latest(place.key("t-1"))
        assert work is not None
        (left,) = take_back(store, work)
    assert left.path == os.path.realpath(path)
    assert "`status` was changed since" in left.why
    assert "status: review" in path.read_text()
    assert "## Completion" not in path.read_text()


def test_many_results_are_published_together_and_those_that_no_longer_fit_are_named(
    place: TaskPlace, service: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [place.task(f"t-{number}") for number in range(20)]
    worker = Worker(id="w-1", kind=WorkerKind.LEASE, name="w", process=this_process())
    mine = service()
    completions = []
    for path in paths:
        task, document = open_task(path, mine.settings)
        claim = mine.store.claims.claim(worker, mine.key(task), mine.relative(task))
        result = result_of(
            task, document, mine.relative(task), DONE, CompletedBy(name="w", attempt=1), mine.settings
        )
        completions.append(
            Completion(attempt=claim.attempt, status="success", result=result, published=False)  # type: ignore[union-attr]
        )
    mine.store.claims.complete(completions)
    paths[3].write_text(paths[3].read_text().replace("status: active", "status: review"))
    paths[4].unlink()
    left = publish(mine.store, [work for work, _ in mine.store.claims.unpublished()])
    assert sorted(os.path.basename(one.path) for one in left) == ["t-3.md", "t-4.md"]
    assert mine.store.claims.unpublished() == []
    done = [path for path in paths if path.exists() and "status: done" in path.read_text()]
    assert len(done) == 18
    assert capsys.readouterr().err.count("not changed") == 2


def test_a_result_that_cannot_be_written_stays_to_be_published_and_keeps_no_other(
    place: TaskPlace, service: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [place.task(f"t-{number}") for number in (1, 2)]
    mine = service()
    exchange = core_files.exchange

    def full(source: Path, target: Path) -> bool:
        if Path(target).name == "t-1.md":
            raise OSError(28, "No space left on device")
        return exchange(source, target)

    mine.claim("t-1")
    with monkeypatch.context() as disk:
        disk.setattr(rewriting, "exchange", full)
        with pytest.raises(OSError, match="No space"):
            mine.finish("t-1", DONE)
        assert mine.finish("t-2", DONE)["status"] == "success"
        with pytest.raises(OSError, match="No space"):
            mine.finish("t-1", DONE, 1)
    assert "status: in_progress" in paths[0].read_text()
    assert "status: done" in paths[1].read_text()
    mine.rescue()
    assert "status: done" in paths[0].read_text()
    assert mine.finish("t-1", DONE, 1)["outcome"] == "made it"
