"""The log of what happened: whole lines, however many write and whoever dies within one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from commands import ROOT
from hypervisor.core.paths import Project
from hypervisor.events import FILE, Happening, read, tell

WRITERS = 8
EACH = 500


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path, tmp_path / ".hypervisor")
    made.prepare()
    return made


_TELL = """
import sys
sys.path.insert(0, {scripts!r})
from pathlib import Path
from hypervisor.events import Happening, tell
from hypervisor.core.paths import Project
root = Path({root!r})
project = Project(root, root / ".hypervisor")
sys.stdin.readline()
for number in range({each}):
    # Of every length up to more than a pipe or a page takes in one piece.
    tell(project, Happening.CLAIMED, f"t-{{sys.argv[1]}}", number=number, why="x" * (number * 17 % 9000))
"""


@pytest.mark.acceptance
def test_lines_of_many_processes_are_whole_and_none_is_lost(project: Project) -> None:
    code = _TELL.format(scripts=str(ROOT / "scripts"), root=str(project.root), each=EACH)
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(number)], stdin=subprocess.PIPE)
        for number in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=100)
        assert writer.returncode == 0
    lines = (project.state / FILE).read_bytes().splitlines()
    assert len(lines) == WRITERS * EACH
    for line in lines:
        event = json.loads(line)
        assert event.get("why", "") == "x" * (event["number"] * 17 % 9000)
    for number in range(WRITERS):
        # In the order in which each of them wrote.
        assert [event["number"] for event in read(project, f"t-{number}")] == list(range(EACH))


@pytest.mark.parametrize("torn", ['{"at":"2026-01-01', '{"at', "{", "no json", '"a text"', "[1,2]", "\\"])
def test_a_line_that_was_torn_is_closed_and_passed_over(project: Project, torn: str) -> None:
    tell(project, Happening.CLAIMED, "t-1")
    with open(project.state / FILE, "a", encoding="utf-8") as file:
        file.write(torn)
    assert [event["event"] for event in read(project)] == ["claimed"]
    tell(project, Happening.COMPLETED, "t-1")
    tell(project, Happening.CLAIMED, "t-2")
    assert [event["event"] for event in read(project)] == ["claimed", "completed", "claimed"]
    lines = (project.state / FILE).read_text("utf-8").splitlines()
    assert lines[1] == torn
    assert len(lines) == 4


def test_bytes_that_are_no_text_are_passed_over(project: Project) -> None:
    tell(project, Happening.CLAIMED, "t-1")
    with open(project.state / FILE, "ab") as file:
        file.write(b'\xff\xfe{"task":"t-1"}\n\0\0\0\n\n')
    tell(project, Happening.RELEASED, "t-1")
    assert [event["event"] for event in read(project, "t-1")] == ["claimed", "released"]


def test_where_nothing_has_happened_there_is_nothing_to_read(project: Project, tmp_path: Path) -> None:
    assert list(read(project)) == []
    assert list(read(Project(tmp_path / "no", tmp_path / "no/.hypervisor"))) == []
    assert not (tmp_path / "no").exists()


def test_the_events_of_one_task_are_those_that_bear_its_id(project: Project) -> None:
    for name in ("t-1", "t-10", "T-1", "", "t-2"):
        tell(project, Happening.CLAIMED, name)
    with open(project.state / FILE, "a", encoding="utf-8") as file:
        file.write('{"event":"claimed"}\n')
    assert [event["task"] for event in read(project, "t-1")] == ["t-1", "T-1"]
    assert [event["task"] for event in read(project, "T-10")] == ["t-10"]
    assert len(list(read(project))) == 6


def test_an_event_says_what_is_known_on_one_line_of_plain_letters(project: Project) -> None:
    tell(project, Happening.BLOCKED, "t-1", by="", why="a\nb\u2028c\u00e9\ud800", generation=0, commit=None)
    line = (project.state / FILE).read_bytes()
    assert line.count(b"\n") == 1
    assert line.isascii()
    event = next(read(project))
    assert set(event) == {"at", "event", "task", "why", "generation"}
    assert event["why"] == "a\nb\u2028c\u00e9\ud800"
