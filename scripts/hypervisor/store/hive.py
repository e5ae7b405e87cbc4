"""Findings: what agents share with each other, by branch, with full-text search.

The words of a finding are split and folded here, so that both engines index the same ones: FTS5 with its
Porter stemmer on SQLite, ``tsvector`` with the English dictionary on PostgreSQL.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from . import statements
from .base import Engine, Row, Transaction

SQL = statements.load("hive")

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding."""

    id: int
    #: Milliseconds since the epoch.
    at: int
    branch: str
    #: The id of the task in which it was found, and the name of its batch; "" if unknown.
    task: str
    batch: str
    #: Who shared it.
    author: str
    text: str


class Findings:
    """The findings of a store. Nothing deletes them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, text: str, *, branch: str, task: str, batch: str, author: str) -> Finding:
        """*Atomically* add a finding, durable on return; the same text of the same task and branch is one.

        Args:
            text: The text, of characters that can be stored (`columns.plain`).
            branch: The branch; the others likewise may be "".
            task: See `Finding`.
            batch: See `Finding`.
            author: See `Finding`.

        Returns:
            The finding, or the one that was there.
        """
        digest = hashlib.sha256(text.encode()).hexdigest()
        key = {"branch": branch, "task": task, "digest": digest}
        words = " ".join(words_of(text))

        def body(tx: Transaction) -> Finding:
            added = tx.run(SQL.add, {**key, "batch": batch, "author": author, "text": text})
            if added:
                tx.run(SQL.index, {"finding": added[0][0], "words": words})
            return _finding_of(tx.run(SQL.same, key)[0])

        return self._engine.write(body, durable=True)

    def search(self, words: Sequence[str], *, branch: str, without_task: str, limit: int) -> list[Finding]:
        """Return the findings that have any of *words*, the best match first.

        Args:
            words: Words as `words_of` returns them; none for all findings, the newest first.
            branch: Only of this branch; "" for all.
            without_task: A task whose findings are left out; "" for none.
            limit: The most that are wanted.
        """
        parameters = {"branch": branch, "task": without_task, "limit": limit}
        if not words:
            return self._read(SQL.newest, parameters)
        # Quoted, so that no word is an operator of the search.
        quote, either = ('"', " OR ") if self._engine.dialect == "sqlite" else ("'", " | ")
        query = either.join(f"{quote}{word}{quote}" for word in words)
        return self._read(SQL.matching, {**parameters, "query": query})

    def of_batch(self, batch: str, since: int) -> list[Finding]:
        """Return the findings of a batch, and those of tasks in no batch since then; the oldest first."""
        return self._read(SQL.of_batch, {"batch": batch, "since": since})

    def branches(self) -> dict[str, int]:
        """Return the number of findings of each branch."""
        return dict(self._engine.read(SQL.branches))

    def _read(self, statement: str, parameters: dict[str, object]) -> list[Finding]:
        return [_finding_of(row) for row in self._engine.read(statement, parameters)]


def words_of(text: str) -> list[str]:
    """Return the words of *text*, each once, in order, in lower case and without accents."""
    folded = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in folded if not unicodedata.combining(letter))
    return list(dict.fromkeys(_WORD.findall(plain)))


def _finding_of(row: Row) -> Finding:
    id_, at, branch, task, batch, author, text = row
    return Finding(id=id_, at=at, branch=branch, task=task, batch=batch, author=author, text=text)
