"""What is kept up with each change says what a look at every file says, at once and to everybody."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from commands import ROOT, eventually, write_task
from hypervisor.core.errors import HypervisorError, Unreadable
from hypervisor.core.model import Complexity, TaskHead, TaskStatus
from hypervisor.core.project import Project
from hypervisor.core.settings import settings_of
from hypervisor.report.listing import index_stats
from hypervisor.tasks import index as index_module
from hypervisor.tasks import index_watch
from hypervisor.tasks.actor import Actor
from hypervisor.tasks.catalog import TaskCatalog
from hypervisor.tasks.dependencies import graph_of
from hypervisor.tasks.discovery import find_task_files
from hypervisor.tasks.eligibility import Wanted, plan
from hypervisor.tasks.files import read_task
from hypervisor.tasks.index import Index
from hypervisor.tasks.index_rows import COLUMNS
from hypervisor.tasks.index_watch import LiveIndex
from hypervisor.tasks.service import TaskService
from hypervisor.tasks.view import Asked

NAMES = ["t-1", "t-2", "T-2", "t-3", "t-4", "t-5", "Ü-6", "ü-6", "nobody", "t-7"]
STATUSES = ["active", "active", "active", "inbox", "done", "done", "blocked", "in_progress", "odd", "review"]
PEOPLE = ["", "", "", "Zoe", "zoe", "claude", "[Zoe, claude]", "[zoe, adam]"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    (root / "tasks").mkdir(parents=True)
    made = Project(root, root / ".hypervisor")
    made.prepare()
    return made


@pytest.fixture
def kept() -> Iterator[LiveIndex]:
    made = LiveIndex()
    yield made
    made.close()


def catalog_of(project: Project, kept: LiveIndex | None = None) -> TaskCatalog:
    return TaskCatalog(project, settings_of(project.state), Actor(name="claude"), live=kept)


def service_of(project: Project, kept: LiveIndex | None = None, name: str = "claude") -> TaskService:
    return TaskService(project, settings_of(project.state), Actor(name=name), live=kept)


# --------------------------------------------------------------------- the same


def every(catalog: TaskCatalog) -> list[TaskHead]:
    """Read every task file, as if there were no index."""
    found: list[TaskHead] = []
    for path in find_task_files(catalog.project.root, catalog.settings):
        try:
            found.append(read_task(path, catalog.settings))
        except Unreadable:
            continue
    return found


def plain(task: TaskHead) -> tuple[Any, ...]:
    return tuple(getattr(task, name) for name in ("path", *COLUMNS))


def asked_for(asked: Asked, task: TaskHead) -> bool:
    return (
        asked.status in (None, task.status)
        and asked.complexity in (None, task.complexity)
        and (asked.project is None or asked.project.casefold() == task.project.casefold())
        and (asked.parent is None or asked.parent.lower() == task.parent.lower())
        and (asked.assignee is None or asked.assignee.lower() in [name.lower() for name in task.assignee])
        and all(tag in task.tags for tag in asked.tags)
    )


ASKED = [
    Asked(), Asked(status=TaskStatus.ACTIVE), Asked(project="LOANS"), Asked(complexity=Complexity.MECHANICAL),
    Asked(parent="T-1"), Asked(assignee="ZOE"), Asked(tags=("a",)), Asked(tags=("a", "b")), Asked(project=""),
]  # fmt: skip
WANTED = [
    Wanted(), Wanted(project="Loans"), Wanted(complexity=Complexity.REQUIRES_JUDGMENT),
    Wanted(has=frozenset({"mcp:mail"})), Wanted(among=frozenset()),
]  # fmt: skip


def require_the_same(catalog: TaskCatalog) -> None:
    """Hold that all answers are those that a look at every file gives."""
    tasks = every(catalog)
    graph, refusal = graph_of(tasks), catalog.eligibility(tasks)
    urgent = sorted(tasks, key=lambda task: task.priority.rank)
    with catalog.view() as look:
        for asked in ASKED:
            wanted = [plain(task) for task in urgent if asked_for(asked, task)]
            found, total = look.listed(asked)
            assert ([plain(task) for task in found], total) == (wanted, len(wanted)), asked
            some, total = look.listed(asked, 2, 1)
            assert ([plain(task) for task in some], total) == (wanted[1:3], len(wanted)), asked
            free = [task.path for task in urgent if asked_for(asked, task) and refusal(task) is None]
            found, total = look.listed(asked, ready=True)
            assert ([task.path for task in found], total) == (free, len(free)), asked
        for task in tasks:
            assert look.edges.unmet(task) == graph.unmet(task)
            assert look.eligibility(task) == refusal(task), task.path
            assert look.eligibility.waits_for(task) == refusal.waits_for(task)
        assert [list(cycle) for cycle in look.edges.cycles] == [list(cycle) for cycle in graph.cycles]
        assert list(look.edges.unknown.items()) == list(graph.unknown.items())
        for want in WANTED:
            kind = [task for task in urgent if want.asks_for(task)]
            fit = [task.path for task in kind if want.refusal(task) is None and refusal(task) is None]
            assert [task.path for task in look.candidates(want, {})] == fit[:33]
            reasons: Counter[str | None] = Counter(want.refusal(task) or refusal(task) for task in kind)
            del reasons[None]
            assert dict(look.why_none(want, {})) == dict(reasons), want
        parents = {
            task.parent for task in tasks if [one.id.lower() for one in tasks].count(task.parent.lower()) == 1
        }
        for parent in parents:
            below = [task for task in tasks if task.parent.lower() == parent.lower()]
            assert look.plan((), parent)[0] == plan(below, refusal, refusal.waits_for)
    stats = index_stats(catalog, projects=True)
    shown = Counter(str(task.status or task.status_word or "no status") for task in tasks)
    assert stats["by_status"] == dict(sorted(shown.items()))
    assert (stats["total"], stats["ready"]) == (len(tasks), sum(refusal(task) is None for task in tasks))
    assert stats["by_complexity"] == dict(
        sorted(Counter(str(task.complexity) for task in tasks if task.complexity).items())
    )
    by_project: dict[str, Counter[str]] = {}
    for task in tasks:
        by_project.setdefault(task.project, Counter())[str(task.status or "no status")] += 1
    assert stats["by_project"] == {
        name: dict(sorted(counts.items())) for name, counts in sorted(by_project.items())
    }


class Editor:
    """Somebody who changes a project's files without a plan."""

    def __init__(self, project: Project, seed: int) -> None:
        self.random = random.Random(seed)
        self.project = project
        self.root = project.root / "tasks"

    def files(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*.md") if path.is_file())

    def folder(self) -> Path:
        folder = self.root / self.random.choice(["", "", "", "one", "one/two", "three"])
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def text(self) -> str:
        pick = self.random.choice
        waits = self.random.sample(NAMES, self.random.choice([0, 0, 1, 1, 2, 3]))
        keys = {
            "id": pick(NAMES), "title": "T", "status": pick(STATUSES), "assignee": pick(PEOPLE),
            "priority": pick(["high", "low", "medium"]), "parent": pick(["", "t-1"]),
            "project": pick(["", "loans", "Loans", "farm"]),
            "complexity": pick(["", "mechanical", "requires-judgment"]), "needs": pick(["", "", "mcp:mail"]),
            "tags": pick(["", "[a]", "[b, a]", "ab"]), "depends_on": f"[{', '.join(waits)}]",
        }  # fmt: skip
        head = "".join(f"{key}: {value}\n" for key, value in keys.items() if value)
        return pick([f"---\n{head}---\n\n# T\n"] * 12 + ["no task\n", "---\nno: [end\n---\n"])

    def edit(self) -> None:
        """Change something."""
        files = self.files()
        what = self.random.choice(
            ["new", "new", "save", "save", "write", "write", "drop", "move", "fold", "claim"]
        )
        if what == "new" or not files:
            (self.folder() / f"f-{self.random.randrange(12)}.md").write_text(self.text(), "utf-8")
        elif what == "save":  # as editors do it
            draft = self.root / "draft"
            draft.write_text(self.text(), "utf-8")
            draft.rename(self.random.choice(files))
        elif what == "write":  # in its place
            self.random.choice(files).write_text(self.text(), "utf-8")
        elif what == "drop":
            self.random.choice(files).unlink()
        elif what == "move":
            self.random.choice(files).rename(self.folder() / f"f-{self.random.randrange(12)}.md")
        elif what == "fold":
            old, new = self.root / "one", self.root / "four"
            if self.random.random() < 0.3:
                shutil.rmtree(old, ignore_errors=True)
            elif old.is_dir() and not new.exists():
                old.rename(new)
            elif new.is_dir() and not old.exists():
                new.rename(old)
        else:
            self.claim()

    def claim(self) -> None:
        service = service_of(self.project, name=self.random.choice(["claude", "gemini"]))
        try:
            taken = service.claim_next(Wanted())
            if not isinstance(taken, str) and self.random.random() < 0.5:
                service.release(os.path.relpath(taken[0].path, self.project.root), "not now")
        except HypervisorError:
            pass


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_after_any_edits_the_answers_are_those_of_a_look_at_every_file(
    project: Project, kept: LiveIndex, seed: int
) -> None:
    editor = Editor(project, seed)
    watched, each = catalog_of(project, kept), catalog_of(project)
    for step in range(60):
        for _ in range(editor.random.choice([1, 1, 2, 5])):
            editor.edit()
        require_the_same(watched)
        if step % 10 == 0:  # a command, which shares its cache
            require_the_same(each)
    with kept.opened(project, watched.settings) as index:
        fresh = Index(project, watched.settings, kept=False)
        fresh.refresh()
        for query in (
            "SELECT * FROM depends ORDER BY low, path",
            "SELECT path, unmet FROM task ORDER BY path",
        ):
            assert [tuple(row) for row in index.database.execute(query)] == [
                tuple(row) for row in fresh.database.execute(query)
            ]
        fresh.close()


def test_many_ways_of_waiting_are_told_as_one(project: Project, kept: LiveIndex) -> None:
    for number in range(130):
        write_task(project.root / f"tasks/t-{number}.md", depends_on=f"[t-{(number + 1) % 130}]")
    write_task(project.root / "tasks/free.md", priority="high")
    service = service_of(project, kept)
    assert not isinstance(service.claim_next(Wanted()), str)
    assert service.claim_next(Wanted()) == "nothing is ready: 130 waits for other tasks; 1 held by claude"


# ------------------------------------------------------------------ what is heard


def statuses(project: Project, kept: LiveIndex) -> dict[str, str]:
    with catalog_of(project, kept).view() as look:
        return {task.id: str(task.status) for task in look.listed(Asked())[0]}


def set_status(path: Path, status: str) -> None:
    """Save a task in its place."""
    path.write_text(path.read_text("utf-8").replace("status: active", f"status: {status}"), "utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each call looks at all files")
def test_what_a_watch_tells_of_needs_no_look_at_all_files(
    project: Project, kept: LiveIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_task(project.root / "tasks/a.md")
    assert statuses(project, kept) == {"a": "active"}
    monkeypatch.setattr(Index, "refresh", lambda _: pytest.fail("it looks at all files"))
    for status in ("done", "blocked"):
        write_task(path, status=status)
        assert statuses(project, kept) == {"a": status}
    write_task(project.root / "tasks/deep/er/b.md")
    assert statuses(project, kept) == {"a": "blocked", "b": "active"}
    (project.root / "tasks/deep").rename(project.root / "tasks/else")
    write_task(project.root / "tasks/else/er/c.md")
    assert statuses(project, kept) == {"a": "blocked", "b": "active", "c": "active"}
    set_status(project.root / "tasks/else/er/c.md", "done")
    shutil.rmtree(project.root / "tasks/else")
    assert statuses(project, kept) == {"a": "blocked"}


def test_what_is_written_through_a_link_or_another_name_is_seen(project: Project, kept: LiveIndex) -> None:
    (project.root / "notes").mkdir()
    (project.root / "aside").mkdir()
    write_task(project.root / "notes/a.md")
    write_task(project.root / "tasks/b.md")
    (project.root / "tasks/a.md").symlink_to("../notes/a.md")
    (project.root / "aside/b.md").hardlink_to(project.root / "tasks/b.md")
    assert statuses(project, kept) == {"a": "active", "b": "active"}
    set_status(project.root / "notes/a.md", "done")
    set_status(project.root / "aside/b.md", "blocked")
    assert statuses(project, kept) == {"a": "done", "b": "blocked"}


def test_what_comes_without_a_sign_is_found_in_the_background(
    project: Project, kept: LiveIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(project.root / "tasks/a.md")
    statuses(project, kept)
    (project.root / "b.md").hardlink_to(project.root / "tasks/a.md")  # another name, of which no watch tells
    set_status(project.root / "b.md", "blocked")
    monkeypatch.setattr(index_watch, "_HEAL_SECONDS", 0.0)
    eventually(lambda: statuses(project, kept) == {"a": "blocked"}, "a look at all files")


def test_more_changes_than_the_kernel_keeps_are_all_seen(project: Project, kept: LiveIndex) -> None:
    write_task(project.root / "tasks/a.md")
    write_task(project.root / "tasks/b.md")
    statuses(project, kept)
    for number in range(10_000):
        (project.root / f"tasks/{number % 7}.new").touch()
        (project.root / f"tasks/{number % 7}.new").unlink()
    set_status(project.root / "tasks/b.md", "done")
    assert statuses(project, kept) == {"a": "active", "b": "done"}


def test_where_folders_cannot_be_watched_each_call_looks(
    project: Project, kept: LiveIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_watch, "_LOCAL", frozenset())
    path = write_task(project.root / "tasks/a.md")
    assert statuses(project, kept) == {"a": "active"}
    set_status(path, "done")
    assert statuses(project, kept) == {"a": "done"}


def test_a_task_folder_that_comes_goes_or_becomes_a_link_is_followed(
    project: Project, kept: LiveIndex
) -> None:
    (project.root / "tasks").rmdir()
    assert statuses(project, kept) == {}
    write_task(project.root / "backlog/tasks/x.md")
    write_task(project.root / "tasks/a.md")
    assert statuses(project, kept) == {"a": "active", "x": "active"}
    (project.root / "tasks").rename(project.root / "kept")
    assert statuses(project, kept) == {"x": "active"}
    (project.root / "tasks").symlink_to("kept")
    assert statuses(project, kept) == {"a": "active", "x": "active"}
    set_status(project.root / "kept/a.md", "done")
    assert statuses(project, kept) == {"a": "done", "x": "active"}


@pytest.mark.parametrize("how", ["gone", "made anew", "other words", "another version"])
def test_a_cache_that_another_process_replaces_is_not_believed(
    project: Project, kept: LiveIndex, how: str
) -> None:
    write_task(project.root / "tasks/a.md", status="parked")
    write_task(project.root / "tasks/b.md")
    assert statuses(project, kept) == {"a": "None", "b": "active"}
    path = project.state / "index.db"
    if how in ("gone", "made anew"):
        for tail in ("", "-wal", "-shm"):
            Path(f"{path}{tail}").unlink(missing_ok=True)
    settings = settings_of(project.state)
    if how == "made anew":
        other = Index(project, settings)
        assert other.database  # no row in it yet
        other.close()
    elif how == "another version":
        newer = apsw.Connection(str(path))
        newer.execute("DROP TABLE depends; DELETE FROM task; PRAGMA user_version = 999")
        newer.close()
    elif how == "other words":
        settings = settings | {"status": settings["status"] | {"words": {"parked": "blocked"}}}
        other = Index(project, settings)
        other.refresh()
        other.close()
    assert statuses(project, kept) == {"a": "None", "b": "active"}


def test_what_was_heard_and_not_heeded_is_not_lost(
    project: Project, kept: LiveIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_task(project.root / "tasks/a.md")
    assert statuses(project, kept) == {"a": "active"}
    set_status(path, "done")

    def ended(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as short:
        short.setattr(Index, "refresh_some", ended)
        with pytest.raises(MemoryError):
            statuses(project, kept)
    assert statuses(project, kept) == {"a": "done"}


def test_other_settings_are_other_answers_at_once(project: Project, kept: LiveIndex) -> None:
    write_task(project.root / "tasks/a.md", status="parked", assignee="Robbie")
    assert statuses(project, kept) == {"a": "None"}
    (project.state / "config.toml").write_text('[status.words]\nparked = "active"\n', "utf-8")
    assert statuses(project, kept) == {"a": "active"}
    assert (
        catalog_of(project, kept).why_not(catalog_of(project, kept).find("a"))
        == "assigned to Robbie, a person"
    )
    assert index_stats(catalog_of(project, kept), projects=False)["ready"] == 0
    with (project.state / "config.toml").open("a", encoding="utf-8") as file:
        file.write('[agents]\nnames = ["claude", "robbie"]\n')
    assert index_stats(catalog_of(project, kept), projects=False)["ready"] == 1


def test_a_name_that_is_not_utf_8_hides_no_other_task(project: Project, kept: LiveIndex) -> None:
    write_task(project.root / "tasks/a.md")
    odd = os.path.join(os.fsencode(project.root), b"tasks", b"\xff.md")
    for _ in range(2):
        with open(odd, "wb") as file:
            file.write(b"---\nstatus: active\n---\n")
        assert statuses(project, kept) == {"a": "active"}
        catalog = catalog_of(project, kept)
        stats = index_stats(catalog, projects=False)
        assert [line.partition(": ")[2] for line in stats["unreadable"]] == [
            "its name is not UTF-8; rename it"
        ]
        from_a_command = index_stats(catalog_of(project), projects=False)
        assert from_a_command == stats
        os.unlink(odd)
        assert index_stats(catalog, projects=False)["unreadable"] == []


@pytest.mark.parametrize("globs", ["tasks/**/*.md", "**/*.md", ".hypervisor/**/*.md"])
def test_tasks_made_of_free_text_are_seen_whatever_the_globs(
    project: Project, kept: LiveIndex, globs: str
) -> None:
    (project.state / "config.toml").write_text(f'[tasks]\nglobs = ["{globs}"]\n', "utf-8")
    write_task(project.root / "tasks/a.md")
    mine = {"a": "active"} if not globs.startswith(".") else {}
    if globs == "**/*.md":
        write_task(project.root / "top.md")
        mine |= {"top": "active"}
    assert statuses(project, kept) == mine
    spawned = write_task(project.state / "tasks/batch-1/s.md")
    assert statuses(project, kept) == mine | {"s": "active"}
    set_status(spawned, "done")
    assert statuses(project, kept) == mine | {"s": "done"}
    set_status(project.root / "tasks/a.md", "blocked")
    mine |= {"a": "blocked"} if mine else {}
    assert statuses(project, kept) == mine | {"s": "done"}
    require_the_same(catalog_of(project, kept))


# ------------------------------------------------------------------- many at once


def test_whoever_is_stopped_while_he_writes_keeps_nobody_waiting_for_ever(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(project.root / "tasks/a.md")
    settings = settings_of(project.state)
    stopped, index = Index(project, settings), Index(project, settings)
    stopped.refresh()
    write_task(project.root / "tasks/b.md")
    monkeypatch.setattr(index_module, "_BUSY_SECONDS", 0.1)
    stopped.database.execute("BEGIN IMMEDIATE")
    index.refresh()
    assert [head.id for head in index.heads()] == ["a", "b"]
    assert not index.kept
    index.close()
    stopped.close()


_SERVER = """
import json, sys
sys.path.insert(0, {scripts!r})
from hypervisor.tasks.index_watch import LiveIndex
from hypervisor.mcp.handler import ToolHandler
environ = {{"CLAUDE_PROJECT_DIR": {root!r}, "CLAUDE_CODE_SESSION_ID": sys.argv[1]}}
box = ToolHandler(environ, None, LiveIndex())
took = []
while True:
    who = {{"caller_session": sys.argv[1], "caller_agent": "main"}}
    answer = json.loads(box.call("claim_next_task", {{"caller": "claude", **who}}))
    if answer["task"] is None:
        break
    name = answer["task"]["id"]
    listed = json.loads(box.call("list_tasks", {{"status": "in_progress", "limit": 500}}))
    assert name in [task["id"] for task in listed["tasks"]], (name, listed)
    box.call("complete_task", {{"id": name, "outcome": "made", **who}})
    listed = json.loads(box.call("list_tasks", {{"status": "in_progress", "limit": 500}}))
    assert name not in [task["id"] for task in listed["tasks"]], (name, listed)
    took.append(name)
print(json.dumps(took))
"""


@pytest.mark.slow
def test_many_servers_hand_out_each_task_once_and_see_their_own_acts_at_once(project: Project) -> None:
    for number in range(40):
        waits = f"[t-{number // 2}]" if number % 5 == 4 else "[]"
        write_task(project.root / f"tasks/t-{number}.md", depends_on=waits)
    code = _SERVER.format(scripts=str(ROOT / "scripts"), root=str(project.root))
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"s-{number}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for number in range(5)
    ]
    took: list[str] = []
    for server in servers:
        out, error = server.communicate(timeout=90)
        assert server.returncode == 0, error.decode()
        took += json.loads(out)
    # One that waits for another may find nothing while that is in hand: the last one has all.
    rest = service_of(project).claim_next(Wanted())
    assert isinstance(rest, str), rest
    assert sorted(took) == sorted(f"t-{number}" for number in range(40))
    require_the_same(catalog_of(project))
