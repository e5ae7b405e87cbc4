"""What a task is judged by: kept as it was, compared with its file, and never its own judge unseen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hypervisor.core.model import Priority, TaskHead
from hypervisor.tasks.terms import TaskTerms, own_judge

TASK = TaskHead(
    path="/p/tasks/t-1.md", id="t-1", title="T", status=None, status_word="", assignee=(),
    priority=Priority.MEDIUM, project="", type="", complexity=None, parent="", depends_on=("t-0",),
    files=("src/a.py",), needs=("mcp:x",),
    tags=(), receipts=(), receipts_to="", verify="pytest -q", accept_reports=False,
)  # fmt: skip


def test_terms_are_kept_and_read_back_as_they_were() -> None:
    terms = TaskTerms.of(TASK)
    assert TaskTerms.from_json(terms.to_json()) == terms
    assert TaskTerms.from_json({}) == TaskTerms()
    assert terms.apply_to(replace(TASK, verify="true", files=())) == TASK


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, ()),
        ({"title": "Other"}, ()),
        ({"verify": "true"}, ("verify was `pytest -q` and is now `true`",)),
        ({"verify": ""}, ("verify was `pytest -q` and is now `empty`",)),
        ({"files": ("src", "x")}, ("files was `src/a.py` and is now `src, x`",)),
        ({"accept_reports": True}, ("accept_reports was `false` and is now `true`",)),
        ({"accept_reports": None}, ("accept_reports was `false` and is now `empty`",)),
        (
            {"depends_on": (), "needs": ()},
            ("depends_on was `t-0` and is now `empty`", "needs was `mcp:x` and is now `empty`"),
        ),
    ],
)
def test_what_changed_is_told_with_both_texts(changed: dict[str, object], told: tuple[str, ...]) -> None:
    assert TaskTerms.of(TASK).changes(replace(TASK, **changed)) == told  # type: ignore[arg-type]  # a table of keys


@pytest.mark.parametrize(
    ("files", "verify", "why"),
    [
        (("src",), "pytest -q tests/test_a.py", ""),
        ((), "pytest -q tests/test_a.py", ""),
        (("src", "tests"), "x tests/a.py::b", "may change what its verify runs (tests/a.py)"),
        (("check.sh",), "sh ./check.sh", "may change what its verify runs (check.sh)"),
        (("src", "tasks/t-1.md"), "true", "its files name a task file (tasks/t-1.md)"),
        (("src",), "grep -q done 'tasks/t-1.md'", "its verify reads a task file (tasks/t-1.md)"),
        (("src",), "test -f /etc/x; make", ""),
        (("src/a.py",), "test -f src/a.py", ""),
        (("src/a.py",), "test -f src/a.py && grep -q 'x' src/a.py | wc -l", ""),
        (("src/a.py",), "test -f src/a.py && python src/a.py", "may change what its verify runs (src/a.py)"),
        (("tasks",), "true", "its files name the folder of its own task file (tasks/t-1.md)"),
        ((), "true", ""),
    ],
)  # fmt: skip
def test_a_task_that_is_its_own_judge_is_named(files: tuple[str, ...], verify: str, why: str) -> None:
    def may_change(path: str) -> bool:
        return any(path == one or path.startswith(f"{one}/") for one in files)

    task = replace(TASK, files=files, verify=verify)
    found = own_judge(task, lambda path: path.startswith("tasks/"), may_change, "tasks/t-1.md")
    assert found.removeprefix("it ") == why
