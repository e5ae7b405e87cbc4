"""Best of several candidates: the evidence ranks them, one is merged, and the task has one result."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Shell, script, shell, write_task

pytestmark = pytest.mark.acceptance

#: The first does not verify, the second lies, the third is good, the fourth too, with a larger change.
AGENT = """
mkdir -p src; n=$HYPERVISOR_CANDIDATE
case $n in
  1) echo bad > src/t-1.txt ;;
  2) printf '{"kind": "done", "text": "did it", "evidence": "seen"}' > "$HYPERVISOR_REPORT" ;;
  3) echo good > src/t-1.txt ;;
  4) printf 'good\\nand more\\n' > src/t-1.txt ;;
  *) echo good > src/$HYPERVISOR_TASK_ID.txt ;;
esac
"""


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        for words in (["init", "--quiet", "--initial-branch=main"], ["config", "user.name", "A User"],
                      ["config", "user.email", "user@example.invalid"]):  # fmt: skip
            subprocess.run(["git", *words], cwd=made.cwd, check=True)
        yield made


def commit(user: Shell) -> None:
    subprocess.run(["git", "add", "--all"], cwd=user.cwd, check=True)
    subprocess.run(["git", "commit", "--quiet", "-m", "Tasks"], cwd=user.cwd, check=True)


def branches(user: Shell) -> list[str]:
    words = ["git", "branch", "--format=%(refname:short)"]
    return subprocess.run(words, cwd=user.cwd, check=True, capture_output=True, text=True).stdout.split()


def test_of_one_that_fails_one_that_lies_and_good_ones_the_smallest_good_one_is_merged(user: Shell) -> None:
    write_task(
        user.cwd / "tasks/t-1.md", files="[src/t-1.txt]", verify="grep -q good src/t-1.txt", attempts="4"
    )
    write_task(user.cwd / "tasks/t-2.md", files="[src/t-2.txt]", verify="grep -q good src/t-2.txt")
    commit(user)
    agent = script(user.home, "agent", AGENT)
    ended = user.hypervisor("run", "--all", "--agent", "exec", "--exec", agent).passed()
    assert "2 queued = 2 success" in ended.out
    assert (user.cwd / "src/t-1.txt").read_text() == "good\n"
    (path,) = (user.cwd / ".hypervisor/batches").glob("*/summary.json")
    rows = {row["task_id"]: row for row in json.loads(path.read_bytes())["workers"]}
    assert rows["t-1"]["attempts"] == 1
    told = rows["t-1"]["evidence"]["candidates"]
    assert [line.split(":")[0] for line in told] == ["1.3", "1.4", "1.1", "1.2"]
    assert "candidates" not in rows["t-2"]["evidence"]
    batch = path.parent.name
    assert branches(user) == [f"hypervisor/{batch}/t-1-1.1", f"hypervisor/{batch}/t-1-1.4", "main"]
    user.hypervisor("clean").passed()
    assert branches(user) == ["main"]


def test_a_number_of_attempts_that_makes_no_sense_blocks_its_task_with_the_reason(user: Shell) -> None:
    write_task(user.cwd / "tasks/t-1.md", files="[src/t-1.txt]", attempts="many")
    commit(user)
    agent = script(user.home, "agent", AGENT)
    ended = user.hypervisor("run", "--all", "--agent", "exec", "--exec", agent)
    assert ended.code == 1
    assert "t-1: `attempts` must be a number from 1 to 9, not many" in ended.out
