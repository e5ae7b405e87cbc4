"""What a person does to a batch from outside: look, reopen, cancel, undo, take over from the dead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Gate, Shell, eventually, results, script, write_task
from hypervisor.queue.batches import open_folder
from inprocess import in_process


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with in_process(tmp_path) as made:
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path, "gate")
    yield made
    made.close()


def queue(user: Shell, *items: str) -> Path:
    folder = user.cwd / "work"
    folder.mkdir()
    (folder / "queue.txt").write_text("".join(f"{item}\n" for item in items))
    return folder


def batch_of(user: Shell) -> Path:
    """Return the project's one batch."""
    (folder,) = (user.cwd / ".hypervisor/batches").iterdir()
    return folder


def census(user: Shell, *where: str) -> dict[str, int]:
    found: dict[str, int] = user.hypervisor("summary", *where, "--json").json["census"]
    return found


def cycles(folder: Path, item: str) -> list[str]:
    """Return the results of all cycles of an item, the oldest first."""
    with open_folder(folder, cwd=str(folder), write=False) as batch:
        found = batch.store.claims.cycles(batch.ref(item).key)
    return [work.state for work, _ in found]


def short_leases(user: Shell) -> None:
    """Take claims for silent after a moment."""
    (user.cwd / ".hypervisor").mkdir(exist_ok=True)
    (user.cwd / ".hypervisor/config.toml").write_text("[claims]\nlease_seconds = 0.2\n")


# ----------------------------------------------------------------------- retry


def test_what_failed_is_reopened_and_its_first_result_stays(user: Shell) -> None:
    work = queue(user, "ok", "bad", "stuck")
    mark = user.cwd / "mark"
    text = f"[ -e {mark} ] && exit 0; case $1 in bad) exit 1;; stuck) exit 78;; esac"
    command = script(user.cwd, "cmd", text)
    assert user.worker("--dir", "work", "--all", "--exec", command).code == 1
    told = user.hypervisor("retry", "--dir", "work").passed()
    assert told.out == "waiting again: bad\n"
    assert census(user, "--dir", "work") | {"waiting": 1, "blocked": 1, "failed": 0} == census(
        user, "--dir", "work"
    )
    mark.touch()
    user.worker("--dir", "work", "--all", "--exec", command).passed()
    assert len(results(work)) == 3
    assert cycles(work, "bad") == ["failed", "success"]
    assert user.hypervisor("retry", "--dir", "work").code == 3
    opened = user.hypervisor("retry", "--dir", "work", "--failed", "--blocked", "--json").passed()
    assert opened.json == {"waiting_again": ["stuck"]}
    user.hypervisor("retry", "--dir", "work", "--item", "./ok").passed()
    assert census(user, "--dir", "work") | {"success": 1, "waiting": 2} == census(user, "--dir", "work")
    user.worker("--dir", "work", "--all", "--workers", "2", "--exec", command).passed()
    assert census(user, "--dir", "work")["success"] == 3


def test_reopened_twice_is_reopened_once(user: Shell) -> None:
    work = queue(user, "bad")
    user.worker("--dir", "work", "--all", "--exec", "false")
    user.hypervisor("retry", "--dir", "work").passed()
    assert user.hypervisor("retry", "--dir", "work").code == 3
    user.worker("--dir", "work", "--all", "--exec", "false")
    assert cycles(work, "bad") == ["failed", "failed"]


def test_a_task_that_failed_is_reopened_in_its_project(user: Shell) -> None:
    path = write_task(user.cwd / "tasks/t-1.md")
    path.write_text("---\nid: [\n---\n")
    assert user.worker("--tasks", "tasks/*.md", "--all").code == 1
    write_task(path, title="Fix typo in the README")
    user.hypervisor("retry").passed()
    user.worker("--all").passed()
    assert "complexity: mechanical" in path.read_text()
    assert cycles(batch_of(user), "tasks/t-1.md") == ["failed", "success"]
    assert census(user)["success"] == 1


def test_a_task_that_an_agent_blocked_is_reopened_with_its_file(user: Shell) -> None:
    path = write_task(user.cwd / "tasks/t-1.md")
    user.worker("--tasks", "tasks/*.md", "--batch", "1", "--exec", "sh -c 'exit 75'", "--retries", "9")
    user.hypervisor("task", "claim", "t-1", "--caller", "claude").passed()
    user.hypervisor("task", "block", "t-1", "--caller", "claude", "--reason", "no key").passed()
    assert "status: blocked" in path.read_text()
    assert census(user) | {"blocked": 1} == census(user)
    assert user.hypervisor("retry", "--blocked").passed().out == "waiting again: tasks/t-1.md\n"
    assert "status: active" in path.read_text()
    assert census(user) | {"blocked": 0, "waiting": 1} == census(user)
    assert user.hypervisor("summary", "--json").passed().json["needs_attention"] == []
    user.hypervisor("task", "claim", "t-1", "--caller", "claude").passed()
    user.hypervisor("task", "complete", "t-1", "--caller", "claude", "--outcome", "done").passed()
    assert census(user) | {"success": 1} == census(user)
    assert cycles(batch_of(user), "tasks/t-1.md") == ["blocked", "success"]


def test_a_task_is_named_by_its_id_too(user: Shell) -> None:
    write_task(user.cwd / "tasks/one.md", id="t-1")
    user.worker("--tasks", "tasks/*.md", "--all").passed()
    user.hypervisor("retry", "--item", "T-1").passed()
    user.hypervisor("retry", "--item", "t-2").refused(1, "not in batch", "t-2")


# ---------------------------------------------------------------------- cancel


def test_what_waits_is_cancelled_and_never_run(user: Shell) -> None:
    work = queue(user, "a", "b", "c")
    told = user.hypervisor("cancel", "--dir", "work", "--item", "b").passed()
    assert told.out == "cancelled: b\n"
    ran = user.worker("--dir", "work", "--all", "--exec", "true").passed()
    assert "b" not in [line.split(":")[0].split()[-1] for line in ran.lines if line.startswith("success")]
    assert census(user, "--dir", "work") | {"success": 2, "skipped": 1} == census(user, "--dir", "work")
    assert user.hypervisor("cancel", "--dir", "work", "--all").code == 3
    assert [result["outcome"] for result in results(work) if result["status"] == "skipped"] == ["cancelled"]


def test_what_runs_is_cancelled_and_its_worker_is_told(user: Shell, gate: Gate) -> None:
    work = queue(user, "a")
    running = user.start("--dir", "work", "--all", "--exec", script(user.cwd, "wait", gate.words))
    gate.wait()
    user.hypervisor("cancel", "--dir", "work", "--all").passed()
    gate.open()
    ended = running.end()
    assert "lost     a: the claim on a-" in ended.out
    assert "is lost" in ended.out
    assert [result["status"] for result in results(work)] == ["skipped"]


def test_a_task_that_an_agent_holds_is_cancelled_and_put_back(user: Shell) -> None:
    path = write_task(user.cwd / "tasks/t-1.md")
    before = path.read_bytes()
    user.worker("--tasks", "tasks/*.md", "--batch", "1", "--exec", "sh -c 'exit 75'", "--retries", "9")
    user.hypervisor("task", "claim", "t-1", "--caller", "claude").passed()
    user.hypervisor("cancel", "--all").passed()
    assert path.read_bytes() == before
    lost = user.hypervisor(
        "task", "complete", "t-1", "--caller", "claude", "--attempt", "2", "--outcome", "x"
    )
    lost.refused(1, "is lost")
    assert path.read_bytes() == before
    assert census(user)["skipped"] == 1


def test_a_batch_that_takes_a_task_over_puts_it_back_first(user: Shell) -> None:
    path = write_task(user.cwd / "tasks/t-1.md")
    before = path.read_bytes()
    user.worker("--tasks", "tasks/*.md", "--batch", "1", "--exec", "sh -c 'exit 75'", "--retries", "9")
    short_leases(user)
    user.hypervisor("task", "claim", "t-1", "--caller", "claude").passed()
    user.worker("--all", "--exec", "true").passed()
    assert census(user)["success"] == 1
    assert path.read_bytes() == before


# ------------------------------------------------------------------------ undo


def triaged(user: Shell) -> tuple[dict[Path, bytes], str]:
    """Triage three tasks of several kinds; return how they were, and the batch's id."""
    one = write_task(user.cwd / "tasks/t-1.md", title="Fix typo in the README")
    two = write_task(user.cwd / "tasks/t-2.md", title="Decide whether we move", project="Loans")
    two.write_bytes(two.read_bytes().replace(b"\n", b"\r\n"))
    three = write_task(user.cwd / "tasks/t-3.md", status="To Do")
    three.write_text(three.read_text() + "\n## Close Reason\n\nShipped.")
    before = {path: path.read_bytes() for path in (one, two, three)}
    user.worker("--tasks", "tasks/*.md", "--all").passed()
    assert all(path.read_bytes() != content for path, content in before.items())
    assert b"[[Loans]]" in two.read_bytes()
    assert "status: Done" in three.read_text()
    return before, batch_of(user).name


def test_undo_puts_files_back_to_the_byte(user: Shell) -> None:
    before, name = triaged(user)
    told = user.hypervisor("undo", name).passed()
    assert told.out == "restored: 3 file(s)\n"
    assert {path: path.read_bytes() for path in before} == before


def test_undo_leaves_what_was_changed_since_and_says_so(user: Shell) -> None:
    before, name = triaged(user)
    one, two, three = before
    one.write_text(one.read_text().replace("complexity: mechanical", "complexity: multi-step"))
    two.write_bytes(two.read_bytes() + b"a person's own line\r\n")
    three.unlink()
    told = user.hypervisor("undo", name, "--json")
    assert told.code == 1
    assert told.json["put_back"] == [str(two), str(one)] or set(told.json["put_back"]) == {str(one), str(two)}
    assert len(told.json["left"]) == 2
    assert any("`complexity` was changed since" in line for line in told.json["left"])
    assert any(line == f"{three}: missing" for line in told.json["left"])
    assert "complexity: multi-step" in one.read_text()
    assert "assignee" not in one.read_text()
    assert two.read_bytes() == before[two] + b"a person's own line\r\n"


def test_undo_twice_changes_nothing_the_second_time(user: Shell) -> None:
    before, name = triaged(user)
    user.hypervisor("undo", name).passed()
    again = user.hypervisor("undo", name)
    assert again.out == "nothing left to undo: no file has a change of this batch\n"
    assert again.code == 3
    assert {path: path.read_bytes() for path in before} == before


def test_undo_takes_back_the_changes_of_every_cycle(user: Shell) -> None:
    path = write_task(user.cwd / "tasks/t-1.md", title="Fix typo in the README")
    before = path.read_bytes()
    user.worker("--tasks", "tasks/*.md", "--all").passed()
    user.hypervisor("retry", "--item", "tasks/t-1.md").passed()
    user.worker("--all").passed()
    user.hypervisor("undo").passed()
    assert path.read_bytes() == before


def test_undo_of_an_agents_work_in_two_cycles_is_complete_and_a_second_one_finds_nothing(user: Shell) -> None:
    path = write_task(user.cwd / "tasks/t-1.md", assignee="bot")
    before = path.read_bytes()
    run = ("run", "--agent", "exec", "--isolation", "none")
    assert user.hypervisor(*run, "--all", "--exec", "false").code == 1
    user.hypervisor("retry").passed()
    assert user.hypervisor("run", "--resume", batch_of(user).name).code == 1
    assert path.read_bytes() != before
    assert user.hypervisor("undo").passed().out == "restored: 1 file(s)\n"
    assert path.read_bytes() == before
    assert user.hypervisor("undo").code == 3
    path.write_text(path.read_text().replace("status: active", "status: blocked"))
    assert "was changed since" in user.hypervisor("undo").out


def test_undo_waits_for_no_worker(user: Shell, gate: Gate) -> None:
    queue(user, "a")
    running = user.start("--dir", "work", "--all", "--exec", script(user.cwd, "wait", gate.words))
    gate.wait()
    user.hypervisor("undo", "--dir", "work").refused(1, "a is being worked on; stop the workers first")
    gate.open()
    running.end().passed()
    assert user.hypervisor("undo", "--dir", "work").code == 3


# --------------------------------------------------------------------- summary


def test_a_summary_keeps_its_shape_and_its_sum(user: Shell) -> None:
    work = queue(user, "ok", "bad", "stuck", "./ok", "later")
    text = "case $1 in bad) echo broken; exit 1;; stuck) echo no key; exit 78;; esac; echo fine"
    user.worker("--dir", "work", "--batch", "3", "--exec", script(user.cwd, "cmd", text))
    summary = json.loads((work / "summary.json").read_bytes())
    assert set(summary) == {
        "batch_id", "workers", "census", "needs_attention", "runtime_seconds", "total_tokens",
        "total_cost_usd", "by_agent",
    }  # fmt: skip
    assert summary["batch_id"] == "work"
    assert list(summary["census"]) == [
        "queued",
        "success",
        "blocked",
        "failed",
        "skipped",
        "running",
        "waiting",
    ]
    queued, *parts = summary["census"].values()
    assert queued == 4 == sum(parts)
    assert [row["task_id"] for row in summary["workers"]] == ["ok", "bad", "stuck"]
    assert [row["status"] for row in summary["workers"]] == ["success", "failed", "blocked"]
    row = summary["workers"][0]
    assert (row["outcome"], row["attempts"], row["evidence"]) == ("fine", 1, {"exit": 0})
    assert row["claimed_by"].startswith("worker-")
    assert 0 <= row["seconds"] <= summary["runtime_seconds"] + 1
    typed = f"--dir {work}"
    assert summary["needs_attention"] == [
        {
            "task_id": "bad", "reason": "exit 1: broken",
            "next": f"fix the cause, then `hypervisor retry {typed}`",
        },
        {
            "task_id": "stuck", "reason": "no key",
            "next": f"provide what it waits for, then `hypervisor retry --blocked {typed}`",
        },
    ]  # fmt: skip
    assert summary["total_tokens"] is None
    assert summary["total_cost_usd"] is None
    assert user.hypervisor("summary", "--dir", "work", "--json").passed().json == summary
    told = user.hypervisor("summary", "--dir", "work").passed().out
    assert "4 queued = 1 success + 1 blocked + 1 failed + 0 skipped + 0 running + 1 waiting" in told
    assert f"needs attention: stuck: no key; {summary['needs_attention'][1]['next']}" in told
    before = (work / "summary.json").stat()
    user.hypervisor("summary", "--dir", "work").passed()
    assert (work / "summary.json").stat() == before, "looking writes nothing"


def test_the_result_of_another_holder_is_the_batches_result_too(user: Shell) -> None:
    write_task(user.cwd / "tasks/t-1.md")
    write_task(user.cwd / "tasks/t-2.md")
    user.worker("--tasks", "tasks/*.md", "--batch", "1").passed()
    user.hypervisor("task", "claim", "t-2", "--caller", "claude").passed()
    assert census(user) | {"success": 1, "running": 1} == census(user)
    user.hypervisor("task", "complete", "t-2", "--caller", "claude", "--outcome", "by hand").passed()
    rows = user.hypervisor("summary", "--json").passed().json["workers"]
    assert [(row["task_id"], row["outcome"]) for row in rows][1] == ("t-2", "by hand")
    assert user.worker("--all").code == 3


# ---------------------------------------------------------------------- status


def test_status_shows_batches_claims_and_tasks(user: Shell) -> None:
    write_task(user.cwd / "tasks/t-1.md")
    write_task(user.cwd / "tasks/t-2.md", status="done")
    (user.cwd / "tasks/bad.md").write_text("nothing")
    assert user.hypervisor("status", "--json").passed().json["claims"] == []
    user.hypervisor("task", "claim", "t-1", "--caller", "claude").passed()
    user.worker("--tasks", "tasks/bad.md", "--all")
    data = user.hypervisor("status", "--json").passed().json
    assert data["by_status"] == {"in_progress": 1, "done": 1}
    assert [line.split(": ", 1)[1] for line in data["unreadable"]] == [
        "no frontmatter (the first line is not ---)"
    ]
    (claim,) = data["claims"]
    assert (claim["holder"], claim["attempt"]) == ("claude", 1)
    (batch,) = data["batches"]
    assert batch["census"] | {"queued": 1, "failed": 1} == batch["census"]
    text = user.hypervisor("status").passed().out
    assert f"project  {user.cwd}\n" in text
    assert "tasks    1 done, 1 in_progress; 0 ready\n" in text
    assert ": 1 queued, 1 failed\n" in text


def test_reap_frees_what_the_silent_hold(user: Shell) -> None:
    path = write_task(user.cwd / "tasks/t-1.md")
    before = path.read_bytes()
    assert user.hypervisor("reap").code == 3
    short_leases(user)
    user.hypervisor("task", "claim", "t-1", "--caller", "claude").passed()
    assert path.read_bytes() != before
    freed = eventually(lambda: user.hypervisor("reap").out.startswith("freed: t-1"), "the lease's end")
    assert freed
    assert path.read_bytes() == before


@pytest.mark.slow
def test_reap_of_a_folder_frees_what_the_dead_hold(user: Shell, gate: Gate) -> None:
    queue(user, "a")
    running = user.start("--dir", "work", "--all", "--exec", script(user.cwd, "wait", gate.words))
    gate.wait()
    assert user.hypervisor("reap", "--dir", "work").code == 3
    running.kill()
    assert user.hypervisor("reap", "--dir", "work").passed().out == "freed: a\n"
    assert census(user, "--dir", "work") | {"running": 0, "waiting": 1} == census(user, "--dir", "work")


# ------------------------------------------------------------------- preflight


def test_preflight_says_what_would_run_and_counts_what_is_skipped(user: Shell) -> None:
    for number, keys in enumerate(
        [
            {"priority": "low"}, {"priority": "critical"}, {"status": "done"}, {"status": "completed"},
            {"status": "wontfix"}, {"assignee": "zoe"}, {"depends_on": "t-0"}, {"parent": "t-0"},
        ]
    ):  # fmt: skip
        write_task(user.cwd / f"tasks/t-{number}.md", **keys)
    user.hypervisor("task", "claim", "t-7", "--caller", "gemini").passed()
    told = user.hypervisor("preflight", "--all").passed().lines
    assert told[:3] == [
        "3 would run",
        "  t-1: Task t-1 (critical, no complexity)",
        "  t-0: Task t-0 (low, no complexity)",
    ]
    assert told[3] == "  t-6: Task t-6 (medium, no complexity)"  # behind t-0, for which it waits
    assert told[4] == "2 skipped (already complete): t-2, t-3"
    assert set(told[5:8]) == {
        "1 skipped (cancelled): t-4",
        "1 skipped (assigned to zoe, a person): t-5",
        "1 skipped (held by gemini): t-7",
    }
    assert told[8].startswith("commands, ")
    assert told[9].startswith("  agent    claude -p ")
    assert len(told) == 10
    data = user.hypervisor("preflight", "t-2", "T-0", "--json").passed().json
    assert [one["kind"] for one in data.pop("commands")] == ["agent"]
    assert data.pop("sandbox")["on"] is False
    assert data == {
        "run": ["t-0"],
        "skipped": {"already complete": ["t-2"]},
        "unreadable": [],
        "warnings": [],
    }
    assert user.hypervisor("preflight", "--parent", "t-0").code == 3
    assert user.hypervisor("preflight", "t-2").code == 3
