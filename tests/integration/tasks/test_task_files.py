"""Task files on disk: found, read, and never half written, whoever writes at the same time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT
from hypervisor.core import files as core_files
from hypervisor.core.errors import Refused, Unreadable
from hypervisor.core.files import sync_directory
from hypervisor.core.model import Complexity, FileEdit, LineEdit, Priority, TaskStatus
from hypervisor.core.project import STATE
from hypervisor.core.settings import default_settings
from hypervisor.documents import yaml_edit
from hypervisor.tasks import rewriting
from hypervisor.tasks.discovery import find_task_files
from hypervisor.tasks.files import (
    change_text,
    completion_report,
    edit_file,
    read_task,
    revert_file,
    status_word,
)
from hypervisor.tasks.receipts import as_receipt, with_receipt
from hypervisor.tasks.rewriting import Change, Rewrite, rewrite_all

SETTINGS = default_settings()
SCRIPTS = ROOT / "scripts"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "tasks" / "t-1.md", "---\nid: t-1\nstatus: To Do  # c\n---\n# T\n")


def change(path: Path, key: str, value: str | None) -> FileEdit:
    document = yaml_edit.parse(path.read_bytes(), str(path))
    return FileEdit(path=str(path), keys=(document.edit(key, value),))


def reason(path: Path, **settings: int) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        read_task(path, {**SETTINGS, "tasks": {**SETTINGS["tasks"], **settings}})
    return caught.value


# ------------------------------------------------------------------------ reading


def test_a_task_is_read_whatever_its_file_calls_things(tmp_path: Path) -> None:
    path = write(
        tmp_path / "tasks" / "a.md",
        "---\nid: 007\nStatus: In-Progress\nassigned_to: '@bot'\nlabels: [x, y]\ndependencies:\n  - t-2\n"
        "parent_task_id: t-0\npriority: P1\ncomplexity: Multi-Step\n---\n\nintro\n\n## The title ##\n",
    )
    task = read_task(path, SETTINGS)
    assert (task.id, task.title) == ("007", "The title")
    assert (task.status, task.status_word) == (TaskStatus.IN_PROGRESS, "In-Progress")
    assert (task.assignee, task.tags, task.depends_on, task.parent) == (("bot",), ("x", "y"), ("t-2",), "t-0")
    assert (task.priority, task.complexity) == (Priority.HIGH, Complexity.MULTI_STEP)
    assert task.front["status"] == "In-Progress"


@pytest.mark.parametrize(
    "body", ["# The #1 title\n", "The #1 title\n===\n", "```\n# no\n```\n## The #1 title ##\n"]
)
def test_without_a_title_the_first_heading_is_it(tmp_path: Path, body: str) -> None:
    assert read_task(write(tmp_path / "t.md", f"---\nid: 1\n---\n{body}"), SETTINGS).title == "The #1 title"


def test_a_file_with_no_keys_is_a_task_named_by_its_stem(tmp_path: Path) -> None:
    task = read_task(write(tmp_path / "t-9 - x.md", "---\n---\n"), SETTINGS)
    assert (task.id, task.title, task.status, task.status_word) == ("t-9 - x", "t-9 - x", None, "")
    assert (task.priority, task.assignee) == (Priority.MEDIUM, ())


@pytest.mark.parametrize(
    ("word", "priority"),
    [
        ("critical", "critical"), ("0", "critical"), ("P0", "critical"), ("Urgent", "critical"),
        ("high", "high"),
        ("1", "high"), ("2", "medium"), ("p3", "low"), ("LOW", "low"), ("", "medium"), ("whenever", "medium"),
    ],
)  # fmt: skip
def test_priorities_are_read_in_any_scale(tmp_path: Path, word: str, priority: str) -> None:
    task = read_task(write(tmp_path / "t.md", f"---\npriority: {word}\n---\n"), SETTINGS)
    assert task.priority is Priority(priority)


@pytest.mark.parametrize(
    ("word", "status", "done"),
    [
        ("To Do", TaskStatus.ACTIVE, "Done"),
        ("In Progress", TaskStatus.IN_PROGRESS, "Done"),
        ("pending", TaskStatus.ACTIVE, "completed"),
        ("active", TaskStatus.ACTIVE, "done"),
        ("todo", TaskStatus.ACTIVE, "done"),
        ("open", TaskStatus.ACTIVE, "closed"),
        ("DONE", TaskStatus.DONE, None),
        ("to_do", TaskStatus.ACTIVE, None),
        ("canceled", TaskStatus.CANCELLED, None),
        ("simmering", None, None),
        ("", None, "done"),
    ],
)
def test_a_status_is_known_and_written_back_in_the_file_s_words(
    tmp_path: Path, word: str, status: TaskStatus | None, done: str | None
) -> None:
    task = read_task(write(tmp_path / "t.md", f"---\nstatus: {word}\n---\n"), SETTINGS)
    assert task.status is status
    if done is not None:
        assert status_word(task, TaskStatus.DONE, SETTINGS) == done


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path)


def socket_link(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "missing"),
        (Path.mkdir, "not a file"),
        (fifo, "not a file"),
        (loop, "not a file"),
        (socket_link, "not a file"),
        (lambda path: path.symlink_to("nowhere"), "missing"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not utf-8"),
        (lambda path: path.write_bytes(b"# T\n"), "no frontmatter"),
        (lambda path: path.write_bytes(b"---\na: b: c\n---\n"), "bad yaml"),
        (lambda path: path.write_bytes(b"---\n- a\n---\n"), "not a mapping"),
    ],
)
def test_what_is_no_task_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], Any], expected: str
) -> None:
    path = tmp_path / "t.md"
    make(path)
    assert reason(path).reason == expected


def test_paths_that_cannot_be_are_refused(tmp_path: Path) -> None:
    assert reason(tmp_path / ("x" * 300)).reason == "path too long"
    assert reason(tmp_path / "t.md" / "below").reason == "missing"
    assert len(str(reason(Path("/" + "x/" * 5000)))) < 1000


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_access_is_told(file: Path) -> None:
    file.chmod(0)
    assert reason(file).reason == "no access"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "t.md"
    with path.open("wb") as sparse:
        sparse.truncate(1 << 40)  # reading it would end the process
    assert reason(path).reason == "too large"
    assert reason(write(path, "---\nid: 1\n---\n"), max_bytes=5).reason == "too large"


# ------------------------------------------------------------------------ finding


def test_tasks_are_found_by_the_globs_each_once_and_sorted(tmp_path: Path) -> None:
    wanted = ["backlog/tasks/d.md", "data/p/tasks/x/c.md", "tasks/a.md", "tasks/deep/er/b.md"]
    others = [
        "readme.md", "tasks/a.txt", "tasks/.git/x.md", "tasks/node_modules/x.md", "tasks/.hypervisor/x.md",
        "tasks/.claude/worktrees/w/tasks/x.md", "backlog/tasks/deep/no.md", "data/tasks2/x.md",
    ]  # fmt: skip
    for name in [*wanted, *others]:
        write(tmp_path / name, "---\n---\n")
    (tmp_path / "tasks" / "loop").symlink_to(tmp_path)
    settings = {
        **SETTINGS,
        "tasks": {**SETTINGS["tasks"], "globs": [*SETTINGS["tasks"]["globs"], "tasks/*.md"]},
    }
    found = [str(path.relative_to(tmp_path)) for path in find_task_files(tmp_path, settings)]
    assert found == wanted


def test_a_project_without_tasks_has_none(tmp_path: Path) -> None:
    assert list(find_task_files(tmp_path, SETTINGS)) == []
    write(tmp_path / "tasks", "a file, not a folder")
    assert list(find_task_files(tmp_path, SETTINGS)) == []


# ------------------------------------------------------------------------ editing


def test_an_edit_is_done_undone_and_keeps_the_file_s_mode(file: Path) -> None:
    file.chmod(0o640)
    before = file.read_bytes()
    edit = change(file, "status", "Done")
    assert edit_file(file, edit) == []
    assert file.read_bytes() == before.replace(b"To Do", b"Done")
    assert file.stat().st_mode & 0o777 == 0o640
    assert revert_file(file, edit) == []
    assert file.read_bytes() == before


def test_an_edit_that_changes_nothing_writes_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = change(file, "status", "Done")
    edit_file(file, edit)
    monkeypatch.setattr(rewriting, "exchange", lambda *_: pytest.fail("written again"))
    assert edit_file(file, edit) == []


def test_a_guard_that_says_no_leaves_the_file(file: Path) -> None:
    before = file.read_bytes()
    assert edit_file(file, change(file, "status", "Done"), guard=lambda: False) == []
    assert file.read_bytes() == before


def test_the_file_behind_a_link_is_the_one_that_changes(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.md"
    link.symlink_to(file)
    edit_file(link, change(link, "status", "Done"))
    assert link.is_symlink()
    assert b"Done" in file.read_bytes()


def test_what_an_editor_saves_in_the_middle_is_not_lost(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit, real, saves = change(file, "status", "Done"), yaml_edit.apply, [1, 2, 3]

    def apply_slowly(data: bytes, wanted: FileEdit) -> tuple[bytes, list[str]]:
        result = real(data, wanted)
        if saves:
            file.write_bytes(data + b"saved %d\n" % saves.pop())
        return result

    monkeypatch.setattr(yaml_edit, "apply", apply_slowly)
    assert edit_file(file, edit) == []
    assert file.read_bytes() == b"---\nid: t-1\nstatus: Done  # c\n---\n# T\nsaved 3\nsaved 2\nsaved 1\n"


@pytest.mark.parametrize("saves", [1, 2, 3])
def test_what_an_editor_saves_by_rename_after_the_last_look_is_not_lost(
    file: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    real, left = core_files.exchange, list(range(saves))

    def exchange(first: Path, second: Path) -> bool:
        if left:
            left.pop()
            saved = file.with_name("saved")
            saved.write_bytes(file.read_bytes() + b"one more line\n")
            os.rename(saved, file)
        return real(first, second)

    if not real(write(file.with_name("a"), "a"), write(file.with_name("b"), "b")):
        pytest.skip("this system cannot exchange two files; renames leave a moment open")
    monkeypatch.setattr(rewriting, "exchange", exchange)
    edit_file(file, change(file, "status", "done"))
    assert "status: done" in file.read_text()
    assert "one more line" in file.read_text()
    assert left == []


def test_a_file_that_never_rests_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit, real = change(file, "status", "Done"), yaml_edit.apply

    def apply_slowly(data: bytes, wanted: FileEdit) -> tuple[bytes, list[str]]:
        file.write_bytes(data + b"x\n")
        return real(data, wanted)

    monkeypatch.setattr(yaml_edit, "apply", apply_slowly)
    with pytest.raises(Refused, match="another program"):
        edit_file(file, edit)
    assert b"To Do" in file.read_bytes()


def test_a_file_that_is_gone_is_told(file: Path) -> None:
    edit = change(file, "status", "Done")
    file.unlink()
    with pytest.raises(Unreadable, match="missing"):
        edit_file(file, edit)
    assert len(revert_file(file, edit)) == 1
    assert not file.exists()


def test_a_lock_that_is_held_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "_LOCK_SECONDS", 0.05)
    code = (
        "import os, sys, filelock; from hypervisor.core.project import file_lock_path\n"
        "with filelock.FileLock(file_lock_path(sys.argv[1], os.environ)):\n"
        "  print('held', flush=True); sys.stdin.read()"
    )
    with python(code, str(file)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Refused, match="locked by another process"):
            edit_file(file, change(file, "status", "Done"))
        holder.communicate()


def test_files_of_no_project_share_few_locks_and_are_edited_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(rewriting, "_LOCK_SECONDS", 1.0)
    notes = [tmp_path / f"note-{n}.md" for n in range(400)]
    for note in notes:
        note.write_bytes(b"a")
    answers = rewriting.rewrite_all(
        [rewriting.Rewrite(path=note, change=lambda data: (data + b"b", [])) for note in notes * 2]
    )
    assert [answer.error for answer in answers] == [None] * 800
    assert {note.read_bytes() for note in notes} == {b"abb"}
    assert len(list((tmp_path / "cache/hypervisor/filelocks").iterdir())) <= 256


def test_a_completion_report_is_a_section_of_one_line_values() -> None:
    edit = completion_report(
        outcome="fixed\nit", who="w-1", when="2025-01-01T00:00:00Z", commit="abc", newline="\r\n"
    )
    assert edit == LineEdit(
        text="\r\n## Completion\r\n\r\n- Outcome: fixed it\r\n- Commit: abc\r\n- By: w-1\r\n"
        "- At: 2025-01-01T00:00:00Z\r\n",
        after=None,
    )


def test_a_completion_is_undone_to_the_byte_also_after_receipts(file: Path) -> None:
    before = file.read_bytes()
    keys = change(file, "status", "Done").keys
    edit = FileEdit(path=str(file), keys=keys, lines=(completion_report(outcome="ok", who="w", when="now"),))
    assert edit_file(file, edit) == []
    after = file.read_bytes()
    add_receipt(file, "sent")
    assert revert_file(file, edit) == []
    assert file.read_bytes() == before + b"\n## Receipts\n\n- sent\n"
    file.write_bytes(after)
    assert revert_file(file, edit) == []
    assert file.read_bytes() == before


# -------------------------------------------------------------------- many at once


def test_many_files_are_changed_together_each_folder_synced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / STATE
    state.mkdir()  # in a project each file has a lock of its own; outside, files share locks
    files = [write(tmp_path / f"tasks/{number % 2}/t-{number}.md", f"old {number}") for number in range(8)]
    folders: list[Path] = []
    sync = sync_directory

    def noted(folder: Path) -> None:
        folders.append(folder)
        sync(folder)

    monkeypatch.setattr(rewriting, "sync_directory", noted)
    answers = rewrite_all([
        Rewrite(path=path, change=lambda data: (data.replace(b"old", b"new"), [])) for path in files
    ])  # fmt: skip
    assert [path.read_text() for path in files] == [f"new {number}" for number in range(8)]
    assert [answer.data for answer in answers] == [path.read_bytes() for path in files]
    assert sorted(folders) == [tmp_path / "tasks/0", tmp_path / "tasks/1"]
    assert sorted(os.listdir(tmp_path / "tasks/0")) == [f"t-{number}.md" for number in (0, 2, 4, 6)]


def test_a_file_that_fails_keeps_no_other_from_being_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write(tmp_path / f"t-{number}.md", "old") for number in range(3)]
    gone = tmp_path / "gone.md"
    exchange = core_files.exchange

    def full(source: Path, target: Path) -> bool:
        if target == files[1]:
            raise OSError(28, "No space left on device")
        return exchange(source, target)

    monkeypatch.setattr(rewriting, "exchange", full)
    answers = rewrite_all([Rewrite(path=path, change=lambda _: (b"new", [])) for path in [gone, *files]])
    assert [type(answer.error) for answer in answers] == [Unreadable, type(None), OSError, type(None)]
    assert [path.read_text() for path in files] == ["new", "old", "new"]
    assert sorted(os.listdir(tmp_path)) == ["t-0.md", "t-1.md", "t-2.md"]


def test_changes_of_one_file_follow_each_other(tmp_path: Path) -> None:
    path, link = write(tmp_path / "t.md", "0"), tmp_path / "link.md"
    link.symlink_to(path)
    names = [path, link, path]

    def adding(mark: bytes) -> Change:
        return lambda data: (data + mark, [])

    marks = [b"a", b"b", b"c"]
    rewrite_all([Rewrite(path=name, change=adding(mark)) for name, mark in zip(names, marks, strict=True)])
    assert path.read_text() == "0abc"


def test_two_that_change_the_same_files_at_once_wait_for_each_other(tmp_path: Path) -> None:
    files = [write(tmp_path / f"t-{number}.md", "") for number in range(40)]

    def add(mark: bytes, names: list[Path]) -> None:
        for _ in range(5):
            rewrite_all([Rewrite(path=name, change=lambda data: (data + mark, [])) for name in names])

    both = [(b"a", files), (b"b", files[::-1])]
    threads = [threading.Thread(target=add, args=arguments) for arguments in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {"".join(sorted(path.read_text())) for path in files} == {"aaaaabbbbb"}


# ----------------------------------------------------------------------- receipts


def add_receipt(path: Path, line: str) -> None:
    change_text(path, lambda text, start: with_receipt(text, start, as_receipt(line)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "## Receipts\n\n- r\n"),
        ("no frontmatter", "no frontmatter\n\n## Receipts\n\n- r\n"),
        ("---\nid: 1\n---\n# T\n", "---\nid: 1\n---\n# T\n\n## Receipts\n\n- r\n"),
        ("---\r\nid: 1\r\n---\r\nx\r\n", "---\r\nid: 1\r\n---\r\nx\r\n\r\n## Receipts\r\n\r\n- r\r\n"),
        ("---\nbad: yaml: here\n---\nx\n", "---\nbad: yaml: here\n---\nx\n\n## Receipts\n\n- r\n"),
        ("## Receipts\n\n- a\n", "## Receipts\n\n- a\n- r\n"),
        ("## Receipts\n\n- a", "## Receipts\n\n- a\n- r\n"),
        ("## Receipts\n\n- a\n\n## Next\n", "## Receipts\n\n- a\n- r\n\n## Next\n"),
        ("## Receipts\n- a\n### Below\n- b\n# Next\n", "## Receipts\n- a\n### Below\n- b\n- r\n# Next\n"),
        ("```\n## Receipts\n```\n", "```\n## Receipts\n```\n\n## Receipts\n\n- r\n"),
    ],
)
def test_a_receipt_stands_at_the_end_of_its_section(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path / "t.md", text)
    add_receipt(path, "r")
    assert path.read_bytes().decode() == expected


def test_a_receipt_is_one_line(file: Path) -> None:
    add_receipt(file, "- one\r\ntwo\n\n## three\u2028four")
    assert file.read_bytes().endswith(b"## Receipts\n\n- one two ## three four\n")


def python(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a process of its own that runs *code* with the package at hand."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=SCRIPTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


RECEIPTS = """
import sys; from pathlib import Path
from hypervisor.tasks.receipts import with_receipt
from hypervisor.tasks.files import change_text
print("ready", flush=True); sys.stdin.readline()
for number in range(50):
    line = f"- worker {sys.argv[2]} receipt {number}"
    change_text(Path(sys.argv[1]), lambda text, start: with_receipt(text, start, line))
"""


@pytest.mark.slow
def test_of_eight_processes_receipts_none_is_lost(file: Path) -> None:
    writers = [python(RECEIPTS, str(file), str(number)) for number in range(8)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    head, _, tail = file.read_text("utf-8").partition("## Receipts\n\n")
    assert head == "---\nid: t-1\nstatus: To Do  # c\n---\n# T\n\n"
    lines = tail.splitlines()
    assert sorted(lines) == sorted(f"- worker {w} receipt {n}" for w in range(8) for n in range(50))
    for worker in range(8):  # each one's in their order
        mine = [line for line in lines if line.startswith(f"- worker {worker} ")]
        assert mine == [f"- worker {worker} receipt {n}" for n in range(50)]


EDITS = """
import sys; from pathlib import Path
from hypervisor.documents import yaml_edit
from hypervisor.core.model import FileEdit
from hypervisor.tasks.files import edit_file
path = Path(sys.argv[1])
while True:
    for word in ("Done", "To Do"):
        document = yaml_edit.parse(path.read_bytes(), str(path))
        edit_file(path, FileEdit(path=str(path), keys=(document.edit("status", word),)))
        print(word, flush=True)
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_time_leaves_the_file_whole(file: Path) -> None:
    body = "".join(f"line {number}\n" for number in range(20_000))
    file.write_bytes(file.read_bytes() + body.encode())
    whole = {file.read_bytes(), file.read_bytes().replace(b"To Do", b"Done")}
    chance = random.Random(4)
    for _ in range(12):
        with python(EDITS, str(file)) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randrange(1, 6)):
                assert writer.stdout.readline()
            # It goes on writing after its last word, so the signal meets it anywhere in an edit.
            for _ in range(chance.randrange(20_000)):
                pass
            writer.send_signal(signal.SIGKILL)
        assert file.read_bytes() in whole
    # No lock outlives its process.
    assert edit_file(file, change(file, "status", "Done")) == []
    assert list(find_task_files(file.parents[1], SETTINGS)) == [file]
