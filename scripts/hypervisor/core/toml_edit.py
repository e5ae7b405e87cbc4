"""Setting one value in a TOML file: every other byte of it is preserved. Pure."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import Refused

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = re.compile(r"\s*\[(?!\[)")
_TABLES = re.compile(r"\s*\[\[")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statement:
    """One header or one key with its value, which may take several lines."""

    #: The lines that it takes: from the first to before the last.
    first: int
    last: int
    #: The table that it stands in, or begins; None for an entry of an array of tables.
    table: tuple[str, ...] | None
    #: What it says by itself; None for a header.
    says: Mapping[str, Any] | None


def set_value(text: str, key: Sequence[str], value: Any) -> str:
    """Return *text* with the value of a key set; comments stay.

    Args:
        text: A TOML document.
        key: The names of its tables, and its own.
        value: Strings, numbers, booleans, lists and tables of these.

    Raises:
        Refused: It cannot be done without changing something else, such as a comment inside the value.
    """
    name = ".".join(key)
    wanted = copy.deepcopy(tomllib.loads(text))
    _put(wanted, key, value, name)
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    new = _edited(lines, tuple(key), toml_literal(value))
    try:
        same = tomllib.loads(new) == wanted
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        raise Refused(f"{name} cannot be set without changing more of the file; edit it by hand")
    return new


def toml_literal(value: Any) -> str:
    """Return *value* as TOML on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_spelt(key)} = {toml_literal(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_literal, value)) + "]"
    return repr(value)


def _put(tables: dict[str, Any], key: Sequence[str], value: Any, name: str) -> None:
    for part in key[:-1]:
        inner = tables.setdefault(part, {})
        if not isinstance(inner, dict):
            raise Refused(f"{name}: {part} is no table in this file; edit it by hand")
        tables = inner
    tables[key[-1]] = value


def _edited(lines: list[str], key: tuple[str, ...], literal: str) -> str:
    table, at = key[:-1], None
    for one in _statements(lines):
        if one.table is None:
            continue
        if (
            one.says is not None
            and _names(one.says) == key[len(one.table) :]
            and key[: len(one.table)] == one.table
        ):
            return "".join(
                [*lines[: one.first], _replaced(lines[one.first : one.last], literal), *lines[one.last :]]
            )
        if one.table == table:
            at = one.last
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    line = f"{_spelt(key[-1])} = {literal}{end}"
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += end
    if at is not None:
        return "".join([*lines[:at], line, *lines[at:]])
    blank = end if lines and lines[-1].strip() else ""
    return "".join([*lines, f"{blank}[{'.'.join(map(_spelt, table))}]{end}", line])


def _statements(lines: list[str]) -> Iterator[_Statement]:
    table: tuple[str, ...] | None = ()
    at = 0
    while at < len(lines):
        first, at = at, at + 1
        says = _parsed(lines[first:at])
        while says is None:
            if at == len(lines):
                return  # the whole was parsed before: it is a statement that makes sense in its place only
            at += 1
            says = _parsed(lines[first:at])
        header = _HEADER.match(lines[first])
        if header or _TABLES.match(lines[first]):
            table = _names(says) if header else None
            yield _Statement(first=first, last=at, table=table, says=None)
        elif says:
            yield _Statement(first=first, last=at, table=table, says=says)


def _parsed(lines: Sequence[str]) -> dict[str, Any] | None:
    try:
        return tomllib.loads("".join(lines))
    except tomllib.TOMLDecodeError:
        return None


def _names(says: Any) -> tuple[str, ...]:
    """Return the names on the way to the one value of a statement, or to the table that a header begins."""
    names: list[str] = []
    while isinstance(says, Mapping) and len(says) == 1:
        ((name, says),) = says.items()
        names.append(name)
    return tuple(names)


def _replaced(lines: Sequence[str], literal: str) -> str:
    """Return the statement with another value; a comment behind it stays."""
    text = "".join(lines)
    body = text.rstrip("\r\n")
    said = _parsed([text])
    marks = [at for at, char in enumerate(body) if char == "#"]
    comment = next((at for at in marks if _parsed([body[:at]]) == said), len(body))
    if len(lines) > 1 and marks:
        raise Refused("the value has several lines, with a comment in them; edit it by hand")
    value = body[:comment].rstrip()
    before, mark, rest = body.partition("=")
    blanks = rest[: len(rest) - len(rest.lstrip())]
    return f"{before}{mark}{blanks}{literal}{body[len(value) :]}{text[len(body) :]}"


def _spelt(name: str) -> str:
    return name if _BARE.fullmatch(name) else toml_literal(name)
