"""Several hosts, one PostgreSQL, one remote: each task once, one history, whatever happens to the hosts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.hosts.lab import (
    LEASE_SECONDS,
    Command,
    Lab,
    eventually,
    git,
    laboratory,
    missing,
    shifted_clock,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Return a laboratory; where there can be none, the test is skipped, but never in CI."""
    if why := missing():
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    with laboratory(tmp_path / "lab") as made:
        yield made


def sound(lab: Lab, tasks: int) -> None:
    """Hold that each task was merged once and that every place says so."""
    assert lab.faults() == dict.fromkeys(lab.faults(), 0)
    assert sorted(lab.merges()) == sorted(f"t-{number}" for number in range(1, tasks + 1))
    assert len(lab.done_files()) == tasks


def test_three_hosts_do_each_task_once_and_make_one_history(lab: Lab) -> None:
    lab.make_tasks(9)
    hosts = [lab.add_host(name) for name in ("ant", "bee", "cat")]
    ran = [host.work() for host in hosts]
    for command in ran:
        assert command.wait() == 0, command.text
    sound(lab, 9)
    assert len(lab.runs()) == 9
    assert sum(one["results"] for one in lab.table().values()) == 9
    assert git(lab.remote, "branch", "--format=%(refname:short)") == "main"
    for host in hosts:
        assert git(host.clone, "rev-parse", "HEAD") == git(lab.remote, "rev-parse", "main")
        assert git(host.clone, "status", "--porcelain") == ""


def test_a_task_begins_from_what_another_host_merged(lab: Lab) -> None:
    lab.make_tasks(6, depends_on=lambda number: f"[t-{number - 1}]" if number > 1 else "")
    lab.make_agent(text=(
        "#!/bin/sh\nset -e\nn=${{HYPERVISOR_TASK_ID#t-}}\n"
        '[ "$n" = 1 ] || test -f "src/t-$((n - 1)).txt"\n'
        "echo $HYPERVISOR_TASK_ID $HYPERVISOR_ATTEMPT $(hostname) >> {log}\n"
        "mkdir -p src; echo x > src/$HYPERVISOR_TASK_ID.txt; git add src; git commit -qm x; sleep {seconds}\n"
    ))  # fmt: skip
    ran = [lab.add_host(name).work() for name in ("ant", "bee")]
    # A host that comes while the one task that is ready is held finds nothing to run.
    assert sorted(command.wait() for command in ran) in ([0, 0], [0, 3]), [command.text for command in ran]
    sound(lab, 6)


def test_work_that_conflicts_on_another_host_is_kept_for_review_and_said_so_in_the_file(lab: Lab) -> None:
    lab.make_tasks(2, files="[src/same.txt]", verify="")
    lab.make_agent("2", text=(
        "#!/bin/sh\nset -e\nsleep {seconds}\nmkdir -p src; echo $HYPERVISOR_TASK_ID > src/same.txt\n"
        "git add src; git commit -qm x; echo $HYPERVISOR_TASK_ID 1 $(hostname) >> {log}\n"
    ))  # fmt: skip
    ant, bee = lab.add_host("ant"), lab.add_host("bee")
    ran = [ant.work("t-1"), bee.work("t-2")]
    assert sorted(command.wait() for command in ran) == [0, 1], [command.text for command in ran]
    assert sorted(lab.states().values()) == ["blocked", "success"]
    (kept,) = [
        name for name in git(lab.remote, "branch", "--format=%(refname:short)").split() if name != "main"
    ]
    loser = kept.split("/")[-1].removesuffix("-1")
    text = git(lab.remote, "show", f"main:tasks/{loser}.md")
    assert "status: review" in text
    assert f"conflicts with other work in src/same.txt; kept on {kept}" in text
    assert len(lab.merges()) == 1


def both_end(lab: Lab, tasks: int, *commands: Command) -> None:
    """Wait until all is delivered and these commands have ended."""
    eventually(lambda: lab.delivered() >= tasks, "all results are delivered", 150)
    for command in commands:
        command.wait()
    sound(lab, tasks)


def test_what_a_killed_host_had_in_hand_is_done_by_another(lab: Lab) -> None:
    lab.make_tasks(2)
    lab.make_agent("2")
    ant, bee = lab.add_host("ant"), lab.add_host("bee")
    ant.work()
    eventually(lambda: len(lab.runs()) == 2, "its agents run")
    ant.kill()
    assert lab.merges() == []
    # It is silent for a lease; then whoever asks for work has it.
    eventually(lambda: lab.rows("SELECT 1 FROM attempt HAVING max(lease_until) < "
                                "extract(epoch FROM now()) * 1000"), "its leases are over", 60)  # fmt: skip
    command = bee.work()
    assert command.wait() == 0, command.text
    sound(lab, 2)
    assert [host for _, _, host in lab.runs()] == ["ant", "ant", "bee", "bee"]


def test_a_host_that_loses_the_remote_keeps_its_work_and_delivers_it_when_it_is_back(lab: Lab) -> None:
    lab.make_tasks(1)
    lab.make_agent("3")
    ant = lab.add_host("ant")
    command = ant.work()
    eventually(lab.runs, "its agent runs")
    ant.cut("remote")
    eventually(lambda: "finished work is kept and tried again" in command.text, "it says so")
    assert lab.states() == {"tasks/t-1.md": "running"}
    ant.mend()
    assert command.wait() == 0
    assert "origin answers again" in command.text
    sound(lab, 1)
    assert len(lab.runs()) == 1


def test_a_host_that_loses_the_database_for_a_moment_goes_on(lab: Lab) -> None:
    lab.make_tasks(2)
    lab.make_agent("2")
    ant = lab.add_host("ant")
    command = ant.work()
    eventually(lambda: len(lab.runs()) == 2, "its agents run")
    lab.server.restart()
    assert command.wait() == 0, command.text
    sound(lab, 2)
    assert len(lab.runs()) == 2


def test_a_host_without_the_database_ends_its_agents_after_its_lease_and_loses_nothing(lab: Lab) -> None:
    lab.make_tasks(1)
    lab.make_agent("300")
    ant, bee = lab.add_host("ant"), lab.add_host("bee")
    command = ant.work()
    eventually(lab.runs, "its agent runs")
    eventually(lambda: agents(command), "its agent is there")
    ant.cut("database")
    eventually(lambda: not agents(command), "its agent is ended", 10 * LEASE_SECONDS)
    lab.make_agent("0.1")
    other = bee.work()
    ant.mend()
    both_end(lab, 1, command, other)


def test_a_host_that_stood_still_past_its_lease_can_push_its_branch_and_complete_nothing(lab: Lab) -> None:
    lab.make_tasks(1)
    lab.make_agent("1")
    ant, bee = lab.add_host("ant"), lab.add_host("bee")
    late = ant.work()
    eventually(lab.runs, "its agent runs")
    ant.pause()
    eventually(lambda: lab.rows("SELECT 1 FROM attempt HAVING max(lease_until) < "
                                "extract(epoch FROM now()) * 1000"), "its lease is over", 60)  # fmt: skip
    command = bee.work()
    assert command.wait() == 0, command.text
    head = git(lab.remote, "rev-parse", "main")
    ant.wake()
    late.wait()
    sound(lab, 1)
    assert git(lab.remote, "rev-parse", "main") == head
    assert lab.table()["bee"]["results"] == 1
    assert lab.table()["ant"]["results"] == 0


def test_a_clock_that_is_an_hour_ahead_or_behind_decides_nothing(lab: Lab) -> None:
    clocks = {"ant": shifted_clock(lab.folder, 3600), "bee": shifted_clock(lab.folder, -3600)}
    if not clocks["ant"]:
        why = "no C compiler here; apt-get install gcc"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    lab.make_tasks(6)
    lab.make_agent("1")
    ran = [lab.add_host(name, **clock).work() for name, clock in clocks.items()]
    both_end(lab, 6, *ran)
    assert len(lab.runs()) == 6
    assert [command.process.returncode for command in ran] == [0, 0]


def agents(command: Command) -> list[int]:
    """Return the processes in which the agents of a command sleep."""
    return [pid for pid in command.pids() if b"sleep\x00300" in cmdline(pid)]


def cmdline(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
