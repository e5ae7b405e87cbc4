"""SQL from the files in `sql/`: named statements, with slots where SQLite and PostgreSQL differ.

A file holds blocks that begin with ``-- name: <name>``. Parameters are written ``:name``. Slots:

=================  =====================================================================================
``{now}``          wall-clock milliseconds (SQLite: ``:now``; PostgreSQL: the server's clock)
``{lease_now}``    lease-clock milliseconds (SQLite: ``:lease_now``; PostgreSQL: the server's clock)
``{skip_locked}``  ``FOR UPDATE OF w SKIP LOCKED`` on PostgreSQL, nothing on SQLite
``{lock_both}``    ``FOR UPDATE OF a, w`` on PostgreSQL, nothing on SQLite, whose writers take turns
``{for_update}``   ``FOR UPDATE``, likewise
``{share_work}``   ``FOR SHARE OF w``, likewise: the row stays as it was read until the transaction's end
``{ids}``          a subquery over the JSON array of integers in ``:ids``
``{names}``        a subquery over the JSON array of strings in ``:names``
``{serial}``       the type of a primary key that numbers itself and never reuses a number
``{strict}``       ``STRICT`` on SQLite
``{blob}``         the type of bytes
``{settled}``      true for events that no transaction still open can precede: on PostgreSQL a slow one may
                   commit a lower id later, which a reader that goes by ids would never see
``{search_...}``   the words of a finding as they are indexed, looked for and ranked (`hive`)
=================  =====================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .base import Dialect, Parameters

_FOLDER = Path(__file__).with_name("sql")
_BLOCK = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PG_NOW = "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"
_SLOTS: dict[Dialect, dict[str, str]] = {
    "sqlite": {
        "{now}": ":now",
        "{lease_now}": ":lease_now",
        "{skip_locked}": "",
        "{lock_both}": "",
        "{for_update}": "",
        "{share_work}": "",
        "{ids}": "(SELECT value FROM json_each(:ids))",
        "{names}": "(SELECT value FROM json_each(:names))",
        "{serial}": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "{strict}": "STRICT",
        "{without_rowid}": "STRICT, WITHOUT ROWID",
        "{event_transaction}": "",
        "{settled}": "1 = 1",
        "{blob}": "BLOB",
        "{int}": "INTEGER",
        "{real}": "REAL",
        "{search_document}": ":words",
        "{search_matches}": "finding_words MATCH :query",
        "{search_rank}": "bm25(finding_words)",
    },
    "postgres": {
        "{now}": _PG_NOW,
        "{lease_now}": _PG_NOW,
        "{skip_locked}": "FOR UPDATE OF w SKIP LOCKED",
        "{lock_both}": "FOR UPDATE OF a, w",
        "{for_update}": "FOR UPDATE",
        "{share_work}": "FOR SHARE OF w",
        "{ids}": "(SELECT unnest(CAST(translate(:ids, '[]', '{}') AS bigint[])))",
        "{names}": "(SELECT value FROM json_array_elements_text(CAST(:names AS json)))",
        "{serial}": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "{strict}": "",
        "{without_rowid}": "",
        "{event_transaction}": ", transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id()",
        "{settled}": "transaction_id < pg_snapshot_xmin(pg_current_snapshot())",
        "{blob}": "bytea",
        "{int}": "bigint",
        "{real}": "double precision",
        "{search_document}": "to_tsvector('english', :words)",
        "{search_matches}": "finding_words.words @@ to_tsquery('english', :query)",
        "{search_rank}": "ts_rank(finding_words.words, to_tsquery('english', :query)) DESC",
    },
}
_SLOT = re.compile(r"\{\w+\}")
#: Parameters that the engine supplies.
_CLOCKS = ("now", "lease_now")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")


@cache
def load(noun: str) -> SimpleNamespace:
    """Return the statements of ``sql/<noun>.sql`` as attributes: their text, slots unfilled."""
    parts = _BLOCK.split((_FOLDER / f"{noun}.sql").read_text("utf-8"))
    return SimpleNamespace(
        **{name: text.strip().rstrip(";") for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    )


@cache
def render(statement: str, dialect: Dialect, *, one_id: bool = False) -> str:
    """Return *statement* in the words of *dialect*.

    Args:
        statement: The statement, slots unfilled.
        dialect: Of which engine.
        one_id: Whether ``:ids`` is an array of one number, which is compared instead of being unpacked: that
            is faster, and PostgreSQL uses an index even where it made its plan while the table was empty.
    """
    slots = _SLOTS[dialect]
    if one_id:
        statement = statement.replace("{ids}", f"(CAST(trim(:ids, '[]') AS {slots['{int}']}))")
    text = _SLOT.sub(lambda found: slots[found[0]], statement)
    if dialect == "postgres":  # psycopg writes parameters as %(name)s
        text = _PARAMETER.sub(r"%(\1)s", text.replace("%", "%%"))
    return text


@cache
def positional(
    statement: str, *, one_id: bool = False
) -> tuple[str, Callable[[Parameters], tuple[Any, ...]], int]:
    """Return *statement* for SQLite with numbered parameters, the clocks last.

    Binding by number costs a third of binding by name, and leaves the caller's mappings as they are.

    Args:
        statement: The statement, slots unfilled.
        one_id: See `render`; on SQLite it is three times as fast.

    Returns:
        The text; what takes the other parameters out of a mapping; and which of the clocks are at the end:
        those of ``(now, lease_now)[:n]``.
    """
    text = render(statement, "sqlite", one_id=one_id)
    names = dict.fromkeys(name for name in _PARAMETER.findall(text) if name not in _CLOCKS)
    used = set(_PARAMETER.findall(text)).intersection(_CLOCKS)
    clocks = 2 if "lease_now" in used else len(used)
    numbers = {name: f"?{number}" for number, name in enumerate([*names, *_CLOCKS[:clocks]], 1)}
    return _PARAMETER.sub(lambda found: numbers[found[1]], text), _getter(*names), clocks


def _getter(*names: str) -> Callable[[Parameters], tuple[Any, ...]]:
    if len(names) > 1:
        return itemgetter(*names)
    return (lambda parameters: (parameters[names[0]],)) if names else (lambda _: ())


def script(noun: str, dialect: Dialect) -> list[str]:
    """Return all statements of ``sql/<noun>.sql`` in order, in the words of *dialect*."""
    text = re.sub(r"^\s*--.*$", "", (_FOLDER / f"{noun}.sql").read_text("utf-8"), flags=re.MULTILINE)
    return [render(part.strip(), dialect) for part in text.split(";") if part.strip()]


def schema_script(dialect: Dialect) -> list[str]:
    """Return the statements that make all tables: those of both engines, then the engine's own."""
    return [*script("schema", dialect), *script(f"schema_{dialect}", dialect)]
