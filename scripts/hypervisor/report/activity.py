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

from ..core.settings import settings_of
from ..core.text import printable_line
from ..monitor.metrics import Sampler
from ..monitor.zones import ZoneBounds, ZoneTracker
from ..queue.batch import Batch
from ..store.batches import Running
from ..store.liveness import lock_state
from ..store.store import Store
from .timeline import FIGURES, Timeline

#: The name with which the ids of `batch_worker.py`'s processes begin.
_PROCESS = "worker-"
_LOCK = ".lock"
#: The id of a worker process, with its pid.
_OF_PROCESS = re.compile(r"(?:worker|run)-(\d+)-[0-9a-f]+")
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
    """Return the ids of the worker processes of the store that live on this machine."""
    with contextlib.suppress(OSError):
        names = [name.removesuffix(_LOCK) for name in os.listdir(store.workers) if name.endswith(_LOCK)]
        return [one for one in names if not one.startswith(".") and lock_state(store.workers, one) == "held"]
    return []


def coordinator_lives(store: Store, timeline: Timeline) -> bool:
    """Return whether the coordinator that started the batch last still works on it, on this machine."""
    worker = timeline.coordinator
    return bool(worker) and "/" not in worker and lock_state(store.workers, worker) == "held"


def killed_run(store: Store, timeline: Timeline) -> str:
    """Return the id of the coordinator that started the batch last and was killed; "" if none was."""
    worker = timeline.coordinator
    # One of another machine is not looked for here.
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
