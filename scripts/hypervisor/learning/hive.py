"""The hive: what agents have found out, by branch, for those that come after them and beside them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..core import clock
from ..core.errors import UsageError
from ..core.paths import Project
from ..hivefile import ask, keep, plain

#: A finding is a note, and no report: it is read by agents that have other work to do.
LONGEST = 8_000
_LONGEST_NAME = 200
_MOST = 200
#: A prompt may be long; so many of its words are looked for.
_WORDS = 64
#: The names that agents know these by.
_SHOWN = {"branch": "branch_id", "task": "task_id", "batch": "batch_id"}
#: Shorter words tell of nothing, and are in every text.
_SHORTEST = 3
_COMMON = frozenset({
    "all", "and", "any", "are", "but", "can", "each", "file", "files", "for", "from", "has", "have", "how",
    "into", "its", "may", "must", "not", "one", "only", "out", "per", "task", "than", "that", "the", "their",
    "them", "then", "there", "these", "they", "this", "use", "used", "was", "were", "what", "when", "which",
    "who", "why", "will", "with", "you", "your",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One note."""

    id: int
    at: str
    branch: str
    #: Ids of the task and of the batch in which it was found, "" if not known.
    task: str
    batch: str
    #: Who found it.
    who: str
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return it as answers and summaries show it, without what is empty."""
        known = {key: value for key, value in asdict(self).items() if value != ""}
        return {_SHOWN.get(key, key): value for key, value in known.items()}


@dataclass(frozen=True, slots=True)
class Hive:
    """The findings of one project."""

    project: Project

    def share(self, text: str, *, branch: str, task: str = "", batch: str = "", who: str = "") -> Finding:
        """Keep a finding; durable on return. The same one of the same task twice is one.

        Raises:
            UsageError: The text is empty or too long, or a name is none.
            Refused: The file cannot be written.
        """
        text = plain(text).strip()
        if not text:
            raise UsageError("share_finding: text is empty; say what was found, and where")
        if len(text) > LONGEST:
            raise UsageError(
                f"share_finding: text has {len(text):,} characters, {LONGEST:,} at most; "
                f"write it into a file, and share what it says in short and where it is"
            )
        names = {"branch_id": branch, "task_id": task, "batch": batch, "caller": who}
        clean = {name: checked_name(name, value) for name, value in names.items()}
        if not clean["branch_id"]:
            raise UsageError("share_finding: branch_id is missing")
        key = (clean["branch_id"], clean["task_id"], text)
        if (same := self._same(key)) is not None:
            return same
        keep(self.project, {
            "kind": "finding", "at": clock.now_text(), "branch": clean["branch_id"], "task": clean["task_id"],
            "batch": clean["batch"], "who": clean["caller"], "text": text,
        })  # fmt: skip
        found = self._same(key)
        assert found is not None  # noqa: S101 - the cache is asked as of now
        return found

    def _same(self, key: tuple[str, str, str]) -> Finding | None:
        return next(
            iter(self._rows("SELECT * FROM finding WHERE (branch, task, text) = (?, ?, ?)", key)), None
        )

    def search(self, query: str, *, branch: str = "", limit: int = 20, task: str = "") -> list[Finding]:
        """Return what was found that has words of *query*, what fits best first; for "" the newest first.

        Args:
            query: Words, in whatever form; no operators.
            branch: Only of this branch; "" for all.
            limit: How many at most.
            task: A task whose own findings are left out.
        """
        where = "(? IN ('', branch)) AND (task != ? OR task = '')"
        values: list[Any] = [plain(branch), plain(task), max(1, min(limit, _MOST))]
        words = words_of(query, shortest=1, common=frozenset())
        if query.strip() and not words:
            return []
        select = f"SELECT * FROM finding WHERE {where} ORDER BY id DESC LIMIT ?"  # noqa: S608 - our own words
        if words:
            select = (
                "SELECT finding.* FROM finding_words JOIN finding ON finding.id = finding_words.rowid"  # noqa: S608
                f" WHERE finding_words MATCH ? AND {where} ORDER BY bm25(finding_words), finding.id LIMIT ?"
            )
            values.insert(0, _match(words))
        return self._rows(select, values)

    def relevant(self, text: str, *, branch: str, task: str, limit: int = 8) -> list[Finding]:
        """Return what others have found on a branch that has to do with *text*: a task's title and body."""
        words = words_of(text, shortest=_SHORTEST, common=_COMMON)
        return self.search(" ".join(words), branch=branch, limit=limit, task=task) if words else []

    def of_batch(self, batch: str, tasks: Iterable[str], since: str) -> list[Finding]:
        """Return what was found in a batch, the oldest first.

        Args:
            batch: Its id.
            tasks: Ids of its tasks: what their workers inside a session found counts as well.
            since: When it was made.
        """
        known = {task.lower() for task in tasks}
        rows = self._rows(
            "SELECT * FROM finding WHERE batch = ? OR (batch = '' AND task != '' AND at >= ?) ORDER BY id",
            [batch, since],
        )
        return [one for one in rows if one.batch or one.task.lower() in known]

    def branches(self) -> dict[str, int]:
        """Return how many findings each branch has."""
        count = "SELECT branch, count(*) FROM finding GROUP BY branch ORDER BY branch"
        return dict(map(tuple, ask(self.project, lambda cache: cache.execute(count).fetchall()) or ()))

    def _rows(self, select: str, values: Sequence[Any]) -> list[Finding]:
        return ask(self.project, lambda cache: list(map(_finding, cache.execute(select, values)))) or []


def words_of(text: str, *, shortest: int, common: frozenset[str]) -> list[str]:
    """Return the words of *text*, each once, in their order, and not too many."""
    found = dict.fromkeys(word.casefold() for word in re.findall(r"[^\W_]+", text))
    return [word for word in found if len(word) >= shortest and word not in common][:_WORDS]


def checked_name(what: str, name: str) -> str:
    """Return *name* if it can be one; "" is none.

    Raises:
        UsageError: It is too long, or no line.
    """
    name = plain(name).strip()
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise UsageError(f"{what}: must be one line of at most {_LONGEST_NAME} characters")
    return name


def _match(words: Sequence[str]) -> str:
    # Quoted, so that no word is an operator of the search; what has more of the words comes first.
    return " OR ".join(f'"{word}"' for word in words)


def _finding(row: sqlite3.Row) -> Finding:
    return Finding(**{key: row[key] for key in row.keys()})  # noqa: SIM118 - a row is no mapping
