"""How the scripts are started: in one environment, and only where there is need; what their children find."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from commands import ROOT, own_environment, script, write_task

IF_USED, START, LAUNCH = (str(ROOT / name) for name in ("hooks/if-used", "hooks/start", "scripts/launch"))
UV = shutil.which("uv")
#: What the scripts use, beside the shell's own.
PROGRAMS = ("cat", "cp", "dirname", "find", "grep", "head", "mkdir", "mv", "nohup", "rm", "setsid", "sh",
            "sleep", "tail", "touch", "tr")  # fmt: skip
#: Of whoever runs the tests, before each test gets a home of its own.
REAL = {name: os.environ[name] for name in ("HOME", "UV_CACHE_DIR", "XDG_CACHE_HOME") if name in os.environ}
SHELLS = [path for name in ("dash", "bash") if (path := shutil.which(name))] or ["/bin/sh"]


@dataclass(slots=True)
class User:
    """A user whose environment has a python that only says how it was started."""

    folder: Path
    shell: str
    environ: dict[str, str] = field(default_factory=dict)
    python: str = 'printf "%s\\n" "$@"'

    @property
    def top(self) -> Path:
        """The folder in which the session begins."""
        return self.folder / "work/project"

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script of ours to its end."""
        if self.python:
            own_environment(self.folder, self.python)
        said = {"CLAUDE_PROJECT_DIR": str(self.top), "PATH": os.defpath, "HOME": str(self.folder)}
        return subprocess.run(
            [self.shell, *words], cwd=self.folder, env={**said, **self.environ, **environ}, text=True,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip

    def uses_us(self, **environ: str) -> bool:
        """Tell whether a hook's command is run."""
        done = self.run(IF_USED, "echo", "it", "is", **environ)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout in ("", "it is\n")
        return bool(done.stdout)


@pytest.fixture(params=SHELLS, ids=lambda path: Path(path).name)
def user(request: pytest.FixtureRequest, tmp_path: Path) -> User:
    made = User(tmp_path, request.param)
    made.top.mkdir(parents=True)
    return made


# -------------------------------------------------------------- hooks/if-used


def test_nothing_is_started_in_a_project_that_does_not_use_us(user: User) -> None:
    for name in ("src", ".git", "data/x", "backlog", "x/tasks"):
        (user.top / name).mkdir(parents=True)
    (user.top / "tasks.md").touch()
    (user.top / ".hypervisor").write_text("a file\n")
    assert not user.uses_us()
    assert not user.uses_us(CLAUDE_PROJECT_DIR="")


@pytest.mark.parametrize(
    "name", [".hypervisor", "tasks", "backlog/tasks", "data/x/tasks", "data/a b\nc/tasks", "../.hypervisor"]
)
def test_a_project_uses_us_by_its_state_folder_or_its_tasks(user: User, name: str) -> None:
    (user.top / name).mkdir(parents=True)
    (user.top / "app/src").mkdir(parents=True)
    assert user.uses_us()
    assert user.uses_us(CLAUDE_PROJECT_DIR=str(user.top / "app/src"))


def test_a_linked_worktree_and_a_state_folder_of_the_users_own_are_looked_into(user: User) -> None:
    assert user.uses_us(HYPERVISOR_HOME=str(user.folder / "elsewhere"))
    (user.top / ".git").write_text("gitdir: /elsewhere/.git/worktrees/x\n")
    assert user.uses_us()


def test_what_a_hook_becomes_keeps_its_input_and_its_exit_code(user: User) -> None:
    (user.top / "tasks").mkdir()
    done = user.run(IF_USED, "sh", "-c", "exit 2")
    assert done.returncode == 2


# -------------------------------------------------------------------- launch


@pytest.mark.parametrize("name", ["hook.py", "attend.py", "gemini_hook.py", "../hooks/preflight.py"])
@pytest.mark.parametrize(("code", "becomes"), [(0, 0), (1, 0), (2, 0), (92, 2), (127, 0)])
def test_only_a_hooks_own_word_is_a_veto(user: User, name: str, code: int, becomes: int) -> None:
    user.python = f"exit {code}"
    assert user.run(LAUNCH, name).returncode == becomes


def test_a_command_of_the_users_ends_with_its_own_code(user: User) -> None:
    user.python = "exit 3"
    assert user.run(LAUNCH, "hypervisor_cli.py").returncode == 3


def test_where_the_environment_cannot_be_made_no_hook_is_a_veto(user: User) -> None:
    user.python = ""
    (user.folder / "few").mkdir()
    for name in PROGRAMS:
        (user.folder / "few" / name).symlink_to(str(shutil.which(name)))
    for name, code in (("hook.py", 0), ("attend.py", 0), ("hypervisor_cli.py", 2)):
        assert user.run(LAUNCH, name, PATH=str(user.folder / "few")).returncode == code


def test_what_a_run_has_started_uses_the_runs_python(user: User) -> None:
    python = script(user.folder, "python", 'printf "%s\n" "$@"')
    done = user.run(LAUNCH, "mcp_server.py", HYPERVISOR_PYTHON=str(python))
    assert done.stdout == f"{ROOT}/scripts/mcp_server.py\n"
    assert user.run(LAUNCH, "hook.py", HYPERVISOR_PYTHON="/nonexistent").stdout == f"{ROOT}/scripts/hook.py\n"


@pytest.mark.parametrize("named", ["relative", "./x", ""])
def test_a_relative_cache_folder_is_not_used(user: User, named: str) -> None:
    """As the XDG specification says: what lies in the folder where a command is typed may be anybody's."""
    bad = script(user.folder, "bad", "echo RUN >&2")
    for folder in (user.folder / "relative", user.folder / "x", user.folder):
        place = Path(f"{folder}/hypervisor/environments{ROOT}/.venv/bin")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(bad, place / "python")
    done = user.run(LAUNCH, "hypervisor_cli.py", "status", XDG_CACHE_HOME=named)
    assert (done.stdout, done.stderr) == (f"{ROOT}/scripts/hypervisor_cli.py\nstatus\n", "")
    done = user.run(LAUNCH, "mcp_server.py", XDG_CACHE_HOME=named)
    assert (user.folder / ".cache/hypervisor/starting").is_dir()
    assert not (user.folder / "relative/hypervisor/starting").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("name", ["launch", "prepare", "ensure-uv"])
def test_the_cache_of_another_user_is_not_used(user: User, name: str) -> None:
    with tempfile.TemporaryDirectory() as open_to_all:
        top = Path(open_to_all)
        top.chmod(0o755)
        (top / "plugin").mkdir()
        shutil.copy(ROOT / f"scripts/{name}", top / "plugin")
        cache = top / "cache/hypervisor"
        cache.mkdir(parents=True)
        os.chown(cache, 12345, 12345)
        done = subprocess.run(
            [user.shell, f"{top}/plugin/{name}", *(["hypervisor_cli.py"] if name == "launch" else [])],
            env={"PATH": os.defpath, "HOME": str(top), "XDG_CACHE_HOME": str(top / "cache")}, cwd=top,
            user=65534, group=65534, text=True, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        who = {"launch": "hypervisor", "prepare": "prepare", "ensure-uv": "ensure-uv"}[name]
        said = f"{who}: {cache} belongs to another user; set XDG_CACHE_HOME to a folder of yours\n"
        assert (done.returncode, done.stderr) == (1 if name == "ensure-uv" else 2, said)


def test_the_environment_is_made_once_and_again_when_the_lock_has_changed(user: User, tmp_path: Path) -> None:
    """A uv that writes its environment only; the folder of the plugin cannot be written to."""
    user.python = ""
    plugin, bins = tmp_path / "a plugin", tmp_path / "few"
    (plugin / "scripts/hypervisor").mkdir(parents=True)
    for name in ("launch", "prepare", "ensure-uv"):
        shutil.copy(ROOT / f"scripts/{name}", plugin / "scripts")
    (plugin / "uv.lock").write_text("one\n")
    plugin.chmod(0o500)
    bins.mkdir()
    for name in PROGRAMS:
        (bins / name).symlink_to(str(shutil.which(name)))
    python = script(tmp_path, "python", 'printf "%s\\n" "$@"')
    made = f'mkdir -p "$UV_PROJECT_ENVIRONMENT/bin"; cp "{python}" "$UV_PROJECT_ENVIRONMENT/bin/python"'
    script(
        bins,
        "uv",
        f'case $1 in lock) echo --script ;; sync) echo "$PWD $@" >>"{tmp_path}/told"; {made} ;; esac',
    )
    starter = str(plugin / "scripts/launch")

    def start() -> tuple[str, int]:
        done = user.run(
            starter, "hypervisor_cli.py", "status", PATH=str(bins), VIRTUAL_ENV="/mine", UV_LOCKED="1"
        )
        assert (done.returncode, done.stdout) == (0, f"{plugin}/scripts/hypervisor_cli.py\nstatus\n")
        return done.stderr, len((tmp_path / "told").read_text().splitlines())

    assert start() == ("hypervisor: preparing its environment in the cache folder, once\n", 1)
    assert start() == ("", 1)
    os.utime(plugin / "uv.lock", (0, 0))  # older is another one too
    assert start()[1] == 2
    assert start() == ("", 2)
    told = (tmp_path / "told").read_text()
    assert told.startswith("/ sync --quiet --frozen --no-dev ")
    assert told.count(f"--project {plugin}\n") == 2
    assert sorted(os.listdir(plugin)) == ["scripts", "uv.lock"]


# ---------------------------------------------------------------- hooks/start


def begins(user: User, server: str, tells_after: float | None = None) -> tuple[float, str]:
    """Begin a session whose server has that mark; return the seconds it took, and what the hook said."""
    cache = user.folder / ".cache/hypervisor"
    mark = cache / f"starting/{os.getpid()}"
    mark.parent.mkdir(parents=True)
    mark.write_text(f"{server}\n", "utf-8")
    telling = threading.Timer(tells_after or 0, mark.unlink)
    begun = time.monotonic()
    if tells_after is not None:
        telling.start()
    done = user.run(START)  # its parent is the client
    took = time.monotonic() - begun
    telling.join() if tells_after is not None else None
    assert (done.returncode, done.stderr) == (0, "")
    return took, done.stdout


@pytest.mark.slow
def test_a_session_begins_when_its_server_has_told_its_tools(user: User) -> None:
    took, said = begins(user, str(os.getpid()), tells_after=2.0)
    assert took >= 2.0
    assert said == f"{ROOT}/scripts/hook.py\n"


@pytest.mark.parametrize("server", ["", "x", str(2**22 + 1)], ids=["none", "no number", "dead"])
def test_a_server_that_does_not_come_is_not_waited_for(user: User, server: str) -> None:
    took, said = begins(user, server)
    assert took < 10.0  # of the 20 that a living one is given
    assert said == f"{ROOT}/scripts/hook.py\n"


# ----------------------------------------------------------- hooks as scripts


CALL = {"session_id": "s-1", "tool_name": "Agent", "tool_use_id": "toolu_1"}
SPAWN = {"prompt": "/pull t-1", "subagent_type": "hypervisor:worker"}


@pytest.mark.parametrize(("name", "event"), [("preflight", "PreToolUse"), ("receipt", "PostToolUse")])
def test_a_hook_as_a_script_answers_its_own_events_and_no_other(
    tmp_path: Path, name: str, event: str
) -> None:
    write_task(tmp_path / "tasks/t-1.md", status="done")

    def said(event: str) -> str:
        call = {**CALL, "hook_event_name": event, "tool_input": SPAWN}
        done = subprocess.run(
            [sys.executable, str(ROOT / f"hooks/{name}.py")], input=json.dumps(call), text=True, cwd=tmp_path,
            env={"CLAUDE_PROJECT_DIR": str(tmp_path), "PATH": os.defpath, "HOME": str(tmp_path)},
            capture_output=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert ("already complete" in said(event)) is (name == "preflight")
    other = "PostToolUse" if event == "PreToolUse" else "PreToolUse"
    assert said(other) == ""


# ------------------------------------------------------------------- children


@pytest.mark.acceptance
@pytest.mark.skipif(UV is None, reason="no uv on PATH; type: pip install uv")
def test_what_is_run_on_an_item_finds_the_users_own_python_and_not_ours(tmp_path: Path) -> None:
    assert UV is not None
    (tmp_path / "work").mkdir()
    (tmp_path / "work/queue.txt").write_text("one\n")
    words = [UV, "run", "--quiet", "--script", str(ROOT / "scripts/batch_worker.py")]
    words += ["--dir", "work", "--all", "--exec", "sh -c env"]
    environment = {**REAL, "PATH": "/usr/bin:/bin"}
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, capture_output=True)
    (log,) = (tmp_path / "work/logs").iterdir()
    found = dict(line.split("=", 1) for line in log.read_text().splitlines() if "=" in line)
    assert found["PATH"] == "/usr/bin:/bin"
    assert not {"VIRTUAL_ENV", "UV", "UV_RUN_RECURSION_DEPTH"} & found.keys()


def test_an_environment_that_the_user_works_in_stays(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/queue.txt").write_text("one\n")
    mine = {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "VIRTUAL_ENV": sys.prefix, "HOME": str(tmp_path)}
    words = [
        sys.executable,
        str(ROOT / "scripts/batch_worker.py"),
        "--dir",
        "work",
        "--all",
        "--exec",
        "sh -c env",
    ]
    subprocess.run(words, cwd=tmp_path, env=mine, check=True, capture_output=True)
    (log,) = (tmp_path / "work/logs").iterdir()
    assert {f"{name}={mine[name]}" for name in ("PATH", "VIRTUAL_ENV")} <= set(log.read_text().splitlines())
