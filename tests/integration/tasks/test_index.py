"""The task index is a cache: it says what the files say, whoever else uses it and whatever becomes of it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw
import pytest

from commands import ROOT, write_task
from hypervisor.core.model import Task
from hypervisor.core.project import Project
from hypervisor.core.settings import load_settings
from hypervisor.tasks import files
from hypervisor.tasks.files import read_task
from hypervisor.tasks.index import Index


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    (root / "tasks").mkdir(parents=True)
    return Project(root, root / ".hypervisor")


def task(project: Project, name: str, **keys: str) -> Path:
    return write_task(project.root / "tasks" / f"{name}.md", **keys)


def look(project: Project) -> dict[str, str]:
    """Return what the index says of each task's status after a refresh."""
    opened = Index(project, load_settings(project.state))
    try:
        opened.refresh()
        return {head.id: str(head.status) for head in opened.heads()}
    finally:
        opened.close()


def age(path: Path, seconds: float = 10.0) -> None:
    """Make a file look as if it had been left alone for a while."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_a_file_that_did_not_change_is_not_read_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        age(task(project, name))
    assert look(project) == {"a": "active", "b": "active", "c": "active"}
    read: list[str] = []

    def noted(path: Path, settings: Mapping[str, Any]) -> Task:
        read.append(path.stem)
        return read_task(path, settings)

    monkeypatch.setattr(files, "read_task", noted)
    look(project)
    assert read == []
    age(task(project, "b", status="done"), 5)
    assert look(project) == {"a": "active", "b": "done", "c": "active"}
    assert read == ["b"]


def test_new_and_deleted_and_renamed_files_are_seen(project: Project) -> None:
    task(project, "a")
    assert list(look(project)) == ["a"]
    task(project, "b")
    assert list(look(project)) == ["a", "b"]
    (project.root / "tasks/a.md").unlink()
    (project.root / "tasks/b.md").rename(project.root / "tasks/c.md")
    assert list(look(project)) == ["b"]  # its id is its own, whatever its file is called


def test_a_change_within_one_step_of_the_clock_is_seen(project: Project) -> None:
    path = task(project, "a", status="todo__")
    look(project)
    before = path.stat()
    path.write_text(path.read_text().replace("todo__", "active"))  # as many bytes
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert look(project) == {"a": "active"}


def test_other_words_in_the_settings_are_other_rows(project: Project) -> None:
    age(task(project, "a", status="parked"))
    assert look(project) == {"a": "None"}
    project.prepare()
    (project.state / "config.toml").write_text('[status.words]\nparked = "blocked"\n')
    assert look(project) == {"a": "blocked"}


@pytest.mark.parametrize(
    "damage", ["garbage", "truncated", "another program's", "another version", "a folder", "gone"]
)
def test_a_damaged_index_is_made_anew(project: Project, damage: str) -> None:
    age(task(project, "a"))
    look(project)
    path = project.state / "index.db"
    for tail in ("-wal", "-shm"):
        Path(f"{path}{tail}").unlink(missing_ok=True)
    if damage == "garbage":
        path.write_bytes(os.urandom(8192))
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage in ("another program's", "another version"):
        path.unlink()
        other = apsw.Connection(str(path))
        other.execute("CREATE TABLE task (x)")
        other.execute(f"PRAGMA user_version = {999 if damage == 'another version' else 0}")
        other.close()
    else:
        path.unlink()
        if damage == "a folder":
            path.mkdir()
    assert look(project) == {"a": "active"}
    assert look(project) == {"a": "active"}


_LOOKER = """
import sys
sys.path.insert(0, {scripts!r})
from pathlib import Path
from hypervisor.core.settings import load_settings
from hypervisor.tasks.index import Index
from hypervisor.core.model import Task
from hypervisor.core.project import Project
from hypervisor.tasks.files import read_task
root = Path({root!r})
project = Project(root, root / ".hypervisor")
for _ in range(40):
    index = Index(project, load_settings(project.state))
    index.refresh()
    found = {{head.id: str(head.status) for head in index.heads()}}
    index.close()
    assert len(found) == 60, len(found)
print(sorted(found.values()).count("done"))
"""


@pytest.mark.slow
def test_many_processes_may_use_it_while_files_change(project: Project) -> None:
    for number in range(60):
        task(project, f"t-{number}")
    code = _LOOKER.format(scripts=str(ROOT / "scripts"), root=str(project.root))
    lookers = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(6)
    ]
    for number in range(60):
        path = project.root / f"tasks/t-{number}.md"
        draft = path.with_suffix(".draft")
        draft.write_text(path.read_text().replace("status: active", "status: done"))
        draft.rename(path)
    for looker in lookers:
        _, error = looker.communicate(timeout=60)
        assert looker.returncode == 0, error.decode()
    assert set(look(project).values()) == {"done"}


@pytest.mark.slow
def test_an_index_killed_while_it_writes_is_whole_or_made_anew(project: Project) -> None:
    paths = [task(project, f"t-{number}") for number in range(400)]
    code = _LOOKER.format(scripts=str(ROOT / "scripts"), root=str(project.root)).replace("== 60", "== 400")
    rolled = random.Random(4)
    for turn in range(6):
        status = f"word{turn}"
        for path in paths if turn % 2 else ():  # there is a cache, and each of its rows is to be written anew
            path.write_text(path.read_text().replace("status: active", f"status: {status}"))
        looker = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        while not (project.state / "index.db-wal").exists() and looker.poll() is None:
            time.sleep(0.002)
        time.sleep(rolled.choice([0.0, 0.05, 0.3]))
        looker.kill()
        looker.communicate(timeout=30)
        assert look(project) == {path.stem: "None" if turn % 2 else "active" for path in paths}
        if turn % 2:
            for path in paths:
                path.write_text(path.read_text().replace(f"status: {status}", "status: active"))
            for path in project.state.glob("index.db*"):
                path.unlink()


def test_a_project_that_cannot_be_written_to_is_read_all_the_same(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    task(project, "a")

    def closed(_self: Project) -> None:
        raise PermissionError(13, "Permission denied", str(project.state))

    monkeypatch.setattr(Project, "prepare", closed)
    assert look(project) == {"a": "active"}
    assert not project.state.exists()


def test_where_the_disk_is_full_the_answer_is_right_and_the_cache_stays(project: Project) -> None:
    for number in range(20):
        task(project, f"t-{number}")
    assert len(look(project)) == 20
    path = project.state / "index.db"
    before = path.stat().st_ino
    for number in range(20, 300):
        task(project, f"t-{number}", title="x" * 300)
    task(project, "t-3", status="done")
    full = Index(project, load_settings(project.state))
    pages = full.database.pragma("page_count")
    full.database.execute(f"PRAGMA max_page_count = {pages}")  # SQLite says then what it says on a full disk
    full.refresh()
    found = {head.id: str(head.status) for head in full.heads()}
    assert len(found) == 300
    assert found["t-3"] == "done"
    assert not full.kept
    full.close()
    assert path.stat().st_ino == before
    assert look(project) == found


def test_a_damaged_cache_that_another_has_made_anew_is_left_to_him(project: Project) -> None:
    task(project, "a")
    look(project)
    path = project.state / "index.db"
    index = Index(project, load_settings(project.state))
    assert index.database
    for tail in ("", "-wal", "-shm"):
        Path(f"{path}{tail}").unlink(missing_ok=True)
    look(project)
    anew = path.stat().st_ino
    index.database.execute("DROP TABLE task")  # of the one that is gone
    index.refresh()
    assert [head.id for head in index.heads()] == ["a"]
    assert index.kept
    index.close()
    assert path.stat().st_ino == anew


def test_a_cache_that_was_emptied_and_whose_filler_died_is_told_from_the_one_before(project: Project) -> None:
    task(project, "a")
    settings = load_settings(project.state)
    index = Index(project, settings)
    index.refresh()
    before = index.identity()
    assert before is not None
    for words in ({"parked": "blocked"}, {}):  # other words empty it; then whoever has ours fills nothing in
        status = settings["status"] | ({"words": words} if words else {})
        other = Index(project, settings | {"status": status})
        other.refresh()
        if not words:
            other.database.execute("DELETE FROM task")
        other.close()
    assert index.identity() != before
    index.close()
    assert look(project) == {"a": "active"}


def test_a_cache_in_use_that_is_damaged_is_made_anew_for_all_who_have_it_open(project: Project) -> None:
    task(project, "a")
    settings = load_settings(project.state)
    one, other = Index(project, settings), Index(project, settings)
    one.refresh()
    other.refresh()
    one.database.execute("DROP TABLE depends")  # as damage shows: what should be there is not
    task(project, "b")
    other.refresh()
    assert [head.id for head in other.heads()] == ["a", "b"]
    one.refresh()
    assert [head.id for head in one.heads()] == ["a", "b"]
    assert one.kept
    assert other.kept
    one.close()
    other.close()
