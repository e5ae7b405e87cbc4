"""Triage: what sends a task to a person, and, more important, what does not."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.core.errors import ConfigError
from hypervisor.core.model import Complexity, Priority, Task, TaskStatus
from hypervisor.core.settings import default_settings, load_settings
from hypervisor.triage.classify import Triage, compile_rules, triage

RULES = compile_rules(default_settings())
PEOPLE = frozenset({Complexity.REQUIRES_JUDGMENT, Complexity.BLOCKED_HUMAN})


def make(title: str = "Speed up the search page", body: str = "", **other: Any) -> Task:
    fields: dict[str, Any] = {
        "path": "/t.md", "id": "t", "title": title, "status": TaskStatus.ACTIVE, "status_word": "active",
        "assignee": (), "priority": Priority.MEDIUM, "project": "", "type": "", "complexity": None,
        "parent": "",
        "depends_on": (), "files": (), "needs": (), "tags": (), "receipts": (), "receipts_to": "",
        "verify": "",
        "front": {}, "body": body,
    }  # fmt: skip
    return Task(**(fields | other))


def applied(task: Task, decided: Triage) -> Task:
    body = task.body if decided.link is None else f"{decided.link}\n\n{task.body}"
    return replace(
        task,
        status=decided.status or task.status,
        complexity=decided.complexity or task.complexity,
        assignee=(decided.assignee,) if decided.assignee else task.assignee,
        body=body,
    )


def own(**triage_table: Any) -> Any:
    settings = default_settings()
    return compile_rules({**settings, "triage": {**settings["triage"], **triage_table}})


# ------------------------------------------------------------------------------ complexity


@pytest.mark.parametrize(
    "title",
    [
        "Decide whether to keep the old importer", "Decide on venue",
        "Web: Decide how holds interact with renewals",
        "[Desk] Decide when a hold expires", "Choose between Redis and Postgres for the queue",
        "Choose a logo",
        "Should we drop support for Python 3.9?", "Agree on naming of branches with Tom", "Approve Q3 budget",
        "Review PhD thesis chapter of Jonas", "Review contract with the hosting provider",
        "Make a decision on fines",
        "Figure out whether we need a second server", "Pick a vendor for the scanners",
        "Discuss opening hours with Maria",
        "Review dependabot alerts and upgrade", "Review contract tests", "Improve onboarding",
        "Think about a new architecture", "Clarify retry semantics", "Plan Q3 offsite",
        "Evaluate build systems",
        "Delete old branches", "Drop the staging database", "Rotate production credentials",
    ],
)  # fmt: skip
def test_a_title_that_asks_for_a_decision_goes_to_a_person(title: str) -> None:
    decided = triage(make(title), RULES)
    assert (decided.complexity, decided.assignee) == (Complexity.REQUIRES_JUDGMENT, "nic")


@pytest.mark.parametrize(
    "title",
    [
        "Waiting on finance for PO number", "Waiting for Anna to send the logo", "Blocked on Anna's approval",
        "Awaiting sign-off from legal", "Waiting for feedback", "Get sign-off from legal on the new terms",
        "Renew passport", "Call the dentist", "Sign the lease for the new office",
        "Pay invoice 4711 from the printer",
        "Call Maria about the shelves", "Collect signatures from the board", "Attend the council meeting",
        "Wait for reply from the landlord", "Need decision from Petra on booth size",
        "Talk to legal about the fees", "Reply to Dr. Adams about invoice", "Buy milk",
        "Book flights to Lisbon",
        "Meeting with Sandra about the budget", "Schedule interviews for the open position",
    ],
)  # fmt: skip
def test_a_title_that_waits_for_a_person_is_blocked_human(title: str) -> None:
    decided = triage(make(title), RULES)
    assert (decided.complexity, decided.assignee) == (Complexity.BLOCKED_HUMAN, "nic")


@pytest.mark.parametrize(
    "title",
    [
        "Review code in loans.py for race conditions",
        "Add approval step to the loan workflow", "Let librarians approve requests",
        "Approve button does nothing",
        "Show which reader is waiting for a copy", "Fix waiting list ordering",
        "Waiting for lock shows a spinner",
        "Wait for Postgres to be ready in tests", "Waiting for Redis to respond blocks startup",
        "Decide button is misaligned", "Decision table for fine calculation",
        "Choose file button does nothing",
        "Request approval from user before delete", "Call the fines API from the nightly job",
        "Pay fines online",
        "Sign release artifacts in CI", "Blocked users can still log in",
        "Human-readable dates in overdue mails",
        "Mark paper loans as overdue", "Grade of paper is missing in the import",
        "Select date with the keyboard",
        "Meet WCAG AA contrast", "See which copies are lost", "Apply for loan extension via API",
        "Break down loan totals by month in report", "Epics view: show progress",
        "Add a decision list command",
        "Fix typo tolerance in search", "Sort loans by due date",
        "Add tests for loans.py", "Delete account feature: erase a reader's data",
        "Summarise the June minutes",
        "Split the settings page into tabs", "Format dates in the reader's locale",
        "Remove expired holds at night",
        "Rename loans table and migrate the data", "Update dependencies across all services",
        "Pick up hold notification is sent twice", "Collect coverage from all shards", "",
    ],
)  # fmt: skip
def test_a_title_that_only_sounds_like_it_goes_to_no_person(title: str) -> None:
    decided = triage(make(title, "## Description\n\nAs said.\n"), RULES)
    assert decided.complexity in (Complexity.MULTI_STEP, None), decided["complexity"].reason
    assert decided.assignee != "nic"
    with_steps = triage(make(title, "## Steps\n\n- [ ] change it\n- [ ] test it\n"), RULES)
    assert with_steps.complexity is Complexity.MULTI_STEP, with_steps["complexity"].reason


@pytest.mark.parametrize(
    ("title", "body"),
    [
        ("Update link in README", ""),
        ("Rename `loan_id` to `id`", "In `app/models.py`.\n"),
        ("Bump httpx to 0.28", ""),
        ("Update link in README to the new API docs", ""),
        ("Fix typo on the return screen", ""),
        ("Fix typo in error message", "- [ ] done\n"),
        ("Add .env to .gitignore", ""),
        ("Remove unused imports", ""),
        ("Add field `isbn13`", "In `app/schemas.py`.\n"),
        ("Replace the logo", "The new one is `static/logo.svg`.\n"),
    ],
)
def test_a_small_change_that_names_its_place_is_mechanical(title: str, body: str) -> None:
    assert triage(make(title, body), RULES).complexity is Complexity.MECHANICAL


@pytest.mark.parametrize("steps", [4, 9])
def test_a_small_title_with_a_long_list_is_not_mechanical(steps: int) -> None:
    body = "## Steps\n\n" + "".join(f"- [ ] step {n} in `a.py`\n" for n in range(steps))
    assert triage(make("Update links in README", body), RULES).complexity is Complexity.MULTI_STEP


@pytest.mark.parametrize(
    ("front", "kind"),
    [
        ({"tags": ("needs-human",)}, Complexity.BLOCKED_HUMAN),
        ({"tags": ("#needs-approval",)}, Complexity.BLOCKED_HUMAN),
        ({"tags": ("decision",)}, Complexity.REQUIRES_JUDGMENT),
        ({"tags": ("Epic",)}, Complexity.NEEDS_DECOMPOSITION),
        ({"tags": ("trivial",)}, Complexity.MECHANICAL),
        ({"tags": ("decisions-page", "human-resources", "epics", "review")}, None),
        ({"type": "epic"}, Complexity.NEEDS_DECOMPOSITION),
        ({"type": "decision"}, Complexity.REQUIRES_JUDGMENT),
        ({"type": "bug"}, None),
        ({"front": {"waiting_for": "Anna"}}, Complexity.BLOCKED_HUMAN),
        ({"front": {"waiting_for": None, "blocked_by": "T-3"}}, None),
        ({"status": None, "status_word": "Awaiting approval"}, Complexity.BLOCKED_HUMAN),
        ({"front": {"files": ["app/a.py"]}, "files": ("app/a.py",)}, Complexity.MULTI_STEP),
        ({"front": {"verify": "pytest"}, "verify": "pytest"}, Complexity.MULTI_STEP),
    ],
)
def test_explicit_markers_decide(front: dict[str, Any], kind: Complexity | None) -> None:
    assert triage(make(**front), RULES).complexity is kind


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("Waiting for Maria's approval.\n", Complexity.BLOCKED_HUMAN),
        ("## Status\n\n- Waiting on legal\n", Complexity.BLOCKED_HUMAN),
        ("**Blocked:** waiting for sign-off from Anna.\n", Complexity.BLOCKED_HUMAN),
        (
            "## Description\n\nThis task needs a maintainer product decision first.\n",
            Complexity.REQUIRES_JUDGMENT,
        ),
        ("Decide whether we keep both importers.\n", Complexity.REQUIRES_JUDGMENT),
        ("We need to decide between A and B.\n", Complexity.REQUIRES_JUDGMENT),
        ("## Open questions\n\n- Who pays for lost books?\n", Complexity.REQUIRES_JUDGMENT),
        ("## Open questions\n\n- Length of the grace period: TBD\n", Complexity.REQUIRES_JUDGMENT),
        ("This is too large. \n\nThis needs to be split into subtasks.\n", Complexity.NEEDS_DECOMPOSITION),
        ("## Steps\n\n" + "- [ ] step\n" * 16, Complexity.NEEDS_DECOMPOSITION),
    ],
)
def test_what_a_body_says_of_the_task_itself_counts(body: str, kind: Complexity) -> None:
    assert triage(make(body=body), RULES).complexity is kind


@pytest.mark.parametrize(
    "body",
    [
        "The page shows who is waiting for Maria's approval.\n",
        "The copy is reserved.\nWaiting for Maria's approval is shown\nbelow.\n\nBut not in the list.\n"
        "decide whether we keep it\n",
        "Waiting for a reply from the server must not block the page.\n",
        "## Description\n\nThe watcher shall:\n\n- decide whether we poll\n- choose between two queues\n",
        "## Acceptance criteria\n\n- [ ] Needs approval from Anna before a loan\n- [ ] Review by two\n",
        "## Implementation notes\n\nWe need to decide between A and B.\n",
        "## Open questions\n\n- ~~Who pays?~~\n- [x] Who sees it?\n- Who asked? Answer: Tom\n",
        "## Open questions\n\n- How long?\n  - Decided: a week\n",
        "## Open questions\n\nNone.\n",
        "## Open questions\n\nWho pays?\n\nThe reader does.\n",
        "```\nWaiting for Maria's approval.\n```\n\n<!-- Decide whether we keep it. -->\n",
        "> Decide between A and B.\n",
        "## Steps\n\n" + "- [x] step\n" * 20 + "- [ ] step\n" * 4,
        "## Acceptance criteria\n\n" + "- [ ] ok\n" * 9 + "\n## Plan\n\n" + "1. do\n" * 9,
        "## Definition of done\n\n" + "- [ ] checked\n" * 30,
        "    - [ ] code\n" * 3 + "\nToo large files are refused.\n",
    ],
)  # fmt: skip
def test_what_a_body_tells_of_the_product_sends_nobody_to_a_person(body: str) -> None:
    decided = triage(make(body=body), RULES)
    assert decided.complexity in (Complexity.MULTI_STEP, None), decided["complexity"].reason


def test_weak_evidence_writes_nothing() -> None:
    decided = triage(make("Search", "It is slow.\n"), RULES)
    assert decided.undecided
    assert decided.changes == ()
    assert decided["complexity"].reason == decided["assignee"].reason == "undecided: no strong evidence"


@pytest.mark.parametrize(
    ("front", "why"),
    [
        ({"status": TaskStatus.BLOCKED, "status_word": "on hold"}, "its status is on hold"),
        ({"status": TaskStatus.REVIEW, "status_word": "In Review"}, "its status is In Review"),
        ({"status": None, "status_word": "someday/maybe"}, "status someday/maybe"),
        ({"status": TaskStatus.INBOX, "status_word": "deferred"}, "status deferred"),
        ({"status": None, "status_word": "waiting_for"}, "status waiting_for"),
        ({"tags": ("#On-Hold",)}, "tag #On-Hold"),
        ({"tags": ("bot-assigned", "someday")}, "tag someday"),
        ({"body": "PARKED - do not pick this up.\n"}, 'body line 1 says "PARKED'),
    ],
)
def test_what_is_blocked_waiting_or_for_someday_is_left_alone(front: dict[str, Any], why: str) -> None:
    decided = triage(make("Decide on venue", project="loans", **front), RULES)
    assert decided.changes == ()
    assert why in decided["assignee"].reason
    closed = triage(make(**{"body": "", **front, "front": {"close_reason": "done"}}), RULES)
    assert closed.status is TaskStatus.DONE


_WIPES = [
    "Delete old branches",
    "Purge logs",
    "Drop the staging database",
    "Remove inactive users",
    "Wipe disk 3",
]


@pytest.mark.parametrize("title", _WIPES)
def test_destructive_work_goes_to_an_agent_only_with_steps(title: str) -> None:
    assert triage(make(title), RULES).assignee == "nic"
    assert triage(make(title, complexity=Complexity.MECHANICAL), RULES)["assignee"].value is None
    steps = "- [ ] those in `old.txt`\n- [ ] `check.sh` passes\n"
    assert triage(make(title, steps), RULES).assignee == "bot"


def test_an_explicit_complexity_stands() -> None:
    decided = triage(make("Decide on venue", complexity=Complexity.MECHANICAL), RULES)
    assert decided.complexity is None
    assert decided["complexity"].reason == "the file says mechanical"
    assert decided.assignee == "bot"


def test_reasons_name_the_evidence_and_its_place() -> None:
    body = "# Title\n\nText.\n\n## Acceptance criteria\n\n- [ ] a\n- [ ] b\n- [ ] c\n- [ ] d\n"
    assert (
        '4 open steps under "Acceptance criteria" (body lines 7-10)'
        in triage(make(body=body), RULES)["complexity"].reason
    )
    assert 'title says "Decide"' in triage(make("Decide on venue"), RULES)["complexity"].reason


# -------------------------------------------------------------------------------- assignee


def test_an_explicit_assignee_stands() -> None:
    decided = triage(make("Decide on venue", assignee=("anna",), tags=("bot-assigned",)), RULES)
    assert decided["assignee"].value is None
    assert "anna" in decided["assignee"].reason


def test_the_tag_gives_a_task_to_the_agent_whatever_it_needs() -> None:
    assert triage(make("Decide on venue", tags=("Bot-Assigned",)), RULES).assignee == "bot"


def test_what_needs_decomposition_is_given_to_nobody() -> None:
    assert triage(make(type="epic"), RULES)["assignee"].value is None


def test_an_empty_default_name_leaves_the_assignee_alone() -> None:
    decided = triage(make("Decide on venue"), own(person=""))
    assert (decided.complexity, decided.assignee) == (Complexity.REQUIRES_JUDGMENT, None)


# --------------------------------------------------------------------------------- closure


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("## Close Reason\n\nShipped in 1.4.\n", TaskStatus.DONE),
        ("Text\n\n## Close reason:\n- Fixed by Tom; the duplicate rows are gone.\n", TaskStatus.DONE),
        ("## Close Reason\n\nDuplicate entries are now merged on import.\n", TaskStatus.DONE),
        ("## Close Reason\n\nCancelled loans now free the copy.\n", TaskStatus.DONE),
        ("## Close Reason\n\nFixed. The old client is superseded.\n", TaskStatus.DONE),
        ("## Close Reason\n\nDuplicate of T-12.\n", TaskStatus.CANCELLED),
        (
            "## Close Reason\n\n**Won\N{RIGHT SINGLE QUOTATION MARK}t do**: nobody asked.\n",
            TaskStatus.CANCELLED,
        ),
        ("## Close Reason\n\nClosed 2025-03-01 as obsolete.\n", TaskStatus.CANCELLED),
        ("## Close Reason\n\nSuperseded by [[T-14]].\n", TaskStatus.CANCELLED),
        ("Close Reason\n------------\n\nno longer needed\n", TaskStatus.CANCELLED),
        ("## Close Reason\n\nThe vendor dropped it, so this is obsolete.\n", TaskStatus.CANCELLED),
        ("## Close Reason\r\n\r\nDone.\r\n", TaskStatus.DONE),
    ],
)
def test_a_close_reason_closes(body: str, status: TaskStatus) -> None:
    decided = triage(make(body=body, project="loans"), RULES)
    assert decided.status is status, decided["status"].reason
    assert len(decided.changes) == 1


@pytest.mark.parametrize(
    "body",
    [
        "## Close Reason\n", "## Close Reason\n\nTBD\n", "## Close Reason\n\n_none_\n",
        "## Close Reason\n\n-\n",
        "## Close Reason\n\n<!-- why it was closed -->\n", "## Close Reason\n\n[why it was closed]\n",
        "## Close Reason\n\n## Notes\n\nText.\n", "```\n## Close Reason\n\nDone.\n```\n",
        "<!--\n## Close Reason\n\nDone.\n-->\n", "> ## Close Reason\n> Done.\n", "Close Reason: done\n",
        "# Close Reason\n\nReaders shall see why a request was closed.\n",
        "## Design\n\n### Close Reason\n\nA text field.\n", "## Close Reason field\n\nA text field.\n",
        "## Close Reason\n\nDone.\n\n## Reopened\n\nIt came back.\n",
    ],
)  # fmt: skip
def test_an_open_task_is_not_closed_by_a_template_or_a_mention(body: str) -> None:
    assert triage(make(body=body), RULES).status is None


@pytest.mark.parametrize(
    ("front", "status"),
    [
        ({"close_reason": "duplicate"}, TaskStatus.CANCELLED),
        ({"closed": True}, TaskStatus.DONE),
        ({"closed_at": "2025-03-01"}, TaskStatus.DONE),
        ({"closed_at": "2025-03-01", "closed_reason": "won't fix"}, TaskStatus.CANCELLED),
        ({"closed": False, "closed_at": None, "close_reason": ""}, None),
        ({"closed": "no", "close_reason": "n/a"}, None),
        ({"closed": True, "reopened_at": "2025-04-01"}, None),
        ({"close_date_planned": "2025-03-01"}, None),
    ],
)
def test_a_frontmatter_key_closes_only_with_a_value(front: dict[str, Any], status: TaskStatus | None) -> None:
    assert triage(make(front=front), RULES).status is status


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("Resolved", TaskStatus.DONE),
        ("Won't do", TaskStatus.CANCELLED),
        ("wont-fix", TaskStatus.CANCELLED),
        ("soon", None),
    ],
)
def test_a_closing_word_that_no_vocabulary_maps_closes(word: str, status: TaskStatus | None) -> None:
    assert triage(make(status=None, status_word=word), RULES).status is status


def test_a_word_that_the_vocabulary_maps_is_left_to_it() -> None:
    assert triage(make(status=TaskStatus.REVIEW, status_word="resolved"), RULES).status is None


@pytest.mark.parametrize("status", [TaskStatus.DONE, TaskStatus.CANCELLED])
def test_a_closed_task_stays_as_it_is(status: TaskStatus) -> None:
    decided = triage(make("Decide on venue", project="loans", status=status), RULES)
    assert decided.changes == ()
    assert all(status.value in decision.reason for decision in decided.decisions)


# ------------------------------------------------------------------------------------ link


@pytest.mark.parametrize(
    ("project", "body", "link"),
    [
        ("loans", "", "[[loans]]"),
        ("[[loans]]", "", "[[loans]]"),
        ("loans", "`[[loans]]`\n\n```\n[[loans]]\n```\n<!-- [[loans]] -->\n", "[[loans]]"),
        ("loans", "[[loans-archive]] and [loans](x)\n", "[[loans]]"),
        ("loans", "See [[Loans]].\n", None),
        ("loans", "See [[loans|the service]].\n", None),
        ("loans", "See [[loans#Goals]].\n", None),
        ("loans", "See [[projects/loans]].\n", None),
        ("loans", "See [[Loan Service]].\n", None),
        ("", "", None),
        ("a]b", "", None),
        ("a\nb", "", None),
        ("a|b", "", None),
    ],
)
def test_a_link_is_inserted_only_where_none_stands(project: str, body: str, link: str | None) -> None:
    rules = own(aliases={"Loans": ["loan service"]})
    assert triage(make(body=body, project=project), rules).link == link


# --------------------------------------------------------------------------------- settings


def test_an_empty_list_switches_a_rule_off() -> None:
    table = default_settings()["triage"]["rules"]
    table["title-asks-for-a-decision"]["patterns"] = []
    assert triage(make("Decide on venue"), own(rules=table)).undecided


def test_a_project_may_add_rules_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[triage.rules.press]\ncomplexity = "blocked-human"\nwhere = "tags"\nweight = 3\n'
        'patterns = ["press"]\n'
        '[triage.words]\nrole = "(?:the )?mayor"\n'
    )
    rules = compile_rules(load_settings(tmp_path))
    assert triage(make(tags=("press",)), rules).complexity is Complexity.BLOCKED_HUMAN
    assert triage(make("Waiting on the mayor"), rules).complexity is Complexity.BLOCKED_HUMAN


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ({"patterns": ["("]}, "no regular expression"),
        ({"complexity": "hard"}, "mechanical"),
        ({"where": "body"}, "title"),
        ({"weight": "3"}, "number"),
        ({"pattern": []}, "known here"),
        ({"patterns": "x"}, "list"),
    ],
)
def test_a_rule_that_cannot_work_is_named(rule: dict[str, Any], hint: str) -> None:
    good = {"complexity": "mechanical", "where": "title", "weight": 1, "patterns": []}
    with pytest.raises(ConfigError, match=r"triage\.rules\.mine") as caught:
        own(rules={"mine": good | rule})
    assert hint in str(caught.value)


# ------------------------------------------------------------------------------- properties

_PROSE = (
    "Readers complain that the search page takes long when many copies of a book are on loan and "
    "nobody at the desk can tell them why it does."
)
_WORDS = [
    "review",
    "which",
    "decide",
    "should we",
    "waiting",
    "approve",
    "decision",
    "waiting for",
    "epic",
    "human",
]
_LINE = st.sampled_from(
    ["# T", "## Close Reason", "## Open questions", "## Status", "### Steps", "- [ ] a?", "1. b",
     "```", "~~~", "<!--", "-->",
     "Decide whether we go", "Waiting for Anna", "[[loans]]", "[[loans|x]]", "", "    code", "> quote",
     "---", "Done.", "TBD"]
)  # fmt: skip
_BODY = st.one_of(
    st.text(max_size=200),
    st.builds(lambda lines, end: end.join(lines), st.lists(_LINE | st.text(max_size=20), max_size=20),
              st.sampled_from(["\n", "\r\n", "\r"])),
)  # fmt: skip
_VALUE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.lists(st.text(max_size=5), max_size=2)
)
_KEY = st.sampled_from(["closed", "close_reason", "waiting_for", "reopened"]) | st.text(max_size=8)
_TASKS = st.builds(
    make,
    title=st.text(max_size=80) | st.sampled_from(["Decide on venue", "Update link in README", "Epic: x"]),
    body=_BODY,
    status=st.none() | st.sampled_from(TaskStatus),
    status_word=st.text(max_size=12),
    assignee=st.just(()) | st.just(("anna",)),
    project=st.text(max_size=12) | st.just("loans"),
    type=st.text(max_size=8),
    complexity=st.none() | st.sampled_from(Complexity),
    files=st.lists(st.text(max_size=12), max_size=3).map(tuple),
    tags=st.lists(st.text(max_size=12), max_size=3).map(tuple),
    front=st.dictionaries(_KEY, _VALUE, max_size=3),
)


@given(task=_TASKS)
def test_any_text_is_decided_on_and_a_second_look_decides_nothing_new(task: Task) -> None:
    decided = triage(task, RULES)
    assert [decision.field for decision in decided.decisions] == ["status", "complexity", "assignee", "link"]
    assert all(decision.reason and "\n" not in decision.reason for decision in decided.decisions)
    assert triage(applied(task, decided), RULES).changes == ()


@given(
    words=st.lists(st.sampled_from(_WORDS), min_size=1, max_size=6),
    at=st.integers(min_value=1, max_value=20),
    wrap=st.booleans(),
    own_paragraph=st.booleans(),
)
def test_words_deep_in_the_prose_never_send_a_task_to_a_person(
    words: list[str], at: int, wrap: bool, own_paragraph: bool
) -> None:
    prose = re.findall(r"\S+", _PROSE)
    inserted = [f"and the {word} of the page" for word in words]
    sentence = " ".join([*prose[:at], *inserted, *prose[at:]])
    if wrap:
        sentence = sentence.replace(" and the ", " and the\n")
    if own_paragraph:
        sentence += f"\n\nLater the {words[0]} column moved, and staff {words[-1]} there."
    body = (
        f"# Search\n\n{sentence}\n\n## Description\n\n{sentence}\n\n## Steps\n\n- [ ] measure\n- [ ] mend\n"
    )
    assert triage(make(body=body), RULES).complexity not in PEOPLE


def test_a_hostile_text_costs_no_time() -> None:
    hostile = [
        "the " * 20_000,
        "a" * 200_000,
        "- [ ] " * 20_000,
        "[[" * 50_000,
        "Waiting for " * 9_000,
        "a.b/" * 30_000,
    ]
    started = time.process_time()
    for text in hostile:
        triage(make(text, text, project="loans", front={"close_reason": text}), RULES)
    # Seconds where the patterns back-track; some hundredths where they do not.
    assert time.process_time() - started < 5
