"""A queue with a folder of its own: the other commands find it by its name or path, or say what to add."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Shell
from inprocess import in_process

#: Each with its exit code for a queue that is done; NAME is the folder.
COMMANDS = {
    "status NAME": 0,
    "summary NAME": 0,
    "events NAME": 0,
    "watch NAME": 0,
    "wait NAME --all": 0,
    "log b --batch NAME": 0,
    "report NAME --html page.html": 0,
    "retry NAME": 3,
    "cancel NAME --all": 3,
    "undo NAME": 3,
    "drain NAME": 3,
}


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with in_process(tmp_path) as made:
        yield made


@pytest.mark.parametrize("name", ["work", "deep/er/work", "./work"])
def test_each_command_finds_the_queue_by_its_folder(user: Shell, name: str) -> None:
    words = ("--dir", name, "--queue", "-", "--all", "--exec", "echo {}")
    user.hypervisor("batch", *words, stdin=b"a\nb\n").passed()  # makes the folder
    for command, code in COMMANDS.items():
        done = user.hypervisor(*command.replace("NAME", name).split())
        assert (done.code, "Traceback" in done.err) == (code, False), f"{command}: {done.err}{done.out}"
        by_option = command.replace("--batch NAME", "NAME").replace("NAME", f"--dir {name}")
        assert user.hypervisor(*by_option.split()).code == code, by_option


def test_without_its_name_a_command_says_what_to_add(user: Shell) -> None:
    user.hypervisor(
        "batch", "--dir", "work", "--queue", "-", "--all", "--exec", "true", stdin=b"a\n"
    ).passed()
    for command in ("summary", "retry", "undo", "drain", "watch"):
        user.hypervisor(command).refused(2, f"try: hypervisor {command} --dir work")
    assert "queue    work: hypervisor status --dir work" in user.hypervisor("status").passed().out
    user.hypervisor("summary", "wrok").refused(2, "no such batch")
