"""What is remembered of a client's session: its claims, in its own folder, and what became of them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from commands import tree, write_task
from hypervisor.claims.directory import DirectoryStore
from hypervisor.core import config
from hypervisor.core.errors import ClaimLost
from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.core.paths import Project
from hypervisor.lives import task_key
from hypervisor.sessions import Fate, Note, Session, fate_of
from hypervisor.tasks.desk import Desk
from hypervisor.tasks.endings import Ending
from hypervisor.tasks.tasklist import Caller

NOTE = Note(
    task="t-1", path="/p/tasks/t-1.md", key="t-1-0", generation=1, token="ab", holder="claude-1",
    number=1, name="claude", receipts=("mail", "é"), receipts_to="t-2",
)  # fmt: skip

#: What a client could call a session or an agent that would lead out of its folder, or into another's.
ODD = [
    "", ".", "..", "../../x", "/etc/passwd", "a/b", "a\\b", ".once", ".hidden", "unknown", "main.json", " ",
    "x" * 101, "y" * 5000, "é", "\u202egnp", "a\nb", "a\0b", "\ud800", "-rf", "~", "*", "CON",
    "a" * 300 + "/..",
]  # fmt: skip


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "outer/project/.hypervisor"
    folder.mkdir(parents=True)
    return folder


# ------------------------------------------------------------------------ notes


def test_a_note_says_what_was_kept_until_it_is_dropped(state: Path) -> None:
    session = Session(state, "s-1")
    second = replace(NOTE, generation=2, number=2)
    assert session.notes("a1") == []
    assert session.agents() == []
    session.keep("a1", NOTE)
    session.keep("a1", second)
    session.keep("a2", replace(NOTE, key="t-2-0"))
    assert sorted(session.notes("a1"), key=lambda note: note.generation) == [NOTE, second]
    assert sorted(session.agents()) == ["a1", "a2"]
    session.drop("a1", NOTE.key, NOTE.generation)
    session.drop("a1", NOTE.key, NOTE.generation)
    session.drop("a3", NOTE.key, NOTE.generation)
    assert session.notes("a1") == [second]
    assert len(session.notes("a2")) == 1


def test_a_claim_that_is_noted_twice_is_one_note(state: Path) -> None:
    session = Session(state, "s-1")
    session.keep("a1", NOTE)
    session.keep("a1", NOTE)
    assert session.notes("a1") == [NOTE]


def test_the_longest_key_that_a_disk_takes_can_be_noted(state: Path) -> None:
    session, long = Session(state, "s-1"), replace(NOTE, key="k" * 255, generation=10**9)
    session.keep("a1", long)
    assert session.notes("a1") == [long]
    session.drop("a1", long.key, long.generation)
    assert session.notes("a1") == []


def test_only_the_first_who_asks_is_the_first(state: Path) -> None:
    session = Session(state, "s-1")
    answers: list[bool] = []
    askers = [
        threading.Thread(target=lambda: answers.append(session.first("to be told of the rules")))
        for _ in range(16)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert sorted(answers) == [False] * 15 + [True]
    assert session.first("something else")
    assert Session(state, "s-2").first("something else")
    assert session.agents() == [], "what was asked once is no agent"


def test_a_session_that_is_forgotten_leaves_nothing_and_no_other_session_is(state: Path) -> None:
    one, other = Session(state, "s-1"), Session(state, "s-2")
    for session in (one, other):
        session.keep("a1", NOTE)
        session.first("x")
    one.forget()
    one.forget()
    assert one.agents() == []
    assert one.notes("a1") == []
    assert one.first("x")
    assert other.notes("a1") == [NOTE]
    assert not other.first("x")


# -------------------------------------------------------------- names from outside


@pytest.mark.parametrize("name", ODD)
def test_an_odd_name_of_a_session_stays_in_the_folder_of_sessions(
    state: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "outer/x").mkdir()
    (tmp_path / "outer/x/keep.json").write_text("{}")
    neighbour = Session(state, "neighbour")
    neighbour.keep("a1", NOTE)
    before = tree(tmp_path / "outer/x")
    session = Session(state, name)
    assert session.folder.parent == state / "sessions"
    session.keep("a1", NOTE)
    session.first("x")
    assert Session(state, name).notes("a1") == [NOTE]
    assert neighbour.notes("a1") == [NOTE]
    session.forget()
    assert session.notes("a1") == []
    assert neighbour.notes("a1") == [NOTE]
    assert tree(tmp_path / "outer/x") == before
    assert os.listdir(state) == ["sessions"]


@pytest.mark.parametrize("name", [name for name in ODD if name])
def test_an_odd_name_of_an_agent_stays_in_its_session(state: Path, name: str) -> None:
    session = Session(state, "s-1")
    session.first(name)
    session.keep("", replace(NOTE, name="nobody known"))
    session.keep(name, NOTE)
    assert session.notes(name) == [NOTE]
    assert [note.name for note in session.notes("")] == ["nobody known"]
    assert {path.parent for path in session.folder.iterdir()} == {session.folder}
    # Whoever goes through the agents finds it again, by whatever name it has got.
    agents = session.agents()
    assert len(agents) == 2
    assert sorted(note.name for agent in agents for note in session.notes(agent)) == [
        "claude",
        "nobody known",
    ]
    session.drop(name, NOTE.key, NOTE.generation)
    assert session.notes(name) == []
    assert not session.first(name)


def test_no_two_names_share_their_notes(state: Path) -> None:
    for number, name in enumerate(ODD):
        Session(state, "s-1").keep(name, replace(NOTE, number=number))
        Session(state, name).keep("a1", replace(NOTE, number=number))
    for number, name in enumerate(ODD):
        assert [note.number for note in Session(state, "s-1").notes(name)] == [number]
        assert [note.number for note in Session(state, name).notes("a1")] == [number]


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "[]", "7", "{}", '{"receipts": null}', '{"receipts": [], "task": "t"}', "\udcff\udcfe",
     json.dumps({"receipts": [], "no such": 1})],
)  # fmt: skip
def test_a_damaged_note_is_passed_over(state: Path, content: str) -> None:
    session = Session(state, "s-1")
    session.keep("a1", NOTE)
    (session.folder / "a1/damaged.json").write_bytes(os.fsencode(content))
    (session.folder / "a1/.half.json.tmp").write_text("{")
    (session.folder / "a file").write_text("no agent's")
    assert session.notes("a1") == [NOTE]
    assert session.agents() == ["a1"]
    assert session.notes("a file") == []


# ------------------------------------------------------------------------ fates

Desks = Callable[..., Desk]
DONE = Ending(outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="made it")
BLOCKED = Ending(outcome=Outcome.BLOCKED, status=TaskStatus.BLOCKED, text="no key")
OPEN, ENDED = Fate(how="open"), Fate(how="ended")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    write_task(tmp_path / "p/tasks/t-1.md")
    return Project(tmp_path / "p", tmp_path / "p/.hypervisor")


@pytest.fixture
def desk(project: Project) -> Desks:
    def open_desk(name: str = "claude", session: str = "s-1", agent: str = "a1") -> Desk:
        return Desk(project, config.load(project.state), Caller(name=name, session=session, agent=agent))

    return open_desk


@pytest.fixture
def note(project: Project, desk: Desks) -> Note:
    """Claim the task; give the note of it."""
    desk().claim("t-1")
    (found,) = Session(project.state, "s-1").notes("a1")
    return found


def fate(project: Project, note: Note) -> Fate:
    return fate_of(DirectoryStore(str(project.state)), note)


def fall_silent(project: Project) -> None:
    for claim in (project.state / "locks").iterdir():
        os.utime(claim, (1, 1))


def reopen(project: Project, word: str) -> None:
    path = project.root / "tasks/t-1.md"
    assert f"status: {word}" in path.read_text()
    path.write_text(path.read_text().replace(f"status: {word}", "status: active"))


def test_a_claim_that_is_held_is_open_and_its_note_says_what_it_is(project: Project, note: Note) -> None:
    assert fate(project, note) == OPEN
    path = os.path.realpath(project.root / "tasks/t-1.md")
    assert (note.task, note.path, note.number, note.name) == ("t-1", path, 1, "claude")
    assert note.key == task_key(project, path)


@pytest.mark.parametrize("ending", [DONE, BLOCKED])
def test_a_claim_that_its_holder_finished_has_ended_and_is_forgotten(
    project: Project, desk: Desks, note: Note, ending: Ending
) -> None:
    desk().finish("t-1", ending)
    assert fate(project, note) == ENDED
    assert Session(project.state, "s-1").notes("a1") == []


def test_a_claim_that_its_holder_released_has_ended(project: Project, desk: Desks, note: Note) -> None:
    desk().release("t-1", "later")
    assert fate(project, note) == ENDED
    assert Session(project.state, "s-1").notes("a1") == []
    desk("gemini", "s-2", "b1").claim("t-1")
    assert fate(project, note) == ENDED


def test_a_claim_that_another_ended_in_the_holders_place_is_forgotten_as_well(
    project: Project, desk: Desks, note: Note
) -> None:
    desk("gemini", "s-2", "b1").finish("t-1", DONE, 1)
    assert fate(project, note) == ENDED
    assert Session(project.state, "s-1").notes("a1") == []


@pytest.mark.parametrize(
    ("reason", "why"),
    [("not wanted", "t-1 was cancelled by zoe: not wanted"), ("", "t-1 was cancelled by zoe")],
)
def test_a_claim_whose_task_was_cancelled_is_lost_and_says_by_whom(
    project: Project, desk: Desks, note: Note, reason: str, why: str
) -> None:
    desk("zoe", "", "").cancel("t-1", reason)
    assert fate(project, note) == Fate(how="lost", why=why)
    assert Session(project.state, "s-1").notes("a1") == [note], "its worker was not told yet"
    with pytest.raises(ClaimLost, match="t-1 was cancelled by zoe"):
        desk().finish("t-1", DONE)


def test_a_claim_that_was_reaped_is_lost_and_says_why(project: Project, desk: Desks, note: Note) -> None:
    fall_silent(project)
    desk("hypervisor", "", "").reap()
    found = fate(project, note)
    assert found.how == "lost"
    assert "silent for" in found.why


def test_a_claim_that_another_took_over_is_lost_also_when_he_has_finished(
    project: Project, desk: Desks, note: Note
) -> None:
    fall_silent(project)
    desk("gemini", "s-2", "b1").claim("t-1")
    assert fate(project, note).how == "lost"
    assert "silent for" in fate(project, note).why
    desk("gemini", "s-2", "b1").finish("t-1", DONE)
    assert fate(project, note) == Fate(how="lost", why="t-1 was finished (success) by gemini: made it")


@pytest.mark.parametrize(("ended_by", "how"), [("itself", "ended"), ("another", "lost")])
def test_what_became_of_a_claim_stays_so_in_the_tasks_next_life(
    project: Project, desk: Desks, note: Note, ended_by: str, how: str
) -> None:
    if ended_by == "itself":
        desk().finish("t-1", DONE)
        reopen(project, "done")
    else:
        desk("zoe", "", "").cancel("t-1", "no")
        reopen(project, "cancelled")
    desk("gemini", "s-2", "b1").claim("t-1")
    assert fate(project, note).how == how
    (second,) = Session(project.state, "s-2").notes("b1")
    assert (second.generation, second.number) == (1, note.number + (1 if ended_by == "itself" else 2))
    assert fate(project, second) == OPEN


def test_a_claim_whose_place_is_gone_is_lost(project: Project, note: Note) -> None:
    (claim,) = (project.state / "locks").iterdir()
    claim.rename(project.state / "trash" / claim.name)
    assert fate(project, note) == Fate(how="lost", why="its place in the store is gone")


def test_a_new_claim_of_an_agent_drops_the_notes_of_what_it_has_lost(
    project: Project, desk: Desks, note: Note
) -> None:
    write_task(project.root / "tasks/t-2.md")
    desk("zoe", "", "").cancel("t-1", "no")
    desk().claim("t-2")
    assert [found.task for found in Session(project.state, "s-1").notes("a1")] == ["t-2"]
