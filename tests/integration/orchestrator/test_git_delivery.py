"""Delivery by git, step by step: what its repetition, its delay and its refusal by the remote come to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from commands import write_task
from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.core.project import Project
from hypervisor.core.settings import default_settings
from hypervisor.git.merging import Integration
from hypervisor.git.remote import Remote
from hypervisor.git.repository import Repository
from hypervisor.orchestrator.checks import Checks
from hypervisor.orchestrator.delivery import GitDelivery
from hypervisor.store.records import Worker
from hypervisor.store.store import Store
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.completion import TaskCompletion
from hypervisor.tasks.service import TaskService
from repositories import Repo
from stores import a_worker

GO = threading.Event()


def project_of(root: Path) -> Project:
    return Project(root, root / ".hypervisor")


@dataclass
class Machine:
    """A clone, and the delivery of a coordinator there."""

    repo: Repo
    store: Store
    said: list[str] = field(default_factory=list)
    worker: Worker = field(default_factory=a_worker)

    @property
    def delivery(self) -> GitDelivery:
        root = self.repo.top
        repository = Repository.read(root)
        integration = Integration(repository, root / ".hypervisor/merges", "b1", "main", repository.head)
        remote = Remote.of(repository, "main", 20.0)
        return GitDelivery(
            store=self.store, project=project_of(root), integration=integration, remote=remote,
            worker=self.worker, checks=Checks(seconds=60), say=self.said.append,
        )  # fmt: skip

    def finish(self, task: str, text: str = "work\n", name: str = "") -> str:
        """Do a task: commit on a branch of its own, push that, complete with the hash; return the commit."""
        name = name or f"src/{task}.txt"
        branch = f"hypervisor/b1/{task}-1"
        with TaskService(
            project_of(self.repo.top), self.store.settings, Actor(name="exec"), self.store,
            worker=self.worker, batch=self.batch, deliver="main",
        ) as service:  # fmt: skip
            _, hold = service.claim(task)
            self.repo.git("checkout", "-q", "-b", branch, "origin/main")
            commit = self.repo.commit(name, text)
            self.repo.git("checkout", "-q", "main")
            assert self.delivery.offer(commit, branch, GO) == ""
            done = TaskCompletion(
                outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="did it", commit=commit,
                details={"batch": "b1", "branch": branch},
            )  # fmt: skip
            service.finish(task, done, hold.attempt)
        return commit

    @property
    def batch(self) -> int:
        return self.store.batches.create("b1", "b1", {}).id

    def work_of(self, task: str) -> int:
        with TaskService(
            project_of(self.repo.top), self.store.settings, Actor(name=""), self.store
        ) as service:
            latest = self.store.claims.latest(service.key(service.find(task)))
        assert latest is not None
        return latest.id


@dataclass
class Place:
    remote: Repo
    ant: Machine
    bee: Machine

    def log(self) -> list[str]:
        return self.remote.git("log", "--first-parent", "--format=%s", "main").splitlines()

    def show(self, name: str) -> str:
        return self.remote.git("show", f"main:{name}")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    remote = Repo(tmp_path / "remote.git")
    remote.top.mkdir()
    remote.git("init", "-q", "--bare", "-b", "main")
    seed = Repo(tmp_path / "seed")
    seed.top.mkdir()
    seed.git("clone", "-q", str(remote.top), ".")
    for task in ("t-1", "t-2"):
        write_task(seed.top / f"tasks/{task}.md", files="[src]", verify="test ! -e src/bad.txt")
    seed.commit("README.md")
    seed.git("push", "-q", "origin", "HEAD:main")
    settings: dict[str, Any] = default_settings()
    settings["git"] |= {"patience_seconds": 0.0, "remote_seconds": 20}
    (tmp_path / "state").mkdir()
    with Store.open(tmp_path / "state", settings) as store:
        machines = []
        for name in ("ant", "bee"):
            repo = Repo(tmp_path / name)
            repo.top.mkdir()
            repo.git("clone", "-q", str(remote.top), ".")
            (repo.top / ".git/info/exclude").write_text(".hypervisor\n")
            machines.append(Machine(repo, store))
        yield Place(remote, *machines)


def test_accepted_work_is_merged_once_with_its_tasks_file_and_its_branch_is_gone(place: Place) -> None:
    commit = place.ant.finish("t-1")
    assert "status: active" in (place.ant.repo.top / "tasks/t-1.md").read_text()
    assert place.bee.delivery.finish(GO) == 0
    assert place.log()[0] == "Task t-1"
    assert place.remote.git("rev-parse", "main^2") == commit
    text = place.show("tasks/t-1.md")
    assert "status: done" in text
    assert "assignee: exec" in text
    assert text.count("## Completion") == 1
    assert place.remote.git("branch", "--format=%(refname:short)") == "main"
    assert place.ant.store.merges.delivered_with(place.ant.work_of("t-1")) == place.remote.git(
        "rev-parse", "main"
    )


def test_a_holder_that_dies_after_its_push_leaves_nothing_to_be_merged_twice(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.ant.finish("t-1")
    with monkeypatch.context() as patch:
        patch.setattr(place.ant.store.merges, "deliver", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            place.ant.delivery.finish(GO)
    head = place.remote.git("rev-parse", "main")
    assert place.bee.delivery.finish(GO) == 0
    assert place.remote.git("rev-parse", "main") == head
    assert place.log().count("Task t-1") == 1


def test_a_holder_that_slept_past_its_lease_is_refused_by_the_remote_and_by_the_store(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.ant.finish("t-1")
    asleep = place.ant.delivery
    push = Remote.push

    def sleeps(self: Remote, commit: str, branch: str = "") -> bool:
        if self is asleep.remote and "over" not in place.ant.said:
            place.ant.said.append("over")  # it wakes when another has done all of it
            lease = asleep.store.merges.take_lease(
                "merge main", place.bee.worker, 60.0, dead=place.ant.worker.id
            )
            assert lease is not None
            asleep.store.merges.give_lease(lease)
            assert place.bee.delivery.finish(GO) == 0
        return push(self, commit, branch)

    monkeypatch.setattr(Remote, "push", sleeps)
    assert asleep.finish(GO) == 0
    assert place.log().count("Task t-1") == 1
    assert "over" in place.ant.said


def test_what_others_push_between_fetch_and_push_is_merged_under_the_work(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.ant.finish("t-1")
    push = Remote.push
    theirs: list[str] = []

    def too_late(self: Remote, commit: str, branch: str = "") -> bool:
        if not theirs:
            theirs.append(place.bee.repo.commit("theirs.txt"))
            place.bee.repo.git("push", "-q", "origin", "main")
        return push(self, commit, branch)

    monkeypatch.setattr(Remote, "push", too_late)
    assert place.ant.delivery.finish(GO) == 0
    assert place.remote.git("rev-parse", "main^1") == theirs[0]
    assert place.show("src/t-1.txt") == "work"


def test_work_that_does_not_verify_beside_other_work_is_followed_by_a_blocked_result(place: Place) -> None:
    commit = place.ant.finish("t-1", name="src/bad.txt")
    place.bee.finish("t-2")
    assert place.bee.delivery.finish(GO) == 0
    assert "Task t-2" in place.log()
    text = place.show("tasks/t-1.md")
    assert "status: review" in text
    assert "does not verify beside other work (test ! -e src/bad.txt" in text
    assert place.remote.git("rev-parse", "hypervisor/b1/t-1-1") == commit
    assert [work.state for work, _ in place.ant.store.claims.cycles(place.ant.store.claims.work(1).key)] == [
        "success",
        "blocked",
    ]


def test_a_branch_that_nobody_completed_is_not_merged(place: Place) -> None:
    zombie = place.bee.repo.commit("src/zombie.txt")
    assert place.bee.delivery.offer(zombie, "hypervisor/b1/t-1-7", GO) == ""
    place.ant.finish("t-1")
    assert place.ant.delivery.finish(GO) == 0
    assert not place.remote.git("ls-tree", "-r", "--name-only", "main", "src/zombie.txt")


def test_a_remote_that_is_down_is_told_once_and_its_return_too(place: Place) -> None:
    place.ant.finish("t-1")
    away = place.remote.top.with_name("away.git")
    place.remote.top.rename(away)
    delivery = place.ant.delivery
    assert [delivery.finish(GO), delivery.finish(GO)] == [1, 1]
    assert len(place.ant.said) == 1
    assert place.ant.said[0].endswith("finished work is kept and tried again")
    away.rename(place.remote.top)
    assert delivery.finish(GO) == 0
    assert place.ant.said[1:] == ["origin answers again"]
    assert place.log()[0] == "Task t-1"


def test_a_checkout_is_brought_up_to_date_unless_the_user_works_there(place: Place) -> None:
    place.ant.finish("t-1")
    assert place.ant.delivery.finish(GO) == 0
    place.bee.repo.write("README.md", "mine\n")
    place.ant.repo.write("mine.txt", "untracked\n")
    moved, stays = (
        one.delivery.fast_forward(lambda path: path.startswith("tasks/")) for one in (place.ant, place.bee)
    )
    assert moved.done
    assert "status: done" in (place.ant.repo.top / "tasks/t-1.md").read_text()
    assert (stays.done, stays.why) == (False, "README.md is modified in the checkout")


def test_who_waits_for_a_merge_goes_on_when_another_machine_has_made_it(place: Place) -> None:
    place.ant.finish("t-1")
    work, merges = place.ant.work_of("t-1"), place.bee.store.merges
    lease = merges.take_lease("merge main", place.bee.worker, 60.0)
    assert lease is not None
    waits = place.ant.delivery
    waits.store.settings["git"]["patience_seconds"] = 60.0
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(waits.settle, work, threading.Event())
        with pytest.raises(TimeoutError):
            ended.result(0.3)  # another holds the lease: it is not merged yet
        merges.give_lease(lease)
        assert place.bee.delivery.finish(GO) == 0
        assert ended.result(20) is True
    assert place.log().count("Task t-1") == 1
