"""`hypervisor run` in a sandbox: what agents and `verify` can do there; what is said where there is none."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import HYPERVISOR, Shell, needs_sandbox, resident, script, shell, write_task
from hypervisor.runners.sandbox import RELAYED

pytestmark = pytest.mark.acceptance

OURS = shlex.join(HYPERVISOR)
#: An agent that does its task, and leaves it to be committed.
GOOD = 'mkdir -p src; echo "$HYPERVISOR_TASK_ID" > "src/$HYPERVISOR_TASK_ID.txt"\n'


def git(project: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=project, check=True, capture_output=True)


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    needs_sandbox()
    with shell(tmp_path) as made:
        made.extra["HYPERVISOR_SANDBOX"] = "on"
        git(made.cwd, "init", "--quiet", "--initial-branch=main")
        git(made.cwd, "config", "user.name", "A User")
        git(made.cwd, "config", "user.email", "user@example.invalid")
        yield made


def tasks(user: Shell, *names: str, **keys: str) -> None:
    for name in names:
        write_task(user.cwd / f"tasks/{name}.md", **{"files": f"[src/{name}.txt]", **keys})
    git(user.cwd, "add", "--all")
    git(user.cwd, "commit", "--quiet", "-m", "Tasks")


def run(user: Shell, text: str, *words: str, **options: Any) -> Any:
    agent = script(user.home, "agent", text)
    return user.hypervisor("run", "--all", "--agent", "exec", "--exec", agent, *words, **options)


def row(user: Shell, name: str) -> dict[str, Any]:
    (path,) = (user.cwd / ".hypervisor/batches").glob("*/summary.json")
    return next(dict(one) for one in json.loads(path.read_bytes())["workers"] if one["task_id"] == name)


def log(user: Shell, name: str, ending: str = ".out") -> str:
    paths = (user.cwd / ".hypervisor/batches").glob(f"*/logs/*{name}-*{ending}")
    return "".join(path.read_text() for path in paths)


def test_an_agent_in_a_sandbox_reports_and_shares_and_does_nothing_else(user: Shell) -> None:
    tasks(user, "t-1", "t-2", verify="test -f src/t-1.txt || test -f src/t-2.txt")
    said = run(
        user,
        GOOD
        + f"""
        case $HYPERVISOR_TASK_ID in t-1) other=t-2;; *) other=t-1;; esac
        {OURS} hive add "a fact from $HYPERVISOR_TASK_ID"
        {OURS} hive search fact
        HYPERVISOR_TASK_ID=$other {OURS} task complete $other --outcome lies && echo SPOKE FOR ANOTHER
        {OURS} run --all --agent exec --exec 'touch /tmp/out' && echo RAN OUTSIDE
        {OURS} config set run.sandbox off && echo CHANGED SETTINGS
        {OURS} undo && echo UNDID
        {OURS} task complete $HYPERVISOR_TASK_ID --outcome "did $HYPERVISOR_TASK_ID"
    """,
        "-j",
        "1",
    ).passed()
    assert "in a sandbox" in said.err
    for name in ("t-1", "t-2"):
        told, errors = log(user, name), log(user, name, ".err")
        assert not any(word in told for word in ("SPOKE", "RAN", "CHANGED", "UNDID")), told + errors
        assert f"a fact from {name}" in told
        assert "an agent in a sandbox has only" in errors
        assert f"you were started for {name} alone" in errors
        assert row(user, name)["evidence"]["reported"] == f"done; did {name}"


def test_what_an_agent_writes_beside_its_clone_is_nowhere_afterwards(user: Shell) -> None:
    tasks(user, "t-1")
    hooks = user.cwd / ".git/hooks/post-commit"
    targets = [
        hooks,
        user.cwd / "README",
        user.cwd / "tasks/t-1.md",
        user.home / ".bashrc",
        user.home / "x",
        user.cwd / ".git/refs/heads/evil",
        user.cwd / ".hypervisor/config.toml",
    ]
    before = {path: path.read_bytes() if path.exists() else None for path in targets}
    tried = "".join(f"mkdir -p {path.parent}; echo evil >> {path}\n" for path in targets)
    run(user, f"{GOOD}({tried}) 2>/dev/null\ntrue").passed()
    now = {
        path: path.read_bytes() if path.exists() else None for path in targets if path.parent.name != "tasks"
    }
    assert now == {path: text for path, text in before.items() if path in now}
    assert "evil" not in (user.cwd / "tasks/t-1.md").read_text()
    assert (user.cwd / "src/t-1.txt").read_text() == "t-1\n"
    assert not list((user.cwd / ".hypervisor/batches").glob("*/sandboxes/*"))


def test_verify_runs_in_a_sandbox_of_its_own(user: Shell) -> None:
    tried = f"{{ echo x > {user.cwd}/evil; ls {user.cwd}/.hypervisor/*; }} 2>/dev/null; test ! -S {RELAYED}"
    tasks(user, "t-1", verify=json.dumps(tried))
    run(user, GOOD).passed()
    assert not (user.cwd / "evil").exists()
    assert row(user, "t-1")["evidence"]["verify"]


def test_without_a_sandbox_on_is_refused_and_auto_says_so_once(user: Shell) -> None:
    tasks(user, "t-1")
    bins = user.home / "bin"
    bins.mkdir()
    script(bins, "bwrap", "echo 'bwrap: No permissions to create a new namespace' >&2; exit 1")
    user.extra["PATH"] = f"{bins}:{os.defpath}:/usr/local/bin"
    ended = run(user, GOOD)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "No permissions to create a new namespace" in ended.err
    assert "--sandbox off" in ended.err
    assert "in_progress" not in (user.cwd / "tasks/t-1.md").read_text()
    ended = run(user, GOOD, "--sandbox", "auto").passed()
    assert ended.err.count("WARNING: no sandbox") == 1
    assert "WITHOUT a sandbox" in ended.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("for i in 1 2 3; do setsid sleep 31.4157 & done; exit 1", "verify failed"),
        ("python3 -c 'x = 3221225472 * chr(120); import time; time.sleep(60)'", "memory"),
        ("head -c 314572800 /dev/zero; exit 1", "exited 1: a line that is too long to show"),
        ("setsid sleep 31.4157 & sleep 31.4157", "did not end within 5 s"),
    ],
    ids=["forks", "allocates 3 GB", "prints 300 MB", "holds its pipe"],
)
@pytest.mark.parametrize("sandbox", ["on", "off"])
def test_a_check_that_misbehaves_ends_within_its_limits(
    user: Shell, sandbox: str, command: str, words: str
) -> None:
    state = user.cwd / ".hypervisor"
    state.mkdir()
    seconds = 5 if "sleep 31" in command else 100
    limits = "[overseer]\nrss_mib = 1000\n[machine]\nlook_seconds = 0.2\n"
    (state / "config.toml").write_text(f"[run]\nverify_seconds = {seconds}\n{limits}")
    (user.cwd / ".gitignore").write_text(".hypervisor\n")
    tasks(user, "t-1", verify=json.dumps(command))
    begun = time.monotonic()
    ended = run(user, GOOD, "--sandbox", sandbox, timeout=200)
    assert ended.code == 1
    assert words in row(user, "t-1")["reason"]
    assert resident("sleep 31.4157") == []
    assert time.monotonic() - begun < 200
    kept = sum(path.stat().st_size for path in state.glob("batches/*/logs/*.verify.*"))
    assert kept <= 2 * 16 * 2**20
