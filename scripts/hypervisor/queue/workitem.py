"""What a runner is handed of an item, and what is kept of its report."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

from ..core.model import Report
from ..core.process import WORKER_MARK
from ..runners.base import ItemWork
from ..runners.kept_tails import keep_tails
from ..store.records import Claim
from .batch import Batch, ItemRef


def work_of(
    batch: Batch, ref: ItemRef, claim: Claim, inherit: tuple[int, ...], stopped: threading.Event
) -> ItemWork:
    """Return what a runner gets to do, under *claim*."""
    base = batch.options.base
    return ItemWork(
        item=ref.item,
        path=ref.path,
        task=ref.task,
        base=base,
        log=batch.log_of(claim.key, claim.number),
        environment={
            WORKER_MARK: claim.worker,
            "HYPERVISOR_ITEM": ref.item,
            "HYPERVISOR_BATCH": batch.id,
            "HYPERVISOR_ATTEMPT": str(claim.number),
            "HYPERVISOR_ROOT": str(batch.project.root if batch.project else base),
        },
        inherit=inherit,
        stopped=stopped,
    )


def result_of(ref: ItemRef, report: Report) -> dict[str, Any]:
    """Return what the result of an item says of what was done, and why."""
    result: dict[str, Any] = {"item": ref.item, "status": report.status.value, "outcome": report.outcome}
    if report.decisions:
        result["decisions"] = [
            {"field": d.field, "value": d.value, "reason": d.reason} for d in report.decisions
        ]
    if report.evidence:
        result["evidence"] = dict(report.evidence)
    if report.edit:
        result["edit"] = report.edit.to_json()
    if ref.task:
        result["task_file"] = ref.path
    return result


def keep_ends(batch: Batch, claims: Sequence[Claim]) -> None:
    """Keep the ends of what commands printed for other machines to read, where others use the store."""
    if batch.store.shared:
        keep_tails(batch.store, [(one.attempt, batch.log_of(one.key, one.number)) for one in claims])


def printed(batch: Batch, work: ItemWork) -> str | None:
    """Return the path of what a command printed, below the batch's folder and without ending; or None."""
    there = any(os.path.lexists(f"{work.log}.{ending}") for ending in ("out", "err"))
    return os.path.relpath(work.log, batch.folder) if there else None
