"""The census that must close, and the summary of a batch. Takes new queue lines in; changes nothing else."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..core.files import replace_file
from ..core.model import Outcome
from ..core.text import printable_line, seconds_between, time_text
from ..store.batches import Spent
from ..store.questions import Question
from ..store.records import Work
from .batch import Batch, ItemRef
from .locks import foreign_items

#: So many findings are shown to a person.
_SHOWN = 20
#: The states of which the census is the sum.
STATES = (*(outcome.value for outcome in Outcome), "running", "waiting")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEntry:
    """Where one item of a batch stands."""

    ref: ItemRef
    work: Work

    @property
    def result(self) -> Mapping[str, Any] | None:
        """The result, None where there is none."""
        return self.work.result

    @property
    def state(self) -> str:
        """One of `STATES`."""
        return state_of(self.work)


@dataclass(slots=True, kw_only=True)
class Census:
    """How many items stand where. ``queued`` counts items; the rest is counted by their state."""

    queued: int = 0
    states: dict[str, int] = field(default_factory=dict)
    #: Lines that name an item that another line has named before.
    duplicates: int = 0

    def of(self, state: str) -> int:
        """Return how many items are in *state*."""
        return self.states.get(state, 0)

    @property
    def closes(self) -> bool:
        """Whether every queued item is accounted for."""
        return self.queued == sum(self.of(state) for state in STATES)

    def to_json(self) -> dict[str, int]:
        """Return the sums by name, in the order of the summary."""
        return {"queued": self.queued, **{state: self.of(state) for state in STATES}}

    def line(self) -> str:
        """Return the census as a person reads it."""
        parts = " + ".join(f"{self.of(state)} {state}" for state in STATES)
        sign = "=" if self.closes else "IS NOT"
        return f"{self.queued} queued {sign} {parts}"


def state_of(work: Work) -> str:
    """Return which of `STATES` an item is in."""
    return "waiting" if work.state == "ready" else work.state


def entries(batch: Batch, states: tuple[str, ...] = ()) -> Iterator[QueueEntry]:
    """Yield where each item stands, in the queue's order; with *states* only those in one of them."""
    batch.take_in()
    wanted = ["ready" if state == "waiting" else state for state in states]
    for item in batch.store.batches.items(batch.number, wanted):
        yield QueueEntry(ref=batch.ref_of(item.work), work=item.work)


def take_census(batch: Batch) -> Census:
    """Count where the items of *batch* stand."""
    batch.take_in()
    counts = batch.store.batches.census(batch.number)
    queued = counts.pop("queued")
    counts["waiting"] = counts.pop("ready")
    skipped = len(batch.options.skipped)  # left out when the batch was made
    counts[Outcome.SKIPPED.value] += skipped
    return Census(queued=queued + skipped, states=counts, duplicates=batch.refresh().duplicates)


def stats(batch: Batch) -> dict[str, Any]:
    """Return what ``--stats --json`` prints."""
    census = take_census(batch)
    sums = census.to_json()
    return {
        "queue_total": sums.pop("queued"),
        **sums,
        "duplicates": census.duplicates,
        "closes": census.closes,
        "held_by_lock": foreign_items(batch),
    }


def summarise(batch: Batch) -> tuple[dict[str, Any], Census]:
    """Return the summary of *batch*, in the shape of ``summary.json``, and the census that it holds.

    ``runtime_seconds`` runs from the first start to the last finish. Tokens and money are null
    where no runner has reported any: unknown is not zero.
    """
    census = take_census(batch)
    spent = batch.store.batches.spent(batch.number)
    typed = typed_as(batch)
    workers: list[dict[str, Any]] = []
    needs: list[dict[str, Any]] = []
    for entry in entries(batch, tuple(outcome.value for outcome in Outcome)):
        assert entry.result is not None  # noqa: S101 - it is in a result's state
        row = _row(batch, entry, entry.result, spent.pop(entry.work.id, None))
        workers.append(row)
        if who := _by_word(batch, entry, entry.result):
            row["unchecked"] = True
            needs.append({
                "task_id": row["task_id"],
                "reason": f"completed by {who}; not checked by this run",
                "next": f"look at it: `hypervisor task show {shlex.quote(str(row['task_id']))}`",
            })  # fmt: skip
        if row["status"] in (Outcome.BLOCKED, Outcome.FAILED):
            needs.append(
                {
                    "task_id": row["task_id"],
                    "reason": row["outcome"],
                    "next": next_step(row, entry.result, typed),
                }
            )
    workers += [
        {"task_id": skip["item"], "status": Outcome.SKIPPED.value, "reason": skip["reason"]}
        for skip in batch.options.skipped
    ]
    questions = [one for one in batch.store.questions.of_batch(batch.number) if one.open]
    needs += [
        {"task_id": one.task, "reason": f"asks: {printable_line(one.text, 300)}", "next": answer_step(one.id)}
        for one in questions
    ]
    by_runner = batch.store.batches.spent_by_runner(batch.number)
    summary = {
        "batch_id": batch.id,
        "workers": workers,
        "census": census.to_json(),
        "needs_attention": needs,
        **({"questions": [question_row(one) for one in questions]} if questions else {}),
        "runtime_seconds": _runtime(workers),
        # What was spent on items that have no result yet is spent as well.
        "total_tokens": _total([*workers, *map(asdict, spent.values())], "tokens"),
        "total_cost_usd": _total([*workers, *map(asdict, spent.values())], "cost_usd"),
        "by_agent": {name: asdict(one) for name, one in sorted(by_runner.items()) if name},
    }
    return summary | _found(batch, workers), census


def _by_word(batch: Batch, entry: QueueEntry, result: Mapping[str, Any]) -> str:
    """Return who said that a task of a run is done, "" where a run or a worker has seen it."""
    is_run = "run" in batch.record.options
    if not is_run or entry.state != Outcome.SUCCESS or result.get("batch"):
        return ""
    return str(result.get("worker") or "somebody")


def _found(batch: Batch, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the batch's agents have found, if they have; see `Hive`."""
    if batch.project is None:
        return {}
    from ..learning.hive import Hive, to_json  # noqa: PLC0415 - not for a folder's own store

    tasks = [str(row["task_id"]) for row in rows]
    found = Hive(batch.store.findings).of_batch(batch.id, tasks, batch.record.created_at)
    return {"findings": [to_json(one) for one in found]} if found else {}


def finding_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return what a batch's agents have found as a person reads it, a line each."""
    found = summary.get("findings", [])
    told = [f"{one.get('task_id', '-')}: {one['text']}" for one in found[:_SHOWN]]
    lines = [f"found: {printable_line(one, 300)}" for one in told]
    if len(found) > _SHOWN:
        lines.append(f"found: {len(found) - _SHOWN} more; `hypervisor hive search`")
    return lines


def _row(batch: Batch, entry: QueueEntry, result: Mapping[str, Any], spent: Spent | None) -> dict[str, Any]:
    row = {
        "task_id": result.get("task_id") or entry.ref.item,
        "status": entry.state,
        "outcome": result.get("outcome", ""),
        "claimed_by": result.get("worker"),
        # Of this batch, the one with the result or not; else that of the result, made outside of it.
        "attempts": spent.attempts if spent is not None else result.get("attempt"),
        "seconds": result.get("seconds"),
        "started": result.get("started"),
        "finished": result.get("finished"),
    }
    for key in ("commit", "branch", "runner", "tokens", "cost_usd", "evidence", "decisions", "next_step"):
        if key in result:
            row[key] = result[key]
    if spent is not None:
        known = {"tokens": spent.tokens, "cost_usd": spent.cost_usd}
        row |= {name: value for name, value in known.items() if value is not None or name in row}
    if result.get("batch") not in (None, batch.id):
        # Done by somebody outside this batch; still its one result.
        row["batch"] = result.get("batch")
    if entry.state != Outcome.SUCCESS:
        row["reason"] = row["outcome"]
    return row


def typed_as(batch: Batch) -> str:
    """Return the words by which a command names a batch."""
    if batch.project is not None and os.path.dirname(batch.folder) == str(batch.project.batches):
        return shlex.quote(batch.id)
    return f"--dir {shlex.quote(batch.folder)}"


def next_step(row: Mapping[str, Any], result: Mapping[str, Any], batch: str) -> str:
    """Return what a person does about an item that is blocked or has failed, with the command to type.

    Args:
        row: Its row in the summary.
        result: Its result.
        batch: `typed_as` of its batch.
    """
    if result.get("task_id") and result.get("edit"):
        if row["status"] == Outcome.FAILED:
            log = f"`hypervisor log {row['task_id']}`"
            return f"see {log}, fix the task or the code, then `hypervisor retry {batch}`"
        if result.get("branch") and not result.get("next_step"):
            name = row["task_id"]
            return f"look at its work: `hypervisor diff {name}`; then `hypervisor accept {name}`"
        first = result.get("next_step") or "provide what it waits for"
        return f"{first}; then `hypervisor task update {row['task_id']} --status active`"
    if row["status"] == Outcome.BLOCKED:
        return f"provide what it waits for, then `hypervisor retry --blocked {batch}`"
    return f"fix the cause, then `hypervisor retry {batch}`"


def answer_step(question: int) -> str:
    """Return what a person does about a question."""
    return f'hypervisor answer {question} "..."'


def question_line(question: Question) -> str:
    """Return a question with the command that answers it, in one printable line."""
    return f"{printable_line(f'{question.task} asks: {question.text}', 300)}; {answer_step(question.id)}"


def question_row(question: Question) -> dict[str, Any]:
    """Return a question as plain data."""
    row: dict[str, Any] = {
        "question": question.id, "task_id": question.task, "text": question.text,
        "choices": list(question.choices), "asked_by": question.asker,
        "asked": time_text(question.asked_at / 1000), "attempt": question.number, "batch": question.batch,
    }  # fmt: skip
    if question.answered_at is not None:
        row |= {
            "answer": question.answer, "answered_by": question.answered_by,
            "answered": time_text(question.answered_at / 1000),
        }  # fmt: skip
    return row


def _runtime(rows: list[dict[str, Any]]) -> float | None:
    starts = [row["started"] for row in rows if row.get("started")]
    ends = [row["finished"] for row in rows if row.get("finished")]
    if not starts or not ends:
        return None
    return seconds_between(min(starts), max(ends))


def _total(rows: list[dict[str, Any]], key: str) -> float | None:
    known = [row[key] for row in rows if row.get(key) is not None]
    return sum(known) if known else None


def write_summary(batch: Batch) -> tuple[dict[str, Any], Census]:
    """Write ``summary.json`` into the batch's folder, and return what it says, and its census."""
    summary, census = summarise(batch)
    replace_file(
        Path(batch.folder, "summary.json"),
        json.dumps(summary, indent=1, ensure_ascii=False).encode("utf-8", "replace"),
    )
    return summary, census
