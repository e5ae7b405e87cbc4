"""`hypervisor run` within limits: what a user sees of agents that run away, and of a budget that is spent."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from commands import HYPERVISOR, Gate, Shell, eventually, gone, script, shell, write_task
from hypervisor.core.settings import default_settings
from hypervisor.store.events import RunEvent
from hypervisor.store.store import Store

pytestmark = pytest.mark.acceptance

GOOD = 'mkdir -p src; echo x > "src/$HYPERVISOR_TASK_ID.txt"; git add src; git commit -qm x'


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        (made.cwd / ".hypervisor").mkdir()
        (made.cwd / ".gitignore").write_text(".hypervisor/\n")
        for words in (
            ["init", "-q", "-b", "main"], ["config", "user.name", "A User"],
            ["config", "user.email", "user@example.invalid"],
        ):  # fmt: skip
            subprocess.run(["git", *words], cwd=made.cwd, check=True)
        yield made


def tasks(user: Shell, *names: str, config: str = "", **keys: str) -> None:
    (user.cwd / ".hypervisor/config.toml").write_text(config)
    for name in names:
        write_task(user.cwd / f"tasks/{name}.md", files=f"[src/{name}.txt]", **keys)
    subprocess.run(["git", "add", "--all"], cwd=user.cwd, check=True)
    subprocess.run(["git", "commit", "-qm", "Tasks"], cwd=user.cwd, check=True)


def words(user: Shell, text: str, *more: str) -> list[str]:
    return ["run", "--all", "--agent", "exec", "--exec", script(user.home, "agent", text), *more]


def events(user: Shell, what: RunEvent) -> list[Mapping[str, Any]]:
    with Store.open(user.cwd / ".hypervisor", default_settings(), create=False) as store:
        return [event.data for event in store.events.since(0) if event.kind == what]


def test_a_silent_agent_fails_with_its_figure_and_the_batch_goes_on(user: Shell, tmp_path: Path) -> None:
    config = "[overseer]\nsilence_seconds = 2\ngrace_seconds = 0.5\n[machine]\nlook_seconds = 0.2\n"
    tasks(user, "t-1", "t-2", config=config)
    gate = Gate(tmp_path, "hide")
    try:
        hide = (
            f"trap '' TERM\nsetsid sh -c 'trap \"\" TERM; {gate.words}; sleep 600' &\n{gate.words}\nsleep 600"
        )
        text = f'if [ "$HYPERVISOR_TASK_ID" = t-1 ]; then\n{hide}\nfi\n{GOOD}'
        running = user.start_hypervisor(*words(user, text, "-j", "2", "--json"))
        pids = gate.wait(2)
        ended = running.end(60)
        gone(*pids)
    finally:
        gate.close()
    rows = {row["task_id"]: row for row in ended.json["workers"]}
    assert rows["t-2"]["status"] == "success"
    assert rows["t-1"]["status"] == "failed"
    assert "s of silence used, and 2 may be" in rows["t-1"]["reason"]
    told = events(user, RunEvent.OVERSEEN)
    assert [event["act"] for event in told] == ["alert", "term", "kill"]
    assert all(event["task"] == "t-1" and event["measure"] == "silence" for event in told)
    assert told[-1]["figure"] > told[-1]["limit"] == 2


def test_attempts_are_a_budget_over_runs(user: Shell) -> None:
    tasks(user, "t-1", "t-2", "t-3")
    ended = user.hypervisor(*words(user, GOOD, "-j", "1", "--budget-attempts", "2"))
    assert ended.code == 1
    assert "3 queued = 2 success + 0 blocked + 0 failed + 0 skipped + 0 running + 1 waiting" in ended.out
    assert "the budget of 2 attempts is used up" in ended.out
    (batch,) = [path.name for path in (user.cwd / ".hypervisor/batches").iterdir()]
    again = user.hypervisor("run", "--resume", batch)
    assert (again.code, len(events(user, RunEvent.BEGUN))) == (1, 2)
    user.hypervisor("run", "--resume", batch, "--budget-attempts", "0").refused(2, "must be more than 0")
    more = user.hypervisor("run", "--resume", batch, "--budget-attempts", "3").passed()
    assert "3 queued = 3 success" in more.out
    assert len(events(user, RunEvent.BEGUN)) == 3


def test_a_budget_of_attempts_claims_no_task_that_it_cannot_begin(user: Shell) -> None:
    tasks(user, *[f"t-{number}" for number in range(6)])
    ended = user.hypervisor(*words(user, GOOD, "-j", "4", "--budget-attempts", "3"))
    assert ended.out.count("started  ") == ended.out.count(" (attempt 1)") == 3
    assert "6 queued = 3 success + 0 blocked + 0 failed + 0 skipped + 0 running + 3 waiting" in ended.out


def test_time_that_is_spent_ends_what_runs_and_it_waits_again(user: Shell, tmp_path: Path) -> None:
    tasks(user, "t-1", "t-2")
    gate = Gate(tmp_path, "work")
    try:
        running = user.start_hypervisor(*words(user, f"{gate.words}; sleep 600", "--budget-minutes", "0.05"))
        pids = gate.wait(2)
        ended = running.end(60)
        gone(*pids)
    finally:
        gate.close()
    assert "2 queued = 0 success + 0 blocked + 0 failed + 0 skipped + 0 running + 2 waiting" in ended.out
    assert "the budget of 0.05 minutes is used up" in ended.out
    assert [event["how"] for event in events(user, RunEvent.ENDED)] == ["stopped", "stopped"]


def test_a_projects_budget_holds_over_batches(user: Shell) -> None:
    tasks(user, "t-1", "t-2", config="[budget.project]\nattempts = 1\n")
    agent = script(user.home, "agent", GOOD)
    user.hypervisor("run", "t-1", "--agent", "exec", "--exec", agent).passed()
    ended = user.hypervisor("run", "t-2", "--agent", "exec", "--exec", agent)
    assert ended.code == 1
    assert "the project's budget of 1 attempts is used up" in ended.out


def test_a_budget_of_attempts_holds_over_two_runs_at_once(user: Shell, tmp_path: Path) -> None:
    names = [f"t-{number}" for number in range(8)]
    tasks(user, *names, config="[budget.project]\nattempts = 3\n")
    log = tmp_path / "began"
    agent = script(user.home, "agent", f'echo "$HYPERVISOR_TASK_ID" >> {log}\n{GOOD}')
    halves = (names[:4], names[4:])
    both = [
        user.start_hypervisor("run", *half, "-j", "4", "--agent", "exec", "--exec", agent) for half in halves
    ]
    for one in both:
        one.end(60)
    assert len(log.read_text().split()) == 3


def test_a_run_that_an_agent_starts_spends_of_the_outer_batchs_budget(user: Shell, tmp_path: Path) -> None:
    tasks(user, "t-1", "t-2", "t-3")
    log = tmp_path / "began"
    inner = script(user.home, "inner", f'echo "$HYPERVISOR_TASK_ID" >> {log}\n{GOOD}')
    start = f"{shlex.join(HYPERVISOR)} run t-2 -j 1 --agent exec --exec {inner} --isolation none > /dev/null"
    outer = script(
        user.home, "outer", f'echo "$HYPERVISOR_TASK_ID" >> {log}; cd "$HYPERVISOR_ROOT"; {start}; true'
    )
    ended = user.hypervisor(
        "run", "t-1", "t-3", "-j", "1", "--agent", "exec", "--exec", outer, "--budget-attempts", "2"
    )
    assert "the budget of 2 attempts is used up" in ended.out
    assert log.read_text().split() == ["t-1", "t-2"]


def test_memory_in_danger_starts_one_at_a_time_and_status_says_so(user: Shell, tmp_path: Path) -> None:
    # More than that is in use on any machine that runs this.
    config = "[machine]\nsafe_ram_percent = 0.1\ndanger_ram_percent = 0.1\n"
    tasks(user, "t-1", "t-2", config=config)
    gate = Gate(tmp_path, "work")
    try:
        running = user.start_hypervisor(*words(user, f"{gate.words}\n{GOOD}", "-j", "2"))
        gate.wait(1)
        (batch,) = [path.name for path in (user.cwd / ".hypervisor/batches").iterdir()]
        told = eventually(lambda: user.hypervisor("status", batch, "--json").json, "its status")
        assert told["level"] == "starved"
        assert told["held_up"].startswith("starved, 1 at once: danger: RAM ")
        assert len(told["running"]) == 1
        gate.open()
        gate.wait(1)
        gate.open()
        ended = running.end(60).passed()
        assert "2 success" in ended.out
        assert re.search(r"1 of 2 at work: RAM \d+ % \(machine.danger_ram_percent\)\n", ended.err)
    finally:
        gate.close()
    (level,) = events(user, RunEvent.LEVEL)
    assert (level["level"], level["was"], level["room"]) == ("starved", "ideal", 1)
    assert 0 < level["ram_percent"] <= 100
    assert "disk_free_mib" in level


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ("[machine]\nsafe_cpu_percent = 90\n", "danger_cpu_percent"),
        ("[overseer]\nrss_percent = -1\n", "overseer.rss_percent"),
        ("[budget.batch]\nusd = -1\n", "budget.batch.usd"),
        ("[machine]\nlook_seconds = 0\n", "machine.look_seconds"),
    ],
)
def test_limits_that_make_no_sense_are_refused_in_one_line(user: Shell, config: str, word: str) -> None:
    tasks(user, "t-1", config=config)
    user.hypervisor(*words(user, GOOD)).refused(2, word)
    assert not (user.cwd / ".hypervisor/batches").exists()


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--budget-attempts", "0"], "must be more than 0"),
        (["--budget-minutes", "-1"], "must be more than 0"),
        (["--budget-tokens", "1000"], "--budget-minutes"),
        (["--budget-usd", "1"], "--budget-attempts"),
    ],
)
def test_budgets_that_make_no_sense_are_refused_in_one_line(user: Shell, more: list[str], word: str) -> None:
    tasks(user, "t-1")
    user.hypervisor(*words(user, GOOD, *more)).refused(2, word)
