"""What strangers have written reaches no terminal and no task file as anything but text, by any command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Ended, write_task
from hypervisor.cli.cli import GROUPS
from inprocess import InProcess, in_process

#: Colours, titles, a cleared screen, the other direction, a raw C1, a backspace, DEL.
EVIL = "\x1b[31mred\x1b]0;owned\x07\x1b[2J \u202egnp\u2066 \x9b1m \x08\x7f"
#: What each command is given; those that are not here are given nothing, or an evil name.
WORDS = {
    "task": [
        ["list"], ["show", "evil"], ["show", EVIL], ["update", "evil", "--body", EVIL], ["claim", EVIL],
        ["update", "evil", "--title", EVIL], ["receipt", "evil", EVIL], ["claim", "evil"],
        ["complete", "evil", "--outcome", EVIL, "--evidence", EVIL], ["show", "evil"], ["list", "--json"],
    ],
    "preflight": [["--all"], [EVIL], ["--all", "--waves"], ["--all", "--json"], ["--all", "--batch"]],
    "run": [["--all", "--agent", "exec", "--exec", EVIL, "--isolation", "none"], [EVIL]],
    "hive": [["add", EVIL], ["search", "red"], ["search", EVIL]],
    "learn": [["add", EVIL, "--notes", EVIL], ["show"]],
    "config": [["get", EVIL], ["set", EVIL, "1"], ["list"]],
    "chunk": [["--queue", EVIL, "--by", "size:2"], ["plan", EVIL]],
    "wait": [["--task", EVIL, "--timeout", "0"]],
    "watch": [[EVIL], ["--once"]],
    "serve": [[EVIL]],
    "events": [[], ["--json"]],
}  # fmt: skip


@pytest.fixture
def user(tmp_path: Path) -> Iterator[InProcess]:
    with in_process(tmp_path) as made:
        (made.cwd / ".hypervisor").mkdir()
        yaml = "".join(f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" for c in EVIL)
        write_task(made.cwd / "tasks/evil.md", title=f'"{yaml}"', tags=f'["{yaml}"]', project=f'"{yaml}"')
        write_task(made.cwd / "tasks/other.md", id=f'"{yaml}"', assignee=f'"{yaml}"', status=f'"{yaml}"')
        yield made


def _is_text(ended: Ended) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in ended.out + ended.err)


@pytest.mark.parametrize("command", sorted({name for names in GROUPS.values() for name in names} - {"batch"}))
def test_no_command_prints_what_a_terminal_would_obey(user: InProcess, command: str) -> None:
    for words in WORDS.get(command, [[], [EVIL]]):
        ended = user.hypervisor(command, *words)
        assert "Traceback" not in ended.err, ended.err
        assert _is_text(ended), (words, ended.out + ended.err)
    for task in (user.cwd / "tasks").glob("*.md"):
        assert all(c.isprintable() or c in "\n\t" for c in task.read_text()), task.read_text()


def test_no_queue_line_is_obeyed(user: InProcess, tmp_path: Path) -> None:
    folder = tmp_path / "queue"
    folder.mkdir()
    (folder / "queue.txt").write_text(f"{EVIL}\n")
    for words in (["--all", "--exec", f"false {EVIL}"], ["--stats"], ["--all", "--dry-run"], [f"--{EVIL}"]):
        ended = user.worker("--dir", str(folder), *words)
        assert _is_text(ended), (words, ended.out + ended.err)
    for command in ("summary", "status", "retry", "log", "report"):
        ended = user.hypervisor(command, *([EVIL] if command == "log" else []), "--dir", str(folder))
        assert _is_text(ended), (command, ended.out + ended.err)
