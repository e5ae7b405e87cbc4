"""What is being worked on at this moment, by whom, and how the machine is. Reads only."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import psutil

from ..core.process import host_name
from ..core.settings import settings_of
from ..core.text import printable_line
from ..monitor.metrics import Sampler
from ..monitor.zones import ZoneBounds, ZoneTracker
from ..queue.batch import Batch
from ..queue.summary import take_census
from ..store.batches import Running
from ..store.liveness import lock_state
from ..store.shared import coordinator_heard, idle_elsewhere, silent_after
from ..store.store import Store
from ..tasks.actor import Actor
from ..tasks.catalog import TaskCatalog
from ..tasks.index_watch import LiveIndex
from ..tasks.view import CatalogView
from .timeline import FIGURES, Timeline

#: The name with which the ids of `batch_worker.py`'s processes begin.
_PROCESS = "worker-"
_LOCK = ".lock"
#: The id of a worker process, with its pid.
_OF_PROCESS = re.compile(r"(?:worker|run)-(\d+)-[0-9a-f]+")
#: The most names of waiting items that a status shows, and the most items that are looked at for them.
_NAMES, _LOOKED_AT = 50, 2000
_SCRIPTS = ("batch_worker.py", "hypervisor_cli.py")


def active_items(
    running: list[Running], timeline: Timeline, now: float, *, name_of: Callable[[Running], str], folder: str
) -> list[dict[str, Any]]:
    """Return the items in work: name, who, since when, and when there was output last.

    Args:
        running: As `store.batches.Batches.running` returns it.
        timeline: The batch's run events.
        now: Seconds since the epoch, by the store's clock.
        name_of: What people call an item.
        folder: The batch's folder, below which logs lie.
    """
    return [
        {
            "name": name_of(one),
            "who": worker_label(one.worker, one.name, one.agent),
            "worker": one.worker,
            "attempt": one.number,
            "since": round(one.claimed_at / 1000, 3),
            **_output(one, now, folder),
            **({"overseer": timeline.overseen[one.attempt]} if one.attempt in timeline.overseen else {}),
        }
        for one in running
    ]


def _output(one: Running, now: float, folder: str) -> dict[str, float]:
    """Return how long ago an agent's log grew, where it has one: seconds since then or since it began."""
    if not one.log:
        return {}
    silent = [now - one.claimed_at / 1000, *(time.time() - at for at in _written(log_stem(folder, one.log)))]
    return {"output_ago": round(max(0.0, min(silent)), 1)}


def log_stem(folder: str, log: str) -> str:
    """Return the path of a log without its ending; "" for one that does not lie below the batch's folder."""
    if not log:
        return ""
    path = os.path.normpath(os.path.join(folder, log))
    return path if path.startswith(folder.rstrip("/") + "/") else ""


def _written(stem: str) -> Iterator[float]:
    """Yield when each of the files of an agent's output was last written to."""
    folder, name = os.path.split(stem)
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder) if stem else ():
            if entry.startswith(f"{name}."):
                yield os.stat(os.path.join(folder, entry)).st_mtime


def worker_label(worker: str, name: str, agent: str = "") -> str:
    """Return what people call a worker: a process of `batch_worker.py` by its id, an agent by its name."""
    if worker.startswith(_PROCESS) or not name:
        return printable_line(worker, 80)
    return f"{printable_line(name, 80)} {printable_line(agent, 12)}".strip()


def idle_workers(store: Store, batch: int, busy: Collection[str]) -> list[str]:
    """Return the worker processes that have worked on the batch, live, and hold nothing at the moment."""
    living = [one for one in living_workers(store) if one.startswith(_PROCESS) and one not in busy]
    return sorted(store.progress.took_part(batch, living))


def living_workers(store: Store) -> list[str]:
    """Return the ids of the living worker processes of the store; those of other machines hold nothing."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        names = [name.removesuffix(_LOCK) for name in os.listdir(store.workers) if name.endswith(_LOCK)]
        found = [one for one in names if not one.startswith(".") and lock_state(store.workers, one) == "held"]
    if store.shared:
        found += idle_elsewhere(store.engine, host_name(), silent_after(store.settings))
    return found


def coordinator_lives(store: Store, timeline: Timeline) -> bool:
    """Return whether the coordinator that started the batch last still works on it, on whatever machine."""
    worker = timeline.coordinator
    if not worker or "/" in worker:
        return False
    state = lock_state(store.workers, worker)
    if state == "missing" and store.shared:  # of another machine, or of another clone on this one
        heard = coordinator_heard(store.engine, worker)
        return heard is not None and heard <= silent_after(store.settings)
    return state == "held"


def killed_run(store: Store, timeline: Timeline) -> str:
    """Return the id of the coordinator that started the batch last and was killed; "" if none was."""
    worker = timeline.coordinator
    return worker if worker and "/" not in worker and not coordinator_lives(store, timeline) else ""


def command_of(workers: Collection[str]) -> str:
    """Return the command that worker processes of this machine were started with; "" if none is found."""
    for worker in sorted(workers):
        found = _OF_PROCESS.fullmatch(worker)
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(int(found[1])) if found else None
            parent = process.parent() if process is not None else None
            # A worker of a pool is shown as what its user has typed: the pool.
            for one in (parent, process):
                words = one.cmdline() if one is not None else []
                at = next((n for n, word in enumerate(words[:3]) if word.endswith(_SCRIPTS)), None)
                if at is not None:
                    name = os.path.basename(words[at]).replace("hypervisor_cli.py", "hypervisor")
                    return printable_line(shlex.join([name, *words[at + 1 :]]), 300)
    return ""


def batch_status(batch: Batch, live: LiveIndex | None = None) -> dict[str, Any]:
    """Return where a batch stands: the census, who runs what, what waits, and why some of it cannot start.

    Args:
        batch: The batch.
        live: The index of a process that stays.
    """
    batch.store.rescuer.rescue_now_and_then()
    if batch.project is None:
        return _batch_status(batch, None)
    settings = settings_of(batch.project.state)
    catalog = TaskCatalog(batch.project, settings, Actor(name=""), batch.store, live=live)
    with catalog.view() as view:
        return _batch_status(batch, view)


def _batch_status(batch: Batch, view: CatalogView | None) -> dict[str, Any]:
    census, timeline = take_census(batch), timeline_of(batch)
    left = census.of("running") + census.of("waiting")
    waiting, not_ready = _waiting(batch, view) if census.of("waiting") else ([], {})
    spent = batch.store.progress.spending(batch.number)
    return {
        "batch_id": batch.id,
        "census": census.to_json(),
        "closes": census.closes,
        "finished": left == 0 and census.closes,
        "running": _running(batch, view, timeline),
        "waiting": waiting,
        **({"not_ready": not_ready} if not_ready else {}),
        **({"level": timeline.level} if timeline.level else {}),
        **({"held_up": timeline.held_up} if timeline.held_up else {}),
        # Null where no agent has reported any: unknown is not zero.
        "cost_usd": spent.cost_usd,
    }


def timeline_of(batch: Batch) -> Timeline:
    """Return the events of a batch's runs so far."""
    timeline = Timeline()
    for event in batch.store.events.since(0, batch=batch.number):
        timeline.add(event)
    return timeline


def _waiting(batch: Batch, view: CatalogView | None) -> tuple[list[str], dict[str, str]]:
    """Return the first items that may start, and the first that may not, each with the reason."""
    ready: list[str] = []
    not_ready: dict[str, str] = {}
    for number, item in enumerate(batch.store.batches.items(batch.number, ("ready",))):
        if number >= _LOOKED_AT or min(len(ready), len(not_ready)) >= _NAMES:
            break
        ref = batch.ref_of(item.work)
        task = view.at_path(ref.path) if view is not None and ref.task else None
        why = view.eligibility(task) if view is not None and task is not None else None
        if task is None or why is None:
            ready.append(task.id if task is not None else ref.item)
        elif len(not_ready) < _NAMES:
            not_ready[task.id] = why
    return ready[:_NAMES], not_ready


def _running(batch: Batch, view: CatalogView | None, timeline: Timeline) -> list[dict[str, Any]]:
    def name_of(one: Running) -> str:
        ref = batch.ref_by(one.key, one.text)
        task = view.at_path(ref.path) if view is not None and ref.task else None
        return task.id if task is not None else ref.item

    running, now = batch.store.batches.running(batch.number), batch.store.progress.now()
    rows = active_items(running, timeline, now, name_of=name_of, folder=batch.folder)
    return [
        {
            "item": row["name"], "holder": row["who"], "attempt": row["attempt"],
            "seconds": round(max(0.0, now - row["since"]), 1), "attempts_before": one.number - 1,
            **({"output_seconds_ago": row["output_ago"]} if "output_ago" in row else {}),
            **({"log": one.log} if one.log else {}),
            **({"overseer": row["overseer"]} if "overseer" in row else {}),
        }
        for row, one in zip(rows, running, strict=True)
    ]  # fmt: skip


@dataclass(slots=True)
class MachineLook:
    """Reads the state of this machine on demand, where no run reports it."""

    sampler: Sampler
    tracker: ZoneTracker

    @classmethod
    def of(cls, batch: Batch) -> MachineLook:
        """Return one that judges by the settings of the batch's project.

        Raises:
            ConfigError: A setting makes no sense.
        """
        settings = settings_of(batch.project.state if batch.project else None)
        return cls(Sampler(batch.folder), ZoneTracker(ZoneBounds.of(settings["machine"], cpu=True)))

    def zone(self) -> dict[str, Any]:
        """Return zone and figures as of now, in the shape of a report's ``zone``."""
        state = self.tracker.read(self.sampler.read())
        figures = state.reading.figures()
        return {
            "word": state.zone.word, "why": state.why, "at": round(time.time(), 3),
            **{name: figures.get(name) for name in FIGURES},
        }  # fmt: skip
