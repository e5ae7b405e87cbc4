"""Review before merge: a second agent can hold verified work back, and nothing else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import Ended, Shell, script, shell, write_task

pytestmark = pytest.mark.acceptance

WORKER = """
mkdir -p src
if grep -q 'say please' -; then echo please >> src/t-1.txt; else echo work > src/t-1.txt; fi
git add src
git commit --quiet --allow-empty -m Work
"""


def git(project: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=project, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        git(made.cwd, "init", "--quiet", "--initial-branch=main")
        git(made.cwd, "config", "user.name", "A User")
        git(made.cwd, "config", "user.email", "user@example.invalid")
        yield made


def reviewed(user: Shell, reviewer: str, *, verify: str = "true", rounds: int = 2) -> Ended:
    command = script(user.home, "reviewer", reviewer)
    (user.cwd / ".hypervisor").mkdir()
    (user.cwd / ".hypervisor/config.toml").write_text(
        f'[review]\nagent = "exec"\ncommand = "{command}"\nrounds = {rounds}\n'
    )
    write_task(user.cwd / "tasks/t-1.md", files="[src]", review="true", verify=verify)
    git(user.cwd, "add", "tasks")
    git(user.cwd, "commit", "--quiet", "-m", "Tasks")
    agent = script(user.home, "agent", WORKER)
    return user.hypervisor("run", "--all", "--agent", "exec", "--exec", agent)


def row(user: Shell) -> dict[str, Any]:
    (path,) = (user.cwd / ".hypervisor/batches").glob("*/summary.json")
    (found,) = json.loads(path.read_bytes())["workers"]
    return dict(found)


def test_changes_go_back_to_the_worker_until_the_reviewer_approves(user: Shell) -> None:
    says = "if grep -q '^+please' -; then echo 'REVIEW: approve'; else echo 'REVIEW: changes: say please'; fi"
    reviewed(user, says).passed()
    assert (user.cwd / "src/t-1.txt").read_text() == "work\nplease\n"
    assert row(user)["evidence"]["review"] == ["changes: say please", "approve"]
    assert row(user)["attempts"] == 1


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("echo 'REVIEW: reject: it does harm'", "reject: it does harm"),
        ("echo 'I approve of this.'", "no verdict"),
        ("echo 'REVIEW: approve'; exit 3", "no verdict"),
        ("echo 'REVIEW: changes: something else'", "review after 1 round: changes: something else"),
    ],
)
def test_what_is_not_approved_is_held_for_a_person(user: Shell, says: str, told: str) -> None:
    assert reviewed(user, says, rounds=1).code == 1
    assert not (user.cwd / "src").exists()
    found = row(user)
    assert found["status"] == "blocked"
    assert told in found["outcome"]
    assert found["branch"] in git(user.cwd, "branch", "--format=%(refname:short)").split()
    user.hypervisor("accept", "t-1").passed()
    assert (user.cwd / "src/t-1.txt").exists()


def test_a_reviewer_makes_no_success_of_what_the_evidence_denies_and_changes_nothing(user: Shell) -> None:
    asked = user.home / "asked"
    says = f"touch {asked}; echo x > src/t-1.txt; git commit -qam x; echo 'REVIEW: approve'"
    assert reviewed(user, says, verify="false").code == 1
    assert row(user)["status"] == "failed"
    assert not asked.exists()


def test_what_a_reviewer_writes_is_thrown_away(user: Shell) -> None:
    reviewed(user, "echo evil > src/t-1.txt; git commit -qam evil; echo 'REVIEW: approve'").passed()
    assert (user.cwd / "src/t-1.txt").read_text() == "work\n"
    assert "evil" not in git(user.cwd, "log", "--all", "--format=%s")
