"""What is cut into chunks, as it is read: records of JSON lines and CSV, the lines of a queue, task files.

Each comes out as a `Record`: an id, and fields. A line that cannot be read is an error with its number;
nothing is passed over in silence.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from ..core.errors import Unreadable, UsageError
from ..core.project import Project
from ..core.settings import settings_of
from ..queue.batch import SEPARATORS
from ..queue.source import QueueSource
from .split import SplitItem

#: Fields that are taken for a record's id, the first that the first record has.
ID_FIELDS = ("id", "uid", "message-id", "message_id")
#: What may stand between the columns of a table.
_DELIMITERS = ",;\t|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One thing to be done: what a worker is told of it."""

    id: str
    fields: Mapping[str, Any]

    def to_line(self) -> bytes:
        """Return it as one JSON line for whoever works on it: its id, then its fields."""
        told = {"id": self.id, **self.fields, **({"id": self.id} if "id" in self.fields else {})}
        if self.fields.get("id", self.id) != self.id:
            told["record_id"] = self.fields["id"]
        return json.dumps(told, ensure_ascii=True, default=str).encode() + b"\n"


@dataclass(slots=True, kw_only=True)
class RecordReading:
    """What was read, and what there is to tell of it."""

    records: list[Record] = field(default_factory=list)
    #: Lines for the user.
    notes: list[str] = field(default_factory=list)
    #: The field that gave the ids; "" for a hash of the record.
    id_field: str = ""


def items_of(records: Iterable[Record], name: str) -> list[SplitItem]:
    """Return the records as items that are cut by the field *name*, "" for none.

    Raises:
        UsageError: No record has the field.
    """
    records = list(records)
    items = [SplitItem(id=one.id, value=value_in(one.fields, name) if name else None) for one in records]
    if name and records and all(item.value is None for item in items):
        known = sorted({key for one in records[:100] for key in one.fields})
        raise UsageError(
            f"no record has the field {name!r}; the fields are {', '.join(known[:20]) or 'none'}"
        )
    return items


def value_in(fields: Mapping[str, Any], name: str) -> Any:
    """Return the value of a field, by its name without case, or as ``outer.inner``; None if there is none."""
    for key in (name, *(key for key in fields if key.casefold() == name.casefold())):
        if fields.get(key) not in (None, ""):
            return fields[key]
    head, mark, tail = name.partition(".")
    inner = value_in(fields, head) if mark else None
    return value_in(inner, tail) if isinstance(inner, Mapping) else None


# --------------------------------------------------------------------- records


def read_records(path: str, id_field: str | None, known: Mapping[str, str]) -> RecordReading:
    """Read a file of records.

    Args:
        path: A ``.jsonl``, ``.csv`` or ``.tsv`` file; ``-`` for JSON lines on standard input.
        id_field: What gives the ids: a field, "" for a hash of the record, None to find out.
        known: Hashes (`digest_of`) of the records there are already, by id.

    Raises:
        UsageError: There is no such file, or a line of it is no record.
    """
    suffix = os.path.splitext(path)[1].lower()
    if path != "-" and suffix not in (".jsonl", ".ndjson", ".csv", ".tsv"):
        raise UsageError(f"{path}: must be a .jsonl (a JSON object a line), .csv or .tsv file")
    reading = RecordReading()
    data = sys.stdin.buffer.read() if path == "-" else _content(path)
    table = suffix in (".csv", ".tsv")
    rows = list(_rows(path, data) if table else _objects(path, data, reading))
    if id_field is None:
        first = {key.casefold(): key for key in rows[0]} if rows else {}
        id_field = next((first[name] for name in ID_FIELDS if name in first), "")
    reading.id_field = id_field
    reading.records = _identified(rows, id_field, known, reading)
    return reading


def digest_of(fields: Mapping[str, Any]) -> str:
    """Return a short hash of a record, equal for equal records in whatever order their fields stand."""
    text = json.dumps(dict(fields), sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: a folder; name the file with the records") from None


def _objects(path: str, data: bytes, reading: RecordReading) -> Iterator[dict[str, Any]]:
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # the file is being written
                reading.notes.append(f"{path}:{number}: the last line has no end yet; passed over for now")
                return
            raise UsageError(f"{path}:{number}: not JSON ({error}); mend or remove the line") from None
        if not isinstance(found, dict):
            raise UsageError(f'{path}:{number}: not a JSON object; a record is like {{"id": "m-1", ...}}')
        yield found


def _rows(path: str, data: bytes) -> Iterator[dict[str, Any]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None
    head = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=head.count)
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"{path}:1: two columns are called {twice!r}; rename one")
        for row in reader:
            if not any(row):
                continue
            if len(row) != len(names):
                raise UsageError(
                    f"{path}:{reader.line_num}: {len(row)} fields, and the header names {len(names)}; "
                    f"mend the row"
                )
            yield dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise UsageError(f"{path}:{reader.line_num}: not a table ({error}); mend the row") from None


def _identified(
    rows: Sequence[Mapping[str, Any]], id_field: str, known: Mapping[str, str], reading: RecordReading
) -> list[Record]:
    """Give each record its id: equal records are one, different ones with one id are told apart.

    A record that was there before keeps its id, in whatever order the records stand now.
    """
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    without = equal = shared = 0
    for row in rows:
        digest = digest_of(row)
        value = value_in(row, id_field) if id_field else None
        name = " ".join(str(value).split()) if value is not None else ""
        without += bool(id_field) and not name
        group = groups.setdefault(name or digest, {})
        equal += digest in group
        group[digest] = row
    found: list[Record] = []
    for name, group in groups.items():
        # One of several is called by the plain id: the one that was before, else the first.
        plain = next((digest for digest in group if known.get(name) == digest), next(iter(group)))
        shared += len(group) - 1
        found += [
            Record(id=name if digest == plain else f"{name}#{digest}", fields=fields)
            for digest, fields in group.items()
        ]
    if equal:
        reading.notes.append(f"{equal} record(s) stand there twice, and count once")
    if without:
        reading.notes.append(f"{without} record(s) have no {id_field!r}; a hash of the record is their id")
    if shared:
        reading.notes.append(f"{shared} record(s) share an id with a different one; theirs is ID#<hash>")
    return found


# ------------------------------------------------------------- queues and tasks


def read_queue(path: str, *, nul: bool, cwd: str) -> RecordReading:
    """Read the items of a queue file, with what the file system says of those that are files.

    Raises:
        UsageError: There is no such file.
    """
    if not os.path.isfile(path):
        raise UsageError(f"{path}: no such queue; write one item a line")
    seen: dict[str, Record] = {}
    for line in QueueSource(path, SEPARATORS["nul" if nul else "newline"]).lines():
        seen.setdefault(line, Record(id=line, fields=_file_fields(line, cwd)))
    return RecordReading(records=list(seen.values()))


def _file_fields(item: str, cwd: str) -> dict[str, Any]:
    path = os.path.join(cwd, item)
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return {}
    folder, name = os.path.split(item)
    suffix = os.path.splitext(name)[1].lower()
    return {"path": path, "folder": folder or ".", "suffix": suffix, "mtime": found.st_mtime,
            "size": found.st_size}  # fmt: skip


def read_tasks(project: Project, glob: str) -> RecordReading:
    """Read the task files that *glob* means, below the project's root.

    Raises:
        UsageError: There is none.
    """
    from ..tasks.discovery import find_task_files  # noqa: PLC0415
    from ..tasks.files import read_task  # noqa: PLC0415 - the YAML loader

    settings = dict(settings_of(project.state))
    settings["tasks"] = {**settings["tasks"], "globs": [glob]}
    reading = RecordReading()
    heads: list[tuple[str, str, dict[str, Any]]] = []
    for path in find_task_files(project.root, settings):
        relative = os.path.relpath(path, project.root)
        try:
            task = read_task(path, settings)
        except Unreadable as error:
            reading.notes.append(f"cannot be read, and left out: {error}")
            continue
        fields = {key: value for key, value in task.front.items() if _plain(value)}
        told = {"path": str(path), "title": task.title, "status": task.status_word, "project": task.project}
        heads.append((task.id, relative, fields | {key: value for key, value in told.items() if value}))
    if not heads and not reading.notes:
        raise UsageError(f"{project.root}: no task file matches {glob!r}")
    ids = [name.casefold() for name, _, _ in heads]
    twice = {name for name in ids if ids.count(name) > 1} if len(set(ids)) < len(ids) else set()
    reading.records = [
        Record(id=relative if name.casefold() in twice else name, fields=fields)
        for name, relative, fields in heads
    ]
    return reading


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool | date | list)
