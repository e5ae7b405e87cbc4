"""The review of work in chunks: plans, waves, what a person decided of them, notes, and bulk approvals.

What may begin next follows from the waves, their decisions and the chunks' results alone (`review.waves`).
A decision and all that it implies are one transaction: with ``revise`` the chunks are opened again, their
notes of before count no more, and their wave begins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import statements
from .base import Engine, Transaction
from .batches import add_items
from .claim_rows import SQL as CLAIMS
from .claim_rows import ready_work
from .columns import from_column, to_column
from .events import SQL as EVENTS
from .records import Item, Result
from .review_records import (
    ApprovalGate,
    BegunChunk,
    ChunkItem,
    KeptPlan,
    Note,
    ReviewEvent,
    Wave,
    WaveDecision,
)
from .sqlite import FILE, SqliteEngine

SQL = statements.load("review")


class Review:
    """The chunked batches of a store, and the bulk approvals of its project."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # ------------------------------------------------------------------- plan

    def plan(self, batch: int) -> KeptPlan | None:
        """Return the plan of a batch; None if it is not cut into chunks."""
        rows = self._engine.read(SQL.plan, {"batch": batch})
        if not rows:
            return None
        plan, version, outdated, run = rows[0]
        return KeptPlan(
            plan=json.loads(plan),
            version=version,
            outdated=outdated,
            run=None if run is None else json.loads(run),
        )

    def keep_plan(
        self,
        batch: int,
        plan: Mapping[str, Any],
        version: int,
        *,
        chunks: Sequence[Item],
        items: Sequence[ChunkItem] = (),
        outdated: str = "",
    ) -> bool:
        """*Atomically* replace the plan, add new items, and make the plan's chunks the batch's items.

        Args:
            batch: The batch.
            plan: The plan.
            version: `KeptPlan.version` that it was made from; 0 for the first plan.
            chunks: All chunks of the plan, as items of the batch; waiting ones of before are removed.
            items: Items that are new.
            outdated: The hash of the plan's file, where that will be written anew.

        Returns:
            False if another changed the plan first; nothing was changed then.
        """
        parameters = {"batch": batch, "plan": json.dumps(plan), "version": version, "outdated": outdated}

        def body(tx: Transaction) -> bool:
            if not tx.run(SQL.set_plan if version else SQL.add_plan, parameters):
                return False
            start = tx.run(SQL.last_item, {"batch": batch})[0][0] + 1
            tx.each(
                SQL.add_item,
                [
                    {"batch": batch, "seq": seq, "item": to_column(one.id), "digest": one.digest,
                     "fields": json.dumps(dict(one.fields), default=str)}
                    for seq, one in enumerate(items, start)
                ],
            )  # fmt: skip
            names = json.dumps([one.text for one in chunks])
            tx.run(SQL.drop_chunks, {"batch": batch, "names": names})
            add_items(tx, batch, chunks)
            return True

        return self._engine.write(body, durable=True)

    def set_plan_written(self, batch: int, version: int) -> None:
        """Note that the plan's file says what this version says."""
        self._engine.write(lambda tx: tx.run(SQL.plan_written, {"batch": batch, "version": version}))

    def set_run(self, batch: int, run: Mapping[str, Any]) -> None:
        """Keep the options of `chunk run` for the next one."""
        self._engine.write(lambda tx: tx.run(SQL.set_run, {"batch": batch, "run": json.dumps(run)}))

    def items(self, batch: int) -> dict[str, ChunkItem]:
        """Return every item of a batch by its id, in the order in which they came."""
        return {
            from_column(item): ChunkItem(id=from_column(item), digest=digest, fields=json.loads(fields))
            for item, digest, fields in self._engine.read(SQL.items, {"batch": batch})
        }

    # ----------------------------------------------------------------- chunks

    def begun(self, batch: int) -> dict[str, BegunChunk]:
        """Return the chunks that have begun, by name."""
        return {
            name: BegunChunk(name=name, items=tuple(json.loads(items)), revision=revision)
            for name, items, revision in self._engine.read(SQL.begun, {"batch": batch})
        }

    def begin_chunks(self, batch: int, chunks: Mapping[str, Sequence[str]]) -> None:
        """*Atomically* begin chunks with these items; one that has begun stays as it is."""
        self._engine.write(lambda tx: _begin_chunks(tx, batch, chunks), durable=True)

    def results(self, batch: int) -> dict[str, Result]:
        """Return the results of those chunks that have one, by name."""
        rows = self._engine.read(SQL.states, {"batch": batch})
        return {text: json.loads(result) for text, _, result in rows if result is not None}

    # ------------------------------------------------------------------ waves

    def waves(self, batch: int) -> list[Wave]:
        """Return every wave from the first, with what was decided of it."""
        decisions: dict[int, list[WaveDecision]] = {}
        for wave, verdict, by, at, criteria, chunks, midway in self._engine.read(
            SQL.decisions, {"batch": batch}
        ):
            decisions.setdefault(wave, []).append(
                WaveDecision(verdict=verdict, by=from_column(by), at=at, criteria=from_column(criteria),
                         chunks=tuple(json.loads(chunks)), midway=bool(midway))
            )  # fmt: skip
        return [
            Wave(number=number, chunks=tuple(json.loads(chunks)), criteria=from_column(criteria),
                 checkpoint=bool(checkpoint), decisions=tuple(decisions.get(number, ())))
            for number, chunks, criteria, checkpoint in self._engine.read(SQL.waves, {"batch": batch})
        ]  # fmt: skip

    def begin_wave(
        self,
        batch: int,
        number: int,
        chunks: Mapping[str, Sequence[str]],
        criteria: str,
        *,
        checkpoint: bool,
    ) -> bool:
        """*Atomically* begin a wave, and those of its chunks that have not begun.

        Args:
            batch: The batch.
            number: One more than the last wave's.
            chunks: The wave's chunks, each with its items; none for a dry run, which waits for a decision
                at once.
            criteria: What its workers go by.
            checkpoint: Whether a person is asked once it is done.

        Returns:
            False if another began a wave of that number first.
        """

        def body(tx: Transaction) -> bool:
            if not _begin_wave(tx, batch, number, tuple(chunks), criteria, checkpoint=checkpoint):
                return False
            _begin_chunks(tx, batch, chunks)
            if not chunks:
                _open_wave(tx, batch, number, ())
            return True

        return self._engine.write(body, durable=True)

    def set_opened(self, batch: int, wave: Wave) -> None:
        """Add the event that a wave waits for a decision, unless that was done."""
        self._engine.write(lambda tx: _open_wave(tx, batch, wave.number, wave.chunks))

    def decide(
        self,
        batch: int,
        wave: Wave,
        decision: WaveDecision,
        *,
        begin: Mapping[str, Sequence[str]] | None = None,
    ) -> bool:
        """*Atomically* keep a decision with all that it implies; durable on return.

        With ``revise`` its chunks are opened again, their notes of before count no more, and a wave of them
        begins. Whether the decision may be made of *wave* is the caller's to know (`review.waves`).

        Args:
            batch: The batch.
            wave: The last wave, with the decisions that the caller has read.
            decision: What was decided.
            begin: Chunks that begin with it, each with its items: those that a dry run has shown.

        Returns:
            False if another decided, or began a wave, first; nothing was changed then.
        """
        parameters = {
            "batch": batch, "wave": wave.number, "number": len(wave.decisions) + 1,
            "verdict": decision.verdict, "by": to_column(decision.by),
            "criteria": to_column(decision.criteria), "chunks": json.dumps(decision.chunks),
            "midway": int(decision.midway),
        }  # fmt: skip

        def body(tx: Transaction) -> bool:
            if not tx.run(SQL.decide, parameters):
                return False
            _begin_chunks(tx, batch, begin or {})
            if decision.verdict == "revise":
                _open_again(tx, batch, decision.chunks)
                _begin_wave(tx, batch, wave.number + 1, decision.chunks, decision.criteria, checkpoint=True)
            data = {"task": str(wave.number), "verdict": decision.verdict, "by": decision.by}
            tx.run(EVENTS.add, _event(batch, ReviewEvent.DECIDED, data))
            return True

        return self._engine.write(body, durable=True)

    # ------------------------------------------------------------------ notes

    def add_notes(self, batch: int, chunk: str, revision: int, notes: Sequence[Note]) -> int | None:
        """*Atomically* keep notes; durable on return. One that says what is said already changes nothing.

        Returns:
            How many were new or said something else than before; None if the chunk has another revision.
        """
        parameters = [
            {"batch": batch, "chunk": chunk, "revision": revision, "item": to_column(one.item),
             "category": to_column(one.category), "rationale": to_column(one.rationale)}
            for one in notes
        ]  # fmt: skip

        def body(tx: Transaction) -> int | None:
            found = len(tx.each(SQL.add_note, parameters))
            return found if tx.run(SQL.revision, {"batch": batch, "chunk": chunk}) == [(revision,)] else None

        return self._engine.write(body, durable=True)

    def notes(self, batch: int, chunk: str) -> dict[str, Note]:
        """Return the notes of a chunk's revision by item, in the order in which they were first noted."""
        return {
            from_column(item): Note(
                item=from_column(item), category=from_column(category), rationale=from_column(rationale)
            )
            for item, category, rationale in self._engine.read(SQL.notes, {"batch": batch, "chunk": chunk})
        }

    # -------------------------------------------------------------- approvals

    def add_gate(self, gate: ApprovalGate) -> None:
        """Keep a bulk action as one that waits; durable on return. Once more changes nothing."""
        parameters = {
            "folder": to_column(gate.folder), "task": gate.task, "patterns": json.dumps(gate.patterns)
        }  # fmt: skip
        self._engine.write(lambda tx: tx.run(SQL.add_gate, parameters), durable=True)

    def remove_gate(self, folder: str) -> None:
        """Forget the bulk action of a batch that is over."""
        self._engine.write(lambda tx: tx.run(SQL.remove_gate, {"folder": to_column(folder)}))

    def gates(self) -> list[ApprovalGate]:
        """Return the project's bulk actions, approved or not, the oldest first."""
        return [
            ApprovalGate(folder=from_column(folder), task=task, patterns=tuple(json.loads(patterns)))
            for folder, task, patterns in self._engine.read(SQL.gates)
        ]

    def why_shut(self, gate: ApprovalGate) -> str:
        """Return why a bulk action may not begin, "" if it may. One whose folder is gone keeps nobody.

        Raises:
            OSError: The store in the batch's folder cannot be read.
        """
        if not os.path.isdir(gate.folder):
            return ""
        with self._where(gate.folder) as engine:
            own = engine is not self._engine
            rows = engine.read(SQL.first_batch if own else SQL.batch_named, {"name": Path(gate.folder).name})
            waves = Review(engine).waves(rows[0][0]) if rows else []
        if waves and (last := waves[-1].decided) and last.verdict == "stop":
            return f"{last.by} has said stop"
        shown = waves[0].decided if waves and waves[0].is_dry_run else None
        return "" if shown and shown.verdict == "approve" else "nobody has approved it yet"

    def shut_for_task(self, task: str) -> str | None:
        """Return why nobody may claim the task with this id, None if no bulk action of it waits."""
        for gate in self.gates():
            if gate.task and gate.task.casefold() == task.casefold() and (why := self.why_shut(gate)):
                return f"its bulk action waits: {why}; {gate.next_step()}"
        return None

    @contextmanager
    def _where(self, folder: str) -> Iterator[Engine]:
        """Yield the database that holds a batch's waves: the one in its folder, else this one."""
        own = Path(folder, FILE)
        if not own.exists():
            yield self._engine
            return
        engine = SqliteEngine(own, create=False)
        try:
            yield engine
        finally:
            engine.close()


def _begin_chunks(tx: Transaction, batch: int, chunks: Mapping[str, Sequence[str]]) -> None:
    tx.each(
        SQL.begin_chunk,
        [{"batch": batch, "name": name, "items": json.dumps(list(items))} for name, items in chunks.items()],
    )


def _begin_wave(
    tx: Transaction, batch: int, number: int, chunks: Sequence[str], criteria: str, *, checkpoint: bool
) -> bool:
    parameters = {
        "batch": batch, "number": number, "chunks": json.dumps(list(chunks)), "criteria": to_column(criteria),
        "checkpoint": int(checkpoint),
    }  # fmt: skip
    return bool(tx.run(SQL.begin_wave, parameters))


def _open_wave(tx: Transaction, batch: int, number: int, chunks: Sequence[str]) -> None:
    if tx.run(SQL.open_wave, {"batch": batch, "number": number}):
        data = {"task": str(number), "chunks": ", ".join(chunks)}
        tx.run(EVENTS.add, _event(batch, ReviewEvent.OPENED, data))


def _open_again(tx: Transaction, batch: int, chunks: Sequence[str]) -> None:
    names = {"batch": batch, "names": json.dumps(list(chunks))}
    tx.run(SQL.revise_chunks, names)
    for work, key, text in tx.run(SQL.work_of_chunks, names):
        fresh = ready_work(tx, key, from_column(text), reopen=True)
        if fresh.id != work:
            tx.run(CLAIMS.repoint, {"next": fresh.id, "batch": batch, "work": work})


def _event(batch: int, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "batch": batch, "work": None, "attempt": None, "detail": json.dumps(data)}
