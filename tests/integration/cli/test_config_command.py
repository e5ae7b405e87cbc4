"""`hypervisor config`: settings as they hold, and changes that leave the rest of the file alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Shell
from inprocess import in_process


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with in_process(tmp_path) as made:
        (made.cwd / ".hypervisor").mkdir()
        yield made


def config(user: Shell) -> Path:
    return user.cwd / ".hypervisor/config.toml"


def test_a_setting_is_shown_as_it_holds_with_its_default_or_the_projects_own(user: Shell) -> None:
    assert user.hypervisor("config", "get", "claims.attempts").passed().out == "3\n"
    config(user).write_text("[claims]\nattempts = 5\n")
    assert user.hypervisor("config", "get", "claims.attempts").passed().out == "5\n"
    assert "claims.attempts = 5" in user.hypervisor("config", "get", "claims").passed().lines
    assert user.hypervisor("config", "get", "claims", "--json").passed().json["attempts"] == 5
    assert user.hypervisor("config", "get", "tasks.globs", "--json").passed().json[0] == "tasks/**/*.md"


def test_a_change_keeps_comments_and_other_lines(user: Shell) -> None:
    config(user).write_text("# ours\n[claims]\nattempts = 5  # enough\n")
    user.hypervisor("config", "set", "claims.attempts", "2").passed()
    user.hypervisor("config", "set", "triage.person", "Ann").passed()
    user.hypervisor("config", "set", "tasks.globs", "a/*.md, b/**/*.md").passed()
    user.hypervisor("config", "set", "retention.compress", "false").passed()
    user.hypervisor("config", "set", "status.words.later", "inbox").passed()
    assert config(user).read_text() == (
        "# ours\n[claims]\nattempts = 2  # enough\n\n"
        '[triage]\nperson = "Ann"\n\n[tasks]\nglobs = ["a/*.md", "b/**/*.md"]\n\n'
        '[retention]\ncompress = false\n\n[status.words]\nlater = "inbox"\n'
    )


def test_the_first_change_makes_the_file_in_a_state_folder_of_ours(user: Shell) -> None:
    (user.cwd / ".hypervisor").rmdir()
    user.hypervisor("config", "set", "claims.attempts", "2").passed()
    assert config(user).read_text() == "[claims]\nattempts = 2\n"
    assert config(user).parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("claims.attemps", "2", "did you mean `claims.attempts`?"),
        ("claims.attempts", "many", "must be a number"),
        ("claims.attempts", "0", "must be more than 0"),
        ("retention.compress", "yes", "must be true or false"),
        ("claims", "2", "is a table"),
    ],
)
def test_what_makes_no_sense_is_not_written(user: Shell, key: str, value: str, word: str) -> None:
    config(user).write_text("[claims]\n")
    user.hypervisor("config", "set", key, value).refused(2, "hypervisor", word)
    assert config(user).read_text() == "[claims]\n"


def test_the_real_command_changes_a_setting(user: Shell) -> None:
    Shell(user.home, user.cwd).hypervisor("config", "set", "claims.attempts", "2").passed()
    assert "attempts = 2" in config(user).read_text()
