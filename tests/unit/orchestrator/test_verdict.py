"""Evidence: what came of a run is decided by what can be seen, never by a word or an exit code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hypervisor.core.model import Outcome, TaskStatus
from hypervisor.orchestrator.verdict import (
    Evidence,
    Failed,
    Passed,
    Reported,
    decide_outcome,
    evidence_text,
)
from hypervisor.runners.base import AgentEnd, How

GOOD = Passed(command="pytest -q", seconds=3.2)
BAD = Failed(command="pytest -q", code=1, line="1 failed, 3 passed")
DONE = Reported(word="done", text="did it", evidence="the log says so")
BARE = Reported(word="done", text="did it")
WORK: dict[str, Any] = {"commits": ("a1", "b2"), "files": ("src/a.py",)}

S, B, F, K = Outcome.SUCCESS, Outcome.BLOCKED, Outcome.FAILED, Outcome.SKIPPED
REVIEW, BLOCKED, FINE = TaskStatus.REVIEW, TaskStatus.BLOCKED, TaskStatus.DONE


def facts(
    how: How = How.ENDED, *, exit_code: int | None = 0, until: float | None = None, **more: Any
) -> Evidence:
    return Evidence(end=AgentEnd(how=how, text="last word", exit=exit_code, until=until), **more)


@pytest.mark.parametrize(
    ("given_facts", "outcome", "status", "told"),
    [
        # Work on its branch.
        (facts(**WORK, verify=GOOD), S, FINE, "2 commits in 1 file; verify passed: `pytest -q` (3 s)"),
        (facts(**WORK, verify=GOOD, names_files=True), S, FINE, "verify passed"),
        (facts(**WORK), S, FINE, "2 commits in 1 file; the task names no verify command"),
        (facts(**WORK, verify=BAD, reported=DONE), F, REVIEW, "`pytest -q` exited 1: 1 failed, 3 passed"),
        (facts(verify=BAD, reported=DONE), F, BLOCKED, "verify failed"),
        (facts(verify=Failed(command="x", code=None, line="")), F, BLOCKED, "`x` did not exit"),
        # No work in the repository.
        (facts(verify=GOOD, reported=BARE), S, FINE, "verify passed: `pytest -q` (3 s), and reported done"),
        (facts(verify=GOOD), F, BLOCKED, "ended without a report"),
        (facts(), F, BLOCKED, "ended without a report, and nothing shows any work: no commit"),
        (
            facts(reported=DONE),
            B,
            REVIEW,
            "reported done, but nothing shows it: no commit, and the task names no",
        ),
        (facts(reported=DONE, accept_reports=True), S, FINE, "evidence that nobody checked: the log says so"),
        (facts(reported=BARE, accept_reports=True), B, REVIEW, "reported done, but nothing shows it"),
        (facts(accept_reports=True), F, BLOCKED, "ended without a report"),
        # A task about files.
        (
            facts(names_files=True, verify=GOOD, reported=DONE),
            B,
            REVIEW,
            "the task names files, and no commit",
        ),
        (facts(names_files=True, reported=DONE, accept_reports=True), B, REVIEW, "the task names files"),
        (facts(names_files=True), B, REVIEW, "ended, but nothing shows it"),
        (facts(names_files=True, commits=("a1",), verify=GOOD), B, REVIEW, "its commits change no file"),
        # A commit that is not there.
        (
            facts(reported=Reported(word="done", commit="f00"), verify=GOOD),
            B,
            REVIEW,
            "f00, which is not on its",
        ),
        # No worktree: commits prove nothing.
        (
            facts(**WORK, worktree=False),
            F,
            REVIEW,
            "without a report, and nothing shows any work: its commits",
        ),
        (facts(**WORK, worktree=False, reported=DONE), B, REVIEW, "its commits cannot be told from others'"),
        (
            facts(**WORK, worktree=False, reported=DONE, verify=GOOD, names_files=True),
            S,
            FINE,
            "verify passed",
        ),
        # Harm.
        (
            facts(**WORK, verify=GOOD, outside=("b.py",)),
            F,
            REVIEW,
            "changes outside of the task's files: b.py",
        ),
        (facts(**WORK, uncommitted_outside=("b.py",)), F, REVIEW, "uncommitted changes outside"),
        (facts(**WORK, astray=("c3",)), F, REVIEW, "could not be brought to it: c3"),
        (facts(**WORK, conflicts=("a.py",)), F, REVIEW, "conflicts left in progress: a.py"),
        (facts(**WORK, main_changed=("M a.py",)), F, REVIEW, "checkout changed while it ran: M a.py"),
        (
            facts(**WORK, main_changed=("M a.py",), suspects=("t-2", "t-3")),
            B,
            REVIEW,
            "checkout changed while it and t-2, t-3 ran: M a.py",
        ),
        (facts(**WORK, main_changed=("M a.py",), contained=True), S, FINE, "2 commits"),
        # What it is judged by, and what nobody else has.
        (
            facts(**WORK, verify=GOOD, terms_changed=("verify was `pytest` and is now `true`",)),
            B,
            REVIEW,
            "changed since the batch took it: verify was `pytest` and is now `true`; its branch is kept",
        ),
        (
            facts(**WORK, verify=GOOD, leads_out=("src/a.py",)),
            F,
            REVIEW,
            "lead out of the repository: src/a.py",
        ),
        # Its own word against itself.
        (
            facts(reported=Reported(word="blocked", text="no key", next_step="add it"), **WORK),
            B,
            BLOCKED,
            "reported blocked: no key; next: add it; its branch is kept (2 commits, b2)",
        ),
        # Commands.
        (facts(How.FAILED, exit_code=78), B, BLOCKED, "exit 78 (blocked): last word"),
        (facts(How.ENDED, exit_code=1, **WORK), F, REVIEW, "exit 1"),
        (
            facts(How.TURN_LIMIT, **WORK, verify=GOOD, reported=DONE),
            F,
            REVIEW,
            "turn limit, exit 0: last word",
        ),
    ],
)
def test_each_fact_decides_and_is_named(
    given_facts: Evidence, outcome: Outcome, status: TaskStatus | None, told: str
) -> None:
    verdict = decide_outcome(given_facts)
    # What shows no work at all loses nothing by another attempt; where there is any, a person decides.
    lazy = outcome is F and status is BLOCKED and not given_facts.commits and given_facts.end.how is How.ENDED
    assert (verdict.outcome, verdict.status, verdict.again) == (outcome, status, "retry" if lazy else None)
    assert told in verdict.text


@pytest.mark.parametrize("how", [how for how in How if how is not How.ENDED])
@pytest.mark.parametrize("work", [{}, WORK])
def test_a_run_that_did_not_end_by_itself_is_no_success_whatever_else_is_seen(
    how: How, work: dict[str, Any]
) -> None:
    verdict = decide_outcome(facts(how, verify=GOOD, reported=DONE, accept_reports=True, **work))
    free = how.costs_no_attempt or how.of_machine
    retried = how in (How.KILLED, How.API_ERROR, How.EMPTY)
    assert verdict.outcome is (K if free else F)
    assert verdict.again == ("no attempt" if free else "retry" if retried else None)
    assert verdict.status is (None if free else REVIEW if work else BLOCKED)
    assert verdict.keep is bool(work)
    assert ("branch is kept" in verdict.text) is bool(work)
    assert not verdict.merge
    assert verdict.text.startswith(str(how))
    assert bool(verdict.stop_batch) is how.of_machine


def test_a_usage_limit_tells_until_when() -> None:
    assert decide_outcome(facts(How.USAGE_LIMIT, until=99.0)).pause_until == 99.0
    assert decide_outcome(facts(How.USAGE_LIMIT, until=99.0, outside=("x",))).pause_until == 99.0
    assert decide_outcome(facts(How.RATE_LIMIT, until=99.0)).pause_until is None


def test_exit_75_of_a_command_is_another_attempt() -> None:
    assert decide_outcome(facts(How.FAILED, exit_code=75)).again == "retry"
    assert decide_outcome(facts(How.TIMEOUT, exit_code=75)).again is None


def test_what_is_given_back_costs_no_attempt() -> None:
    verdict = decide_outcome(facts(reported=Reported(word="released", text="not mine"), **WORK))
    assert (verdict.again, verdict.status, verdict.keep) == ("no attempt", None, True)
    assert verdict.text.startswith("gave it back: not mine")


def test_what_was_denied_is_named() -> None:
    end = AgentEnd(how=How.REFUSED, text="stopped", exit=0, denials=("Bash(git push)",))
    assert "denied: Bash(git push)" in decide_outcome(Evidence(end=end)).text


def test_the_evidence_is_plain_data_of_limited_size() -> None:
    many = tuple(f"f{n}.py" for n in range(100))
    verdict = decide_outcome(facts(commits=("a1",), files=many, outside=many, verify=BAD, reported=DONE))
    assert json.loads(json.dumps(verdict.evidence)) == verdict.evidence
    assert verdict.evidence["files"] == list(many[:20])
    assert (verdict.evidence["commits"], verdict.evidence["commit"], verdict.evidence["exit"]) == (1, "a1", 0)
    assert "and 95 more" in verdict.text


TEXTS = st.text(max_size=20)
NAMED = st.lists(TEXTS, max_size=3).map(tuple)
RARELY = st.one_of(st.just(()), st.just(()), st.just(()), NAMED)
VERIFIED = st.sampled_from([None, GOOD, BAD])
REPORTS = st.one_of(
    st.none(),
    st.builds(
        Reported,
        word=st.sampled_from(["done", "done", "blocked", "released"]),
        text=TEXTS,
        evidence=TEXTS,
        next_step=TEXTS,
        commit=st.sampled_from(["", "", "f00"]),
    ),
)
ENDS = st.builds(
    AgentEnd,
    how=st.one_of(st.just(How.ENDED), st.sampled_from(How)),
    text=st.one_of(TEXTS, st.text(min_size=500, max_size=600)),
    exit=st.sampled_from([0, 0, None, 1, 75, 78, -9]),
    until=st.one_of(st.none(), st.floats(0, 1e10)),
)
ANY = st.builds(
    Evidence,
    end=ENDS,
    reported=REPORTS,
    commits=NAMED,
    files=NAMED,
    outside=RARELY,
    uncommitted_outside=RARELY,
    astray=RARELY,
    conflicts=RARELY,
    main_changed=RARELY,
    suspects=NAMED,
    verify=VERIFIED,
    names_files=st.booleans(),
    worktree=st.booleans(),
    accept_reports=st.booleans(),
)


@settings(max_examples=1500, suppress_health_check=[HealthCheck.too_slow])
@given(ANY)
@example(facts(**WORK))
def test_false_successes_are_impossible(seen: Evidence) -> None:
    verdict = decide_outcome(seen)
    if verdict.outcome is not S:
        assert verdict.status is not FINE
        assert not verdict.merge
        return
    done = seen.reported is not None and seen.reported.word == "done"
    assert seen.end.how is How.ENDED
    assert seen.end.exit in (0, None)
    assert not isinstance(seen.verify, Failed)
    assert not any((seen.outside, seen.uncommitted_outside, seen.astray, seen.conflicts, seen.main_changed))
    assert seen.reported is None or done
    work = bool(seen.commits and seen.files)
    assert work or not seen.names_files
    evident = seen.reported is not None and bool(seen.reported.evidence.strip())
    own = work and seen.worktree
    assert own or (done and isinstance(seen.verify, Passed)) or (done and seen.accept_reports and evident)
    assert verdict.merge is own
    assert verdict.status is FINE
    assert verdict.again is None


@settings(max_examples=500)
@given(ANY)
def test_no_work_is_lost_and_every_verdict_is_one_line(seen: Evidence) -> None:
    verdict = decide_outcome(seen)
    if seen.commits and seen.worktree:
        assert verdict.merge or verdict.keep
    assert not (verdict.merge and verdict.outcome is not S)
    assert verdict.text
    assert verdict.text.isprintable()
    assert len(verdict.text) <= 400
    assert (verdict.status is None) == (verdict.again == "no attempt")


def test_a_task_file_gets_the_evidence_as_plain_text() -> None:
    seen = facts(commits=("a1", "b2"), files=("src/a.py", "b's.py"), verify=GOOD, suspects=("t-6",))
    told = evidence_text({**decide_outcome(seen).evidence, "merged": "c3"})
    assert told == "2 commits; files: src/a.py, b's.py; verify: pytest -q: passed; merged: c3"
    assert evidence_text({"merged": True, "files": []}) == "merged"
    assert len(evidence_text({"files": ["x" * 300] * 3})) == 500
