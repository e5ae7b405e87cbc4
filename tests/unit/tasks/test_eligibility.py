"""Who may claim which task, and why not."""

from __future__ import annotations

from typing import Any

import pytest

from hypervisor.core.model import Complexity, Priority, Task, TaskStatus
from hypervisor.core.settings import default_settings
from hypervisor.tasks.dependencies import graph_of
from hypervisor.tasks.eligibility import (
    Eligibility,
    Wanted,
    claim_refusal,
    is_agent,
    lock_name,
    plan,
    skip_reason,
)

SETTINGS = default_settings()


def task(**changed: Any) -> Task:
    texts = dict.fromkeys(("project", "type", "parent", "receipts_to", "verify", "body"), "")
    lists = dict.fromkeys(("assignee", "depends_on", "files", "needs", "tags", "receipts"), ())
    fields: dict[str, Any] = {"path": "/p/tasks/t-1.md", "id": "t-1", "title": "T", "complexity": None}
    fields |= {"status": TaskStatus.ACTIVE, "status_word": "active", "priority": Priority.MEDIUM, "front": {}}
    return Task(**{**texts, **lists, **fields, **changed})


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"status": TaskStatus.INBOX}, None),
        ({"status": TaskStatus.DONE}, "already complete"),
        ({"status": TaskStatus.CANCELLED}, "cancelled"),
        ({"status": TaskStatus.BLOCKED}, "its status is blocked"),
        ({"status": TaskStatus.REVIEW}, "its status is review"),
        ({"status": TaskStatus.IN_PROGRESS}, "in progress by somebody"),
        ({"status": TaskStatus.IN_PROGRESS, "assignee": ("ann",)}, "in progress by ann"),
        ({"status": None, "status_word": "simmering"}, "simmering"),
        ({"status": None, "status_word": ""}, "no status"),
        ({"assignee": ("nic",)}, "assigned to nic, a person"),
        ({"assignee": ("bot",)}, None),
        ({"assignee": ("@Claude",)}, None),
        ({"assignee": ("CODEX",)}, None),
        ({"assignee": ("review-agent",)}, None),
        ({"assignee": ("bot", "nic")}, "assigned to nic, a person"),
        # Done comes first: nobody wants to hear whose a finished task was.
        ({"status": TaskStatus.DONE, "assignee": ("nic",)}, "already complete"),
    ],
)
def test_an_agent_is_told_why_it_may_not_claim(changed: dict[str, Any], reason: str | None) -> None:
    refusal = claim_refusal(task(**changed), "worker-1", SETTINGS)
    assert refusal is None if reason is None else reason in str(refusal)


def test_a_person_may_claim_their_own_task() -> None:
    assert claim_refusal(task(assignee=("Nic",)), "nic", SETTINGS) is None


def test_unmet_dependencies_are_named() -> None:
    assert claim_refusal(task(), "w", SETTINGS, unmet=["t-2", "t-9"]) == "waits for t-2, t-9"


@pytest.mark.parametrize("name", ["bot", "@bot", " BOT ", "Gemini", "my-agent"])
def test_names_of_agents_are_known_in_any_spelling(name: str) -> None:
    assert is_agent(name, SETTINGS)


@pytest.mark.parametrize("name", ["", "nic", "botha", "agent-smith"])
def test_every_other_name_is_a_person_s(name: str) -> None:
    assert not is_agent(name, SETTINGS)


@pytest.mark.parametrize(
    ("complexity", "fit"),
    [
        (None, True),
        (Complexity.MECHANICAL, True),
        (Complexity.MULTI_STEP, True),
        (Complexity.REQUIRES_JUDGMENT, False),
        (Complexity.BLOCKED_HUMAN, False),
        (Complexity.NEEDS_DECOMPOSITION, False),
    ],
)
def test_the_next_task_is_one_that_an_agent_can_do(complexity: Complexity | None, fit: bool) -> None:
    assert (Wanted().refusal(task(complexity=complexity)) is None) == fit


def test_a_plan_takes_in_what_waits_for_others_of_it_each_behind_what_it_waits_for() -> None:
    waits = {"b": ["C", "a"], "c": ["a"], "e": ["d"], "f": ["a", "d"], "g": ["h"], "h": ["g"]}
    tasks = [task(id=name, path=f"/p/{name}.md") for name in "bcaefgh"]
    refusals = {"d": "assigned to ada, a person", **dict.fromkeys(waits, "waits")}
    made = plan(tasks, lambda each: refusals.get(each.id), lambda each: waits.get(each.id, []))
    assert [each.id for each in made.run] == ["a", "c", "b"]
    assert sorted(each.id for each, _ in made.skipped) == ["e", "f", "g", "h"]


def test_a_plan_runs_the_urgent_first_and_counts_what_it_skips() -> None:
    tasks = [
        task(id="a", priority=Priority.LOW),
        task(id="b", status=TaskStatus.DONE),
        task(id="c", priority=Priority.CRITICAL),
        task(id="d", status=TaskStatus.DONE),
        task(id="e", status=TaskStatus.CANCELLED),
    ]
    made = plan(tasks, lambda each: skip_reason(each, ""))
    assert [each.id for each in made.run] == ["c", "a"]
    assert made.by_reason() == {"already complete": ["b", "d"], "cancelled": ["e"]}


def test_what_somebody_holds_is_skipped_with_their_name() -> None:
    assert skip_reason(task(), "host:12") == "held by host:12"


# ----------------------------------------------------------------- of a project


def eligibility(*tasks: Task, **known: Any) -> Eligibility:
    return Eligibility(
        name="w", settings=SETTINGS, dependencies=graph_of(tasks), key=lambda one: f"key-{one.id}", **known
    )


def test_who_holds_a_task_is_said_before_what_its_file_says() -> None:
    begun = task(status=TaskStatus.IN_PROGRESS, assignee=("claude",))
    assert eligibility(begun, holders={"key-t-1": "claude"})(begun) == "held by claude"
    assert eligibility(begun)(begun) == "in progress by claude, outside of our claims"


def test_a_lock_directory_of_another_program_and_a_bulk_action_that_waits_keep_a_task() -> None:
    one = task()
    assert eligibility(one)(one) is None
    assert eligibility(one, locks={"t-1": "held by a lock directory"})(one) == "held by a lock directory"
    assert eligibility(one, gated={"t-1": "its bulk action waits"})(one) == "its bulk action waits"
    assert eligibility(one, locks={"t-2": "held by a lock directory"})(one) is None


def test_what_waits_for_others_alone_names_them_and_what_is_held_names_none() -> None:
    first, second = task(id="t-1"), task(id="t-2", depends_on=("T-1",))
    known = eligibility(first, second)
    assert known(second) == "waits for T-1"
    assert known.waits_for(second) == ["T-1"]
    assert known.waits_for(first) == []
    assert eligibility(first, second, holders={"key-t-2": "x"}).waits_for(second) == []


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "x" * 300, "a\nb"])
def test_an_id_that_cannot_be_a_folders_name_is_locked_by_its_key(name: str) -> None:
    assert lock_name(task(id=name), "key") == "key"


@pytest.mark.parametrize("name", ["t-1", "Task 7", "\u00e4"])
def test_a_lock_directory_bears_the_id(name: str) -> None:
    assert lock_name(task(id=name), "key") == name
