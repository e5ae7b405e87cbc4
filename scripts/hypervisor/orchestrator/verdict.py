"""The outcome of an agent's run, decided from evidence. Pure.

An agent's word is not evidence, nor is exit 0: any client says it for any end. What counts is what can be
seen: commits on the agent's own branch, and a verification that was run after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..core.model import Outcome, TaskStatus
from ..runners.base import AgentEnd, How

#: How many names a verdict repeats, in its evidence and in its text.
_FILES, _NAMES = 20, 5
_LINE = 400
#: Facts that are lists of names.
_NAMED = (
    "outside", "leads_out", "uncommitted_outside", "astray", "conflicts", "terms_changed", "main_changed",
    "suspects",
)  # fmt: skip
#: What a command says by its exit code.
_RETRY, _BLOCKED = 75, 78


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """The task's verification passed."""

    command: str
    #: How long it took.
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The task's verification failed, or could not be run."""

    command: str
    #: None where it came to no exit.
    code: int | None
    #: The last line that it said.
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What an agent said of its task."""

    word: Literal["done", "blocked", "released", "asked"]
    #: The outcome, the reason, or the question.
    text: str = ""
    evidence: str = ""
    next_step: str = ""
    #: The commit that it named.
    commit: str = ""
    #: Answers to its question from which a person may choose.
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known of an attempt whose agent has ended."""

    end: AgentEnd
    reported: Reported | None = None
    #: On its branch, the oldest first.
    commits: tuple[str, ...] = ()
    #: What those changed, relative to the root.
    files: tuple[str, ...] = ()
    #: Links that it committed to what is outside of the repository: nobody else has what is there.
    leads_out: tuple[str, ...] = ()
    #: What it changed although the task does not name it.
    outside: tuple[str, ...] = ()
    #: The same, not even committed.
    uncommitted_outside: tuple[str, ...] = ()
    #: Commits found elsewhere that could not be brought to its branch.
    astray: tuple[str, ...] = ()
    #: Files of a merge, rebase or the like that was left half done.
    conflicts: tuple[str, ...] = ()
    #: What changed in the user's own checkout while it ran, a line each.
    main_changed: tuple[str, ...] = ()
    #: Whether it could write nowhere but in its own folder: then what changed there was not its doing.
    contained: bool = False
    #: Ids of the other tasks that ran then.
    suspects: tuple[str, ...] = ()
    #: What the task's file says otherwise than when the batch took it, a line for each key.
    terms_changed: tuple[str, ...] = ()
    #: What the task's own command said; None only where it names none.
    verify: Passed | Failed | None = None
    #: Whether the task names files.
    names_files: bool = False
    #: Whether it ran in a worktree of its own; else no commit can be told to be its.
    worktree: bool = True
    #: Whether the project takes a report with evidence for what cannot be seen.
    accept_reports: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome of an attempt."""

    #: Where there is an `again`, it counts only if no further attempt is left.
    outcome: Outcome
    #: The status that the task gets, None for the one it had; of an `again` likewise.
    status: TaskStatus | None
    #: One line, with the fact that decided.
    text: str
    #: The evidence that support it, as plain data.
    evidence: Mapping[str, Any] = field(default_factory=dict)
    #: Whether its work may be merged.
    merge: bool = False
    #: Whether its branch must be kept for a person.
    keep: bool = False
    #: ``retry`` costs an attempt, ``no attempt`` does not; ``answer``: at no cost, after a person's answer.
    again: Literal["retry", "no attempt", "answer"] | None = None
    #: When a usage limit ends, in seconds since the epoch; None if unknown, or if there is none.
    pause_until: float | None = None
    #: Why no further task can be tried with this agent, "" if one can.
    stop_batch: str = ""

    @property
    def evidence_line(self) -> str:
        """The evidence as the report in a task's file says it."""
        return evidence_text(self.evidence)


def decide_outcome(evidence: Evidence) -> Verdict:
    """Return the verdict on an attempt."""
    verdict = _decide(evidence)
    text, kept = verdict.text, evidence.worktree and bool(evidence.commits) and not verdict.merge
    if kept and verdict.outcome is not Outcome.SUCCESS:
        text += (
            f"; its branch is kept ({_count(len(evidence.commits), 'commit')}, {evidence.commits[-1][:12]})"
        )
    return replace(
        verdict,
        text=_line(text),
        evidence=_as_data(evidence),
        keep=verdict.keep or kept,
        pause_until=evidence.end.until if evidence.end.how is How.USAGE_LIMIT else None,
    )


def _decide(evidence: Evidence) -> Verdict:
    end, said = evidence.end, evidence.reported
    # It never worked, so whatever else was seen is not its doing; nor could the next one work.
    if end.how.of_machine:
        why = f"{end.how}: {end.text}"
        return replace(_again("no attempt", why), stop_batch=_line(why))
    harm = _harm(evidence)
    if harm is not None:
        return harm
    # What an agent says against itself is believed: nobody gains by it, and a person will look.
    if said and said.word == "blocked":
        step = f"; next: {said.next_step}" if said.next_step.strip() else ""
        return _blocked(f"reported blocked: {said.text or 'no reason given'}{step}")
    if said and said.word == "released":
        return _again("no attempt", f"gave it back: {said.text or 'no reason given'}")
    if said and said.word == "asked":
        return _again("answer", f"asks: {said.text}")
    if end.how.costs_no_attempt:
        return _again("no attempt", f"{end.how}: {end.text}")
    if end.exit == _BLOCKED and end.how in (How.ENDED, How.FAILED):
        return _blocked(f"exit {_BLOCKED} (blocked): {end.text}")
    if end.exit == _RETRY and end.how in (How.ENDED, How.FAILED):
        return _again("retry", f"exit {_RETRY} (try again): {end.text}", evidence)
    # A fault of the machine or of the service may not come twice; a limit or a refusal would.
    if end.how in (How.KILLED, How.API_ERROR, How.EMPTY):
        return _again("retry", f"{end.how}: {end.text}", evidence)
    if end.how is not How.ENDED or end.exit not in (0, None):
        denied = f" (denied: {_names(end.denials)})" if end.denials else ""
        # A command's text begins with its exit code.
        is_said = end.exit is not None and end.text.startswith(f"exit {end.exit}")
        code = f", exit {end.exit}" if end.exit is not None and not is_said else ""
        return _failed(f"{end.how}{code}: {end.text}{denied}", evidence)
    return _of_work(evidence)


def _harm(evidence: Evidence) -> Verdict | None:
    """Return the verdict on what must not have happened, None if nothing of it did."""
    if evidence.terms_changed:
        return terms_changed(evidence.terms_changed)
    for found, what in (
        # What it did cannot be undone by another attempt, and may be worth keeping: a person decides.
        (evidence.astray, "commits outside of its branch that could not be brought to it"),
        (evidence.outside, "changes outside of the task's files"),
        (evidence.leads_out, "links that lead out of the repository"),
        (evidence.uncommitted_outside, "uncommitted changes outside of the task's files"),
        (evidence.conflicts, "conflicts left in progress"),
    ):
        if found:
            return _for_review(Outcome.FAILED, f"{what}: {_names(found)}")
    if not evidence.main_changed or evidence.contained:
        return None
    changed = _names(evidence.main_changed)
    if evidence.suspects:
        # It may be innocent, so it does not count as a failure; nor is it a success until cleared.
        others = _names(evidence.suspects)
        return _for_review(
            Outcome.BLOCKED, f"the user's checkout changed while it and {others} ran: {changed}"
        )
    return _for_review(Outcome.FAILED, f"the user's checkout changed while it ran: {changed}")


def not_now(why: str) -> Verdict:
    """Return the verdict on a task that cannot be worked on at the moment, at no cost in attempts."""
    return _again("no attempt", why)


def not_gathered(why: str) -> Verdict:
    """Return the verdict where what an agent left cannot be looked at: its folder stays for a person."""
    return replace(_for_review(Outcome.FAILED, _line(f"what it left cannot be looked at: {why}")), keep=True)


def terms_changed(changes: tuple[str, ...]) -> Verdict:
    """Return the verdict on a task of which somebody has changed what it is judged by. A person decides."""
    return _for_review(
        Outcome.BLOCKED, f"what it is judged by was changed since the batch took it: {'; '.join(changes)}"
    )


def _of_work(evidence: Evidence) -> Verdict:
    """Decide on a run that came to its own end and did no harm."""
    said, verify = evidence.reported, evidence.verify
    if isinstance(verify, Failed):
        code = "did not exit" if verify.code is None else f"exited {verify.code}"
        said_last = f": {verify.line}" if verify.line else " with no output"
        text = f"verify failed: `{verify.command}` {code}{said_last}"
        # Where there are commits, a person may want them: another attempt would begin without them.
        return _failed(text, evidence) if evidence.commits else _again("retry", text, evidence)
    passed = f"verify passed: `{verify.command}` ({verify.seconds:.0f} s)" if verify else ""
    # A commit that changes no file shows as little as none.
    work = bool(evidence.commits and evidence.files)
    if work and evidence.worktree:
        files = f"{_count(len(evidence.commits), 'commit')} in {_count(len(evidence.files), 'file')}"
        return _success(f"{files}; {passed or 'the task names no verify command'}", merge=True)
    none = "its commits cannot be told from others'" if work else "no commit"
    if evidence.commits and not evidence.files:
        none = "its commits change no file"
    if evidence.names_files and not work:
        # The task says which files it is about, so that without a change to them it is not done.
        word = "reported done" if said else "ended"
        return _for_review(Outcome.BLOCKED, f"{word}, but nothing shows it: the task names files, and {none}")
    if said is None:
        # A verification that passes without a change may have passed before as well.
        text = f"ended without a report, and nothing shows any work: {none}"
        return _failed(text, evidence) if evidence.commits else _again("retry", text, evidence)
    if said.commit and not work:
        return _for_review(Outcome.BLOCKED, f"reported done in {said.commit}, which is not on its branch")
    if passed:
        return _success(f"{passed}, and reported done: {said.text}", merge=False)
    if evidence.accept_reports and said.evidence.strip():
        text = f"reported done, with evidence that nobody checked: {said.evidence}"
        return _success(f"{said.text} ({text})" if said.text.strip() else text, merge=False)
    return _for_review(
        Outcome.BLOCKED, f"reported done, but nothing shows it: {none}, and the task names no verify command"
    )


def _success(text: str, *, merge: bool) -> Verdict:
    return Verdict(outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text=text, merge=merge)


def _blocked(text: str) -> Verdict:
    return Verdict(outcome=Outcome.BLOCKED, status=TaskStatus.BLOCKED, text=text)


def _for_review(outcome: Outcome, text: str) -> Verdict:
    return Verdict(outcome=outcome, status=TaskStatus.REVIEW, text=text, keep=True)


def _failed(text: str, evidence: Evidence) -> Verdict:
    status = TaskStatus.REVIEW if evidence.commits else TaskStatus.BLOCKED
    return Verdict(outcome=Outcome.FAILED, status=status, text=text)


def _again(
    cost: Literal["retry", "no attempt", "answer"], text: str, evidence: Evidence | None = None
) -> Verdict:
    if evidence is None:
        return Verdict(outcome=Outcome.SKIPPED, status=None, text=text, again=cost)
    return replace(_failed(text, evidence), again=cost)


def _as_data(evidence: Evidence) -> dict[str, Any]:
    verify, said = evidence.verify, evidence.reported
    shown: dict[str, Any] = {
        "how": str(evidence.end.how),
        "exit": evidence.end.exit,
        "commits": len(evidence.commits),
        "commit": evidence.commits[-1] if evidence.commits else None,
        "files": list(evidence.files[:_FILES]),
    }
    if verify:
        result = "passed" if isinstance(verify, Passed) else f"failed ({verify.code}): {verify.line}"
        shown["verify"] = _line(f"{verify.command}: {result}")
    if said:
        told = (said.word, said.text, said.evidence, said.commit)
        shown["reported"] = _line("; ".join(part for part in told if part))
    if evidence.end.denials:
        shown["denied"] = [_line(one) for one in evidence.end.denials[:_FILES]]
    for name in _NAMED:
        if found := getattr(evidence, name):
            shown[name] = list(found[:_FILES])
    return shown


def _names(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _line(text: str) -> str:
    """Return *text* as one printable line of limited length."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _LINE else f"{line[: _LINE - 1]}…"


#: Evidence that the report of a task has in other rows, or that is no evidence for its reader.
_UNTOLD = ("how", "commit", "suspects")
_EVIDENCE = 500


def evidence_text(evidence: Mapping[str, Any]) -> str:
    """Return evidence as the report in a task's file says it: plain text, in one line. Pure."""
    told = []
    for key, value in evidence.items():
        if key in _UNTOLD or not value:
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        if key == "commits":
            told.append(f"{text} commit{'' if text == '1' else 's'}")
        else:
            told.append(key.replace("_", " ") if value is True else f"{key.replace('_', ' ')}: {text}")
    line = "; ".join(told)
    return line if len(line) <= _EVIDENCE else f"{line[: _EVIDENCE - 1]}…"
