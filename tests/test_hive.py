"""The hive: what many write at once is all there, outlives kills and damage, and is found."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from commands import ROOT, shell
from hypervisor import hivefile
from hypervisor.core.errors import Refused, UsageError
from hypervisor.core.paths import Project
from hypervisor.learning.hive import LONGEST, Hive
from hypervisor.learning.learner import Told
from hypervisor.learning.learnings import Learnings

WRITER = """
import os, signal, sys
sys.path.insert(0, {scripts!r})
from pathlib import Path
from hypervisor import hivefile
from hypervisor.learning.hive import Hive
from hypervisor.core.paths import Project
root = Path({root!r})
hive = Hive(Project(root, root / ".hypervisor"))
def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, tmp_path / ".hypervisor")


@pytest.fixture
def hive(project: Project) -> Hive:
    return Hive(project)


def python(project: Project, text: str) -> subprocess.Popen[str]:
    code = WRITER.format(scripts=str(ROOT / "scripts"), root=str(project.root)) + text
    return subprocess.Popen(
        [sys.executable, "-c", code], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def texts(hive: Hive, query: str = "", **how: str) -> list[str]:
    return [one.text for one in hive.search(query, limit=200, **how)]


# ---------------------------------------------------------------- many at once


def test_what_many_processes_write_at_once_is_all_there_and_once(project: Project, hive: Hive) -> None:
    text = """
print("ready", flush=True)
me = sys.stdin.readline().strip()
for number in range(15):
    hive.share(f"worker {me} saw leak {number}", branch="audit", task=f"t-{me}")
    hive.share(f"all saw leak {number}", branch="audit")
"""
    writers = [python(project, text) for _ in range(5)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for me, writer in enumerate(writers):  # none makes the files before the others are there
            assert writer.stdin is not None
            writer.stdin.write(f"{me}\n")
            writer.stdin.flush()
        ends = [writer.communicate(timeout=60) for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert [writer.returncode for writer in writers] == [0] * 5, ends
    wanted = {f"worker {me} saw leak {n}" for me in range(5) for n in range(15)}
    wanted |= {f"all saw leak {n}" for n in range(15)}
    found = texts(hive, "leak", branch="audit")
    assert len(found) == len(wanted)
    assert set(found) == wanted
    lines = (project.state / hivefile.FILE).read_text().splitlines()
    assert {json.loads(line)["text"] for line in lines} == wanted


# ------------------------------------------------------------- kill -9, no room


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("hivefile._append = die", False),
        ("os.write = lambda d, line, w=os.write: (w(d, line[:20]), die())", False),
        ("os.fsync = die", True),
        ("up, n = hivefile._catch_up, []\n"
         "hivefile._catch_up = lambda *a: die() if n else (n.append(1), up(*a))",
         True),
        ("hivefile._take = die", True),
        ("hivefile._take = lambda *a, t=hivefile._take: (t(*a), die())", True),
        ("hive.__class__._same = lambda *a, s=hive.__class__._same, n=[]: die() if n else n.append(1)", True),
    ],
    ids=["before", "within the line", "before it is durable", "before the cache", "within the cache",
         "before the cache is committed", "before the answer"],
)  # fmt: skip
def test_a_writer_that_is_killed_anywhere_loses_nothing_that_was_kept(
    project: Project, hive: Hive, where: str, kept: bool
) -> None:
    hive.share("the first leak", branch="b", task="t-1")
    dying = python(project, f"{where}\nhive.share('the second leak', branch='b', task='t-2')\n")
    out, err = dying.communicate(timeout=60)
    assert dying.returncode == -signal.SIGKILL, out + err
    third = hive.share("the third leak", branch="b", task="t-3")
    wanted = ["the first leak", *(["the second leak"] if kept else []), "the third leak"]
    assert sorted(texts(hive, "leak")) == sorted(wanted)
    assert third.id == len(wanted)
    again = hive.share("the second leak", branch="b", task="t-2")  # whoever got no answer says it again
    assert len(texts(hive, "second")) == 1
    assert again.text == "the second leak"


def test_without_room_it_is_said_and_what_was_kept_stays(
    project: Project, hive: Hive, monkeypatch: pytest.MonkeyPatch
) -> None:
    hive.share("the first leak", branch="b")
    before = (project.state / hivefile.FILE).read_bytes()
    whole = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 15:
            raise OSError(28, "No space left on device")
        return whole(descriptor, data[:14])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Refused, match="no room on the disk"):
        hive.share("x", branch="b")
    monkeypatch.undo()
    assert (project.state / hivefile.FILE).read_bytes() == before
    hive.share("the second leak", branch="b")
    assert texts(hive, "leak") == ["the first leak", "the second leak"]


# ---------------------------------------------------------------------- damage


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database" * 500)


def holes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, 5000)


def strange(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE finding")
    database.close()


def newer(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [garbage, holes, cut, strange, newer, Path.unlink, a_folder])
def test_a_cache_that_is_damaged_or_lost_is_made_anew_from_the_log(
    project: Project, hive: Hive, damage: object
) -> None:
    for number in range(30):
        hive.share(f"leak {number} " + "in the cellar " * 20, branch="b", task=f"t-{number}")
    Learnings(project).tell("audit", Told(benefit=0.85, notes="reads only"))
    before = hive.search("leak", limit=200)
    for tail in ("-wal", "-shm"):
        (project.state / (hivefile.CACHE + tail)).unlink(missing_ok=True)
    assert callable(damage)
    damage(project.state / hivefile.CACHE)
    assert hive.search("leak", limit=200) == before
    assert hive.share("one more leak", branch="b").id == 31
    (told,) = [known.told for known in Learnings(project).known().values()]
    assert told is not None
    assert (told.benefit, told.notes) == (0.85, "reads only")


def test_what_in_the_log_cannot_be_read_is_passed_over(project: Project, hive: Hive) -> None:
    hive.share("the first leak", branch="b")
    with open(project.state / hivefile.FILE, "ab") as log:
        log.write(
            b'\xff\xfe\n{"kind":"finding"}\n[]\nnull\n{"kind":"of tomorrow"}\n'
            b'{"kind":"told","type":"x","at":"","who":"","notes":"","benefit":"much","cpu":null,"ram_mb":null}\n'
            b'{"kind":"finding","at":"","branch":"b","task":"\\ud800","batch":"","who":"","text":"odd"}\n'
            b'{"kind":"finding","at":"2026'
        )
    hive.share("the last leak", branch="b")
    assert texts(hive) == ["the last leak", "odd", "the first leak"]


def test_a_log_that_somebody_cut_or_restored_is_what_counts(project: Project, hive: Hive) -> None:
    for number in range(5):
        hive.share(f"leak {number}", branch="b")
    log = project.state / hivefile.FILE
    first, second, *rest = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + second)
    assert texts(hive, "leak") == ["leak 0", "leak 1"]
    log.write_bytes(b"".join([second, *rest, first]))  # as long as it was, and another
    assert texts(hive, "leak") == ["leak 1", "leak 2", "leak 3", "leak 4", "leak 0"]
    log.unlink()
    assert texts(hive, "leak") == []


def test_looking_makes_nothing(project: Project, hive: Hive) -> None:
    assert hive.search("anything") == []
    assert hive.branches() == {}
    assert not project.state.exists()


# ---------------------------------------------------------------------- search


@pytest.fixture
def audit(hive: Hive) -> Hive:
    hive.share("auth.py:40 builds SQL by hand: injection", branch="audit", task="t-1")
    hive.share("Die Prüfung der Größe fehlt in upload.py", branch="audit", task="t-2")
    hive.share("user.py logs passwords; the SQL there is bound", branch="audit", task="t-3")
    hive.share("SQL of another branch", branch="main", task="t-4")
    return hive


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("injections", ["t-1"]),
        ("logging a password", ["t-3"]),
        ("prufung grosse", ["t-2"]),
        ("PRÜFUNG", ["t-2"]),
        ("sql injection", ["t-1", "t-3"]),  # what has more of the words comes first
        ('"auth" AND (NOT sql* NEAR', ["t-1", "t-3"]),
        ("auth.py:40", ["t-1", "t-2", "t-3"]),  # "py" is in all, "auth" and "40" in one
        ("xylophone", []),
        ("*** --", []),
        ("", ["t-3", "t-2", "t-1"]),
    ],
)
def test_a_search_knows_words_in_any_form_and_no_operators(audit: Hive, query: str, found: list[str]) -> None:
    assert [one.task for one in audit.search(query, branch="audit")] == found


def test_a_search_without_a_branch_looks_everywhere_and_a_limit_holds(audit: Hive) -> None:
    assert {one.task for one in audit.search("sql")} == {"t-1", "t-3", "t-4"}
    assert [one.task for one in audit.search("", limit=2)] == ["t-4", "t-3"]
    assert audit.branches() == {"audit": 3, "main": 1}


def test_a_task_is_told_what_others_have_found_and_not_what_it_found_itself(audit: Hive) -> None:
    text = "Audit the login\n\nLook for SQL injection in all that is there."
    assert [one.task for one in audit.relevant(text, branch="audit", task="t-3")] == ["t-1"]
    assert audit.relevant("and the of with", branch="audit", task="t-9") == []


def test_the_same_finding_of_the_same_task_is_one(hive: Hive) -> None:
    first = hive.share("a leak", branch="b", task="t-1")
    assert hive.share(" a leak\n", branch="b", task="t-1") == first
    assert hive.share("a leak", branch="b", task="t-2").id != first.id


def test_a_batch_has_what_its_agents_found_and_what_was_found_in_its_tasks_names(hive: Hive) -> None:
    hive.share("by a run's agent", branch="b", task="t-1", batch="b-1")
    hive.share("by a session's worker", branch="b", task="T-2")
    hive.share("of another batch", branch="b", task="t-2", batch="b-2")
    hive.share("of nobody", branch="b")
    found = [one.text for one in hive.of_batch("b-1", ["t-1", "t-2"], "2020-01-01")]
    assert found == ["by a run's agent", "by a session's worker"]
    assert [one.text for one in hive.of_batch("b-1", ["t-2"], "2999-01-01")] == ["by a run's agent"]


# ------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("text", "names", "word"),
    [
        ("", {}, "text is empty"),
        (" \n\0", {}, "text is empty"),
        ("x" * (LONGEST + 1), {}, "8,001 characters, 8,000 at most"),
        ("x", {"branch": ""}, "branch_id is missing"),
        ("x", {"branch": "a\nb"}, "branch_id: must be one line"),
        ("x", {"task": "y" * 201}, "task_id: must be one line of at most 200"),
    ],
)
def test_what_is_no_finding_is_refused_and_nothing_is_kept(
    project: Project, hive: Hive, text: str, names: dict[str, str], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        hive.share(text, **{"branch": "b", **names})
    assert not project.state.exists()


def test_odd_letters_are_kept_as_far_as_they_are_letters(hive: Hive) -> None:
    assert hive.share("half \ud83d and \0 whole 😀", branch="b").text == "half ? and  whole 😀"


def test_at_a_shell_findings_are_added_and_found(tmp_path: Path) -> None:
    with shell(tmp_path) as user:
        added = user.hypervisor("hive", "add", "-", "--branch", "audit", "--task", "t-1", stdin=b"a leak\n")
        assert added.passed().out == "kept on audit: finding 1\n"
        assert user.hypervisor("hive", "search", "leaks").passed().out == "audit  t-1: a leak\n"
        none = user.hypervisor("hive", "search", "flood")
        assert none.code == 3
        assert "there are findings on: audit (1)" in none.err
        user.hypervisor("hive", "add", "").refused(2, "text is empty")
