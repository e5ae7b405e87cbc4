"""Tasks as agents and people take them: one holder each, and the file as it was when given back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from commands import ROOT, shell, tree, write_task
from hypervisor.core import config
from hypervisor.core.errors import ClaimLost, Refused, UsageError
from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.core.paths import Project
from hypervisor.tasks import claiming, tasks
from hypervisor.tasks.desk import Desk
from hypervisor.tasks.endings import Ending
from hypervisor.tasks.tasklist import Caller

Desks = Callable[..., Desk]

DONE = Ending(outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="made it", commit="3f2c1ab")
BLOCKED = Ending(outcome=Outcome.BLOCKED, status=TaskStatus.BLOCKED, text="no key", next_step="get one")
WHO_MOVES_IT = "its owner sets it to active when it can go on"
#: How old a claim directory is made where its holder is to be silent.
LONG_AGO = 5000.0


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    (root / "tasks").mkdir(parents=True)
    return Project(root, root / ".hypervisor")


@pytest.fixture
def desk(project: Project) -> Desks:
    def open_desk(name: str = "claude", **rest: str) -> Desk:
        return Desk(project, config.load(project.state), Caller(name=name, **rest))  # type: ignore[arg-type]

    return open_desk


def task_file(project: Project, name: str = "t-1", **keys: str) -> Path:
    return write_task(project.root / "tasks" / f"{name}.md", **keys)


def fall_silent(project: Project) -> None:
    """Make every open claim look as if its holder had said nothing for long."""
    for claim in (project.state / "locks").iterdir():
        then = claim.stat().st_mtime - LONG_AGO
        os.utime(claim, (then, then))


def only_result(project: Project, name: str = "") -> dict[str, object]:
    paths = [path for path in (project.state / "results").iterdir() if name in path.name]
    assert len(paths) == 1, paths
    found: dict[str, object] = json.loads(paths[0].read_bytes())
    return found


# --------------------------------------------------------------- claim and end


def test_a_claim_changes_two_keys_and_nothing_else(project: Project, desk: Desks) -> None:
    path = task_file(project)
    path.write_bytes(
        b"---\r\nid: t-1\r\nstatus: active # now\r\n# a comment\r\ntitle: 'T'\r\n---\r\n# T\r\n\ttext"
    )
    task, claim = desk().claim("t-1")
    assert claim.generation == 1
    assert (task.status, task.assignee) == (TaskStatus.IN_PROGRESS, ("claude",))
    assert path.read_bytes() == (
        b"---\r\nid: t-1\r\nstatus: in_progress # now\r\n# a comment\r\ntitle: 'T'\r\n"
        b"assignee: claude\r\n---\r\n# T\r\n\ttext"
    )


def test_completing_says_so_in_the_file_and_in_the_result(project: Project, desk: Desks) -> None:
    path = task_file(project)
    desk().claim("t-1")
    result = desk(session="s-1").finish("t-1", DONE, 1)
    assert (result["status"], result["commit"], result["session"]) == ("success", "3f2c1ab", "s-1")
    text = path.read_text()
    assert "\nstatus: done\n" in text
    assert (
        "\n## Completion\n\n- Outcome: success: made it\n- Commit: 3f2c1ab\n- By: claude, generation 1\n"
        in text
    )
    assert only_result(project)["outcome"] == "made it"
    assert os.listdir(project.state / "locks") == []


def test_blocking_says_what_would_let_it_go_on(project: Project, desk: Desks) -> None:
    path = task_file(project)
    desk().claim("t-1")
    desk().finish("t-1", BLOCKED)
    assert "\nstatus: blocked\n" in path.read_text()
    assert "- Outcome: blocked: no key\n- Next: get one\n" in path.read_text()
    with pytest.raises(Refused, match="t-1: its status is blocked; its owner sets it to active"):
        desk().claim("t-1")


def test_the_same_completion_twice_is_one_and_another_is_refused(project: Project, desk: Desks) -> None:
    path = task_file(project)
    desk().claim("t-1")
    desk().finish("t-1", DONE, 1)
    before = path.read_bytes()
    with pytest.raises(Refused, match="t-1 is done already; its owner may reopen it in the file"):
        desk().finish("t-1", DONE)
    # An agent whose call was cut off before its answer came asks again, with the same words.
    assert desk().finish("t-1", DONE, 1) == only_result(project)
    with pytest.raises(ClaimLost):
        desk().finish("t-1", replace(DONE, text="made another"), 1)
    assert path.read_bytes() == before


def test_a_task_may_be_completed_without_a_claim(project: Project, desk: Desks) -> None:
    path = task_file(project)
    desk().finish("t-1", DONE)
    assert "status: done" in path.read_text()
    assert only_result(project)["generation"] == 1


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
@pytest.mark.parametrize("how", ["release", "reap", "cancel is reverted first", "taken over"])
def test_what_a_claim_wrote_is_put_back_to_the_byte(
    project: Project, desk: Desks, shape: str, how: str
) -> None:
    path = task_file(project)
    before = SHAPES[shape].encode()
    path.write_bytes(before)
    desk().claim("t-1")
    assert path.read_bytes() != before
    if how == "release":
        desk().release("t-1", "not now")
    elif how == "reap":
        fall_silent(project)
        assert len(desk("hypervisor").reap()) == 1
    elif how == "taken over":
        fall_silent(project)
        _, claim = desk("gemini").claim("t-1")
        assert claim.generation == 2
        assert "gemini" in path.read_text()
        assert "claude" not in path.read_bytes().replace(before, b"").decode().replace("claude # and", "")
        desk("gemini").release("t-1", "not now")
    else:
        desk("hypervisor").cancel("t-1", "no")
        text = path.read_text("utf-8")
        assert "in_progress" not in text.lower()
        assert "progress" not in text.lower()
        return
    assert path.read_bytes() == before
    assert desk("gemini").claim("t-1")[1].generation >= 2


def test_what_its_owner_changed_meanwhile_is_not_put_back(project: Project, desk: Desks) -> None:
    path = task_file(project)
    desk().claim("t-1")
    path.write_text(
        path.read_text().replace("assignee: claude", "assignee: zoe").replace("one line", "two lines")
    )
    desk().release("t-1", "not now")
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
    project: Project, desk: Desks, keys: dict[str, str], caller: str, reason: str
) -> None:
    path = task_file(project, **keys)
    task_file(project, "t-2")
    task_file(project, "t-3", status="done")
    before = path.read_bytes()
    with pytest.raises(Refused) as refused:
        desk(caller).claim("t-1")
    assert str(refused.value) == reason
    assert path.read_bytes() == before
    refusing = desk(caller)
    assert f"t-1: {refusing.refusals(refusing.tasks())(refusing.find('t-1'))}" == reason


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
def test_who_may_claim_may(project: Project, desk: Desks, keys: dict[str, str], caller: str) -> None:
    if "assignee" in keys:
        keys = keys | {"assignee": f"'{keys['assignee']}'"}
    task_file(project, **keys)
    task_file(project, "t-3", status="done")
    task, _ = desk(caller).claim("t-1")
    assert task.status is TaskStatus.IN_PROGRESS


def test_a_second_caller_is_told_who_holds_it(project: Project, desk: Desks) -> None:
    path = task_file(project)
    desk("claude").claim("t-1")
    before = path.read_bytes()
    gemini = desk("gemini")
    with pytest.raises(Refused, match=r"^t-1 is held by claude \(claude-\w+\); take another, or wait$"):
        gemini.claim("t-1")
    with pytest.raises(
        Refused, match=r"t-1 is held by claude; pass the generation \(1\) to act on that claim"
    ):
        gemini.finish("t-1", DONE)
    with pytest.raises(
        Refused, match=r"t-1 is held by claude; pass the generation \(1\) to act on that claim"
    ):
        gemini.release("t-1", "mine")
    with pytest.raises(Refused, match="t-1 is held by claude"):
        gemini.move("t-1", TaskStatus.REVIEW)
    with pytest.raises(Refused, match="t-1 is held by claude; release, block or complete it instead"):
        desk("claude").move("t-1", TaskStatus.REVIEW)
    with pytest.raises(Refused, match="t-1 is held; its assignee changes with the claim"):
        gemini.update("t-1", {"assignee": "gemini"})
    assert path.read_bytes() == before
    assert gemini.refusals(gemini.tasks())(gemini.find("t-1")) == "held by claude"


def test_the_same_caller_claims_once_only(project: Project, desk: Desks) -> None:
    task_file(project)
    desk().claim("t-1")
    with pytest.raises(Refused, match="held by claude"):
        desk().claim("t-1")


def test_there_is_nothing_to_release_where_nothing_is_held(project: Project, desk: Desks) -> None:
    task_file(project)
    with pytest.raises(Refused, match="t-1 is not held; there is nothing to release"):
        desk().release("t-1", "why not")


@pytest.mark.parametrize("generation", [1, 3])
def test_a_stale_generation_is_refused(project: Project, desk: Desks, generation: int) -> None:
    path = task_file(project)
    desk().claim("t-1")
    fall_silent(project)
    desk("gemini").claim("t-1")
    before = path.read_bytes()
    for act in (
        lambda: desk().finish("t-1", DONE, generation),
        lambda: desk().release("t-1", "x", generation),
    ):
        with pytest.raises(ClaimLost) as lost:
            act()
        assert lost.value.loss.generation == generation
        if generation == 1:
            assert lost.value.loss.reason == "revoked"
            assert "silent for" in lost.value.loss.detail
    assert path.read_bytes() == before
    desk("gemini").finish("t-1", DONE, 2)
    assert only_result(project)["worker"] == "gemini"


def test_a_generation_of_nothing_is_refused(project: Project, desk: Desks) -> None:
    path = task_file(project)
    before = path.read_bytes()
    with pytest.raises(ClaimLost, match=r"\(generation 1\) is lost: gone"):
        desk().finish("t-1", DONE, 1)
    assert path.read_bytes() == before


def test_an_id_that_two_tasks_bear_names_their_paths(project: Project, desk: Desks) -> None:
    task_file(project, "a", id="t-1")
    task_file(project, "b", id="T-1")
    with pytest.raises(UsageError) as refused:
        desk().claim("t-1")
    assert str(refused.value) == ("t-1: 2 tasks bear this id (tasks/a.md, tasks/b.md); name the path instead")
    assert desk().claim("tasks/b.md")[0].path.endswith("b.md")


# -------------------------------------------------------------- lease and lives


def test_a_short_lease_is_over_when_the_settings_say_so(project: Project, desk: Desks) -> None:
    project.prepare()
    (project.state / "config.toml").write_text("[claims]\nlease_seconds = 0.01\n")
    path = task_file(project)
    desk().claim("t-1")
    fall_silent(project)
    task, claim = desk("gemini").claim("t-1")
    assert (claim.generation, task.assignee) == (2, ("gemini",))
    assert path.read_text().count("assignee") == 1
    with pytest.raises(ClaimLost):
        desk().finish("t-1", DONE, 1)


def test_a_claim_whose_holder_speaks_is_not_taken(project: Project, desk: Desks) -> None:
    task_file(project)
    desk().claim("t-1")
    assert desk("hypervisor").reap() == []
    with pytest.raises(Refused, match="held by claude"):
        desk("gemini").claim("t-1")


def test_a_task_that_keeps_losing_its_workers_is_blocked_and_told(project: Project, desk: Desks) -> None:
    path = task_file(project)
    for generation in (1, 2, 3):
        assert desk().claim("t-1")[1].generation == generation
        fall_silent(project)
    with pytest.raises(Refused, match="t-1: its status is blocked"):
        desk("gemini").claim("t-1")
    text = path.read_text()
    assert "status: blocked" in text
    assert "assignee" not in text, "the assignee that the last claim wrote was not put back"
    result = only_result(project)
    assert result["item"] == "tasks/t-1.md"
    assert str(result["outcome"]).startswith("gave up after 3 attempts: attempt 1: held by claude")


def test_reaping_a_task_that_keeps_losing_its_workers_blocks_it_too(project: Project, desk: Desks) -> None:
    path = task_file(project)
    for _ in range(3):
        desk().claim("t-1")
        fall_silent(project)
    desk("hypervisor").reap()
    assert "status: blocked" in path.read_text()
    assert only_result(project)["item"] == "tasks/t-1.md"


def test_a_task_that_its_owner_opens_again_begins_a_new_life(project: Project, desk: Desks) -> None:
    path = task_file(project)
    desk().claim("t-1")
    desk().finish("t-1", DONE)
    path.write_text(path.read_text().replace("status: done", "status: active"))
    task, claim = desk("gemini").claim("t-1")
    assert claim.generation == 2  # it goes on rising, so that it names one claim for ever
    assert task.assignee == ("gemini",)
    desk("gemini").finish("t-1", DONE)
    names = sorted(os.listdir(project.state / "results"))
    assert [bool(re.search(r"\.r2\.json$", name)) for name in names] == [False, True]


def test_a_worker_of_an_earlier_life_cannot_complete_the_next(project: Project, desk: Desks) -> None:
    path = task_file(project)
    _, old = desk("claude").claim("t-1")
    desk("hypervisor").cancel("t-1", "no")
    path.write_text(path.read_text().replace("status: cancelled", "status: active"))
    desk("gemini").claim("t-1")
    before = path.read_bytes()
    with pytest.raises(ClaimLost):
        desk("claude").finish("t-1", DONE, old.generation)
    with pytest.raises(ClaimLost):
        desk("claude").release("t-1", "old", old.generation)
    assert path.read_bytes() == before


def test_a_task_done_by_hand_while_it_is_held_stays_done(project: Project, desk: Desks) -> None:
    path = task_file(project)
    desk().claim("t-1")
    path.write_text(path.read_text().replace("status: in_progress", "status: done"))
    before = path.read_bytes()
    with pytest.raises(Refused, match="t-1 is done: it cannot become done"):
        desk().finish("t-1", DONE, 1)
    assert path.read_bytes() == before
    with pytest.raises(Refused, match="already complete"):
        desk("gemini").claim("t-1")
    desk().release("t-1", "it was done by hand")
    assert "status: done" in path.read_text()


# ---------------------------------------------------------------------- cancel


def test_cancelling_takes_the_claim_and_its_holder_can_no_longer_complete(
    project: Project, desk: Desks
) -> None:
    path = task_file(project)
    desk().claim("t-1")
    desk("zoe").cancel("t-1", "not wanted any more")
    text = path.read_text()
    assert "status: cancelled" in text
    assert "assignee" not in text
    assert "- Outcome: skipped: not wanted any more" in text
    with pytest.raises(ClaimLost, match="lost: finished"):
        desk().finish("t-1", DONE, 1)
    with pytest.raises(ClaimLost):
        desk().release("t-1", "x", 1)
    assert path.read_text() == text
    assert only_result(project)["status"] == "skipped"


@pytest.mark.parametrize("status", ["done", "cancelled"])
def test_what_is_closed_is_not_cancelled_and_nothing_is_held_after(
    project: Project, desk: Desks, status: str
) -> None:
    path = task_file(project, status=status)
    with pytest.raises(Refused, match=f"t-1 is {status}: it cannot become cancelled"):
        desk().cancel("t-1", "no")
    path.write_text(path.read_text().replace(f"status: {status}", "status: active"))
    desk("gemini").claim("t-1")


@pytest.mark.parametrize("status", [TaskStatus.REVIEW, TaskStatus.INBOX, TaskStatus.ACTIVE])
def test_a_move_that_is_not_allowed_is_refused_and_nothing_is_held(
    project: Project, desk: Desks, status: TaskStatus
) -> None:
    path = task_file(project, status="done")
    before = path.read_bytes()
    with pytest.raises(Refused, match=f"t-1 is done: it cannot become {status}"):
        desk().move("t-1", status)
    assert path.read_bytes() == before
    path.write_text(path.read_text().replace("status: done", "status: active"))
    desk().move("t-1", TaskStatus.REVIEW)
    assert "status: review" in path.read_text()
    desk("gemini").move("t-1", TaskStatus.ACTIVE)
    desk("gemini").claim("t-1")


# --------------------------------------------------------------------- crashes

_DIES = """
import os, sys
sys.path.insert(0, {scripts!r})
from pathlib import Path
from hypervisor.tasks import claiming, keeping, tasklist; from hypervisor.core import config
from hypervisor.claims.directory import DirectoryStore
from hypervisor.tasks.desk import Desk
from hypervisor.tasks.endings import Ending
from hypervisor.tasks.tasklist import Caller
from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.core.paths import Project

def die(*_, **__):
    os._exit(9)

def then_die(call):
    def both(*words, **rest):
        call(*words, **rest)
        os._exit(9)
    return both

step = {step!r}
if step == "after the claim":
    claiming.Claiming._begin = die
elif step == "before the note":
    DirectoryStore.annotate = die
elif step == "after the note":
    DirectoryStore.annotate = then_die(DirectoryStore.annotate)
elif step == "before the edit":
    claiming.edit_file = die
elif step == "after the edit":
    claiming.edit_file = then_die(claiming.edit_file)
root = Path({root!r})
mine = Desk(Project(root, root / ".hypervisor"), config.load(root / ".hypervisor"), Caller(name="claude"))
if step.startswith("release: "):
    mine.claim("t-1")
    if step == "release: before":
        DirectoryStore.release = die
    else:
        tasklist.revert_file = die
    mine.release("t-1", "x")
elif step.startswith("complete: "):
    mine.claim("t-1")
    if step == "complete: decided":
        keeping.write_edits = die
    elif step == "complete: written":
        keeping.write_edits = then_die(keeping.write_edits)
    mine.finish("t-1", Ending(outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="made it"))
elif step == "reap: claimed":
    mine.claim("t-1")
    for claim in (root / ".hypervisor/locks").iterdir():
        os.utime(claim, (1, 1))
    tasklist.revert_file = die
    mine.reap()
else:
    mine.claim("t-1")
"""


def die_at(project: Project, step: str) -> None:
    """Act in a process of its own, which dies at *step*."""
    code = _DIES.format(scripts=str(ROOT / "scripts"), root=str(project.root), step=step)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=False)
    assert done.returncode == 9, done.stderr.decode()


@pytest.mark.parametrize(
    "step",
    ["after the claim", "before the note", "after the note", "before the edit", "after the edit",
     "release: before", "release: first", "reap: claimed"],
)  # fmt: skip
def test_a_death_at_any_step_of_a_claim_is_put_right_by_reaping(
    project: Project, desk: Desks, step: str
) -> None:
    path = task_file(project, assignee="bot")
    before = path.read_bytes()
    die_at(project, step)
    fall_silent(project)
    desk("hypervisor").reap()
    assert path.read_bytes() == before
    task, _ = desk("gemini").claim("t-1")
    assert task.assignee == ("gemini",)
    desk("gemini").finish("t-1", DONE)


@pytest.mark.parametrize("step", ["after the note", "after the edit", "release: before"])
def test_a_death_is_put_right_by_whoever_claims_next(project: Project, desk: Desks, step: str) -> None:
    path = task_file(project)
    before = path.read_bytes()
    die_at(project, step)
    fall_silent(project)
    desk("gemini").claim("t-1")
    desk("gemini").release("t-1", "x")
    assert path.read_bytes() == before


@pytest.mark.parametrize("step", ["complete: decided", "complete: written"])
def test_a_completion_that_was_decided_is_carried_out_by_whoever_finds_it(
    project: Project, desk: Desks, step: str
) -> None:
    path = task_file(project)
    die_at(project, step)
    desk("hypervisor").reap()
    text = path.read_text()
    assert "status: done" in text
    assert text.count("## Completion") == 1
    assert only_result(project)["outcome"] == "made it"
    assert os.listdir(project.state / "locks") == []


def test_an_owner_who_saves_the_file_in_the_moment_of_a_claim_wins(
    project: Project, desk: Desks, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = task_file(project)
    edit_file = tasks.edit_file

    def late(*words: object, **rest: object) -> list[str]:
        path.write_text(path.read_text().replace("status: active", "status: done"))
        return edit_file(*words, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(claiming, "edit_file", late)
    with pytest.raises(Refused, match="t-1"):
        desk().claim("t-1")
    monkeypatch.undo()
    assert "status: done" in path.read_text()
    assert "assignee" not in path.read_text()
    path.write_text(path.read_text().replace("status: done", "status: active"))
    desk("gemini").claim("t-1")


# ----------------------------------------------------------- update and receipt


def test_an_update_changes_its_keys_and_appends_to_the_body(project: Project, desk: Desks) -> None:
    path = task_file(project)
    assert desk().update("t-1", {"priority": "high", "title": "New: title"}, "A note.") == []
    text = path.read_text()
    assert "title: 'New: title'\nstatus: active\npriority: high\n---" in text
    assert text.endswith("Change one line.\nA note.\n")


def test_receipts_need_no_claim_and_stand_together(project: Project, desk: Desks) -> None:
    path = task_file(project)
    desk("claude").claim("t-1")
    desk("gemini").receipt("t-1", "10:00 sent\nthe mail")
    desk("zoe").receipt("t-1", "- 10:05 and another")
    assert path.read_text().endswith("\n## Receipts\n\n- 10:00 sent the mail\n- 10:05 and another\n")


# --------------------------------------------------------------------- commands


@pytest.mark.acceptance
def test_the_commands_say_what_they_did_and_what_to_do(tmp_path: Path) -> None:
    with shell(tmp_path) as user:
        path = write_task(user.cwd / "tasks/t-1.md")
        before = path.read_bytes()
        claimed = user.hypervisor("task", "claim", "t-1", "--caller", "claude", "--json").passed().json
        assert claimed["claim"] == {"generation": 1, "expires_in": 900}
        assert (
            claimed["task"] | {"id": "t-1", "status": "in_progress", "path": "tasks/t-1.md"}
            == claimed["task"]
        )
        assert "Change one line." in claimed["task"]["body"]
        second = user.hypervisor("task", "claim", "t-1", "--caller", "gemini")
        second.refused(1, "t-1 is held by claude (claude-", "take another, or wait")
        user.hypervisor("task", "complete", "t-1", "--outcome", "x", "--caller", "gemini").refused(
            1, "t-1 is held by claude; pass the generation (1)"
        )
        stale = user.hypervisor(
            "task", "complete", "t-1", "--outcome", "x", "--caller", "claude", "--generation", "7"
        )
        stale.refused(1, "(generation 7) is lost: gone")
        assert "claim    tasks-t-1-" in user.hypervisor("status").passed().out
        show = user.hypervisor("task", "show", "t-1").passed().out
        assert "held by    claude, generation 1" in show
        released = user.hypervisor(
            "task", "release", "t-1", "--reason", "later", "--caller", "claude"
        ).passed()
        assert released.out == "released: t-1 (tasks/t-1.md) is active\n"
        assert path.read_bytes() == before
        user.hypervisor("task", "receipt", "t-1", "sent", "--caller", "claude").passed()
        done = user.hypervisor("task", "complete", "t-1", "--outcome", "made it", "--caller", "claude")
        assert done.passed().out == "done: t-1 (tasks/t-1.md) is done\n"
        assert user.hypervisor("task", "list", "--ready").code == 3
        assert user.hypervisor("reap").code == 3
        user.hypervisor("task", "update", "t-1", "--status", "done").refused(
            2, "use `hypervisor task complete t-1`"
        )


@pytest.mark.acceptance
def test_a_list_holds_every_condition_that_was_asked(tmp_path: Path) -> None:
    with shell(tmp_path) as user:
        write_task(user.cwd / "tasks/a.md", project="alpha", parent="beta")
        write_task(user.cwd / "tasks/b.md", project="alpha", parent="alpha")
        rows = (
            user.hypervisor("task", "list", "--project", "alpha", "--parent", "alpha", "--json").passed().json
        )
        assert [row["id"] for row in rows] == ["b"]


@pytest.mark.acceptance
def test_looking_at_tasks_makes_nothing(tmp_path: Path) -> None:
    with shell(tmp_path) as user:
        write_task(user.cwd / "tasks/t-1.md")
        before = tree(user.cwd / "tasks")
        for words in (
            ["task", "list"],
            ["task", "show", "t-1"],
            ["preflight", "--all"],
            ["status"],
            ["doctor"],
        ):
            user.hypervisor(*words)
        assert tree(user.cwd / "tasks") == before


_CLAIM_ALL = """
import sys
sys.path.insert(0, {scripts!r})
from pathlib import Path
from hypervisor.core import config
from hypervisor.tasks.desk import Desk
from hypervisor.tasks.tasklist import Caller
from hypervisor.core.errors import Refused
from hypervisor.core.paths import Project
root = Path({root!r})
mine = Desk(Project(root, root / ".hypervisor"), config.load(None), Caller(name=f"w{{sys.argv[1]}}-agent"))
sys.stdin.readline()
order = [f"t-{{(int(sys.argv[1]) * 5 + n) % 40}}" for n in range(40)]
for name in order:
    try:
        mine.claim(name)
    except Refused:
        continue
    print(name, flush=True)
"""


@pytest.mark.acceptance
def test_of_eight_processes_each_task_has_one_holder(project: Project) -> None:
    paths = [task_file(project, f"t-{number}") for number in range(40)]
    code = _CLAIM_ALL.format(scripts=str(ROOT / "scripts"), root=str(project.root))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(8)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won: dict[str, str] = {}
    for number, racer in enumerate(racers):
        out, err = racer.communicate(timeout=60)
        assert racer.returncode == 0, err
        for name in out.split():
            assert name not in won, f"{name} was given to w{number} and {won[name]}"
            won[name] = f"w{number}-agent"
    assert len(won) == 40
    for path in paths:
        text = path.read_text()
        assert text.count("assignee: ") == 1
        assert f"assignee: {won[path.stem]}\n" in text
        assert "status: in_progress\n" in text
