"""Items that need a person, grouped, each group with the command to type next."""

from __future__ import annotations

from typing import Any

from hypervisor.report.attention import TroubledItem, group_by_reason


def item(number: int, reason: str, **more: Any) -> TroubledItem:
    name = f"n{number}"
    known: dict[str, Any] = {"name": name, "item": name, "state": "failed", "next": "fix it", "task": False}
    return TroubledItem(number=number, reason=reason, **(known | more))


def test_failures_that_differ_in_figures_are_one_group() -> None:
    failed = [item(n, f"exit 1: found {n} rows at 0x{n:08x}f") for n in range(1, 30)]
    asked = item(99, "which account?", state="blocked")
    first, second = group_by_reason([*failed, asked], "--dir D")
    assert (first.state, first.items, first.type) == ("blocked", [99], "hypervisor retry --dir D --item n99")
    assert len(second.items) == 29
    assert second.type == "hypervisor retry --dir D --failed"


def test_a_task_is_set_back_by_its_id() -> None:
    (found,) = group_by_reason([item(1, "which?", name="t-1", task=True, state="blocked")], "B")
    assert found.type == "hypervisor task update t-1 --status active"


def test_work_that_is_kept_is_accepted_by_its_id() -> None:
    kept = item(1, "conflicts", name="t-1", task=True, state="blocked", kept=True)
    (found,) = group_by_reason([kept], "B")
    assert found.type == "hypervisor accept t-1"


def test_a_name_that_cannot_be_typed_is_not_offered_for_typing() -> None:
    (quoted,) = group_by_reason([item(1, "x", item="it's; rm -rf ~")], "B")
    assert quoted.type == "hypervisor retry B --item 'it'\"'\"'s; rm -rf ~'"
    (plain,) = group_by_reason([item(1, "x", item="a\x1b[2Jb")], "B")
    assert plain.type == "hypervisor retry B --failed"
