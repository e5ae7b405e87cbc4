"""Tasks as agents and people take them: one holder each, and the file as it was when given back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hypervisor.core.errors import ClaimLost, Refused, Taken, UsageError
from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.tasks.completion import TaskCompletion
from hypervisor.tasks.service import TaskService
from task_place import TaskPlace

Services = Callable[..., TaskService]

DONE = TaskCompletion(outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="made it", commit="3f2c1ab")
BLOCKED = TaskCompletion(
    outcome=Outcome.BLOCKED, status=TaskStatus.BLOCKED, text="no key", next_step="get one"
)
WHO_MOVES_IT = "set it to active to run it"


# --------------------------------------------------------------- claim and end


def test_a_claim_changes_two_keys_and_nothing_else(place: TaskPlace, service: Services) -> None:
    path = place.task()
    path.write_bytes(
        b"---\r\nid: t-1\r\nstatus: active # now\r\n# a comment\r\ntitle: 'T'\r\n---\r\n# T\r\n\ttext"
    )
    task, claim = service().claim("t-1")
    assert claim.attempt == 1
    assert (task.status, task.assignee) == (TaskStatus.IN_PROGRESS, ("claude",))
    assert path.read_bytes() == (
        b"---\r\nid: t-1\r\nstatus: in_progress # now\r\n# a comment\r\ntitle: 'T'\r\n"
        b"assignee: claude\r\n---\r\n# T\r\n\ttext"
    )


def test_completing_says_so_in_the_file_and_in_the_result(place: TaskPlace, service: Services) -> None:
    path = place.task()
    service().claim("t-1")
    result = service(session="s-1").finish("t-1", DONE, 1)
    assert (result["status"], result["commit"], result["session"]) == ("success", "3f2c1ab", "s-1")
    text = path.read_text()
    assert "\nstatus: done\n" in text
    assert (
        "\n## Completion\n\n- Outcome: success: made it\n- Commit: 3f2c1ab\n- By: claude, attempt 1\n" in text
    )
    assert place.result()["outcome"] == "made it"
    assert [one.outcome for one in place.attempts()] == ["success"]


def test_blocking_says_what_would_let_it_go_on(place: TaskPlace, service: Services) -> None:
    path = place.task()
    service().claim("t-1")
    service().finish("t-1", BLOCKED)
    assert "\nstatus: blocked\n" in path.read_text()
    assert "- Outcome: blocked: no key\n- Next: get one\n" in path.read_text()
    with pytest.raises(Refused, match="t-1: its status is blocked; set it to active"):
        service().claim("t-1")


def test_the_same_completion_twice_is_one_and_another_is_refused(place: TaskPlace, service: Services) -> None:
    path = place.task()
    service().claim("t-1")
    service().finish("t-1", DONE, 1)
    before = path.read_bytes()
    with pytest.raises(Refused, match="t-1 is done already; its owner may reopen it in the file"):
        service().finish("t-1", DONE)
    # An agent whose call was cut off before its answer came asks again, with the same words.
    assert service().finish("t-1", DONE, 1) == place.result()
    with pytest.raises(ClaimLost):
        service().finish("t-1", replace(DONE, text="made another"), 1)
    assert path.read_bytes() == before


def test_a_task_may_be_completed_without_a_claim(place: TaskPlace, service: Services) -> None:
    path = place.task()
    service().finish("t-1", DONE)
    assert "status: done" in path.read_text()
    assert place.result()["attempt"] == 1


SHAPES = {
    "plain": "---\nid: t-1\nstatus: active\nassignee: bot\n---\nbody\n",
    "no assignee": "---\nid: t-1\nstatus: active\n---\nbody\n",
    "empty assignee": "---\nid: t-1\nassignee:\nstatus: active\n---\nbody\n",
    "empty with comment": "---\nid: t-1\nassignee: # nobody yet\nstatus: active\n---\nbody\n",
    "block list": "---\nid: t-1\nstatus: active\nassignee:\n  - bot\n  - claude # and so on\n---\nbody\n",
    "flow list": "---\nid: t-1\nstatus: active\nassignees: [ bot, 'worker' ]\n---\nbody\n",
    "empty list": "---\nid: t-1\nstatus: active\nassignee: []\n---\nbody\n",
    "quotes and comments": "---\n# top\nid: t-1\nstatus: \"active\"   # why\n\nassignee: '@bot'\n---\nbody",
    "crlf": "---\r\nid: t-1\r\nstatus: To Do\r\nassignee:\r\n- bot\r\n---\r\nbody\r\n",
    "bom": "\ufeff---\nid: t-1\nstatus: pending\n---\nbody\n",
    "other names": "---\nid: t-1\nState: Todo\nassigned_to: bot\n---\nbody\n",
    "indented": "---\n  id: t-1\n  status: active\n---\nbody\n",
    "no last line end": "---\nid: t-1\nstatus: active\n---",
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("how", ["release", "rescue", "cancel is reverted first", "taken over"])
def test_what_a_claim_wrote_is_restored_to_the_byte(
    place: TaskPlace, service: Services, shape: str, how: str
) -> None:
    path = place.task()
    before = SHAPES[shape].encode()
    path.write_bytes(before)
    service().claim("t-1")
    assert path.read_bytes() != before
    if how == "release":
        service().release("t-1", "not now")
    elif how == "rescue":
        place.fall_silent()
        assert service("hypervisor").rescue() == ["t-1"]
    elif how == "taken over":
        place.fall_silent()
        _, claim = service("gemini").claim("t-1")
        assert claim.attempt == 2
        assert "gemini" in path.read_text()
        assert "claude" not in path.read_bytes().replace(before, b"").decode().replace("claude # and", "")
        service("gemini").release("t-1", "not now")
    else:
        service("hypervisor").cancel("t-1", "no")
        text = path.read_text("utf-8")
        assert "in_progress" not in text.lower()
        assert "progress" not in text.lower()
        return
    assert path.read_bytes() == before
    assert service("gemini").claim("t-1")[1].attempt >= 2


def test_what_its_owner_changed_meanwhile_is_not_restored(place: TaskPlace, service: Services) -> None:
    path = place.task()
    service().claim("t-1")
    path.write_text(
        path.read_text().replace("assignee: claude", "assignee: zoe").replace("one line", "two lines")
    )
    service().release("t-1", "not now")
    assert "assignee: zoe" in path.read_text()
    assert "status: active" in path.read_text()
    assert "two lines" in path.read_text()


# ------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("keys", "caller", "reason"),
    [
        ({"status": "done"}, "claude", "t-1: already complete"),
        ({"status": "Completed"}, "claude", "t-1: already complete"),
        ({"status": "wontfix"}, "claude", "t-1: cancelled"),
        ({"status": "blocked"}, "claude", f"t-1: its status is blocked; {WHO_MOVES_IT}"),
        ({"status": "review"}, "claude", f"t-1: its status is review; {WHO_MOVES_IT}"),
        ({"status": "else"}, "claude", "t-1: its status 'else' is not known; add the word to [status.words]"),
        ({"status": "''"}, "claude", "t-1: it has no status"),
        ({"status": "in_progress"}, "claude", "t-1: in progress by somebody, outside of our claims"),
        ({"status": "doing", "assignee": "bot"}, "claude", "t-1: in progress by bot, outside of our claims"),
        ({"assignee": "Zoe"}, "claude", "t-1: assigned to Zoe, a person"),
        ({"assignee": "'@zoe'"}, "claude", "t-1: assigned to zoe, a person"),
        ({"assignee": "[bot, zoe]"}, "claude", "t-1: assigned to zoe, a person"),
        ({"depends_on": "[t-9]"}, "claude", "t-1: waits for t-9 (no such task)"),
        ({"depends_on": "[t-2, t-3]"}, "claude", "t-1: waits for t-2"),
    ],
)  # fmt: skip
def test_who_may_not_claim_is_told_why_and_nothing_changes(
    place: TaskPlace, service: Services, keys: dict[str, str], caller: str, reason: str
) -> None:
    path = place.task(**keys)
    place.task("t-2")
    place.task("t-3", status="done")
    before = path.read_bytes()
    with pytest.raises(Refused) as refused:
        service(caller).claim("t-1")
    assert str(refused.value) == reason
    assert path.read_bytes() == before
    refusing = service(caller)
    assert f"t-1: {refusing.why_not(refusing.find('t-1'))}" == reason
    eligibility = refusing.catalog.eligibility(refusing.catalog.tasks())
    assert f"t-1: {eligibility(refusing.find('t-1'))}" == reason


@pytest.mark.parametrize(
    ("keys", "caller"),
    [
        ({"assignee": "bot"}, "claude"),
        ({"assignee": "@Gemini"}, "claude"),
        ({"assignee": "review-agent"}, "claude"),
        ({"assignee": "Zoe"}, "zoe"),
        ({"status": "inbox"}, "claude"),
        ({"depends_on": "[T-3]"}, "claude"),
        ({"depends_on": "t-3"}, "claude"),
    ],
)
def test_who_may_claim_may(place: TaskPlace, service: Services, keys: dict[str, str], caller: str) -> None:
    if "assignee" in keys:
        keys = keys | {"assignee": f"'{keys['assignee']}'"}
    place.task(**keys)
    place.task("t-3", status="done")
    task, _ = service(caller).claim("t-1")
    assert task.status is TaskStatus.IN_PROGRESS


def test_a_second_caller_is_told_who_holds_it(place: TaskPlace, service: Services) -> None:
    path = place.task()
    service("claude").claim("t-1")
    before = path.read_bytes()
    gemini = service("gemini")
    with pytest.raises(Taken, match=r"^t-1 is held by claude \(attempt 1\); take another, or wait$"):
        gemini.claim("t-1")
    with pytest.raises(Refused, match=r"t-1 is held by claude; pass the attempt \(1\) to act on that claim"):
        gemini.finish("t-1", DONE)
    with pytest.raises(Refused, match=r"t-1 is held by claude; pass the attempt \(1\) to act on that claim"):
        gemini.release("t-1", "mine")
    with pytest.raises(Refused, match="t-1 is held by claude"):
        gemini.move("t-1", TaskStatus.REVIEW)
    with pytest.raises(Refused, match="t-1 is held by claude; release, block or complete it instead"):
        service("claude").move("t-1", TaskStatus.REVIEW)
    with pytest.raises(Refused, match="t-1 is held; its assignee changes with the claim"):
        gemini.update("t-1", {"assignee": "gemini"})
    assert path.read_bytes() == before
    assert gemini.why_not(gemini.find("t-1")) == "held by claude"


def test_the_same_caller_claims_once_only(place: TaskPlace, service: Services) -> None:
    place.task()
    service().claim("t-1")
    with pytest.raises(Refused, match="held by claude"):
        service().claim("t-1")


def test_there_is_nothing_to_release_where_nothing_is_held(place: TaskPlace, service: Services) -> None:
    place.task()
    with pytest.raises(Refused, match="t-1 is not held; there is nothing to release"):
        service().release("t-1", "why not")


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_stale_attempt_is_refused(place: TaskPlace, service: Services, attempt: int) -> None:
    path = place.task()
    service().claim("t-1")
    place.fall_silent()
    service("gemini").claim("t-1")
    before = path.read_bytes()
    for act in (
        lambda: service().finish("t-1", DONE, attempt),
        lambda: service().release("t-1", "x", attempt),
    ):
        with pytest.raises(ClaimLost) as lost:
            act()
        assert lost.value.loss.attempt == attempt
        if attempt == 1:
            assert lost.value.loss.reason == "revoked"
            assert "silent for" in lost.value.loss.detail
    assert path.read_bytes() == before
    service("gemini").finish("t-1", DONE, 2)
    assert place.result()["worker"] == "gemini"


def test_an_attempt_that_never_was_is_refused(place: TaskPlace, service: Services) -> None:
    path = place.task()
    before = path.read_bytes()
    with pytest.raises(ClaimLost, match=r"\(attempt 1\) is lost: unknown"):
        service().finish("t-1", DONE, 1)
    assert path.read_bytes() == before


def test_an_id_that_two_tasks_bear_names_their_paths(place: TaskPlace, service: Services) -> None:
    place.task("a", id="t-1")
    place.task("b", id="T-1")
    with pytest.raises(UsageError) as refused:
        service().claim("t-1")
    assert str(refused.value) == ("t-1: 2 tasks bear this id (tasks/a.md, tasks/b.md); name the path instead")
    assert service().claim("tasks/b.md")[0].path.endswith("b.md")


# ------------------------------------------------------------- lease and cycles


def test_a_short_lease_is_over_when_the_settings_say_so(place: TaskPlace, service: Services) -> None:
    place.project.prepare()
    (place.project.state / "config.toml").write_text("[claims]\nlease_seconds = 0.01\n")
    path = place.task()
    service().claim("t-1")
    place.fall_silent()
    task, claim = service("gemini").claim("t-1")
    assert (claim.attempt, task.assignee) == (2, ("gemini",))
    assert path.read_text().count("assignee") == 1
    with pytest.raises(ClaimLost):
        service().finish("t-1", DONE, 1)


def test_a_claim_whose_holder_speaks_is_not_taken(place: TaskPlace, service: Services) -> None:
    place.task()
    service().claim("t-1")
    assert service("hypervisor").rescue() == []
    with pytest.raises(Refused, match="held by claude"):
        service("gemini").claim("t-1")


def test_a_task_that_keeps_losing_its_workers_is_blocked(place: TaskPlace, service: Services) -> None:
    path = place.task()
    for attempt in (1, 2, 3):
        assert service().claim("t-1")[1].attempt == attempt
        place.fall_silent()
    with pytest.raises(Refused, match="t-1: its status is blocked"):
        service("gemini").claim("t-1")
    text = path.read_text()
    assert "status: blocked" in text
    assert "assignee" not in text, "the assignee that the last claim wrote was not taken back"
    result = place.result()
    assert result["status"] == "failed"
    assert str(result["outcome"]).startswith(
        "gave up after 3 attempts: attempt 1: silent for longer than its lease"
    )


def test_a_rescue_blocks_a_task_that_keeps_losing_its_workers(place: TaskPlace, service: Services) -> None:
    path = place.task()
    for _ in range(3):
        service().claim("t-1")
        place.fall_silent()
    service("hypervisor").rescue()
    assert "status: blocked" in path.read_text()
    assert place.result()["gave_up"] is True


def test_a_task_that_its_owner_opens_again_begins_the_next_cycle(place: TaskPlace, service: Services) -> None:
    path = place.task()
    service().claim("t-1")
    service().finish("t-1", DONE)
    path.write_text(path.read_text().replace("status: done", "status: active"))
    task, claim = service("gemini").claim("t-1")
    assert claim.attempt == 2  # it goes on rising, so that it names one claim for ever
    assert task.assignee == ("gemini",)
    service("gemini").finish("t-1", DONE)
    assert [result["attempt"] for result in place.results()] == [1, 2]


def test_a_worker_of_an_earlier_cycle_cannot_complete_the_next(place: TaskPlace, service: Services) -> None:
    path = place.task()
    _, old = service("claude").claim("t-1")
    service("hypervisor").cancel("t-1", "no")
    path.write_text(path.read_text().replace("status: cancelled", "status: active"))
    service("gemini").claim("t-1")
    before = path.read_bytes()
    with pytest.raises(ClaimLost):
        service("claude").finish("t-1", DONE, old.attempt)
    with pytest.raises(ClaimLost):
        service("claude").release("t-1", "old", old.attempt)
    assert path.read_bytes() == before


def test_a_task_done_by_hand_while_it_is_held_stays_done(place: TaskPlace, service: Services) -> None:
    path = place.task()
    service().claim("t-1")
    path.write_text(path.read_text().replace("status: in_progress", "status: done"))
    before = path.read_bytes()
    with pytest.raises(Refused, match="t-1 is done: it cannot become done"):
        service().finish("t-1", DONE, 1)
    assert path.read_bytes() == before
    with pytest.raises(Refused, match="already complete"):
        service("gemini").claim("t-1")
    service().release("t-1", "it was done by hand")
    assert "status: done" in path.read_text()


# ---------------------------------------------------------------------- cancel


def test_cancelling_takes_the_claim_and_its_holder_can_no_longer_complete(
    place: TaskPlace, service: Services
) -> None:
    path = place.task()
    service().claim("t-1")
    service("zoe").cancel("t-1", "not wanted any more")
    text = path.read_text()
    assert "status: cancelled" in text
    assert "assignee" not in text
    assert "- Outcome: skipped: not wanted any more" in text
    with pytest.raises(ClaimLost, match="lost: revoked: cancelled by zoe"):
        service().finish("t-1", DONE, 1)
    with pytest.raises(ClaimLost):
        service().release("t-1", "x", 1)
    assert path.read_text() == text
    assert place.result()["status"] == "skipped"


@pytest.mark.parametrize("status", ["done", "cancelled"])
def test_what_is_closed_is_not_cancelled_and_nothing_is_held_after(
    place: TaskPlace, service: Services, status: str
) -> None:
    path = place.task(status=status)
    with pytest.raises(Refused, match=f"t-1 is {status}: it cannot become cancelled"):
        service().cancel("t-1", "no")
    path.write_text(path.read_text().replace(f"status: {status}", "status: active"))
    service("gemini").claim("t-1")


@pytest.mark.parametrize("status", [TaskStatus.REVIEW, TaskStatus.INBOX, TaskStatus.ACTIVE])
def test_a_move_that_is_not_allowed_is_refused_and_nothing_is_held(
    place: TaskPlace, service: Services, status: TaskStatus
) -> None:
    path = place.task(status="done")
    before = path.read_bytes()
    with pytest.raises(Refused, match=f"t-1 is done: it cannot become {status}"):
        service().move("t-1", status)
    assert path.read_bytes() == before
    path.write_text(path.read_text().replace("status: done", "status: active"))
    service().move("t-1", TaskStatus.REVIEW)
    assert "status: review" in path.read_text()
    service("gemini").move("t-1", TaskStatus.ACTIVE)
    service("gemini").claim("t-1")


# ----------------------------------------------------------- update and receipt


def test_an_update_changes_its_keys_and_appends_to_the_body(place: TaskPlace, service: Services) -> None:
    path = place.task()
    assert service().update("t-1", {"priority": "high", "title": "New: title"}, "A note.") == []
    text = path.read_text()
    assert "title: 'New: title'\nstatus: active\npriority: high\n---" in text
    assert text.endswith("Change one line.\nA note.\n")


def test_receipts_need_no_claim_and_stand_together(place: TaskPlace, service: Services) -> None:
    path = place.task()
    service("claude").claim("t-1")
    service("gemini").receipt("t-1", "10:00 sent\nthe mail")
    service("zoe").receipt("t-1", "- 10:05 and another")
    assert path.read_text().endswith("\n## Receipts\n\n- 10:00 sent the mail\n- 10:05 and another\n")
