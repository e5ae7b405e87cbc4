"""`hypervisor task new`: a file that every other command takes as the task that was meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Shell, tree
from inprocess import in_process


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with in_process(tmp_path) as made:
        yield made


def test_a_new_task_says_what_was_asked_and_would_run(user: Shell) -> None:
    words = [
        "--priority",
        "high",
        "--files",
        "src/isbn.py",
        "te sts/",
        "--verify",
        "pytest -q | tail # all: of it",
    ]
    told = user.hypervisor(
        "task", "new", "Reject empty ISBNs: don't #crash", *words, "--body", "How: so."
    ).passed()
    path = user.cwd / "tasks/reject-empty-isbns-dont-crash.md"
    assert told.out == (
        "created: reject-empty-isbns-dont-crash (tasks/reject-empty-isbns-dont-crash.md); "
        "`hypervisor run reject-empty-isbns-dont-crash` runs it\n"
    )
    assert path.read_text() == (
        "---\nid: reject-empty-isbns-dont-crash\ntitle: 'Reject empty ISBNs: don''t #crash'\nstatus: active\n"
        "priority: high\nfiles: [src/isbn.py, te sts/]\nverify: 'pytest -q | tail # all: of it'\n---\n"
        "# Reject empty ISBNs: don't #crash\n\nHow: so.\n"
    )
    assert user.hypervisor("preflight", "--all", "--json").passed().json["run"] == [path.stem]
    shown = user.hypervisor("task", "show", path.stem, "--json").passed().json
    assert (shown["title"], shown["priority"]) == ("Reject empty ISBNs: don't #crash", "high")


def test_ids_of_the_same_title_differ_and_a_given_id_is_taken_once(user: Shell) -> None:
    for name in ("tidy-up", "tidy-up-2", "tidy-up-3"):
        assert user.hypervisor("task", "new", "Tidy up!", "--json").passed().json["id"] == name
    user.hypervisor("task", "new", "Übersicht", "--id", "T-9", "--status", "inbox").passed()
    before = tree(user.cwd / "tasks")
    user.hypervisor("task", "new", "Other", "--id", "t-9").refused(1, "t-9", "already")
    assert tree(user.cwd / "tasks") == before


def test_the_body_comes_from_standard_input_and_may_have_its_own_heading(user: Shell) -> None:
    user.hypervisor("task", "new", "A", "--id", "a", "--body", "-", stdin=b"# Mine\n\ntext\n").passed()
    assert (user.cwd / "tasks/a.md").read_text().endswith("---\n# Mine\n\ntext\n")


def test_it_goes_to_the_folder_that_the_settings_name_and_is_there(user: Shell) -> None:
    (user.cwd / "backlog/tasks").mkdir(parents=True)
    user.hypervisor("task", "new", "A", "--id", "a").passed()
    assert (user.cwd / "backlog/tasks/a.md").is_file()
    user.hypervisor("config", "set", "tasks.globs", "*/todo/*.md").passed()
    user.hypervisor("task", "new", "A", "--id", "b").refused(2, "tasks.globs")


@pytest.mark.parametrize(
    "words", [[""], ["a\x00b"], ["A", "--id", "../a"], ["A", "--id", "a b"], ["A", "--id", "-"]]
)
def test_what_could_not_be_found_again_is_refused(user: Shell, words: list[str]) -> None:
    assert user.hypervisor("task", "new", *words).code == 2
    assert not (user.cwd / "tasks").exists()


def test_the_real_command_writes_a_task(user: Shell) -> None:
    Shell(user.home, user.cwd).hypervisor("task", "new", "Tidy up").passed()
    assert (user.cwd / "tasks/tidy-up.md").is_file()
