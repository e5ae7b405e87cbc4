"""The hive: what agents found out, by branch, for those that work beside and after them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.errors import UsageError
from ..core.text import time_text
from ..store.columns import plain
from ..store.hive import Finding, Findings, words_of

#: A finding is a note, not a report: agents with other work to do read it.
LONGEST = 8_000
_LONGEST_NAME = 200
_MOST = 200
#: Of a long prompt only so many words are looked for.
_WORDS = 64
#: Shorter words, and these, are in every text and say nothing of its subject.
_SHORTEST = 3
_COMMON = frozenset({
    "all", "and", "any", "are", "but", "can", "each", "file", "files", "for", "from", "has", "have", "how",
    "into", "its", "may", "must", "not", "one", "only", "out", "per", "task", "than", "that", "the", "their",
    "them", "then", "there", "these", "they", "this", "use", "used", "was", "were", "what", "when", "which",
    "who", "why", "will", "with", "you", "your",
})  # fmt: skip


class Hive:
    """The findings of one project.

    Args:
        findings: Where they are kept (`Store.findings`).
    """

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    def share(self, text: str, *, branch: str, task: str = "", batch: str = "", author: str = "") -> Finding:
        """Keep a finding; durable on return. The same text of the same task and branch is kept once.

        Raises:
            UsageError: The text is empty or too long, or a name is not one line.
        """
        text = plain(text, LONGEST + 1).strip()
        if not text.replace("\\0", ""):
            raise UsageError("share_finding: text is empty; say what was found, and where")
        if len(text) > LONGEST:
            raise UsageError(
                f"share_finding: text is longer than {LONGEST:,} characters; write it to a file, and share "
                "a summary and the file's path"
            )
        branch = checked_name("branch_id", branch)
        if not branch:
            raise UsageError("share_finding: branch_id is missing")
        return self._findings.add(
            text, branch=branch, task=checked_name("task_id", task), batch=checked_name("batch", batch),
            author=checked_name("caller", author),
        )  # fmt: skip

    def search(self, query: str, *, branch: str = "", limit: int = 20) -> list[Finding]:
        """Return the findings that have words of *query*, the best match first; for "" the newest first.

        Args:
            query: Words, in any form; no operators.
            branch: Only of this branch; "" for all.
            limit: The most that are wanted.
        """
        words = words_of(plain(query, 10_000))[:_WORDS]
        if query.strip() and not words:
            return []
        return self._search(words, branch, "", limit)

    def relevant(self, text: str, *, branch: str, task: str, limit: int = 8) -> list[Finding]:
        """Return what others found on a branch that has words of *text*: a task's title, files and body."""
        words = [
            word for word in words_of(plain(text, 100_000)) if len(word) >= _SHORTEST and word not in _COMMON
        ]
        return self._search(words[:_WORDS], branch, task, limit) if words else []

    def of_batch(self, batch: str, tasks: Iterable[str], since: int) -> list[Finding]:
        """Return what was found in a batch, the oldest first.

        Args:
            batch: Its name.
            tasks: Ids of its tasks: what workers inside a session found in them counts as well.
            since: When it was made, in milliseconds since the epoch.
        """
        known = {task.casefold() for task in tasks}
        found = self._findings.of_batch(batch, since)
        return [one for one in found if one.batch or one.task.casefold() in known]

    def branches(self) -> dict[str, int]:
        """Return the number of findings of each branch."""
        return self._findings.branches()

    def _search(self, words: list[str], branch: str, without_task: str, limit: int) -> list[Finding]:
        return self._findings.search(
            words, branch=plain(branch), without_task=plain(without_task), limit=max(1, min(limit, _MOST))
        )


def to_json(finding: Finding) -> dict[str, Any]:
    """Return a finding as answers and summaries show it, without what is empty."""
    shown = {
        "id": finding.id, "at": time_text(finding.at / 1000), "branch_id": finding.branch,
        "task_id": finding.task, "batch_id": finding.batch, "by": finding.author, "text": finding.text,
    }  # fmt: skip
    return {key: value for key, value in shown.items() if value != ""}


def shared(finding: Finding) -> dict[str, Any]:
    """Return the answer to whoever has shared a finding."""
    task = {"task_id": finding.task} if finding.task else {}
    return {"finding": finding.id, "branch_id": finding.branch, **task}


def found(findings: Sequence[Finding], branches: Mapping[str, int]) -> dict[str, Any]:
    """Return the answer to a search: what was found, else what the branches hold."""
    answer: dict[str, Any] = {"findings": [to_json(one) for one in findings]}
    return answer if findings else answer | {"branches": dict(branches)}


def checked_name(what: str, name: str) -> str:
    """Return *name* without spaces around it.

    Raises:
        UsageError: It is too long, or not one line.
    """
    name = plain(name, _LONGEST_NAME + 1).strip()
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise UsageError(f"{what}: must be one line of at most {_LONGEST_NAME} characters")
    return name
