"""`hypervisor doctor`, with each thing missing for real: what it finds, how grave that is, what to type."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from commands import HYPERVISOR, ROOT, Shell, script, shell, tree, write_task
from hypervisor.cli import doctor_place, doctor_project, doctor_store
from hypervisor.core import files
from hypervisor.core.process import identity_of, this_process
from hypervisor.core.project import Project
from hypervisor.core.settings import default_settings, settings_of
from hypervisor.queue.batches import create_of_tasks
from hypervisor.store.liveness import WorkerLock
from hypervisor.store.records import Claim, Worker, WorkerKind
from hypervisor.store.shared import join
from hypervisor.store.store import Store
from stores import Database, a_worker, done, fill

ALWAYS = [
    "python", "uv", "packages", "git", "sandbox", "claude", "gemini", "settings", "state folder",
    "file system", "claims", "clock", "disk", "limits", "repository",
]  # fmt: skip
IN_PROJECT = ["permissions", "outputs", "leftovers"]
WITH_STORE = ["database", "claims held", "results"]
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
    ended = user.here("doctor", "--json")
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
    ready = user.home / f".cache/hypervisor/environments{ROOT}/.venv/hypervisor-ready"
    ready.parent.mkdir(parents=True)
    shutil.copy2(ROOT / "uv.lock", ready)  # its time is that of the lock
    before = {name: mark.split()[0] for name, mark in tree(user.cwd).items()}
    found = look(user)
    assert list(found) == ALWAYS + IN_PROJECT
    wrong = {name for name, one in found.items() if not one["ok"]}
    assert wrong == {"sandbox", "claude", "gemini", "permissions"}  # there is no bwrap on this PATH
    assert {one["level"] for name, one in found.items() if name in wrong} == {"warning"}
    assert found["claims"]["text"] == "mkdir and locks hold, and a database can be written"
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
    ended = user.here("doctor")
    assert ended.code == 1
    lines = ended.lines
    at = lines.index("FAILURE uv: not found; it fetches the packages of this plugin")
    assert lines[at + 1] == "        do: python3 -m pip install uv"
    assert lines[-1].startswith("1 failure(s), ")


# ------------------------------------------------------------------ programs


def test_a_uv_that_is_too_old_or_does_not_run(user: Shell) -> None:
    script(user.home / "bin", "uv", 'case "$*" in *--version*) echo "uv 0.4.1" ;; *) exit 2 ;; esac')
    found = look(user, code=1)["uv"]
    assert found["level"] == "failure"
    assert "uv 0.4.1: is too old" in found["text"]
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
    assert found["do"] == str(ROOT / "scripts/prepare")
    for name in ("cp", "dirname", "find", "grep", "mkdir", "rm", "setsid", "nohup", "touch"):
        if path := shutil.which(name):
            (user.home / "bin" / name).symlink_to(path)
    made = 'mkdir -p "$UV_PROJECT_ENVIRONMENT/bin"; cp "$0" "$UV_PROJECT_ENVIRONMENT/bin/python"'
    script(user.home / "bin", "uv", f"case $1 in sync) {made} ;; esac\n{UV}")
    assert user.run([found["do"]]).passed().out == ""
    assert look(user)["packages"]["ok"]


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
    assert "`hypervisor run` needs 2.38 or later" in look(user)["git"]["text"]


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


def test_a_claude_that_cannot_ask_our_server_runs_no_hooks(user: Shell) -> None:
    script(user.home / "bin", "claude", "echo 2.1.117")
    found = look(user)["claude hooks"]
    assert found["level"] == "warning"
    assert "hooks.command.json" in found["do"]
    script(user.home / "bin", "claude", "echo 2.1.118")
    assert "claude hooks" not in look(user)


def test_that_the_client_has_given_up_on_our_server_is_seen(user: Shell) -> None:
    script(user.home / "bin", "claude", "echo 2.9.9")
    kept = user.home / ".claude/mcp-needs-auth-cache.json"
    kept.parent.mkdir()
    kept.write_text('{"plugin:other:x": {"timestamp": 1}}')
    assert "claude tools" not in look(user)
    kept.write_text('{"plugin:hypervisor:task_manager": {"timestamp": 1}}')
    found = look(user)["claude tools"]
    assert found["level"] == "warning"
    assert found["do"] == f"rm {kept}, and begin a new session"


def test_gemini_is_not_asked_and_its_login_is_not_read(user: Shell) -> None:
    script(user.home / "bin", "gemini", "echo 0.61.0")
    assert look(user)["gemini login"]["level"] == "warning"
    secret = user.home / ".gemini/oauth_creds.json"
    secret.parent.mkdir()
    os.mkfifo(secret)  # whoever opened it would hang
    assert look(user)["gemini login"]["text"] == "logged in once; not tried"
    user.extra["GEMINI_API_KEY"] = "a secret"
    ended = user.here("doctor")
    assert "GEMINI_API_KEY is set; not tried" in ended.out
    assert "a secret" not in ended.out


# ------------------------------------------------------------------ the place


def test_settings_and_a_state_folder_that_others_may_read(user: Shell) -> None:
    state = project(user)
    state.chmod(0o755)
    (state / "config.toml").write_text("[claims]\nattempt = 2\n")
    found = look(user, code=1)
    assert found["state folder"]["text"] == f"{state} (mode 755): others can read it"
    assert found["state folder"]["level"] == "warning"
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
    ended = user.here("doctor")
    assert (ended.code, ended.out) == (1, "")
    assert "it belongs to the user with id 12345, not to you; nothing of others is used" in ended.err


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

    monkeypatch.setattr(files, "Path", path)
    found = {one.check: one for one in doctor_place.examine(Project(tmp_path, tmp_path / ".hypervisor"))}
    assert found["file system"].level == "failure"
    assert found["file system"].text == f"{kind} is a network file system, which cannot hold the database"
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


# ------------------------------------------------------------------ the store


def begin(state: Path) -> Store:
    """Make the store of a project, and open it."""
    return Store.open(state, default_settings())


def test_a_store_in_which_all_is_well(user: Shell) -> None:
    state = project(user)
    with begin(state) as store:
        done_by(store, a_worker(process=this_process(), kind=WorkerKind.LEASE), "a")
    found = look(user)
    assert [name for name in found if name in WITH_STORE] == WITH_STORE
    assert "whole" in found["database"]["text"]
    assert found["claims held"]["text"] == "0"
    assert found["results"]["text"] == "all are written to files"
    assert all(found[name]["ok"] for name in WITH_STORE)
    assert "old state" not in found
    assert "lock directories" not in found


def done_by(store: Store, worker: Worker, key: str, *, published: bool = True) -> None:
    claim = store.claims.claim(worker, key, key)
    assert isinstance(claim, Claim)
    store.claims.complete_one(done(claim, published=published))


def test_a_damaged_database_is_named_with_what_to_move(user: Shell) -> None:
    state = project(user)
    with begin(state) as store:
        fill(store, *(f"item-{n}" for n in range(2000)))
        store.engine.backup(state / "copy")  # type: ignore[attr-defined]
    data = bytearray((state / "copy").read_bytes())
    data[4096 : 20 * 4096] = b"\x5a" * (19 * 4096)
    for path in state.glob("hypervisor.db*"):
        path.unlink()
    (state / "copy").rename(state / "hypervisor.db")
    (state / "hypervisor.db").write_bytes(data)
    found = look(user, code=1)["database"]
    assert found["level"] == "failure"
    assert found["do"] == f"mv {state}/hypervisor.db* somewhere else"
    (state / "hypervisor.db").write_bytes(b"no database, but long enough to look like one" * 200)
    assert look(user, code=1)["database"]["level"] == "failure"


def test_a_database_of_a_newer_version_is_not_taken_for_ours(user: Shell) -> None:
    state = project(user)
    with begin(state) as store:
        store.engine._connection.pragma("user_version", 99)  # type: ignore[attr-defined]
    found = look(user, code=1)["database"]
    assert "newer version (schema 99" in found["text"]
    assert found["do"].startswith("update hypervisor")


def test_a_large_write_ahead_log_is_told_with_what_holds_it(
    user: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = project(user)
    with begin(state) as store:
        fill(store, "a")
        monkeypatch.setattr(doctor_store, "_LARGE_LOG", 1000)
        found = {one.check: one for one in doctor_store.examine(Project(user.cwd, state))}["database"]
    assert found.level == "warning"
    assert "write-ahead log" in found.text
    assert found.do.startswith("end the oldest of the processes")


def test_claims_of_the_dead_are_freed_by_what_it_says(user: Shell) -> None:
    state = project(user)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with begin(state) as store:
        store.claims.claim(a_worker(process=identity_of(process.pid)), "t-1", "tasks/t-1.md")
        assert look(user)["claims held"]["text"] == "1"
        process.kill()
        process.communicate()
        found = look(user)["claims held"]
        assert found["level"] == "warning"
        assert found["text"] == "0; 1 more of dead or silent workers, such as tasks/t-1.md"
        assert found["do"] == "hypervisor reap"
        user.here("reap")
        assert look(user)["claims held"]["ok"]


def test_silent_workers_are_as_dead(user: Shell) -> None:
    state = project(user)
    with Store.open(
        state, {**default_settings(), "claims": {**default_settings()["claims"], "lease_seconds": 0.0}}
    ) as store:
        store.claims.claim(a_worker(kind=WorkerKind.LEASE), "a", "a")
    assert look(user)["claims held"]["text"].startswith("0; 1 more of dead or silent workers")


def test_results_that_no_file_says_yet_are_told(user: Shell) -> None:
    state = project(user)
    with begin(state) as store:
        done_by(store, a_worker(kind=WorkerKind.LEASE), "a", published=False)
    found = look(user)["results"]
    assert found["level"] == "warning"
    assert found["text"] == "1 are not written to files yet, such as that of a"
    user.here("status").passed()
    assert look(user)["results"]["ok"]


def test_lock_directories_of_others_are_named_and_ours_are_not(user: Shell) -> None:
    state = project(user)
    (state / "locks").mkdir()
    with begin(state) as store:
        worker = a_worker(process=this_process(), kind=WorkerKind.LEASE)
        assert isinstance(store.claims.claim(worker, "a", "a", lock="a"), Claim)
        (state / "locks/a").mkdir()
    assert look(user)["lock directories"]["text"] == "none but our own"
    (state / "locks/somebody").mkdir()
    (state / "locks/else.lock").touch()
    found = look(user)["lock directories"]
    assert found["level"] == "warning"
    assert found["text"] == f"2 of other programs hold items, such as {state}/locks/else.lock"
    assert found["do"].endswith(f"rm -d {state}/locks/else.lock")


def test_state_of_version_0_4_is_named_and_left_alone(user: Shell) -> None:
    state = project(user)
    for name in ("locks/t-1", "results", "workers", "sessions", "batches/b-1"):
        (state / name).mkdir(parents=True)
    (state / "events.jsonl").write_text("{}\n")
    (state / "batches/b-1/manifest.json").write_text("{}")
    before = tree(state)
    found = look(user)["old state"]
    assert found["level"] == "warning"
    assert "version 1.0 starts fresh and leaves it alone" in found["text"]
    assert "takes its folders locks and results for yours" in found["text"]
    assert found["do"] == (
        f"remove it when you like: rm -r {state}/events.jsonl {state}/locks {state}/results"
    )
    assert {name: mark.split()[0] for name, mark in tree(state).items()} == {
        name: mark.split()[0] for name, mark in before.items()
    }


def test_folders_that_the_user_made_are_no_old_state(user: Shell) -> None:
    state = project(user)
    for name in ("locks", "results", "sessions", "workers"):
        (state / name).mkdir()
    assert "old state" not in look(user)
    begin(state).close()
    assert "old state" not in look(user)


def test_many_outputs_and_what_the_dead_left(user: Shell) -> None:
    state = project(user)
    create_of_tasks(Project(user.cwd, state), ["tasks/t-1.md"], []).close()
    (folder,) = (state / "batches").iterdir()
    logs = folder / "logs"
    logs.mkdir()
    with open(logs / f"t-1-{0:032}.out", "wb") as file:
        file.truncate(2**31)  # a hole: nothing on the disk
    for draft in (
        state / ".config.toml.0123456789abcdef.tmp",
        user.cwd / "tasks/.t-1.md.0123456789abcdef.tmp",
    ):
        draft.touch()
        os.utime(draft, (0, 0))
    WorkerLock(str(state / "workers"), "worker-1-dead").close()
    (state / "workers/worker-1-dead.lock").touch()
    os.utime(state / "workers/worker-1-dead.lock", (0, 0))
    found = look(user)
    assert found["outputs"]["text"] == "2.0 GiB of 1 batch(es)"
    assert found["outputs"]["do"] == "hypervisor clean --outputs --older-than 30d --dry-run"
    assert found["leftovers"]["text"] == "3 of crashed processes"
    user.here("clean")
    assert look(user)["leftovers"]["ok"]


def on_server(folder: Path, db: Database) -> Project:
    """Return a project that uses the tables of *db*."""
    state = folder / ".hypervisor"
    state.mkdir(mode=0o700)
    (state / "config.toml").write_text(f'[store]\nschema = "{db.schema}"\n')
    join(state, settings_of(state), db.url, "")
    return Project(folder, state)


def test_a_server_its_tables_and_who_merges_are_told(postgres_db: Database, tmp_path: Path) -> None:
    store = postgres_db.open()
    project = on_server(tmp_path, postgres_db)
    assert store.merges.take_lease("merge main", a_worker(), 60.0) is not None
    found = {one.check: one for one in doctor_store.examine(project)}
    assert {one.level for one in found.values()} == {"ok"}
    assert "PostgreSQL" in found["server"].text
    assert f"schema {postgres_db.schema}, version 1" in found["tables"].text
    assert found["leases"].text.startswith("merge main by ")
    assert found["claims held"].text == "0"


def test_a_server_that_is_not_there_and_a_clock_that_is_behind_are_told(
    postgres_db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres_db.open()  # removes the tables at the end
    project = on_server(tmp_path, postgres_db)
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda now=time.time: now() + 3600)
        told = [one.text for one in doctor_store.examine(project) if one.level == "warning"]
    assert told[0].startswith("the server's clock is 3600 s behind this machine's")
    kept = json.loads((project.state / "store.json").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        kept["url"] = f"postgresql://u:secret@127.0.0.1:{free.getsockname()[1]}/d?connect_timeout=2"
    (project.state / "store.json").write_text(json.dumps(kept))
    (project.state / "config.toml").write_text("[claims]\nlease_seconds = 1\n")
    (only,) = doctor_store.examine(project)
    assert (only.check, only.level) == ("server", "failure")
    assert "cannot be reached: nothing listens there" in only.text
    assert "secret" not in only.text
    (project.state / "store.json").write_text("{")
    (only,) = doctor_store.examine(project)
    assert only.do == "hypervisor store init"
