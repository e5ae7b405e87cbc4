"""The hive: what many share at once is kept once, outlives kills, and is found, alike on both engines."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from commands import ROOT
from hypervisor.core.errors import UsageError
from hypervisor.learning.hive import LONGEST, Hive, to_json
from hypervisor.store.store import Store

WRITER = """
import os, signal, sys
sys.path.insert(0, {scripts!r})
from hypervisor.core.settings import settings_of
from hypervisor.learning.hive import Hive
from hypervisor.store.store import Store
from pathlib import Path
store = Store.open({folder!r}, settings_of(Path({folder!r})))
hive = Hive(store.findings)
def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def hive(store: Store) -> Hive:
    return Hive(store.findings)


def python(folder: Path, text: str) -> subprocess.Popen[str]:
    code = WRITER.format(scripts=str(ROOT / "scripts"), folder=str(folder)) + text
    return subprocess.Popen(
        [sys.executable, "-c", code], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def texts(hive: Hive, query: str = "", **how: str) -> list[str]:
    return [one.text for one in hive.search(query, limit=200, **how)]


# ---------------------------------------------------------------- many at once


def test_what_many_processes_share_at_once_is_kept_and_once(tmp_path: Path) -> None:
    text = """
print("ready", flush=True)
me = sys.stdin.readline().strip()
for number in range(15):
    hive.share(f"worker {me} saw leak {number}", branch="audit", task=f"t-{me}")
    hive.share(f"all saw leak {number}", branch="audit")
"""
    writers = [python(tmp_path, text) for _ in range(4)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for me, writer in enumerate(writers):  # none begins before the others are there
            assert writer.stdin is not None
            writer.stdin.write(f"{me}\n")
            writer.stdin.flush()
        ends = [writer.communicate(timeout=60) for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert [writer.returncode for writer in writers] == [0] * 4, ends
    wanted = {f"worker {me} saw leak {n}" for me in range(4) for n in range(15)}
    wanted |= {f"all saw leak {n}" for n in range(15)}
    with Store.open(tmp_path, {}) as store:
        found = texts(Hive(store.findings), "leak", branch="audit")
    assert len(found) == len(wanted)
    assert set(found) == wanted


BEFORE_ITS_WORDS = """
from hypervisor.store.sqlite import _SqliteTransaction as Transaction
run = Transaction.run
Transaction.run = lambda self, sql, values={}: die() if "finding_words" in sql else run(self, sql, values)
"""
BEFORE_THE_ANSWER = """
write = store.engine.write
store.engine.write = lambda *arguments, **options: (write(*arguments, **options), die())
"""


@pytest.mark.parametrize(("where", "kept"), [(BEFORE_ITS_WORDS, False), (BEFORE_THE_ANSWER, True)])
def test_a_writer_that_is_killed_keeps_a_finding_whole_or_not_at_all(
    tmp_path: Path, where: str, kept: bool
) -> None:
    with Store.open(tmp_path, {}) as store:
        Hive(store.findings).share("the first leak", branch="b", task="t-1")
    dying = python(tmp_path, f"{where}\nhive.share('the second leak', branch='b', task='t-2')\n")
    out, err = dying.communicate(timeout=60)
    assert dying.returncode == -signal.SIGKILL, out + err
    with Store.open(tmp_path, {}) as store:
        hive = Hive(store.findings)
        wanted = ["the first leak", *(["the second leak"] if kept else [])]
        assert sorted(texts(hive, "leak")) == sorted(texts(hive)) == wanted
        hive.share("the second leak", branch="b", task="t-2")  # whoever got no answer shares it again
        assert len(texts(hive, "second")) == 1


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
        ("it's 'auth' | !sql & (", ["t-1", "t-3"]),
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


def test_a_task_gets_what_others_found_and_not_what_it_found_itself(audit: Hive) -> None:
    text = "Audit the login\n\nLook for SQL injection in all that is there."
    assert [one.task for one in audit.relevant(text, branch="audit", task="t-3")] == ["t-1"]
    assert audit.relevant("and the of with", branch="audit", task="t-9") == []


def test_the_same_finding_of_the_same_task_is_one(hive: Hive) -> None:
    first = hive.share("a leak", branch="b", task="t-1")
    assert hive.share(" a leak\n", branch="b", task="t-1") == first
    assert hive.share("a leak", branch="b", task="t-2").id != first.id
    assert len(hive.search("leak")) == 2


def test_a_batch_has_what_its_agents_found_and_what_was_found_in_its_tasks(hive: Hive) -> None:
    hive.share("by a run's agent", branch="b", task="t-1", batch="b-1")
    last = hive.share("by a session's worker", branch="b", task="T-2")
    hive.share("of another batch", branch="b", task="t-2", batch="b-2")
    hive.share("of nobody", branch="b")
    found = [one.text for one in hive.of_batch("b-1", ["t-1", "t-2"], 0)]
    assert found == ["by a run's agent", "by a session's worker"]
    later = last.at + 1
    assert [one.text for one in hive.of_batch("b-1", ["t-2"], later)] == ["by a run's agent"]


def test_a_long_text_and_a_long_query_are_searched(hive: Hive) -> None:
    text = " ".join(f"word{n}" for n in range(700))
    hive.share(text, branch="b")
    assert [one.text for one in hive.search(text)] == [text]


def test_a_finding_is_shown_with_the_names_that_agents_know(hive: Hive) -> None:
    shown = to_json(hive.share("a leak", branch="b", task="t-1"))
    assert shown.keys() == {"id", "at", "branch_id", "task_id", "text"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", shown["at"])


# ------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("text", "names", "word"),
    [
        ("", {}, "text is empty"),
        (" \n\0", {}, "text is empty"),
        ("x" * (LONGEST + 1), {}, "longer than 8,000 characters"),
        ("x", {"branch": ""}, "branch_id is missing"),
        ("x", {"branch": "a\nb"}, "branch_id: must be one line"),
        ("x", {"task": "y" * 201}, "task_id: must be one line of at most 200"),
    ],
)
def test_what_is_no_finding_is_refused_and_nothing_is_kept(
    hive: Hive, text: str, names: dict[str, str], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        hive.share(text, **{"branch": "b", **names})
    assert hive.branches() == {}


def test_characters_that_cannot_be_stored_are_replaced(hive: Hive) -> None:
    assert hive.share("half \ud83d and \0 whole 😀", branch="b").text == "half \\ud83d and \\0 whole 😀"
    assert len(hive.search("\ud83d half \0")) == 1


# ------------------------------------------------------------------- commands


def test_at_a_shell_findings_are_shared_and_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hypervisor.cli.cli import main  # noqa: PLC0415 - it loads all that a command needs

    monkeypatch.chdir(tmp_path)
    assert main(["hive", "search", "flood"]) == 3
    assert not os.path.exists(tmp_path / ".hypervisor")  # looking makes nothing
    assert main(["hive", "add", "a leak", "--branch", "audit", "--task", "t-1"]) == 0
    assert main(["hive", "search", "leaks"]) == 0
    assert main(["hive", "search", "flood"]) == 3
    shown = capsys.readouterr()
    assert shown.out == "shared finding 1 on branch audit\naudit  t-1: a leak\n"
    assert "branches with findings: audit (1)" in shown.err
