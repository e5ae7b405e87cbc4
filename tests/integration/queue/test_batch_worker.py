"""`batch_worker.py` as its user starts it: real files and signals, and processes where several work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commands import (
    BATCH_WORKER,
    HYPERVISOR,
    Gate,
    Shell,
    children,
    eventually,
    gone,
    result_of,
    results,
    script,
    tree,
    write_task,
)
from inprocess import in_process

Gates = Callable[[str], Gate]


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with in_process(tmp_path) as made:
        yield made


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[Gates]:
    made: list[Gate] = []
    folder = tmp_path / "gates"
    folder.mkdir()

    def gate(name: str) -> Gate:
        made.append(Gate(folder, name))
        return made[-1]

    yield gate
    for one in made:
        one.close()


def queue(user: Shell, *items: str, name: str = "work") -> Path:
    """Make a batch's folder with a queue of *items*."""
    folder = user.cwd / name
    folder.mkdir(exist_ok=True)
    (folder / "queue.txt").write_text("".join(f"{item}\n" for item in items), "utf-8")
    return folder


def stats(user: Shell, folder: Path) -> dict[str, object]:
    """Return what ``--stats --json`` says."""
    data: dict[str, object] = json.loads(user.worker("--dir", str(folder), "--stats", "--json").out)
    return data


def files(folder: Path) -> dict[str, str]:
    """Return what stands below *folder*, but for the files of the database."""
    return {name: what for name, what in tree(folder).items() if not name.startswith(("hypervisor.db", "."))}


def records(path: Path) -> list[str]:
    """Return the lines that items' commands wrote."""
    return path.read_text("utf-8").splitlines() if path.exists() else []


# ------------------------------------------------------------------- the flow


def test_two_terminals_share_a_queue_and_every_task_is_done_once(user: Shell) -> None:
    notes = user.home / "notes"
    for number in range(70):
        write_task(notes / f"n{number % 7}" / f"task-{number}.md", title="Fix typo in the README")
    work = user.cwd / "work"
    user.run(["mkdir", "-p", "work/locks", "work/results"]).passed()
    found = user.run(["find", str(notes), "-name", "*.md"])
    (work / "queue.txt").write_bytes(found.out_bytes)
    running = [user.start("--dir", "work", "--batch", "50") for _ in range(2)]
    for one in running:
        one.end().passed()
    assert user.worker("--batch", "50", cwd=work).code in (0, 3)
    told = user.worker("--dir", "work", "--stats").passed().out
    assert "queue_total  70" in told
    assert "success      70" in told
    found_results = results(work)
    assert len(found_results) == 70
    assert len({result["item"] for result in found_results}) == 70
    assert sorted(result["item"] for result in found_results) == sorted(found.lines)
    assert os.listdir(work / "locks") == []
    assert all("complexity: " in path.read_text() for path in notes.rglob("*.md"))
    assert user.worker("--dir", "work", "--batch", "50").code == 3


def test_the_current_folder_is_the_batch_where_it_holds_a_queue(user: Shell) -> None:
    work = queue(user, "a", "b")
    user.worker("--all", "--exec", "true", cwd=work).passed()
    assert [result["item"] for result in results(work)] == ["a", "b"]


def test_spellings_of_one_file_are_one_item_from_whatever_folder(user: Shell) -> None:
    (user.cwd / "deep").mkdir()
    (user.cwd / "a").touch()
    (user.cwd / "link").symlink_to(user.cwd)
    work = queue(user, "a", "./a", "deep/../a", str(user.cwd / "a"), f"{user.cwd}//a", "link/a", "b")
    log = user.cwd / "log"
    append = script(user.cwd, "append", f'echo "$1" >> {log}')
    running = [
        user.start("--dir", str(work), "--all", "--exec", append, cwd=cwd)
        for cwd in (user.cwd, user.cwd / "deep", work)
    ]
    for one in running:
        assert one.end().code in (0, 3)
    assert len(records(log)) == 2
    assert stats(user, work) | {"queue_total": 2, "success": 2, "duplicates": 5} == stats(user, work)


def test_relative_items_mean_the_same_files_for_every_later_worker(user: Shell) -> None:
    (user.cwd / "a").write_text("here")
    work = queue(user, "a", "b")
    user.worker("--dir", "work", "--batch", "1", "--exec", "cat {}").passed()
    (user.home / "b").write_text("elsewhere")
    (user.cwd / "b").write_text("here")
    user.worker("--dir", str(work), "--all", "--exec", "cat {}", cwd=user.home).passed()
    assert [result["outcome"] for result in results(work)] == ["here", "here"]


# ------------------------------------------------------------------- how many


@pytest.mark.parametrize("workers", ["1", "4"])
def test_batch_counts_what_one_invocation_does(user: Shell, workers: str) -> None:
    work = queue(user, *(f"i{number}" for number in range(10)))
    for done in (4, 8, 10):
        user.worker("--dir", "work", "--batch", "4", "--workers", workers, "--exec", "true").passed()
        assert len(results(work)) == done
    assert user.worker("--dir", "work", "--batch", "4", "--workers", workers, "--exec", "true").code == 3


def test_four_workers_run_at_once(user: Shell, gates: Gates) -> None:
    gate = gates("gate")
    work = queue(user, *(f"i{number}" for number in range(6)))
    command = script(user.cwd, "wait", gate.words)
    running = user.start("--dir", "work", "--all", "--workers", "4", "--exec", command, "--json")
    assert len(set(gate.wait(4))) == 4
    gate.open(6)
    ended = running.end().passed()
    assert ended.json["processed"] == 6
    assert len({result["worker"] for result in results(work)}) == 4


def test_lines_that_are_appended_while_workers_run_are_done_too(user: Shell, gates: Gates) -> None:
    gate = gates("gate")
    work = queue(user, "first")
    running = user.start("--dir", "work", "--all", "--exec", script(user.cwd, "wait", gate.words))
    gate.wait()
    with open(work / "queue.txt", "a") as file:
        file.write("second\nthird\n")
    gate.open(3)
    running.end().passed()
    assert [result["item"] for result in results(work)] == ["first", "second", "third"]


# ----------------------------------------------------------------------- exec


@pytest.mark.parametrize(
    ("code", "exit_code", "status", "outcome"),
    [
        (0, 0, "success", "last words"),
        (1, 1, "failed", "exit 1: last words"),
        (2, 1, "failed", "exit 2: last words"),
        (77, 1, "failed", "exit 77: last words"),
        (78, 0, "blocked", "last words"),
        (255, 1, "failed", "exit 255: last words"),
    ],
)
def test_the_exit_code_of_a_command_is_its_result(
    user: Shell, code: int, exit_code: int, status: str, outcome: str
) -> None:
    work = queue(user, "a")
    command = script(user.cwd, "cmd", f"echo first; echo last words; echo; exit {code}")
    assert user.worker("--dir", "work", "--all", "--exec", command).code == exit_code
    result = result_of(work, "a")
    assert (result["status"], result["outcome"]) == (status, outcome)
    assert result["evidence"] == {"exit": code}


@pytest.mark.parametrize(
    ("code", "outcome"), [(0, "start a"), (1, "exit 1: ValueError: bad"), (78, "start a")]
)
def test_the_reason_of_a_failure_is_its_last_error(user: Shell, code: int, outcome: str) -> None:
    work = queue(user, "a")
    command = script(
        user.cwd, "cmd", f"echo start a; echo Traceback >&2; echo ValueError: bad >&2; exit {code}"
    )
    user.worker("--dir", "work", "--all", "--exec", command)
    assert result_of(work, "a")["outcome"] == outcome


def test_exit_75_asks_for_another_attempt_and_has_three(user: Shell) -> None:
    work = queue(user, "once", "always")
    mark = user.cwd / "mark"
    text = f'[ "$1" = once ] && [ -e {mark} ] && exit 0; touch {mark}; echo "not yet"; exit 75'
    ended = user.worker("--dir", "work", "--all", "--exec", script(user.cwd, "cmd", text))
    assert result_of(work, "once") | {"status": "success", "attempt": 2} == result_of(work, "once")
    given_up = result_of(work, "always")
    assert given_up["status"] == "failed"
    assert given_up["outcome"] == "gave up after 3 attempts: " + "; ".join(
        f"attempt {number}: exit 75: not yet" for number in (1, 2, 3)
    )
    assert ended.code == 1, "an item failed, and the exit code says that none did"
    assert "failed   always: gave up after 3 attempts" in ended.out


def test_a_given_up_item_is_counted_by_a_pool_too(user: Shell) -> None:
    queue(user, "a", "b")
    ended = user.worker("--dir", "work", "--all", "--workers", "2", "--exec", "sh -c 'exit 75'", "--json")
    assert ended.code == 1
    assert ended.json["results"] == {"failed": 2}


def test_failed_commands_are_tried_again_as_often_as_asked(user: Shell) -> None:
    work = queue(user, "a")
    log = user.cwd / "log"
    command = script(user.cwd, "cmd", f"echo $HYPERVISOR_ATTEMPT >> {log}; exit 3")
    assert user.worker("--dir", "work", "--all", "--retries", "2", "--exec", command).code == 1
    assert records(log) == ["1", "2", "3"]
    assert result_of(work, "a")["outcome"].startswith("gave up after 3 attempts: attempt 1: exit 3; ")


def test_a_failed_command_is_not_tried_again_unasked(user: Shell) -> None:
    work = queue(user, "a")
    log = user.cwd / "log"
    assert (
        user.worker("--dir", "work", "--all", "--exec", script(user.cwd, "c", f"echo >> {log}; exit 3")).code
        == 1
    )
    assert len(records(log)) == 1
    assert result_of(work, "a")["attempt"] == 1


def test_braces_stand_for_the_item_in_the_middle_of_a_word_too(user: Shell) -> None:
    work = queue(user, "a b")
    show = script(user.cwd, "show", 'for word; do printf "<%s>" "$word"; done')
    user.worker("--dir", "work", "--all", "--exec", f"{show} --in={{}}.txt 'x y' {{}}").passed()
    assert result_of(work, "a b")["outcome"] == "<--in=a b.txt><x y><a b>"


def test_without_braces_the_item_is_the_last_word(user: Shell) -> None:
    work = queue(user, "a b")
    show = script(user.cwd, "show", 'for word; do printf "<%s>" "$word"; done')
    user.worker("--dir", "work", "--all", "--exec", f"{show} -v").passed()
    assert result_of(work, "a b")["outcome"] == "<-v><a b>"


def test_no_shell_ever_sees_an_item(user: Shell) -> None:
    items = ["; touch x", "$(touch x)", "`touch x`", "| touch x", "> x", "&& touch x", "-n"]
    work = queue(user, *items)
    user.worker("--dir", "work", "--all", "--exec", "printf %s {}").passed()
    assert not (user.cwd / "x").exists()
    assert not (work / "x").exists()
    assert {result["item"]: result["outcome"] for result in results(work)} == {item: item for item in items}


def test_a_command_finds_the_item_in_its_environment(user: Shell) -> None:
    root = user.cwd / "project"
    write_task(root / "tasks/t-1.md")
    (root / ".hypervisor").mkdir(mode=0o700)
    (root / ".hypervisor/.gitignore").write_text("*\n")
    work = queue(user, "tasks/t-1.md", "plain", name="project/work")
    env = script(user.cwd, "env", "env | grep ^HYPERVISOR_ | sort | tr '\\n' ' '")
    user.worker("--dir", "work", "--all", "--exec", env, cwd=root).passed()
    plain = dict(pair.split("=", 1) for pair in result_of(work, "plain")["outcome"].split())
    assert (
        plain
        | {
            "HYPERVISOR_ITEM": "plain",
            "HYPERVISOR_BATCH": "work",
            "HYPERVISOR_ATTEMPT": "1",
            "HYPERVISOR_ROOT": str(root),
        }
        == plain
    )
    assert "HYPERVISOR_TASK_FILE" not in plain
    task = dict(pair.split("=", 1) for pair in result_of(work, "tasks/t-1.md")["outcome"].split())
    assert task["HYPERVISOR_TASK_FILE"] == str(root / "tasks/t-1.md")
    assert not [name for name in task if any(word in name for word in ("KEY", "TOKEN", "AUTH"))]


def test_commands_run_in_the_folder_that_items_are_relative_to(user: Shell) -> None:
    (user.cwd / "a").touch()
    work = queue(user, "a")
    user.worker("--dir", str(work), "--all", "--exec", "sh -c pwd").passed()
    assert result_of(work, "a")["outcome"] == str(user.cwd)


def test_what_commands_print_is_kept_and_empty_logs_are_not(user: Shell) -> None:
    work = queue(user, "out", "err", "none")
    text = "case $1 in out) echo to out;; err) echo to err >&2; exit 4;; esac"
    user.worker("--dir", "work", "--all", "--exec", script(user.cwd, "cmd", text))
    kept = {path.suffix: path.read_text() for path in (work / "logs").iterdir()}
    assert kept == {".out": "to out\n", ".err": "to err\n"}
    assert result_of(work, "err")["outcome"] == "exit 4: to err"
    assert result_of(work, "none")["outcome"] == "exit 0"


def test_a_program_that_is_missing_fails_the_item_and_leaves_no_empty_logs(user: Shell) -> None:
    work = queue(user, "a")
    assert user.worker("--dir", "work", "--all", "--exec", "no-such-program {}").code == 1
    assert result_of(work, "a")["outcome"] == "cannot start 'no-such-program': No such file or directory"
    assert list((work / "logs").iterdir()) == []


def test_a_command_that_a_signal_ends_has_failed(user: Shell) -> None:
    work = queue(user, "a")
    assert user.worker("--dir", "work", "--all", "--exec", "sh -c 'kill -9 $$' {}").code == 1
    assert result_of(work, "a")["outcome"] == "killed by signal 9"


@pytest.mark.slow
def test_a_timeout_ends_the_whole_tree(user: Shell, gates: Gates) -> None:
    gate = gates("gate")
    work = queue(user, "a")
    # One that ignores TERM, one in the background, and one that has left the process group.
    stubborn = script(user.cwd, "stubborn", f"trap '' TERM; {gate.words}")
    polite = script(user.cwd, "polite", gate.words)
    outside = script(user.cwd, "outside", f"exec setsid {polite}")
    command = script(user.cwd, "cmd", f"{stubborn} & {polite} & {outside} & wait")
    running = user.start("--dir", "work", "--all", "--timeout", "0.5", "--exec", command)
    pids = gate.wait(3)
    assert running.end().code == 1
    assert result_of(work, "a")["outcome"] == "timed out after 0.5 s"
    gone(*pids)


def test_what_a_command_leaves_in_its_process_group_ends_with_it(user: Shell, gates: Gates) -> None:
    gate = gates("gate")
    queue(user, "a")
    background = script(user.cwd, "background", gate.words)
    command = script(user.cwd, "cmd", f"{background} > /dev/null & read line < {gate.go}; echo done")
    running = user.start("--dir", "work", "--all", "--exec", command)
    pids = gate.wait()
    gate.open()
    running.end()
    gone(*pids)


# -------------------------------------------------------------------- looking


def test_a_new_folder_is_made_for_a_queue_and_found_by_its_name(user: Shell) -> None:
    words = ("--all", "--exec", "true")
    user.run([*BATCH_WORKER, "--dir", "new", "--queue", "-", *words], stdin=b"a\n").passed()
    (user.cwd / "list.txt").write_text("a\n")
    user.worker("--dir", "newer", "--queue", "list.txt", *words).passed()
    assert "1 queued = 1 success" in user.hypervisor("summary", "new").passed().out
    user.hypervisor("watch").refused(2, "try: hypervisor watch --dir new; hypervisor watch --dir newer")
    assert "queue    new: hypervisor status --dir new\n" in user.hypervisor("status").out
    user.worker("--dir", "none", "--queue", "none.txt", *words).refused(2, "--queue none.txt: no such file")
    assert not (user.cwd / "none").exists()


def test_a_run_counts_its_results_in_one_order(user: Shell) -> None:
    queue(user, "1", "78", "0")
    command = script(user.cwd, "cmd", "exit $1")
    ended = user.worker("--dir", "work", "--all", "--exec", command)
    assert "this run: 1 success, 1 blocked, 1 failed\n" in ended.out


def test_a_dry_run_changes_nothing(user: Shell) -> None:
    task = write_task(user.cwd / "notes/t-1.md", title="Fix typo in the README")
    work = queue(user, "notes/t-1.md", "notes/none.md")
    before = tree(user.cwd)
    told = user.worker("--dir", "work", "--dry-run").passed()
    assert told.lines[0].startswith("triage assigns work for a person to 'nic', work for an agent to 'bot'; ")
    assert "hypervisor config set triage.person" in told.lines[0]
    assert told.lines[1].startswith("would set notes/t-1.md: complexity mechanical")
    assert told.lines[2:4] == ["    +complexity: mechanical", "    +assignee: bot"]
    assert told.lines[4] == "would fail notes/none.md: missing"
    assert told.lines[5] == "in all: 1 to set, 1 to fail"
    assert told.lines[6].startswith("why: 1 x complexity mechanical: ")
    rows = user.worker("--dir", "work", "--dry-run", "--json", "--batch", "1").passed().json
    assert [row["item"] for row in rows] == ["notes/t-1.md"]
    assert {decision["field"] for decision in rows[0]["decisions"]} == {
        "status",
        "complexity",
        "assignee",
        "link",
    }
    shown = user.worker("--dir", "work", "--dry-run", "--exec", "cat '{}' x").passed().lines
    assert shown[0] == "would run notes/t-1.md: cat notes/t-1.md x"
    assert tree(user.cwd) == before
    compiled = user.home / ".cache/hypervisor/compiled"  # Python's, of the command itself
    others = [path for path in user.home.rglob("*") if compiled not in (path, *path.parents)]
    assert [path for path in others if not path.is_dir()] == []
    assert task.exists()
    assert work.exists()


def test_a_dry_run_of_tasks_makes_no_batch(user: Shell) -> None:
    write_task(user.cwd / "tasks/t-1.md")
    before = tree(user.cwd)
    told = user.worker("--tasks", "tasks/*.md", "--dry-run").passed().lines
    assert told[-2:] == ["in all: 1 to leave", "1 of 1 undecided: no strong evidence"]
    assert tree(user.cwd) == before


@pytest.mark.parametrize("look", ["--dry-run", "--stats"])
def test_looking_takes_no_items_in(user: Shell, look: str) -> None:
    queue(user, "a")
    before = tree(user.cwd)
    ended = user.worker("--dir", "work", "--queue", "-", look, stdin=b"b\n")
    ended.refused(2, "--queue -", look)
    assert tree(user.cwd) == before


def test_stats_are_one_document_and_change_nothing(user: Shell) -> None:
    work = queue(user, "ok", "bad", "stuck", "ok", "later")
    text = "case $1 in bad) exit 1;; stuck) exit 78;; esac"
    user.worker("--dir", "work", "--batch", "3", "--exec", script(user.cwd, "cmd", text))
    before = files(work)
    ended = user.worker("--dir", "work", "--stats", "--json").passed()
    assert ended.json == {
        "queue_total": 4, "success": 1, "blocked": 1, "failed": 1, "skipped": 0, "running": 0, "waiting": 1,
        "duplicates": 1, "closes": True, "held_by_lock": [],
    }  # fmt: skip
    assert "waiting      1" in user.worker("--dir", "work", "--stats").passed().out
    assert files(work) == before


def test_stats_of_a_queue_that_nobody_has_begun_change_nothing(user: Shell) -> None:
    work = queue(user, "a", "b")
    before = tree(work)
    assert stats(user, work) | {"queue_total": 2, "waiting": 2} == stats(user, work)
    assert tree(work) == before


def test_stats_see_what_runs(user: Shell, gates: Gates) -> None:
    gate = gates("gate")
    work = queue(user, "a", "b")
    running = user.start("--dir", "work", "--all", "--exec", script(user.cwd, "wait", gate.words))
    gate.wait()
    before = files(work)
    assert stats(user, work) | {"running": 1, "waiting": 1} == stats(user, work)
    assert files(work) == before
    gate.open(2)
    running.end().passed()


def test_stats_pay_for_no_dependency(user: Shell) -> None:
    work = queue(user, "a")
    user.worker("--dir", "work", "--all", "--exec", "true").passed()
    words = [sys.executable, "-X", "importtime", *BATCH_WORKER[1:], "--dir", str(work), "--stats"]
    ended = user.run(words).passed()
    loaded = {
        line.rsplit("|", 1)[-1].strip() for line in ended.err.splitlines() if line.startswith("import time:")
    }
    assert "hypervisor.queue.summary" in loaded
    for name in ("yaml", "psutil", "filelock", "rich", "frontmatter", "asyncio"):
        assert not [module for module in loaded if module.split(".")[0] == name], name


# --------------------------------------------------------------------- queues


def test_another_queue_file_may_be_named(user: Shell) -> None:
    folder = user.cwd / "work"
    folder.mkdir()
    (user.cwd / "list").write_text("a\nb\n")
    user.worker("--dir", "work", "--queue", "list", "--batch", "1", "--exec", "true").passed()
    user.worker("--dir", "work", "--queue", "list", "--all", "--workers", "2", "--exec", "true").passed()
    assert [result["item"] for result in results(folder)] == ["a", "b"]
    (user.cwd / "other").write_text("c\n")
    ended = user.worker("--dir", "work", "--queue", "other", "--all", "--exec", "true")
    ended.refused(2, "this batch was begun with the queue", str(user.cwd / "list"))


def test_items_that_end_with_nul_are_taken_from_standard_input(user: Shell) -> None:
    folder = user.cwd / "work"
    folder.mkdir()
    words = ["--dir", "work", "--queue", "-", "-0", "--all", "--exec", "true"]
    user.worker(*words, stdin=b"a\nb\0c\0").passed()
    user.worker(*words, "--workers", "2", stdin=b"d").passed()
    assert [result["item"] for result in results(folder)] == ["a\nb", "c", "d"]


def test_lines_of_standard_input_are_added_to_the_queue(user: Shell) -> None:
    work = queue(user, "a")
    (work / "queue.txt").write_text("a")  # without a line end
    user.worker("--dir", "work", "--queue", "-", "--all", "--exec", "true", stdin=b"b\nc").passed()
    assert [result["item"] for result in results(work)] == ["a", "b", "c"]
    assert (work / "queue.txt").read_text() == "a\nb\nc\n"


@pytest.mark.parametrize("begun", ["-0", ""])
def test_items_in_another_form_than_the_queues_are_not_taken_in(user: Shell, begun: str) -> None:
    folder = user.cwd / "work"
    folder.mkdir()
    rest = ["--dir", "work", "--queue", "-", "--all", "--exec", "true"]
    user.worker(*rest, *filter(None, [begun]), stdin=b"a").passed()
    before = (folder / "queue.txt").read_bytes()
    other = [] if begun else ["-0"]
    user.worker(*rest, *other, stdin=b"b\nc\n").refused(2, "this queue was begun with items", "-0")
    assert (folder / "queue.txt").read_bytes() == before


def test_items_are_not_added_to_a_file_that_is_not_the_batches_queue(user: Shell) -> None:
    folder = user.cwd / "work"
    folder.mkdir()
    (user.cwd / "list").write_text("a\n")
    user.worker("--dir", "work", "--queue", "list", "--all", "--exec", "true").passed()
    ended = user.worker("--dir", "work", "--queue", "-", "--all", "--exec", "true", stdin=b"b\n")
    ended.refused(2, "this batch was begun with the queue", str(user.cwd / "list"))


# ---------------------------------------------------------------------- tasks


def test_a_batch_of_tasks_says_what_it_skips_and_leaves_the_rest_triaged(user: Shell) -> None:
    write_task(user.cwd / "tasks/t-1.md", title="Fix typo in the README")
    write_task(user.cwd / "tasks/t-2.md", status="done")
    write_task(user.cwd / "tasks/t-3.md", status="completed")
    write_task(user.cwd / "tasks/t-4.md", status="cancelled")
    ended = user.worker("--tasks", "tasks/**/*.md", "--all", "--workers", "2", "--json").passed()
    assert "1 tasks, 2 skipped (already complete), 1 skipped (cancelled)" in ended.err
    summary = ended.json["summary"]
    assert summary["census"] | {"queued": 4, "success": 1, "skipped": 3} == summary["census"]
    assert "complexity: mechanical" in (user.cwd / "tasks/t-1.md").read_text()
    state = user.cwd / ".hypervisor"
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / ".gitignore").read_text() == "*\n"
    again = user.worker("--tasks", "tasks/t-2.md", "--all")
    again.refused(3, "nothing to do", "1 skipped (already complete)")


def test_without_any_name_the_newest_batch_is_meant(user: Shell) -> None:
    write_task(user.cwd / "tasks/t-1.md")
    write_task(user.cwd / "tasks/t-2.md")
    user.worker("--tasks", "tasks/*.md", "--batch", "1").passed()
    assert (
        user.worker("--stats", "--json").json | {"queue_total": 2, "success": 1}
        == user.worker("--stats", "--json").json
    )
    user.worker("--all").passed()
    assert user.worker("--stats", "--json").json["success"] == 2


# -------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_once_finishes_what_is_in_hand(
    user: Shell, gates: Gates, number: signal.Signals, workers: int
) -> None:
    gate = gates("gate")
    work = queue(user, "a", "b", "c", "d")
    command = script(user.cwd, "wait", gate.words)
    running = user.start("--dir", "work", "--all", "--workers", str(workers), "--exec", command)
    gate.wait(workers)
    pool = children(running.pid) if workers > 1 else [running.pid]
    running.send(number)
    for pid in pool:
        eventually(lambda pid=pid: _handles_no_more(pid), "the signal to be taken")  # type: ignore[misc]
    gate.open(4)
    ended = running.end()
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    assert [result["status"] for result in results(work)] == ["success"] * workers
    assert stats(user, work) | {"running": 0, "waiting": 4 - workers} == stats(user, work)


def _handles_no_more(pid: int) -> bool:
    """Tell whether a process has no signal waiting (the one sent was taken)."""
    status = Path(f"/proc/{pid}/status").read_text()
    words = dict(line.split(":", 1) for line in status.splitlines())
    return int(words["ShdPnd"], 16) == 0 and int(words["SigPnd"], 16) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_stops_at_once_and_the_item_is_free(user: Shell, gates: Gates, workers: int) -> None:
    gate = gates("gate")
    work = queue(user, "a", "b", "c")
    command = script(user.cwd, "wait", gate.words)
    running = user.start("--dir", "work", "--all", "--workers", str(workers), "--exec", command)
    pids = gate.wait(workers)
    running.send(signal.SIGINT)
    eventually(lambda: _handles_no_more(running.pid), "the first signal to be taken")
    running.send(signal.SIGINT)
    ended = running.end()
    assert ended.code == 0, ended.err
    assert "stopped by the user" in ended.out
    told = "hypervisor: finishing the running items; Ctrl-C again stops them\n"
    assert ended.err == f"{told}hypervisor: stopping the running items\n"
    gone(*pids)
    assert results(work) == []
    assert stats(user, work) | {"running": 0, "waiting": 3} == stats(user, work)
    user.worker("--dir", "work", "--all", "--exec", "true").passed()
    assert [result["status"] for result in results(work)] == ["success"] * 3
    assert {result["attempt"] for result in results(work)} == {1, 2}


def test_a_signal_at_the_very_start_of_a_pool_leaves_no_traceback(user: Shell) -> None:
    work = queue(user, *(f"i{number}" for number in range(4)))
    running = user.start("--dir", "work", "--all", "--workers", "2", "--exec", "true")
    eventually(lambda: len(children(running.pid)) == 2, "the children")
    running.send(signal.SIGINT)
    ended = running.end()
    assert "Traceback" not in ended.err, ended.err
    assert "died" not in ended.err
    before = len(results(work))
    assert stats(user, work)["waiting"] == 4 - before


# --------------------------------------------------------------------- deaths


def test_another_worker_takes_the_item_of_one_that_was_killed(user: Shell, gates: Gates) -> None:
    first, second = gates("first"), gates("second")
    work = queue(user, "a", "b")
    text = f"if [ $HYPERVISOR_ATTEMPT = 1 ] && [ $1 = a ]; then {first.words}; else {second.words}; fi"
    command = script(user.cwd, "wait", text)
    victim = user.start("--dir", "work", "--all", "--exec", command)
    (orphan,) = first.wait()
    rescuer = user.start("--dir", "work", "--all", "--exec", command)
    second.wait()
    victim.kill()
    second.open(2)
    ended = rescuer.end(seconds=8).passed()
    assert "success  a" in ended.out
    gone(orphan)
    assert result_of(work, "a")["attempt"] == 2
    assert stats(user, work) | {"success": 2, "running": 0, "waiting": 0} == stats(user, work)


def test_a_pool_whose_command_is_killed_ends_by_itself_and_loses_nothing(user: Shell, gates: Gates) -> None:
    gate = gates("gate")
    work = queue(user, *(f"i{number}" for number in range(8)))
    running = user.start(
        "--dir", "work", "--all", "--workers", "4", "--exec", script(user.cwd, "wait", gate.words)
    )
    gate.wait(4)
    pool = children(running.pid)
    running.kill()
    gate.open(8)
    gone(*pool)
    assert len(results(work)) == 4
    user.worker("--dir", "work", "--all", "--exec", "true").passed()
    assert len(results(work)) == 8
    assert {result["attempt"] for result in results(work)} == {1}


def test_a_pool_member_that_is_killed_costs_one_attempt_and_is_told(user: Shell, gates: Gates) -> None:
    gate = gates("gate")
    work = queue(user, "a", "b")
    running = user.start(
        "--dir", "work", "--all", "--workers", "2", "--exec", script(user.cwd, "w", gate.words)
    )
    gate.wait(2)
    os.kill(children(running.pid)[0], signal.SIGKILL)
    gate.open(3)
    ended = running.end()
    assert ended.code == 1
    assert "1 worker(s) died" in ended.err
    assert sorted(result["attempt"] for result in results(work)) == [1, 2]


def test_a_pool_whose_members_cannot_work_has_not_succeeded(user: Shell) -> None:
    work = queue(user, "a")
    user.worker("--dir", "work", "--batch", "1", "--exec", "true").passed()
    with open(work / "queue.txt", "a") as file:
        file.write("b\n")
    shutil.rmtree(work / "workers")
    (work / "workers").write_text("in the way")
    ended = user.worker("--dir", "work", "--all", "--workers", "2", "--exec", "true")
    assert ended.code == 1, ended.err
    assert "Traceback" not in ended.err


# --------------------------------------------------------------------- output


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_reader_that_goes_away_loses_no_item(user: Shell, workers: str) -> None:
    work = queue(user, *(f"i{number}" for number in range(20)))
    words = [*BATCH_WORKER, "--dir", "work", "--all", "--workers", workers, "--exec", "true"]
    worker = subprocess.Popen(
        words, cwd=user.cwd, env=user.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert worker.stdout is not None
    assert worker.stderr is not None
    head = user.run(["head", "-1"], stdin=worker.stdout.readline())
    assert head.out.startswith("success  i")
    worker.stdout.close()
    err = worker.stderr.read().decode()
    worker.stderr.close()
    assert worker.wait(20) == 1
    assert "Traceback" not in err
    assert "Exception" not in err
    eventually(lambda: stats(user, work)["running"] == 0, "the pool's end")
    assert user.worker("--dir", "work", "--all", "--exec", "true").code in (0, 3)
    assert len(results(work)) == 20
    assert {result["attempt"] for result in results(work)} == {1}


@pytest.mark.parametrize("command", [BATCH_WORKER, HYPERVISOR])
@pytest.mark.parametrize("where", ["closed pipe", "/dev/full"])
def test_output_that_nobody_takes_is_no_traceback(user: Shell, command: tuple[str, ...], where: str) -> None:
    queue(user, "a")
    words = [*command, "--stats"] if command is BATCH_WORKER else [*command, "summary"]
    if where == "closed pipe":
        read, out = os.pipe()
        os.close(read)
    else:
        out = os.open(where, os.O_WRONLY)
    try:
        ended = subprocess.run(
            [*words, "--dir", "work"], cwd=user.cwd, env=user.environment, stdout=out, stderr=subprocess.PIPE,
            timeout=30, check=False,
        )  # fmt: skip
    finally:
        os.close(out)
    assert ended.returncode == 1
    assert b"Exception" not in ended.stderr
    assert len(ended.stderr.splitlines()) == (1 if where == "/dev/full" else 0)


def test_json_is_one_document_whatever_happens(user: Shell) -> None:
    queue(user, "a", "b")
    text = "[ $1 = a ] && exit 1; echo chatter; exit 0"
    ended = user.worker("--dir", "work", "--all", "--json", "--exec", script(user.cwd, "cmd", text))
    assert ended.code == 1
    assert json.loads(ended.out) == ended.json
    assert ended.json["results"] == {"failed": 1, "success": 1}
    assert ended.json["summary"]["census"]["queued"] == 2


def test_the_exit_code_says_how_it_went(user: Shell) -> None:
    queue(user, "a")
    assert user.worker("--dir", "work", "--all", "--exec", "true").code == 0
    assert user.worker("--dir", "work", "--all", "--exec", "true").code == 3
    queue(user, "b", name="other")
    assert user.worker("--dir", "other", "--all", "--exec", "false").code == 1
    assert user.worker("--dir", "other").code == 2


def test_an_item_that_costs_nothing_is_not_waited_for(user: Shell) -> None:
    work = queue(user, *(f"i{number}" for number in range(50)))
    user.worker("--dir", "work", "--all", "--exec", "true").passed()
    assert sum(result["seconds"] for result in results(work)) < 5
