"""A batch that is cut into chunks: its plan, its items, and what each chunk that has begun holds.

``chunks.json`` is the plan, a person's to edit until a chunk has begun. A chunk begins when its file
``chunks/<id>.jsonl`` is made, whole and once; from then on that file counts, and never changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import clock, durable
from ..core.errors import Refused, UsageError
from ..core.paths import Project
from ..manifest import Manifest, to_json
from ..queue.batch import Batch
from ..queue.batches import open_folder
from .chunks import Chunk, Cut
from .records import Record, digest_of

PLAN = "chunks.json"
_ITEMS = "items.jsonl"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What stands in ``chunks.json``."""

    by: str
    zone: str
    most: int
    #: See `Reading.id_field`.
    id_field: str
    #: The folder in which the plan was made, and in which commands run.
    base: str
    #: The task that the work is done for, "" for none.
    task: str
    chunks: tuple[Chunk, ...]
    #: Ids that are in no chunk because somebody wants it so.
    left_out: tuple[str, ...] = ()
    #: Tools that act on the items, and wait for an approval; see `gates`.
    bulk: tuple[str, ...] = ()

    @property
    def cut(self) -> Cut:
        """How it was cut."""
        return Cut.of(self.by, self.most, self.zone)

    def chunk(self, name: str) -> Chunk:
        """Return the chunk *name*.

        Raises:
            UsageError: There is none.
        """
        for chunk in self.chunks:
            if chunk.id == name:
                return chunk
        raise UsageError(f"{name}: no such chunk; see {PLAN}")

    def to_json(self) -> bytes:
        """Return what stands in the file: a line for each id, so that it can be edited."""
        data = {
            "by": self.by, "zone": self.zone, "max": self.most, "id": self.id_field, "base": self.base,
            "task": self.task, **({"bulk": list(self.bulk)} if self.bulk else {}),
            "chunks": chunks_json(self.chunks), "left_out": list(self.left_out),
        }  # fmt: skip
        return json.dumps(data, indent=1, ensure_ascii=True).encode() + b"\n"


def chunks_json(chunks: Iterable[Chunk]) -> list[dict[str, Any]]:
    """Return chunks as plain data."""
    return [{"id": one.id, "label": one.label, "items": list(one.items)} for one in chunks]


@dataclass(frozen=True, slots=True)
class ChunkedBatch:
    """The folder of a batch that is cut into chunks."""

    folder: Path

    @property
    def chunks(self) -> Path:
        """Folder of what belongs to single chunks."""
        return self.folder / "chunks"

    def exists(self) -> bool:
        """Tell whether there is a plan."""
        return durable.exists(self.folder / PLAN)

    # ------------------------------------------------------------------- plan

    def plan(self) -> Plan:
        """Read the plan, as whoever edited it has left it.

        Raises:
            UsageError: There is none, or it is damaged; the message says where.
        """
        path = self.folder / PLAN
        try:
            data = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise UsageError(
                f"{self.folder}: not cut into chunks; `hypervisor chunk ... --dir {self.folder}` does that"
            ) from None
        except ValueError as error:
            raise UsageError(f"{path}: not JSON ({error}); mend it where you edited it") from None
        try:
            return _plan_from(data)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{path}: not a plan of chunks ({error!r}); mend it where you edited it"
            ) from None

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the folder while its plan, or a wave, is changed: one at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / ".chunks.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def keep(self, plan: Plan, records: Iterable[Record]) -> None:
        """Keep a plan and the new records that it is about; the caller holds `changing`.

        Raises:
            UsageError: The folder is another batch's.
        """
        if not self.exists() and any(
            durable.exists(self.folder / name) for name in ("queue.txt", "manifest.json")
        ):
            raise UsageError(f"{self.folder}: holds a batch that is not cut into chunks; name another folder")
        self.chunks.mkdir(exist_ok=True)
        lines = [{"id": one.id, "digest": digest_of(one.fields), "fields": one.fields} for one in records]
        text = "".join(json.dumps(line, ensure_ascii=True, default=str) + "\n" for line in lines)
        durable.append_lines(self.folder / _ITEMS, text.encode())
        durable.replace(self.folder / PLAN, plan.to_json())

    # ------------------------------------------------------------------ items

    def items(self) -> dict[str, Mapping[str, Any]]:
        """Return every item by its id: ``fields``, and ``digest``, the record's hash."""
        with contextlib.suppress(FileNotFoundError):
            return dict(read_lines(self.folder / _ITEMS))
        return {}

    def path(self, chunk: str) -> Path:
        """Return the file with a chunk's items; it is there once the chunk has begun."""
        return self.chunks / f"{chunk}.jsonl"

    def begun(self, chunk: str) -> dict[str, Mapping[str, Any]]:
        """Return the items of a chunk that has begun, by id and in order.

        Raises:
            UsageError: It has not, or there is none.
        """
        try:
            return dict(read_lines(self.path(chunk)))
        except FileNotFoundError:
            self.plan().chunk(chunk)
            raise UsageError(f"{chunk}: has not begun; `hypervisor chunk run` begins it") from None

    def begin(self, plan: Plan, chunks: Iterable[str]) -> None:
        """Make the files of these chunks, whole and once; durable on return."""
        known: dict[str, Mapping[str, Any]] = {}
        for name in chunks:
            if durable.exists(self.path(name)):
                continue
            known = known or self.items()
            lines = [
                Record(id=item, fields=known[item]["fields"]).to_line() for item in plan.chunk(name).items
            ]
            durable.write_once(self.path(name), b"".join(lines))

    def check(self, plan: Plan) -> list[str]:
        """Hold that the plan may run; return what there is to tell.

        Raises:
            Refused: It may not: an item is unknown, or in two chunks; a chunk that has begun was changed.
        """
        path, known = self.folder / PLAN, self.items()
        where: dict[str, str] = {}
        for chunk in plan.chunks:
            for item in chunk.items:
                if item not in known:
                    raise Refused(f"{path}: {chunk.id} names {item!r}, which is no item; see {_ITEMS}")
                if item in where:
                    raise Refused(
                        f"{path}: {item!r} is in {where[item]} and in {chunk.id}; take it out of one"
                    )
                where[item] = chunk.id
            with contextlib.suppress(FileNotFoundError):
                begun = tuple(name for name, _ in read_lines(self.path(chunk.id)))
                if begun != chunk.items:
                    raise Refused(
                        f"{path}: {chunk.id} has begun with {len(begun)} items, and the plan says otherwise; "
                        f"put back what {self.path(chunk.id)} says, and put what is new into a new chunk"
                    )
        names = {chunk.id for chunk in plan.chunks}
        gone = [file.stem for file in sorted(self.chunks.glob("*.jsonl")) if _is_chunk_file(file)]
        if missing := [name for name in gone if name not in names]:
            raise Refused(f"{path}: {missing[0]} has begun and is not in the plan any more; put it back")
        adrift = [item for item in known if item not in where and item not in set(plan.left_out)]
        if not adrift:
            return []
        return [
            f"{len(adrift)} item(s) are in no chunk, like {adrift[0]!r}; "
            f"put them into left_out if that is meant"
        ]

    # ------------------------------------------------------------------ batch

    def open(self, project: Project | None = None) -> Batch:
        """Open it as a batch whose items are the chunks' ids; its queue takes in those of the plan."""
        plan = self.plan()
        queue = self.folder / "queue.txt"
        with self.changing():
            there = queue.read_bytes().split(b"\n") if durable.exists(queue) else []
            more = [chunk.id for chunk in plan.chunks if chunk.id.encode() not in there]
            durable.append_lines(queue, "".join(f"{name}\n" for name in more).encode())
            # Its own base, so that a chunk's id is nothing but that, wherever the commands run.
            manifest = Manifest(base=str(self.chunks.resolve()), created=clock.now_text(), bulk=plan.bulk)
            durable.write_once(self.folder / "manifest.json", to_json(manifest))
        return open_folder(str(self.folder), cwd=str(self.folder), project=project)


def _plan_from(data: Mapping[str, Any]) -> Plan:
    chunks: list[Chunk] = []
    for number, one in enumerate(data["chunks"], 1):
        name, label, items = one["id"], one.get("label", ""), one["items"]
        if not isinstance(name, str) or not _ID.match(name) or name.endswith("-notes"):
            raise UsageError(
                f"chunk {number}: its id {name!r} must be letters, digits, - and _ (not ...-notes)"
            )
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise UsageError(f"{name}: `items` must be a list of ids")
        if not items:
            raise UsageError(f"{name}: has no items; take the chunk out, or put some in")
        if name in {chunk.id for chunk in chunks}:
            raise UsageError(f"{name}: stands there twice; rename one")
        chunks.append(Chunk(id=name, label=str(label), items=tuple(items)))
    plan = Plan(
        by=str(data["by"]), zone=str(data["zone"]), most=int(data["max"]), id_field=str(data["id"]),
        base=str(data["base"]), task=str(data.get("task", "")), chunks=tuple(chunks),
        left_out=tuple(str(item) for item in data.get("left_out", ())),
        bulk=tuple(str(pattern) for pattern in data.get("bulk", ())),
    )  # fmt: skip
    plan.cut  # noqa: B018 - an edited `by` is told here, not where it is used
    return plan


def _is_chunk_file(path: Path) -> bool:
    return not path.name.endswith("-notes.jsonl") and "." not in path.stem


def read_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of a file of JSON lines by their ids; torn lines are passed over."""
    with path.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):  # a torn line: its writer died, and was told nothing
                found = json.loads(line)
                if isinstance(found, dict) and isinstance(found.get("id"), str):
                    yield found["id"], found
