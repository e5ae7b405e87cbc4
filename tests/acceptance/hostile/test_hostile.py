"""Agents in bad faith, run for real: no success is false, nothing changes unseen, no batch ends.

``pytest tests/acceptance/hostile -s`` prints a table: each attempt, what was decided, on what evidence.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commands import HYPERVISOR, Ended, Shell, needs_sandbox, script, shell, write_task

from .agents import ALL, COMMANDS, HONEST, LIES, OUTSIDE, PRELUDE, Hostile

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(1200)]

#: A task whose agent does its work; others try to speak for it, or to spoil it. It runs last.
VICTIM = Hostile(name="victim", tries="does its work", script="good", kind="honest")
#: Those that change what their task is judged by, or take it away.
JUDGED = {
    "verify-own", "accept-own", "files-own", "depends-own", "needs-own",
    "task-gone", "task-fifo", "task-folder", "task-link", "task-nested", "task-1g",
}  # fmt: skip


@dataclass(frozen=True)
class Tried:
    """A run, and what it decided of each agent."""

    user: Shell
    agents: Sequence[Hostile]
    ended: Ended
    rows: dict[str, dict[str, Any]]

    def print_table(self) -> None:
        print(f"\n{'attempt':20} {'decided':8} what it tried; evidence")
        for agent in self.agents:
            row = self.rows.get(agent.name, {"status": "none", "outcome": ""})
            print(f"{agent.name:20} {row['status']:8} {agent.tries}; {row['outcome'][:150]}")


def git(folder: Path, *words: str, check: bool = True) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout.strip()


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        root = made.cwd
        git(root, "init", "-q", "-b", "main")
        git(root, "config", "user.name", "A User")
        git(root, "config", "user.email", "user@example.invalid")
        for name, text in (
            ("README.md", "# A project\n"),
            ("code.py", "one\n"),
            (".gitignore", ".env\n.hypervisor/\n"),
        ):
            (root / name).write_text(text)
        (root / ".env").write_text("SECRET=1\n")
        git(root, "add", "-A")
        git(root, "commit", "-qm", "one")
        (root / "src").mkdir()
        (root / "src/keep.txt").write_text("keep\n")
        git(root, "add", "-A")
        git(root, "commit", "-qm", "two")
        git(root, "tag", "v1")
        git(root, "branch", "theirs")
        git(root, "update-ref", "--create-reflog", "refs/stash", "HEAD~1")
        yield made


def tried(user: Shell, agents: Sequence[Hostile], *words: str) -> Tried:
    """Run all agents in one run."""
    scripts = user.home / "agents"
    scripts.mkdir()
    for agent in agents:
        (scripts / f"{agent.name}.sh").write_text(agent.script)
        keys = {"files": f"[src/{agent.name}.txt]", "verify": f'"grep -qx good src/{agent.name}.txt"'}
        write_task(user.cwd / f"tasks/{agent.name}.md", **keys, priority="low" if agent is VICTIM else "high")
    git(user.cwd, "add", "tasks")
    git(user.cwd, "commit", "-qm", "tasks")
    state = user.cwd / ".hypervisor"
    state.mkdir(mode=0o700, exist_ok=True)
    (state / "config.toml").write_text("[run]\nverify_seconds = 30\n")  # some checks read a pipe
    (scripts / "prelude.sh").write_text(f"HV={' '.join(HYPERVISOR)!r}\n{PRELUDE}")
    command = script(scripts, "agent", f'. "{scripts}/prelude.sh"; . "{scripts}/$HYPERVISOR_TASK_ID.sh"')
    ids = [agent.name for agent in agents]
    ended = user.hypervisor(
        "run", *ids, "--agent", "exec", "--exec", command, "--timeout", "60s", "--json", *words, timeout=1200
    )
    summary = json.loads(ended.out)
    made = Tried(user, agents, ended, {row["task_id"]: row for row in summary["workers"]})
    made.print_table()
    assert set(made.rows) == set(ids), f"an agent has ended the batch: {ended.err[-2000:]}"
    assert summary["census"]["running"] + summary["census"]["waiting"] == 0
    return made


def kept(user: Shell) -> dict[str, str]:
    """Return what no agent may change: the user's home, files, and the git folder's settings and refs."""
    root, found = user.cwd, {}
    for top in (
        user.home,
        root / ".git/hooks",
        root / ".git/info",
        root / "code.py",
        root / "README.md",
        root / ".env",
    ):
        for path in [top, *sorted(top.rglob("*"))] if top.is_dir() else [top]:
            if path.is_file() and not {"agents", ".cache"} & set(path.parts):
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    refs = git(root, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    found |= dict(
        line.split() for line in refs if not line.startswith(("refs/heads/main", "refs/heads/hypervisor/"))
    )
    return found | {"config": (root / ".git/config").read_text(), "files": " ".join(sorted(os.listdir(root)))}


def content(user: Shell, name: str) -> str:
    """Return what the user's branch has of an agent's work."""
    return git(user.cwd, "cat-file", "-p", f"main:src/{name}.txt", check=False)


def content_of(name: str) -> str:
    return "good" if name == "uncommitted" else f"good\n{name}"


def test_agents_that_lie_are_no_success_and_those_that_work_are(user: Shell) -> None:
    agents = [*HONEST, *LIES, *COMMANDS, VICTIM]
    before = kept(user)
    made = tried(user, agents, "-j", "4")
    assert [
        agent.name for agent in agents if agent.kind == "lie" and made.rows[agent.name]["status"] == "success"
    ] == []
    good = [agent.name for agent in agents if agent.kind == "honest"]
    assert {name: made.rows[name]["outcome"] for name in good if made.rows[name]["status"] != "success"} == {}
    assert {name: content(user, name) for name in good} == {name: content_of(name) for name in good}
    assert [agent.name for agent in LIES if content(user, agent.name)] == []
    assert git(user.cwd, "diff", "--name-only", "v1", "main", "--", ".", ":!src", ":!tasks") == ""
    after = kept(user)
    assert after.pop("files").split() == sorted({*before.pop("files").split(), ".hypervisor", "tasks"})
    assert after == before
    assert made.ended.code == 1
    assert "\x1b" not in made.ended.out + made.ended.err


def test_agents_that_reach_out_are_seen_and_are_no_success(user: Shell) -> None:
    # One after the other: of several at once nobody could tell whose doing it was.
    made = tried(user, [*OUTSIDE, VICTIM], "-j", "1", "--strategy", "sequential")
    rows = {agent.name: made.rows[agent.name] for agent in OUTSIDE}
    assert [name for name, row in rows.items() if row["status"] == "success"] == []
    others = {"verify-victim", "done-own"}  # what they change is seen at the victim, and in the file
    unseen = [
        name for name, row in rows.items()
        if name not in others | JUDGED
        and not row.get("evidence", {}).get("main_changed")
    ]  # fmt: skip
    told = {name for name, row in rows.items() if "judged by was changed" in row["outcome"]}
    assert told == JUDGED
    assert unseen == [], {name: rows[name]["outcome"] for name in unseen}
    assert "verify was" in made.rows["victim"]["outcome"], made.rows["victim"]
    assert "evil" not in git(user.cwd, "log", "--format=%s", "refs/heads/theirs", check=False)
    assert made.ended.code == 1


def test_in_the_sandbox_nothing_outside_changes_and_nobody_is_a_suspect(user: Shell) -> None:
    needs_sandbox()
    before = kept(user)
    made = tried(user, [*ALL, VICTIM], "-j", "4", "--sandbox", "on")
    rows = made.rows
    after = kept(user)
    assert after.pop("files").split() == sorted({*before.pop("files").split(), ".hypervisor", "tasks"})
    assert after == before
    assert git(user.cwd, "diff", "--name-only", "v1", "main", "--", ".", ":!src", ":!tasks") == ""
    assert [one.name for one in ALL if one.kind == "lie" and rows[one.name]["status"] == "success"] == []
    good = [one.name for one in [*HONEST, VICTIM]]
    assert {name: rows[name]["outcome"] for name in good if rows[name]["status"] != "success"} == {}
    done = [name for name, row in rows.items() if row["status"] == "success"]
    assert {name: content(user, name) for name in done} == {name: content_of(name) for name in done}
    assert [name for name, row in rows.items() if row.get("evidence", {}).get("main_changed")] == []


def test_a_hundred_thousand_untracked_files_cost_seconds_and_no_memory_to_speak_of(user: Shell) -> None:
    outside = '(cd "$ROOT"; mkdir heap; cd heap; many 100000); good'
    agents = [
        Hostile(name="plain-1", tries="does its work", script="good", kind="honest"),
        Hostile(
            name="heap-clone", tries="leaves 100,000 in its clone", script="good; many 100000", kind="lie"
        ),
        Hostile(name="heap-user", tries="leaves 100,000 with the user", script=outside, kind="outside"),
        Hostile(name="plain-2", tries="does its work beside them", script="good", kind="honest"),
    ]
    begun = time.monotonic()
    made = tried(user, agents, "-j", "1", "--strategy", "sequential", "--timeout", "300s")
    took, most = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{took:.0f} s in all, at most {most:.0f} MiB in one process")
    for row in made.rows.values():
        print(f"{row['task_id']}: {row['status']} after {row['seconds']:.1f} s: {row['outcome'][:120]}")
    ends = {name: row["status"] for name, row in made.rows.items()}
    assert ends["plain-1"] == ends["plain-2"] == "success"
    assert ends["heap-clone"] != "success"
    assert ends["heap-user"] != "success"
    assert most < 500
    assert max(len(row["outcome"]) for row in made.rows.values()) < 1000
