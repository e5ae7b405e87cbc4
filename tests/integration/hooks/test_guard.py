"""The guard before each hook: nothing is started where there is no need, and nothing fails because of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, write_task
from hypervisor.core.project import session_project
from hypervisor.hooks import decisions
from hypervisor.hooks.decisions import PREFIX

GUARD = ROOT / "hooks/guard"
HOOKS = json.loads((ROOT / "hooks/hooks.json").read_text("utf-8"))["hooks"]
#: The environment of whoever runs the tests, before it is emptied: where the real uv keeps its things.
REAL = {
    name: os.environ[name]
    for name in ("HOME", "PATH", "UV_CACHE_DIR", "XDG_CACHE_HOME")
    if name in os.environ
}
SHELLS = [path for name in ("dash", "bash") if (path := shutil.which(name))] or ["/bin/sh"]
SESSION = "6019c1f4-0d32-4f85-9a5e-2f6f3a1b7c11"
PAYLOAD = json.dumps({"session_id": SESSION, "hook_event_name": "Stop"}).encode()

#: The events of the client's hooks: https://code.claude.com/docs/en/hooks
EVENTS = {
    "PreToolUse", "PostToolUse", "PostToolUseFailure", "PostToolBatch", "Notification", "UserPromptSubmit",
    "UserPromptExpansion", "SessionStart", "SessionEnd", "Stop", "StopFailure", "SubagentStart",
    "SubagentStop", "PreCompact", "PostCompact", "PermissionRequest", "PermissionDenied", "Setup",
    "TeammateIdle", "TaskCreated", "TaskCompleted", "Elicitation", "ElicitationResult", "ConfigChange",
    "WorktreeCreate", "WorktreeRemove", "InstructionsLoaded", "CwdChanged", "FileChanged", "MessageDisplay",
}  # fmt: skip
#: Those whose matcher is compared with a tool's name, and the tools that a matcher of ours may mean.
OF_TOOLS = {"PreToolUse", "PostToolUse", "PostToolUseFailure"}
TOOLS = {"Agent", "Edit", "MultiEdit", "Write", "NotebookEdit", "Bash"}


@dataclass(slots=True)
class Guard:
    """The guard as the client runs it, with a uv that only says how it was started."""

    folder: Path
    shell: str
    top: Path
    environ: dict[str, str] = field(default_factory=dict)
    uv: str = 'printf "%s\\n" "$@" >"$MARK"\ncat >"$MARK.in"\nprintf "{}\\n"\n'

    @property
    def mark(self) -> Path:
        return self.folder / "mark"

    def run(self, mode: str, **environ: str | None) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end; its exit code is 0, whatever happens."""
        fake = self.folder / "fake bin/uv"
        fake.parent.mkdir(parents=True, exist_ok=True)
        fake.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin MARK='{self.mark}'\n{self.uv}", "utf-8")
        fake.chmod(0o755)
        for path in (self.mark, Path(f"{self.mark}.in")):
            path.unlink(missing_ok=True)
        said = {
            "CLAUDE_PROJECT_DIR": str(self.top), "CLAUDE_CODE_SESSION_ID": SESSION,
            "CLAUDE_PLUGIN_ROOT": str(ROOT), "PATH": str(fake.parent), "HOME": str(self.folder),
            **self.environ, **environ,
        }  # fmt: skip
        self.folder.joinpath("elsewhere").mkdir(exist_ok=True)
        done = subprocess.run(
            [self.shell, str(GUARD), mode],
            cwd=self.folder / "elsewhere",
            env={name: value for name, value in said.items() if value is not None},
            input=PAYLOAD,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0
        return done

    def starts(self, mode: str, **environ: str | None) -> bool:
        """Tell whether it passes a call on; if so, the whole of it and to the hook; else it is silent."""
        done = self.run(mode, **environ)
        assert done.stderr == b""
        if not self.mark.exists():
            assert done.stdout == b""
            return False
        told = self.mark.read_text("utf-8").splitlines()
        assert told[:5] == ["run", "--quiet", "--python", ">=3.11", "--script"]
        assert Path(told[5]).resolve() == ROOT / "scripts/hook.py"
        state = "\n".join(told[6:])  # a folder's name may have line ends
        assert state == "" or state.endswith("/.hypervisor") or "HYPERVISOR_HOME" in {*environ, *self.environ}
        assert Path(f"{self.mark}.in").read_bytes() == PAYLOAD
        assert done.stdout == b"{}\n"
        return True


@pytest.fixture(params=SHELLS, ids=lambda path: Path(path).name)
def guard(request: pytest.FixtureRequest, tmp_path: Path) -> Guard:
    top = tmp_path / "work/project"
    top.mkdir(parents=True)
    return Guard(tmp_path, request.param, top)


def make(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


def touch(path: Path) -> None:
    make(path.parent)
    path.touch()


# -------------------------------------------------------------------- conditions


def test_nothing_is_started_in_a_project_that_does_not_use_us(guard: Guard) -> None:
    make(
        guard.top / "src",
        guard.top / ".git",
        guard.top / "data/x",
        guard.top / "backlog",
        guard.top / "x/tasks",
    )
    (guard.top / "tasks.md").touch()
    (guard.top / ".hypervisor").write_text("a file\n")
    assert not guard.starts("project")
    assert not guard.starts("session")
    assert sorted(os.listdir(guard.top)) == [".git", ".hypervisor", "backlog", "data", "src", "tasks.md", "x"]


@pytest.mark.parametrize(
    "folder", [".hypervisor", "tasks", "backlog/tasks", "data/x/tasks", "data/a b\nc/tasks"]
)
def test_a_project_uses_us_by_its_state_folder_or_its_tasks(guard: Guard, folder: str) -> None:
    for top in (guard.top, guard.folder / "a b\n*"):
        make(top / folder)
        assert guard.starts("project", CLAUDE_PROJECT_DIR=str(top))
        assert not guard.starts("session", CLAUDE_PROJECT_DIR=str(top))


def test_tasks_in_a_subfolder_are_found_from_the_root_of_the_project_only(guard: Guard) -> None:
    make(guard.top / ".git", guard.top / "tasks", guard.top / "app/src")
    assert guard.starts("project", CLAUDE_PROJECT_DIR=str(guard.top / "app/src"))
    make(guard.top / "other/.git")
    assert not guard.starts("project", CLAUDE_PROJECT_DIR=str(guard.top / "other"))


def test_a_session_is_ours_while_it_has_a_file_of_its_own(guard: Guard) -> None:
    touch(guard.top / ".hypervisor/sessions/another")
    assert not guard.starts("session")
    assert not guard.starts("session", CLAUDE_CODE_SESSION_ID=None)
    assert not guard.starts("session", CLAUDE_CODE_SESSION_ID="")
    touch(guard.top / ".hypervisor/sessions" / SESSION)
    assert guard.starts("session")
    assert not guard.starts("session", CLAUDE_CODE_SESSION_ID="6019")


def test_where_something_acts_in_bulk_every_call_is_looked_at(guard: Guard) -> None:
    make(guard.top / ".hypervisor")
    assert not guard.starts("bulk")
    assert not guard.starts("change")
    touch(guard.top / ".hypervisor/sessions" / SESSION)
    assert not guard.starts("bulk"), "a claim alone is no reason"
    assert guard.starts("change")
    touch(guard.top / ".hypervisor/bulk")
    for mode in ("bulk", "change"):
        assert guard.starts(mode, CLAUDE_CODE_SESSION_ID="6019")


def test_always_is_always(guard: Guard) -> None:
    assert guard.starts("always")


@pytest.mark.parametrize("mode", ["project", "session"])
def test_the_users_own_state_folder_counts_alone(guard: Guard, mode: str) -> None:
    state = guard.folder / "a b/state"
    touch(guard.top / ".hypervisor/sessions" / SESSION)
    make(guard.top / "tasks")
    assert not guard.starts(mode, HYPERVISOR_HOME=str(state))
    touch(state / "sessions" / SESSION)
    assert guard.starts(mode, HYPERVISOR_HOME=str(state))


def test_tasks_beside_the_users_own_state_folder_are_the_projects(guard: Guard) -> None:
    home = guard.folder / "elsewhere/state"
    make(home.parent / "tasks")
    assert session_project({"HYPERVISOR_HOME": str(home)}).root == home.parent
    assert guard.starts("project", HYPERVISOR_HOME=str(home))


# --------------------------------------------------------------------------- uv


def test_without_uv_nothing_is_said(guard: Guard) -> None:
    done = guard.run("always", PATH="/nonexistent")
    assert (done.stdout, done.stderr) == (b"", b"")
    assert not guard.mark.exists()


def test_without_uv_on_the_path_the_one_in_the_cache_is_taken(guard: Guard) -> None:
    guard.run("always")  # makes the fake one
    kept = guard.folder / ".cache/hypervisor/uv/bin/uv"
    make(kept.parent)
    shutil.copy2(guard.folder / "fake bin/uv", kept)
    assert guard.starts("always", PATH="/nonexistent")
    elsewhere = guard.folder / "cache"
    shutil.move(guard.folder / ".cache", elsewhere)
    assert not guard.starts("always", PATH="/nonexistent")
    assert guard.starts("always", PATH="/nonexistent", XDG_CACHE_HOME=str(elsewhere))


@pytest.mark.parametrize("code", [1, 2, 127])
def test_a_uv_that_fails_is_no_veto(guard: Guard, code: int) -> None:
    guard.uv = f"echo 'error: no network' >&2; exit {code}\n"
    done = guard.run("always")
    assert done.stdout == b""
    assert done.stderr == b"error: no network\n"


def test_a_uv_that_is_killed_is_no_veto(guard: Guard) -> None:
    guard.uv = "kill -9 $$\n"
    assert guard.run("always").stdout == b""


# ------------------------------------------------------------- the session's server


def begins(guard: Guard, server: str, tells_after: float | None = None) -> tuple[float, bool]:
    """Begin a session whose server has that mark; return the seconds it took, and whether the hook ran."""
    make(guard.top / "tasks", guard.folder / f".cache/hypervisor/ready{ROOT}")
    (guard.folder / f".cache/hypervisor/ready{ROOT}/scripts").touch()
    mark = guard.folder / f".cache/hypervisor/starting/{os.getpid()}"
    make(mark.parent)
    mark.write_text(f"{server}\n", "utf-8")
    telling = threading.Timer(tells_after or 0, mark.unlink)
    if tells_after is not None:
        telling.start()
    begun = time.monotonic()
    # The guard's parent is the client; the fake uv stands first, so that the scripts find it.
    done = guard.run("start", PATH=f"{guard.folder / 'fake bin'}:{os.defpath}")
    took = time.monotonic() - begun
    telling.join() if tells_after is not None else None
    assert done.stderr == b""
    return took, done.stdout == b"{}\n"


def test_a_session_begins_when_its_server_has_told_its_tools(guard: Guard) -> None:
    took, hooked = begins(guard, str(os.getpid()), tells_after=2.0)
    assert took >= 2.0
    assert hooked


@pytest.mark.parametrize("server", ["", "x", str(2**22 + 1)], ids=["none", "no number", "dead"])
def test_a_server_that_does_not_come_is_not_waited_for(guard: Guard, server: str) -> None:
    took, hooked = begins(guard, server)
    assert took < 10.0  # of the 20 that a living one is given
    assert hooked


# ---------------------------------------------------------------------- layouts


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What stands in a folder, and where in it a session begins; {top} is the folder itself."""

    start: str = ""
    there: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    link: tuple[str, str] = ("", "")
    home: str | None = None

    def make(self, top: Path) -> dict[str, str]:
        """Make it below *top*; return what the client sets."""
        make(top / self.start, *(top / name for name in self.there))
        for name, text in self.files.items():
            make((top / name).parent)
            (top / name).write_text(text.replace("{top}", str(top)))
        if self.link[0]:
            (top / self.link[0]).symlink_to(top / self.link[1])
        home = {} if self.home is None else {"HYPERVISOR_HOME": self.home.replace("{top}", str(top))}
        return {"CLAUDE_PROJECT_DIR": f"{top}/{self.start}" if self.start else str(top), **home}


COMMON = "main/.git/worktrees/tree/commondir"
#: A linked worktree beside its repository, as git makes it; and with relative links, if so configured.
WORKTREE = {"tree/.git": "gitdir: {top}/main/.git/worktrees/tree\n", COMMON: "../..\n"}
RELATIVE = {"tree/.git": "gitdir: ../main/.git/worktrees/tree\n", COMMON: "../..\n"}
WITHIN = ".claude/worktrees/agent-a1"

LAYOUTS = {
    "nothing": Layout(),
    "folder within nothing": Layout(start="a/b"),
    "repository": Layout(there=(".git",)),
    "folder of a repository": Layout(there=(".git",), start="a/b"),
    "repository in a repository": Layout(there=(".git", "a/.git"), start="a/b"),
    "state above": Layout(there=(".hypervisor", "a/.git"), start="a/b"),
    "two states above": Layout(there=(".hypervisor", "a/.hypervisor", "a/b/.git"), start="a/b/c"),
    "state that is a file": Layout(there=(".hypervisor",), files={"a/.hypervisor": ""}, start="a"),
    "state that is a link": Layout(there=("real", "a"), link=("a/.hypervisor", "real"), start="a/b"),
    "worktree": Layout(files=WORKTREE, start="tree"),
    "folder of a worktree": Layout(files=WORKTREE, start="tree/a/b"),
    "relative worktree": Layout(files=RELATIVE, start="tree"),
    "folder of a relative worktree": Layout(files=RELATIVE, start="tree/a/b"),
    "worktree within its repository": Layout(
        files={
            f"{WITHIN}/.git": "gitdir: {top}/.git/worktrees/agent-a1\n",
            ".git/worktrees/agent-a1/commondir": "../..\n",
        },
        start=WITHIN,
    ),
    "worktree and its repository's state": Layout(files=WORKTREE, there=("main/.hypervisor",), start="tree"),
    "worktree of a bare repository": Layout(
        files={
            "tree/.git": "gitdir: {top}/repo.git/worktrees/tree\n",
            "repo.git/worktrees/tree/commondir": "../..\n",
        },
        start="tree",
    ),
    "submodule": Layout(
        files={"sub/.git": "gitdir: ../.git/modules/sub\n"}, there=(".git/modules/sub",), start="sub/a"
    ),
    "git file that is empty": Layout(files={"a/.git": ""}, there=(".git",), start="a"),
    "slash at the end": Layout(there=(".git",), start="a/"),
    "home": Layout(there=(".hypervisor", "other"), home="{top}/other/state"),
    "empty home": Layout(there=(".git",), home=""),
}
#: git itself reads a worktree's link up to its first line end.
IN_ONE_LINE = [name for name in LAYOUTS if "worktree" not in name]


def hook_looks_there_too(guard: Guard, layout: Layout, top: Path) -> None:
    """Hold that guard and hook take the same folder for the project's state."""
    environ = layout.make(top)
    state = session_project(environ).state
    shell = 'eval "$(/bin/sed -n "/^find_state/,/^}/p" "$0")"; find_state; printf "%sX" "$state"'
    done = subprocess.run(
        [guard.shell, "-c", shell, str(GUARD)], cwd=guard.folder, env=environ, capture_output=True, check=True
    )
    assert done.stderr == b""
    assert os.path.realpath(os.fsdecode(done.stdout.removesuffix(b"X"))) == os.path.realpath(state)
    assert not guard.starts("session", **environ)
    touch(state / "sessions" / SESSION)
    assert session_project(environ).state == state
    assert guard.starts("session", **environ)
    assert guard.starts("project", **environ)


@pytest.mark.parametrize("name", ["plain", "a b  'c' \"d\"", "-$HOME `x`\\n*[a]?é"], ids=range(3))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_guard_and_the_hook_look_into_the_same_folder(guard: Guard, layout: str, name: str) -> None:
    hook_looks_there_too(guard, LAYOUTS[layout], guard.top / name)


@pytest.mark.parametrize("layout", IN_ONE_LINE)
def test_a_line_end_in_a_folders_name_does_no_harm(guard: Guard, layout: str) -> None:
    hook_looks_there_too(guard, LAYOUTS[layout], guard.top / "a\nb")


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_a_worktree_that_git_made_leads_to_its_repository(guard: Guard, relative: bool) -> None:
    def git(*words: str) -> None:
        environ = {"PATH": os.defpath, "HOME": str(guard.folder), "GIT_CONFIG_NOSYSTEM": "1"}
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *who, *words], cwd=guard.top, env=environ, check=True, capture_output=True)

    if shutil.which("git") is None:
        pytest.skip("no git")
    git("init", "-q", ".")
    git("commit", "-q", "--allow-empty", "-m", "x")
    git("worktree", "add", "-q", str(guard.folder / "linked"))
    linked = guard.folder / "linked"
    if relative:  # as git writes it where `worktree.useRelativePaths` is set
        (linked / ".git").write_text("gitdir: ../work/project/.git/worktrees/linked\n")
    make(guard.top / "tasks")
    for start in (linked, linked / "a"):
        make(start)
        environ = {"CLAUDE_PROJECT_DIR": str(start)}
        assert session_project(environ).state == guard.top / ".hypervisor"
        assert guard.starts("project", **environ)
    touch(guard.top / ".hypervisor/sessions" / SESSION)
    assert guard.starts("session", CLAUDE_PROJECT_DIR=str(linked))


# ------------------------------------------------------------------- hooks.json


def _entries() -> list[tuple[str, str, dict[str, Any]]]:
    """Return each hook, with its event and its matcher."""
    return [
        (event, group.get("matcher", ""), entry)
        for event, groups in HOOKS.items()
        for group in groups
        for entry in group["hooks"]
    ]


def test_every_event_is_one_of_the_clients() -> None:
    assert set(HOOKS) <= EVENTS


def test_every_entry_starts_the_guard_without_a_shell_and_ends_in_time() -> None:
    assert len(_entries()) >= 10
    for event, _, entry in _entries():
        assert (entry["type"], entry["command"]) == ("command", "sh")
        script, mode, *other = entry["args"]
        assert Path(script.replace("${CLAUDE_PLUGIN_ROOT}", str(ROOT))) == GUARD
        if mode == "attend":  # waits beside the session, and may wake it
            assert (event, other, entry["asyncRewake"]) == ("Stop", ["attend.py"], True)
            continue
        told = {"statusMessage"} if mode == "start" else set()  # which may take long
        assert set(entry) == {"type", "command", "args", "timeout"} | told
        assert not other
        assert mode in ("always", "start", "project", "session", "bulk", "change"), event
        assert Path(script.replace("${CLAUDE_PLUGIN_ROOT}", str(ROOT))) == GUARD
        assert "${CLAUDE_PLUGIN_ROOT}/" in script
        assert 10 <= entry["timeout"] <= 60, "the client gives the end of a session 60 s at most"
    assert GUARD.is_file()


def test_matchers_name_real_tools_and_agents() -> None:
    for event, matcher, _ in _entries():
        if event == "SubagentStart":
            assert matcher == decisions.WORKER
            assert (ROOT / f"agents/{matcher.partition(':')[2]}.md").is_file()
        elif event not in OF_TOOLS:
            assert matcher == "", f"{event} would be heard for {matcher} only"
        elif matcher != "*" and not matcher.startswith("^(?!"):  # all but those
            for part in matcher.split("|"):
                assert part in TOOLS or part == f"{PREFIX}.*", part


def test_each_call_of_a_tool_comes_to_the_guard_once_before_it_runs() -> None:
    matchers = [(matcher, entry["args"][1]) for event, matcher, entry in _entries() if event == "PreToolUse"]
    for tool in (*TOOLS, f"{PREFIX}claim_task", "Read", "mcp__mail__archive", "AgentX"):
        heard = [mode for matcher, mode in matchers if re.search(f"^(?:{matcher})$", tool)]
        others = tool not in TOOLS and not tool.startswith(PREFIX)
        assert len(heard) == 1, f"{tool}: {heard}"
        assert (heard == ["bulk"]) is others


# -------------------------------------------------------------------- for real


@pytest.mark.acceptance
def test_a_real_call_is_answered_exactly(tmp_path: Path) -> None:
    if shutil.which("uv", path=REAL.get("PATH")) is None:
        pytest.skip("no uv on PATH")
    write_task(tmp_path / "tasks/t-1.md")
    payload = {
        "session_id": SESSION, "transcript_path": "/home/u/x.jsonl", "cwd": str(tmp_path),
        "permission_mode": "default", "agent_id": "aa074d3940be4060c", "agent_type": decisions.WORKER,
        "hook_event_name": "PreToolUse", "tool_name": f"{PREFIX}claim_task", "tool_use_id": "toolu_01",
        "tool_input": {"id": "t-1", "caller": "claude"},
    }  # fmt: skip
    environ = {
        **REAL, "CLAUDE_PROJECT_DIR": str(tmp_path), "CLAUDE_CODE_SESSION_ID": SESSION,
        "CLAUDE_PLUGIN_ROOT": str(ROOT),
    }  # fmt: skip
    done = subprocess.run(
        ["sh", str(GUARD), "always"], cwd=tmp_path, env=environ, input=json.dumps(payload).encode(),
        capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == {
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": "allow",
            "permissionDecisionReason": "a tool of hypervisor",
            "updatedInput": {
                "id": "t-1", "caller": "claude", "caller_session": SESSION,
                "caller_agent": "aa074d3940be4060c",
            },
        }
    }  # fmt: skip
    assert os.listdir(tmp_path) == ["tasks"]
