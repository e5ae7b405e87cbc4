"""A batch that is cut into chunks: its plan, its items, and the files that people and workers read.

The store holds the plan. ``chunks.json`` shows it, and is a person's to edit until a chunk has begun: an
edited file is taken in by the next command that begins something. A chunk that has begun never changes; its
items are written to ``chunks/<id>.jsonl`` for its worker.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import Refused, UsageError
from ..core.files import path_exists, replace_file, write_once
from ..core.project import Project
from ..queue.batch import Batch, BatchOptions
from ..queue.batches import create, open_folder
from ..store.records import Item
from ..store.review import Review
from ..store.review_records import ChunkItem, KeptPlan, Wave
from .records import Record, digest_of
from .split import Chunk, Cut

PLAN = "chunks.json"
_QUEUE = "queue.txt"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkPlan:
    """Which items are in which chunk, and how they were cut."""

    by: str
    zone: str
    most: int
    #: See `RecordReading.id_field`.
    id_field: str
    #: The folder in which the plan was made, and in which commands run.
    base: str
    #: The task that the work is done for, "" for none.
    task: str
    chunks: tuple[Chunk, ...]
    #: Ids that are in no chunk because somebody wants it so.
    left_out: tuple[str, ...] = ()
    #: Tools that act on the items, and wait for an approval; see `approvals`.
    bulk: tuple[str, ...] = ()
    #: The version in the store that it was made from; 0 for a new one.
    version: int = field(default=0, compare=False)
    #: Whether its file was edited since it was stored.
    edited: bool = field(default=False, compare=False)

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

    def items_of(self, chunks: Iterable[str]) -> dict[str, Sequence[str]]:
        """Return the ids of the items of these chunks, by chunk."""
        return {name: self.chunk(name).items for name in chunks}

    def to_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "by": self.by, "zone": self.zone, "max": self.most, "id": self.id_field, "base": self.base,
            "task": self.task, **({"bulk": list(self.bulk)} if self.bulk else {}),
            "chunks": chunks_data(self.chunks), "left_out": list(self.left_out),
        }  # fmt: skip

    def to_file(self) -> bytes:
        """Return what stands in its file: a line for each id, so that it can be edited."""
        return json.dumps(self.to_data(), indent=1, ensure_ascii=True).encode() + b"\n"


def chunks_data(chunks: Iterable[Chunk]) -> list[dict[str, Any]]:
    """Return chunks as plain data."""
    return [{"id": one.id, "label": one.label, "items": list(one.items)} for one in chunks]


def open_chunked(folder: Path, claims: Mapping[str, Any] | None = None) -> ChunkedBatch:
    """Open the batch in *folder*, which is cut into chunks.

    Args:
        folder: The batch's folder.
        claims: Settings of ``[claims]`` that take the place of the project's.

    Raises:
        UsageError: There is none.
    """
    folder = folder.resolve()
    made = _open(folder, claims) if folder.is_dir() and _begun(folder) else None
    if made is not None and made.exists():
        return made
    if made is not None:
        made.batch.close()
    raise UsageError(f"{folder}: not cut into chunks; `hypervisor chunk ... --dir {folder}` does that")


def make_chunked(folder: Path, bulk: Sequence[str] = ()) -> ChunkedBatch:
    """Open the batch in *folder*, made if there is none: one that is cut into chunks, or not cut yet.

    Args:
        folder: The folder: of a project's batch, or one that gets a store of its own.
        bulk: The tools that act, for a batch of bulk actions.

    Raises:
        UsageError: The folder holds a batch that is not cut into chunks.
    """
    folder = folder.resolve()
    project = _project_of(folder)
    if not _begun(folder):
        if path_exists(folder / _QUEUE):
            raise UsageError(f"{folder}: holds a batch that is not cut into chunks; name another folder")
        (folder / "chunks").mkdir(parents=True, exist_ok=True)
        if project is not None:
            options = BatchOptions(base=str(folder / "chunks"), bulk=tuple(bulk))
            return ChunkedBatch(create(project, [], options, folder.name))
    made = _open(folder)
    if not made.exists() and made.batch.store.batches.census(made.number)["queued"]:
        made.batch.close()
        raise UsageError(f"{folder}: holds a batch that is not cut into chunks; name another folder")
    return made


@dataclass(frozen=True, slots=True)
class ChunkedBatch:
    """A batch that is cut into chunks, each of them an item of it."""

    batch: Batch

    @property
    def folder(self) -> Path:
        """The batch's folder."""
        return Path(self.batch.folder)

    @property
    def chunks(self) -> Path:
        """The folder of what belongs to single chunks."""
        return self.folder / "chunks"

    @property
    def number(self) -> int:
        """The batch's id in its store."""
        return self.batch.number

    @property
    def review(self) -> Review:
        """The chunked batches of its store."""
        return self.batch.store.review

    def exists(self) -> bool:
        """Return whether there is a plan."""
        return self.review.plan(self.number) is not None

    # ------------------------------------------------------------------- plan

    def plan(self) -> ChunkPlan:
        """Return the plan, as whoever edited its file has left it.

        Raises:
            UsageError: There is none, or the edited file is damaged; the message says where.
        """
        kept = self.review.plan(self.number)
        if kept is None:
            raise UsageError(
                f"{self.folder}: not cut into chunks; `hypervisor chunk ... --dir {self.folder}` does that"
            )
        stored = replace(_plan_from(kept.plan), version=kept.version)
        found, wanted = self._file(), stored.to_file()
        if found == wanted:
            return stored
        if found is None or _hash(found) == kept.outdated:  # whoever stored the plan died, or lost it since
            replace_file(self.folder / PLAN, wanted)
            self.review.set_plan_written(self.number, kept.version)
            return stored
        return self._edited(found, kept, stored)

    def keep(self, plan: ChunkPlan, records: Iterable[Record] = (), *, write: bool = True) -> ChunkPlan:
        """Store a plan, with the new records that it is about; return it as it is stored.

        Args:
            plan: The plan.
            records: Those that are not stored yet.
            write: Whether the plan's file is written too; not if the file is where the plan was read.

        Raises:
            Refused: Another changed the plan meanwhile.
        """
        found = self._file() if write else None
        items = [ChunkItem(id=one.id, digest=digest_of(one.fields), fields=one.fields) for one in records]
        chunks = [Item(key=self.batch.ref(chunk.id).key, text=chunk.id) for chunk in plan.chunks]
        kept = self.review.keep_plan(
            self.number, plan.to_data(), plan.version, chunks=chunks, items=items,
            outdated=_hash(found) if found is not None else "",
        )  # fmt: skip
        if not kept:
            raise Refused(f"{self.folder / PLAN}: another changed the plan this moment; look, and try again")
        stored = replace(plan, version=plan.version + 1 if plan.version else 1, edited=False)
        if write:
            replace_file(self.folder / PLAN, plan.to_file())
            self.review.set_plan_written(self.number, stored.version)
        return stored

    def take_in(self) -> ChunkPlan:
        """Return the plan, stored as its file says, where it may run.

        Raises:
            Refused: It may not; see `check`.
        """
        plan = self.plan()
        self.check(plan)
        return self.keep(plan, write=False) if plan.edited else plan

    def check(self, plan: ChunkPlan) -> list[str]:
        """Raise unless the plan may run; return what there is to tell.

        Raises:
            Refused: An item is unknown, or in two chunks; a chunk that has begun was changed.
        """
        path, known, begun = (
            self.folder / PLAN,
            self.review.items(self.number),
            self.review.begun(self.number),
        )
        where: dict[str, str] = {}
        for chunk in plan.chunks:
            for item in chunk.items:
                if item not in known:
                    raise Refused(f"{path}: {chunk.id} names {item!r}, which is no item of this batch")
                if item in where:
                    raise Refused(
                        f"{path}: {item!r} is in {where[item]} and in {chunk.id}; take it out of one"
                    )
                where[item] = chunk.id
            if chunk.id in begun and begun[chunk.id].items != chunk.items:
                raise Refused(
                    f"{path}: {chunk.id} has begun with {len(begun[chunk.id].items)} items, and the plan "
                    f"says otherwise; put back what {self.path(chunk.id)} says, and put what is new into a "
                    f"new chunk"
                )
        names = {chunk.id for chunk in plan.chunks}
        if missing := [name for name in begun if name not in names]:
            raise Refused(f"{path}: {missing[0]} has begun and is not in the plan any more; put it back")
        adrift = [item for item in known if item not in where and item not in set(plan.left_out)]
        if not adrift:
            return []
        return [
            f"{len(adrift)} item(s) are in no chunk, like {adrift[0]!r}; "
            f"put them into left_out if that is meant"
        ]

    def _file(self) -> bytes | None:
        try:
            return (self.folder / PLAN).read_bytes()
        except FileNotFoundError:
            return None

    def _edited(self, found: bytes, kept: KeptPlan, stored: ChunkPlan) -> ChunkPlan:
        path = self.folder / PLAN
        try:
            plan = _plan_from(json.loads(found))
            return replace(plan, version=kept.version, edited=plan != stored)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not JSON ({error}); mend it where you edited it") from None
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{path}: not a plan of chunks ({error!r}); mend it where you edited it"
            ) from None

    # ------------------------------------------------------------------ items

    def path(self, chunk: str) -> Path:
        """Return the file with a chunk's items, which is there once the chunk has begun."""
        return self.chunks / f"{chunk}.jsonl"

    def begun_items(self, chunk: str) -> tuple[str, ...]:
        """Return the ids of the items of a chunk that has begun.

        Raises:
            UsageError: It has not, or there is none.
        """
        begun = self.review.begun(self.number).get(chunk)
        if begun is None:
            self.plan().chunk(chunk)
            raise UsageError(f"{chunk}: has not begun; `hypervisor chunk run` begins it")
        return begun.items

    def write_chunk(self, chunk: str) -> None:
        """Write the file with the items of a chunk that has begun, if it is not there."""
        if path_exists(self.path(chunk)):
            return
        self.chunks.mkdir(exist_ok=True)
        known = self.review.items(self.number)
        lines = [Record(id=item, fields=known[item].fields).to_line() for item in self.begun_items(chunk)]
        replace_file(self.path(chunk), b"".join(lines))

    def write_criteria(self, wave: Wave) -> Path:
        """Write the file with a wave's criteria, if it is not there; return it."""
        path = self.folder / "waves" / f"{wave.number:04d}.criteria.md"
        if not path_exists(path):
            path.parent.mkdir(exist_ok=True)
            replace_file(path, wave.criteria.encode("utf-8", "surrogateescape"))
        return path


def _plan_from(data: Mapping[str, Any]) -> ChunkPlan:
    chunks: list[Chunk] = []
    for number, one in enumerate(data["chunks"], 1):
        name, label, items = one["id"], one.get("label", ""), one["items"]
        if not isinstance(name, str) or not _ID.match(name) or name.endswith(("-summary", "-details")):
            raise UsageError(f"chunk {number}: its id {name!r} must be letters, digits, - and _")
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise UsageError(f"{name}: `items` must be a list of ids")
        if not items:
            raise UsageError(f"{name}: has no items; take the chunk out, or put some in")
        if name in {chunk.id for chunk in chunks}:
            raise UsageError(f"{name}: stands there twice; rename one")
        chunks.append(Chunk(id=name, label=str(label), items=tuple(items)))
    plan = ChunkPlan(
        by=str(data["by"]), zone=str(data["zone"]), most=int(data["max"]), id_field=str(data["id"]),
        base=str(data["base"]), task=str(data.get("task", "")), chunks=tuple(chunks),
        left_out=tuple(str(item) for item in data.get("left_out", ())),
        bulk=tuple(str(pattern) for pattern in data.get("bulk", ())),
    )  # fmt: skip
    plan.cut  # noqa: B018 - an edited `by` is told here, not where it is used
    return plan


def _begun(folder: Path) -> bool:
    """Return whether the folder is, or is about to become, a chunked batch's."""
    return path_exists(folder / PLAN) or (folder / "chunks").is_dir()


def _open(folder: Path, claims: Mapping[str, Any] | None = None) -> ChunkedBatch:
    # Whoever opens a batch expects a queue; what is to be done here is in the plan.
    write_once(folder / _QUEUE, b"")
    # The folder that items are relative to: a chunk's id is nothing but that, wherever commands run.
    return ChunkedBatch(open_folder(folder, cwd=str(folder / "chunks"), claims=claims))


def _project_of(folder: Path) -> Project | None:
    """Return the project in whose state folder the batch lies, if it lies in one."""
    state = folder.parent.parent
    inside = folder.parent.name == "batches" and (state / ".gitignore").is_file()
    return Project(state.parent, state) if inside else None


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
