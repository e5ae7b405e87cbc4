"""`hypervisor --completion`: a script that the shell takes, with every command in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Shell
from hypervisor.cli.cli import GROUPS
from inprocess import in_process

COMMANDS = [name for group in GROUPS.values() for name in group]


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with in_process(tmp_path) as made:
        yield made


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_has_every_command(user: Shell, shell: str) -> None:
    told = user.hypervisor("--completion", shell).passed().out
    assert not [name for name in COMMANDS if name not in told]


def test_bash_completes_commands_and_options(user: Shell) -> None:
    script = user.hypervisor("--completion", "bash").passed().out
    asked = r"""
complete_it() {
  COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
  $(complete -p hypervisor | sed 's/.*-F \([^ ]*\).*/\1/') hypervisor
  echo "${COMPREPLY[@]}"
}
complete_it hypervisor sum
complete_it hypervisor run --budget-u
"""
    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True)
    commands, options = done.stdout.splitlines()
    assert commands.split() == ["summary"]
    assert "--budget-usd" in options.split()


def test_without_the_package_one_line_says_what_to_install(
    user: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    user.hypervisor("--completion", "bash").refused(2, "shtab", "uv tool install")


def test_an_unknown_shell_is_named_with_those_that_are_known(user: Shell) -> None:
    user.hypervisor("--completion", "tcsh").refused(2, "bash, zsh, fish")
