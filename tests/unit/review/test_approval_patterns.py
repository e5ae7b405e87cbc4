"""Which calls of tools a bulk action means."""

from __future__ import annotations

import pytest

from hypervisor.review.approvals import matches

ARCHIVE = "mcp__mail__archive"


@pytest.mark.parametrize(
    ("pattern", "tool", "command", "meant"),
    [
        (ARCHIVE, ARCHIVE, "", True),
        ("mcp__mail__*", ARCHIVE, "", True),
        ("mcp__mail__*", "mcp__mails__archive", "", False),
        ("Bash", "Bash", "ls", True),
        ("Bash(archive *)", "Bash", "archive m-1", True),
        ("Bash(archive *)", "Bash", "cd x && archive   m-1", True),
        ("Bash(archive *)", "Bash", "for i in 1 2; do\n echo $(archive m-$i); done", True),
        ("Bash(archive *)", "Bash", "git archive HEAD", False),
        ("Bash(archive *)", "Write", "archive m-1", False),
        ("Bash(archive *)", "Bash", None, False),
    ],
)
def test_a_pattern_means_a_tool_or_a_command(
    pattern: str, tool: str, command: object, *, meant: bool
) -> None:
    assert matches([pattern], tool, {"command": command}) == (pattern if meant else "")
