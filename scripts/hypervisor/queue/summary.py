"""The census that must close, and the summary of a batch. Reads; changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..claims.directory import DirectoryStore, Policy
from ..core import clock, durable, printable
from ..core.errors import Refused
from ..core.model import Outcome
from ..learning.hive import Hive
from .batch import Batch, Place
from .progress import Progress, Spent

#: So many findings are shown to a person.
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where one item of a batch stands."""

    place: Place
    #: The result, None where there is none.
    result: Mapping[str, Any] | None
    #: An `Outcome`, ``running``, ``waiting``, or ``damaged`` for a result that cannot be read.
    state: str


@dataclass(slots=True, kw_only=True)
class Census:
    """How many items stand where. ``queued`` counts items; the rest is counted by their state."""

    queued: int = 0
    states: dict[str, int] = field(default_factory=dict)
    #: Lines that name an item that another line has named before.
    duplicates: int = 0
    #: Paths of results that cannot be read.
    damaged: list[str] = field(default_factory=list)

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


#: The states of which the census is the sum.
STATES = (*(outcome.value for outcome in Outcome), "running", "waiting")


def entries(batch: Batch) -> Iterator[Entry | None]:
    """Yield where each item stands, in the queue's order; None for a line seen before."""
    stores: dict[str, DirectoryStore] = {}
    seen: set[str] = set()
    for line in batch.queue.lines():
        place = batch.place(line.item, pin=False)
        if place.name in seen:
            yield None
            continue
        seen.add(place.name)
        if place.root not in stores:
            stores[place.root] = DirectoryStore(place.root, policy=Policy(patient=False))
        store = stores[place.root]
        try:
            result = store.result(place.key)
            damaged = not isinstance(result, dict) and store.layout.finished(place.key)
        except ValueError:
            damaged = True
        if damaged:
            yield Entry(place=place, result=None, state="damaged")
        elif result is not None:
            yield Entry(place=place, result=result, state=str(result.get("status")))
        else:
            yield Entry(place=place, result=None, state="running" if store.is_held(place.key) else "waiting")


def take_census(batch: Batch) -> Census:
    """Count where the items of *batch* stand."""
    census = Census()
    for entry in entries(batch):
        count_entry(census, batch, entry)
    count_skipped(census, batch)
    return census


def count_entry(census: Census, batch: Batch, entry: Entry | None) -> None:
    """Add to *census* where one line of the queue stands, as `entries` yields it."""
    if entry is None:
        census.duplicates += 1
        return
    census.queued += 1
    census.states[entry.state] = census.of(entry.state) + 1
    if entry.state not in STATES:
        census.damaged.append(batch.layout(entry.place.root).result_path(entry.place.key))


def count_skipped(census: Census, batch: Batch) -> None:
    """Add to *census* what was left out when the batch was made."""
    skipped = len(batch.manifest.skipped)
    census.queued += skipped
    if skipped:
        census.states[Outcome.SKIPPED] = census.of(Outcome.SKIPPED) + skipped


def stats(batch: Batch) -> dict[str, Any]:
    """Return what ``--stats --json`` prints."""
    census = take_census(batch)
    sums = census.to_json()
    return {
        "queue_total": sums.pop("queued"),
        **sums,
        "duplicates": census.duplicates,
        "damaged": census.damaged,
        "closes": census.closes,
    }


def summarise(batch: Batch) -> tuple[dict[str, Any], Census]:
    """Return the summary of *batch*, in the shape of ``summary.json``, and the census that it holds.

    ``runtime_seconds`` runs from the first start to the last finish. Tokens and money are null
    where no runner has reported any: unknown is not zero.
    """
    census = Census()
    progress = Progress.of(batch.folder)
    workers: list[dict[str, Any]] = []
    needs: list[dict[str, Any]] = []
    for entry in entries(batch):
        count_entry(census, batch, entry)
        if entry is None or entry.result is None:
            continue
        row = _row(batch, entry, entry.result)
        _add_spent(row, progress.spent.pop(str(row["task_id"]), None))
        workers.append(row)
        if row["status"] in (Outcome.BLOCKED, Outcome.FAILED):
            needs.append(
                {"task_id": row["task_id"], "reason": row["outcome"], "next": next_step(row, entry.result)}
            )
    count_skipped(census, batch)
    workers += [
        {"task_id": skip["item"], "status": Outcome.SKIPPED.value, "reason": skip["reason"]}
        for skip in batch.manifest.skipped
    ]
    summary = {
        "batch_id": batch.id,
        "workers": workers,
        "census": census.to_json(),
        "needs_you": needs,
        "runtime_seconds": _runtime(workers),
        # What was spent on tasks that have no result yet is spent as well.
        "total_tokens": _total([*workers, *map(asdict, progress.spent.values())], "tokens"),
        "total_cost_usd": _total([*workers, *map(asdict, progress.spent.values())], "cost_usd"),
        "by_agent": {name: asdict(spent) for name, spent in sorted(progress.by_agent.items())},
    }
    return summary | _found(batch, workers), census


def _found(batch: Batch, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the batch's agents have found, if they have; see `Hive`."""
    if batch.project is None:
        return {}
    try:
        tasks = [str(row["task_id"]) for row in rows]
        found = Hive(batch.project).of_batch(batch.id, tasks, batch.manifest.created)
    except Refused as error:
        return {"findings_unreadable": str(error)}
    return {"findings": [one.to_json() for one in found]} if found else {}


def finding_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return what a batch's agents have found as a person reads it, a line each."""
    found = summary.get("findings", [])
    told = [f"{one.get('task_id', '-')}: {one['text']}" for one in found[:_SHOWN]]
    lines = [f"found: {printable.line(one, 300)}" for one in told]
    if len(found) > _SHOWN:
        lines.append(f"found: {len(found) - _SHOWN} more; `hypervisor hive search`")
    if "findings_unreadable" in summary:
        lines.append(f"findings cannot be read: {summary['findings_unreadable']}")
    return lines


def _row(batch: Batch, entry: Entry, result: Mapping[str, Any]) -> dict[str, Any]:
    row = {
        "task_id": result.get("task_id") or entry.place.item,
        "status": entry.state,
        "outcome": result.get("outcome", ""),
        "claimed_by": result.get("worker"),
        "attempts": result.get("generation"),
        "seconds": result.get("seconds"),
        "started": result.get("started"),
        "finished": result.get("finished"),
    }
    for key in ("commit", "runner", "tokens", "cost_usd", "evidence", "decisions", "next_step"):
        if key in result:
            row[key] = result[key]
    if result.get("batch") not in (None, batch.id):
        # Done under the project's claim by somebody outside this batch; still its one result.
        row["batch"] = result.get("batch")
    if entry.state != Outcome.SUCCESS:
        row["reason"] = row["outcome"]
    return row


def _add_spent(row: dict[str, Any], spent: Spent | None) -> None:
    """Let a row tell what all attempts of this batch used up, and not only the one with the result."""
    if spent is not None:
        row["attempts"] = max(spent.attempts, row["attempts"] or 0)  # one that died is not in the log
        row |= {"tokens": spent.tokens, "cost_usd": spent.cost_usd}


def next_step(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Return what a person does about a task that is blocked or has failed, in words."""
    if result.get("task_id") and result.get("edit"):
        first = result.get("next_step") or "give what it waits for"
        return f"{first}; then `hypervisor task update {row['task_id']} --status active`"
    if row["status"] == Outcome.BLOCKED:
        return "give what it waits for, then `hypervisor retry`"
    return "mend the cause, then `hypervisor retry`"


def _runtime(rows: list[dict[str, Any]]) -> float | None:
    starts = [row["started"] for row in rows if row.get("started")]
    ends = [row["finished"] for row in rows if row.get("finished")]
    if not starts or not ends:
        return None
    return clock.seconds_between(min(starts), max(ends))


def _total(rows: list[dict[str, Any]], key: str) -> float | None:
    known = [row[key] for row in rows if row.get(key) is not None]
    return sum(known) if known else None


def write_summary(batch: Batch) -> tuple[dict[str, Any], Census]:
    """Write ``summary.json`` into the batch's folder, and return what it says, and its census."""
    summary, census = summarise(batch)
    durable.replace(
        Path(batch.folder, "summary.json"),
        json.dumps(summary, indent=1, ensure_ascii=False).encode("utf-8", "replace"),
    )
    return summary, census
