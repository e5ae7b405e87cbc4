"""What a runner is handed of an item, and what is kept of its report."""

from __future__ import annotations

import os
import threading

from ..claims.directory import DirectoryStore
from ..claims.port import Claim, Holder
from ..core.keys import generation_name
from ..core.machine import WORKER_MARK
from ..core.model import Report
from ..runners.port import Work
from .batch import Batch, Place


def work_of(batch: Batch, place: Place, store: DirectoryStore, claim: Claim, holder: Holder) -> Work:
    """Return what a runner gets to do, under *claim*."""
    base = batch.manifest.base
    environment = {
        WORKER_MARK: holder.id,
        "HYPERVISOR_ITEM": place.item,
        "HYPERVISOR_BATCH": batch.id,
        "HYPERVISOR_GENERATION": str(claim.generation),
        "HYPERVISOR_ROOT": str(batch.project.root if batch.project else base),
    }
    descriptor = store.lock_descriptor
    return Work(
        item=place.item,
        path=place.path,
        task=place.task,
        base=base,
        log=os.path.join(batch.logs, generation_name(claim.key, claim.generation)),
        environment=environment,
        inherit=() if descriptor is None else (descriptor,),
        stopped=threading.Event(),
    )


def record_of(place: Place, report: Report) -> dict[str, object]:
    """Return what the result of an item says of what was done, and why."""
    result: dict[str, object] = {
        "item": place.item,
        "status": report.status.value,
        "outcome": report.outcome,
    }
    if report.decisions:
        result["decisions"] = [
            {"field": d.field, "value": d.value, "reason": d.reason} for d in report.decisions
        ]
    if report.evidence:
        result["evidence"] = dict(report.evidence)
    if report.edit:
        result["edit"] = report.edit.to_json()
    if place.task:
        result["task_file"] = place.path
    return result
