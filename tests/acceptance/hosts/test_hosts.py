"""Several hosts, one PostgreSQL, one remote: each task once, one history, whatever happens to the hosts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.hosts.lab import Lab, git, laboratory, missing

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
    for command in ran:
        assert command.wait() == 0, command.text
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
