"""`hypervisor doctor`, with each thing missing for real: what it finds, how grave that is, what to type."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from commands import HYPERVISOR, ROOT, Shell, script, shell, tree, write_task
from hypervisor.cli import doctor_place, doctor_project
from hypervisor.core import machine
from hypervisor.core.paths import Project

ALWAYS = [
    "python", "uv", "packages", "git", "claude", "gemini", "settings", "state folder", "file system",
    "claims", "clock", "disk", "limits", "repository",
]  # fmt: skip
IN_PROJECT = ["permissions", "claims held", "results", "outputs", "leftovers"]
UV = 'case "$*" in *--version*) echo "uv 9.8.7" ;; *) echo "  --script  of a script" ;; esac'


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    """Give a user whose PATH has git and a uv, and nothing else."""
    with shell(tmp_path) as made:
        bins = made.home / "bin"
        bins.mkdir()
        script(bins, "uv", UV)
        for name in ("git", "sh"):
            (bins / name).symlink_to(str(shutil.which(name)))
        made.extra["PATH"] = str(bins)
        yield made


def look(user: Shell, *, code: int = 0) -> Mapping[str, Mapping[str, Any]]:
    ended = user.hypervisor("doctor", "--json")
    assert ended.code == code, ended.out + ended.err
    found = ended.json
    assert all(one["ok"] == (one["level"] == "ok") for one in found)
    assert all(one["do"] for one in found if not one["ok"])
    return {one["check"]: one for one in found}


def project(user: Shell) -> Path:
    """Make a project in which nothing is wrong; return its state folder."""
    git(user, "init", "--quiet", "--initial-branch=main")
    git(user, "config", "user.name", "A User")
    git(user, "config", "user.email", "user@example.invalid")
    write_task(user.cwd / "tasks/t-1.md")
    git(user, "add", "--all")
    git(user, "commit", "--quiet", "--message", "Begin")
    state = user.cwd / ".hypervisor"
    state.mkdir(mode=0o700)
    (state / ".gitignore").write_text("*\n")
    return state


def git(user: Shell, *words: str) -> None:
    subprocess.run(["git", *words], cwd=user.cwd, env=user.environment, check=True, capture_output=True)


# ------------------------------------------------------------------ in all


def test_it_finds_nothing_wrong_and_leaves_nothing(user: Shell) -> None:
    project(user)
    ready = user.home / f".cache/hypervisor/ready{ROOT}/scripts"
    ready.parent.mkdir(parents=True)
    ready.touch()
    before = {name: mark.split()[0] for name, mark in tree(user.cwd).items()}
    found = look(user)
    assert list(found) == ALWAYS + IN_PROJECT
    wrong = {name for name, one in found.items() if not one["ok"]}
    assert wrong == {"claude", "gemini", "permissions"}
    assert {one["level"] for name, one in found.items() if name in wrong} == {"warning"}
    assert found["claims"]["text"] == "mkdir, links and locks hold"
    assert found["settings"]["text"] == "all defaults"
    assert found["repository"]["text"] == "branch main"
    assert found["uv"]["text"] == f"9.8.7, {user.home}/bin/uv"
    assert {name: mark.split()[0] for name, mark in tree(user.cwd).items()} == before


def test_in_a_folder_of_nobody_it_makes_nothing(user: Shell) -> None:
    found = look(user)
    assert list(found) == ALWAYS
    assert found["state folder"]["text"] == f"{user.cwd}/.hypervisor will be made"
    assert found["repository"]["level"] == "warning"
    assert found["repository"]["do"].startswith("git init")
    assert os.listdir(user.cwd) == []


def test_people_read_a_line_each_and_what_to_type_below(user: Shell) -> None:
    (user.home / "bin/uv").unlink()
    ended = user.hypervisor("doctor")
    assert ended.code == 1
    lines = ended.lines
    at = lines.index("FAILURE uv: not found; it starts every command of this plugin")
    assert lines[at + 1] == "        do: python3 -m pip install uv"
    assert lines[-1].startswith("1 failure(s), ")


# ------------------------------------------------------------------ programs


def test_a_uv_that_is_too_old_or_does_not_run(user: Shell) -> None:
    script(user.home / "bin", "uv", 'case "$*" in *--version*) echo "uv 0.4.1" ;; *) exit 2 ;; esac')
    found = look(user, code=1)["uv"]
    assert found["level"] == "failure"
    assert "uv 0.4.1: does not know the locks of scripts" in found["text"]
    assert found["do"].startswith("uv self update")
    script(user.home / "bin", "uv", "exit 127")
    assert "does not run here" in look(user, code=1)["uv"]["text"]
    own = user.home / ".cache/hypervisor/uv/bin"
    own.mkdir(parents=True)
    script(own, "uv", UV)
    assert look(user)["uv"]["text"] == f"9.8.7, {own}/uv"


def test_packages_that_are_not_fetched_are_fetched_by_what_it_says(user: Shell) -> None:
    found = look(user)["packages"]
    assert found["level"] == "warning"
    assert found["do"] == str(ROOT / "scripts/warm-up")
    for name in ("dirname", "mkdir", "cat", "rm", "sleep", "grep", "setsid", "nohup"):
        if path := shutil.which(name):
            (user.home / "bin" / name).symlink_to(path)
    assert user.run([found["do"]]).passed().out == ""
    assert look(user)["packages"]["ok"]


def test_packages_that_have_gone_since(user: Shell) -> None:
    """As after `uv cache clean`: the mark that all was fetched is still there."""
    ready = user.home / f".cache/hypervisor/ready{ROOT}/scripts"
    ready.parent.mkdir(parents=True)
    ready.touch()
    assert look(user)["packages"]["ok"]
    if (uv := shutil.which("uv")) is None:
        pytest.skip("no uv on PATH")
    # What lies on PATH may be a stand-in that finds the real one by its own place (pyenv's are).
    say = (
        "run",
        "--no-project",
        "--python",
        sys.executable,
        "python",
        "-c",
        "import os; print(os.environ['UV'])",
    )
    real = subprocess.run([uv, *say], capture_output=True, text=True, check=True).stdout.strip()
    (user.home / "bin/uv").unlink()
    (user.home / "bin/uv").symlink_to(real)  # its cache, in this home, is empty
    (user.home / "bin/python3").symlink_to(os.path.realpath(sys.executable))
    found = look(user)["packages"]
    assert found["level"] == "warning"
    assert found["text"] == "those of mcp_server.py were fetched, and have gone (uv cache clean?)"
    assert found["do"] == str(ROOT / "scripts/warm-up")


def test_without_git(user: Shell) -> None:
    project(user)
    (user.home / "bin/git").unlink()
    found = look(user)
    assert found["git"]["level"] == "warning"
    assert "agents that change code" in found["git"]["text"]
    assert found["repository"]["text"] == "not checked without git"


def test_a_git_that_is_too_old(user: Shell) -> None:
    (user.home / "bin/git").unlink()
    script(user.home / "bin", "git", "echo git version 2.34.1")
    assert "2.34.1" in look(user)["git"]["text"]
    assert "worktrees need 2.36 or later" in look(user)["git"]["text"]


CLAUDE = 'case "$1" in --version) echo "2.9.9 (Claude Code)" ;; auth) {} ;; esac'


@pytest.mark.parametrize(
    ("says", "level", "text"),
    [
        ('echo \'{"loggedIn": true, "authMethod": "api_key"}\'', "ok", "logged in (api_key)"),
        ("echo '{\"loggedIn\": false}'; exit 1", "warning", "not logged in"),
        ("echo unknown command >&2; exit 1", "ok", "not checked: this version does not tell"),
        ("echo '[]'", "ok", "not checked: this version does not tell"),
        ("kill -9 $$", "ok", "not checked"),
    ],
)
def test_whether_claude_is_logged_in(user: Shell, says: str, level: str, text: str) -> None:
    script(user.home / "bin", "claude", CLAUDE.format(says))
    found = look(user)
    assert found["claude"]["text"] == f"2.9.9, {user.home}/bin/claude"
    assert found["claude login"]["level"] == level
    assert text in found["claude login"]["text"]
    if level == "warning":
        assert found["claude login"]["do"] == "claude auth login"


def test_gemini_is_not_asked_and_its_login_is_not_read(user: Shell) -> None:
    script(user.home / "bin", "gemini", "echo 0.61.0")
    assert look(user)["gemini login"]["level"] == "warning"
    secret = user.home / ".gemini/oauth_creds.json"
    secret.parent.mkdir()
    os.mkfifo(secret)  # whoever opened it would hang
    assert look(user)["gemini login"]["text"] == "logged in once; not tried"
    user.extra["GEMINI_API_KEY"] = "a secret"
    ended = user.hypervisor("doctor")
    assert "GEMINI_API_KEY is set; not tried" in ended.out
    assert "a secret" not in ended.out


# ------------------------------------------------------------------ the place


def test_settings_and_a_state_folder_that_others_may_read(user: Shell) -> None:
    state = project(user)
    state.chmod(0o755)
    (state / "config.toml").write_text("[claims]\nattempt = 2\n")
    found = look(user, code=1)
    assert found["state folder"]["text"] == f"{state} (mode 755)"
    assert found["state folder"]["do"] == f"chmod 700 {state}"
    assert "did you mean `attempts`?" in found["settings"]["text"]
    assert found["settings"]["do"] == f"edit {state}/config.toml"


def test_a_state_folder_that_is_none(user: Shell) -> None:
    (user.cwd / ".hypervisor").write_text("")
    found = look(user, code=1)["state folder"]
    assert found["do"] == f"mv {user.cwd}/.hypervisor {user.cwd}/.hypervisor.old"


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """Give a small file system of its own."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=60", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_without_room(user: Shell, mounted: Path) -> None:
    user.cwd = mounted
    found = look(user, code=1)
    assert found["disk"]["text"].startswith("0.0 GiB free, ")
    assert found["disk"]["do"].startswith("hypervisor clean --dry-run; make room")
    assert found["file system"]["text"] == "tmpfs"
    assert found["claims"]["ok"]
    for number in range(100):
        try:
            (mounted / str(number)).touch()
        except OSError:
            break
    claims = look(user, code=1)["claims"]
    assert claims["level"] == "failure"
    assert "No space left on device" in claims["text"]


def test_a_folder_that_is_read_only(user: Shell, mounted: Path) -> None:
    user.cwd = mounted
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    found = look(user, code=1)
    assert found["state folder"]["level"] == "failure"
    assert found["state folder"]["do"] == f"chmod u+w {mounted}"
    assert "Read-only file system" in found["claims"]["text"]


def test_what_another_user_has_made(user: Shell) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files away needs root")
    state = project(user)
    os.chown(state, 12345, 12345)
    found = look(user)["state folder"]
    assert found["level"] == "warning"
    assert "user 12345's" in found["text"]


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """No server can be had in a container: the kernel's list of mounts is read from a file instead."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"1 0 8:1 / / rw - ext4 /dev/sda rw\n36 35 0:1 / {tmp_path} rw - {kind} server:/export rw\n"
    )
    real = Path

    def path(*words: Any) -> Path:
        return mounts if words == ("/proc/self/mountinfo",) else real(*words)

    monkeypatch.setattr(machine, "Path", path)
    found = {one.check: one for one in doctor_place.examine(Project(tmp_path, tmp_path / ".hypervisor"))}
    assert found["file system"].level == "warning"
    assert found["file system"].text.startswith(f"{kind} is a network file system")
    assert found["file system"].do == "set HYPERVISOR_HOME to a local folder"


def test_a_clock_that_is_behind(user: Shell) -> None:
    if not (faketime := shutil.which("faketime")):
        pytest.skip("no faketime on PATH")
    ended = user.run([faketime, "-f", "-400d", *HYPERVISOR, "doctor", "--json"])
    found = next(one for one in ended.json if one["check"] == "clock")
    assert found["level"] == "warning"


def test_limits_that_are_too_low(user: Shell) -> None:
    words = [*HYPERVISOR, "doctor", "--json"]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))

    done = subprocess.run(
        words, cwd=user.cwd, env=user.environment, capture_output=True, check=True, preexec_fn=lower
    )
    found = next(one for one in json.loads(done.stdout) if one["check"] == "limits")
    assert found["level"] == "warning"
    assert found["text"].startswith("128 open files")
    assert found["do"] == "ulimit -n 1024"


# ------------------------------------------------------------------ the project


def test_a_repository_as_agents_cannot_use_it(user: Shell) -> None:
    git(user, "init", "--quiet", "--initial-branch=main")
    assert look(user)["repository"]["text"] == "there is no commit yet"
    user.extra |= {"GIT_CONFIG_NOSYSTEM": "1", "EMAIL": ""}
    git(user, "-c", "user.name=A", "-c", "user.email=a@b.invalid", "commit", "--allow-empty", "-m", "x")
    git(user, "config", "user.useConfigOnly", "true")
    found = look(user)["repository"]
    assert found["text"] == "git knows no name or address to commit with"
    assert found["do"].startswith("git config user.name")
    git(user, "config", "user.name", "A User")
    git(user, "config", "user.email", "user@example.invalid")
    assert look(user)["repository"]["ok"]
    git(user, "checkout", "--quiet", "--detach")
    assert "no branch is checked out" in look(user)["repository"]["text"]
    git(user, "checkout", "--quiet", "main")
    (user.cwd / ".git/MERGE_HEAD").write_text("0" * 40 + "\n")
    assert "a merge is in progress" in look(user)["repository"]["text"]


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        ({"allow": ["Edit", "Write", "Bash(git add *)", "Bash(git commit *)"]}, ""),
        ({"allow": ["Edit", "Write", "Bash(git *)"]}, ""),
        ({"allow": ["Edit", "Write", "Bash"]}, ""),
        ({"allow": ["Edit", "Write", "Bash(git add:*)"]}, "git commit"),
        ({"defaultMode": "acceptEdits", "allow": ["Bash(npm *)"]}, "git add, git commit"),
        ({"defaultMode": "bypassPermissions"}, ""),
        ({}, "Edit, Write, git add, git commit"),
        ([], "Edit, Write, git add, git commit"),
        ({"allow": "Edit"}, "Edit, Write, git add, git commit"),
    ],
)
@pytest.mark.parametrize("place", ["project", "home"])
def test_what_workers_may_do(tmp_path: Path, rules: Any, missing: str, place: str) -> None:
    (tmp_path / "tasks").mkdir()
    write_task(tmp_path / "tasks/t-1.md")
    folder = tmp_path / (".claude" if place == "project" else "home/.claude")
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"permissions": rules}))
    environ = {"HOME": str(tmp_path / "home"), "PATH": ""}
    found = {one.check: one for one in doctor_project.examine(Project(tmp_path, tmp_path / "none"), environ)}
    one = found["permissions"]
    assert (one.level == "ok") == (missing == "")
    assert not missing or f" to use {missing}, and they cannot ask" in one.text


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"'])
def test_client_settings_that_cannot_be_read_are_none(tmp_path: Path, content: str) -> None:
    write_task(tmp_path / "tasks/t-1.md")
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude/settings.json").write_text(content)
    found = {one.check: one for one in doctor_project.examine(Project(tmp_path, tmp_path / "none"), {})}
    assert found["permissions"].level == "warning"


_DIES = f"""
import os, sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
from pathlib import Path
from hypervisor.core.paths import Project
from hypervisor.claims.directory import DirectoryStore, Policy
from hypervisor.claims.port import Holder, HolderKind
holder = Holder(id=f"w-{{os.getpid()}}-0", kind=HolderKind.PROCESS, name="w", lease_seconds=900)
store = DirectoryStore(sys.argv[1], holder, policy=Policy())
print(store.claim("t-1-x", "t-1"), flush=True)
os._exit(9)
"""


def test_claims_of_the_dead_are_freed_by_what_it_says(user: Shell) -> None:
    state = project(user)
    user.hypervisor("task", "claim", "t-1", "--caller", "claude").passed()
    assert look(user)["claims held"]["text"] == "1"
    user.hypervisor("task", "release", "t-1", "--caller", "claude", "--reason", "later").passed()
    assert look(user)["claims held"]["text"] == "0"
    subprocess.run([sys.executable, "-c", _DIES, str(state)], check=False, capture_output=True)
    found = look(user)["claims held"]
    assert found["level"] == "warning"
    assert found["do"] == "hypervisor reap"
    user.hypervisor("reap")
    assert look(user)["claims held"]["ok"]


def test_results_that_are_damaged(user: Shell) -> None:
    state = project(user)
    user.hypervisor("task", "claim", "t-1", "--caller", "claude").passed()
    user.hypervisor("task", "complete", "t-1", "--caller", "claude", "--outcome", "x").passed()
    assert look(user)["results"]["text"] == "1 looked at, all whole"
    (result,) = (state / "results").iterdir()
    result.unlink()
    result.write_bytes(b"{")
    found = look(user)["results"]
    assert found["level"] == "warning"
    assert str(result) in found["text"]
    assert found["do"].endswith(f"rm {result}")


def test_many_outputs_and_what_the_dead_left(user: Shell) -> None:
    state = project(user)
    logs = state / "batches/b-1/logs"
    logs.mkdir(parents=True)
    (logs.parent / "manifest.json").write_text("{}")
    with open(logs / f"t-1-{0:032}.out", "wb") as file:
        file.truncate(2**31)  # a hole: nothing on the disk
    (user.cwd / "tasks").mkdir(exist_ok=True)
    (user.cwd / "tasks/t-1.md").write_text("---\nid: t-1\nstatus: active\n---\n")
    for draft in (
        state / ".config.toml.0123456789abcdef.tmp",
        user.cwd / "tasks/.t-1.md.0123456789abcdef.tmp",
    ):
        draft.touch()
        os.utime(draft, (0, 0))
    found = look(user)
    assert found["outputs"]["text"] == "2.0 GiB of 1 batch(es)"
    assert found["outputs"]["do"] == "hypervisor clean --outputs --older-than 30d --dry-run"
    assert found["leftovers"]["text"].startswith("2 of ")
    user.hypervisor("clean")
    assert look(user)["leftovers"]["ok"]
