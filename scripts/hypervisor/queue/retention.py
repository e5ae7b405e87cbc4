"""How long outputs are kept: compressed once their batch is over, removed by a rule only.

Nothing is removed unless somebody asks for it, with `hypervisor clean`. Results, summaries, manifests,
queues, reports and events are never removed, and nothing of a batch that is not over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import HypervisorError
from ..core.project import Project
from ..runners import outputs
from .batch import Batch
from .batches import all_of, open_folder, store_of
from .summary import Census, take_census

_DAY_SECONDS = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRule:
    """Which outputs may go."""

    #: Those of batches whose newest output is older than this, in seconds; None for no such rule.
    older_than: float | None = None
    #: The oldest batches', while the outputs of all batches together are larger than this, in bytes; or None.
    larger_than: int | None = None

    @property
    def removes(self) -> bool:
        """Whether there is anything that it removes."""
        return self.older_than is not None or self.larger_than is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The outputs of one batch."""

    batch: str
    #: The batch's folder, and the one in which they lie.
    folder: str
    logs: str
    size: outputs.Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Outputs that the rule removes, or would remove if their batch were over."""

    kept: Kept
    why: str
    #: Why they stay all the same; "" if they go.
    stays: str = ""


def rule_of(settings: Mapping[str, Any]) -> RetentionRule:
    """Return the rule of a project's settings, where 0 stands for none."""
    days, size = settings["retention"]["output_days"], settings["retention"]["output_bytes"]
    return RetentionRule(older_than=days * _DAY_SECONDS if days > 0 else None, larger_than=int(size) or None)


def survey(batches: Iterable[tuple[str, str]]) -> list[Kept]:
    """Return the outputs of *batches* (id, folder), the oldest first; batches without any are left out."""
    found = []
    for name, folder in batches:
        logs = os.path.join(folder, "logs")
        size = outputs.measure(logs)
        if size.files:
            found.append(Kept(batch=name, folder=folder, logs=logs, size=size))
    return sorted(found, key=lambda kept: (kept.size.newest, kept.batch))


def batches_of(project: Project) -> list[tuple[str, str]]:
    """Return id and folder of each batch of the project."""
    with store_of(project) as store:
        batches = all_of(project, store) if store is not None else []
    return [(batch.id, batch.folder) for batch in batches]


def choose(
    found: Sequence[Kept], rule: RetentionRule, now: float, unfinished: Callable[[Kept], str]
) -> list[Chosen]:
    """Return what goes by *rule*, the oldest first, and what would if its batch were over.

    Args:
        found: Outputs, the oldest first.
        rule: The rule.
        now: Seconds since the epoch.
        unfinished: Returns why a batch is not over, "" if it is; asked only where the rule applies.
    """
    chosen = []
    total = sum(kept.size.bytes for kept in found)
    for kept in found:
        why = ""
        if rule.older_than is not None and now - kept.size.newest > rule.older_than:
            why = f"older than {in_words_of_time(rule.older_than)}"
        elif rule.larger_than is not None and total > rule.larger_than:
            why = f"all outputs together are larger than {in_words_of_size(rule.larger_than)}"
        if why:
            stays = unfinished(kept)
            total -= 0 if stays else kept.size.bytes
            chosen.append(Chosen(kept=kept, why=why, stays=stays))
    return chosen


def unfinished(folder: str) -> str:
    """Return why the batch in *folder* is not over, "" if it is."""
    try:
        with open_folder(folder, cwd=folder, write=False) as batch:
            return not_over(take_census(batch))
    except (HypervisorError, OSError) as error:  # what cannot be looked at is not known to be over
        return str(error)


def not_over(census: Census) -> str:
    """Return why a batch with this census is not over, "" if it is."""
    if not census.closes:
        return "its census does not close"
    running, waiting = census.of("running"), census.of("waiting")
    left = [f"{number} {word}" for number, word in ((running, "running"), (waiting, "waiting")) if number]
    return f"it is not over: {', '.join(left)}" if left else ""


def compress_if_over(batch: Batch, census: Census, settings: Mapping[str, Any]) -> str:
    """Compress the outputs of a batch that is over, if the settings do not forbid it.

    Returns:
        What is worth telling, in words; "" for nothing. A disk that is full loses nothing, and is told.
    """
    if not settings["retention"]["compress"] or not_over(census):
        return ""
    try:
        packed = outputs.compress(batch.logs)
    except OSError as error:
        return f"outputs in {batch.logs} are not compressed: {error.strerror}; nothing is lost"
    return in_words(packed) if packed.before >= 2**20 else ""


def in_words(packed: outputs.Packed) -> str:
    """Return what compressing came to."""
    before, after = in_words_of_size(packed.before), in_words_of_size(packed.after)
    return f"{packed.files} output(s) compressed: {before} are {after} now"


def in_words_of_size(size: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def in_words_of_time(seconds: float) -> str:
    """Return an age as people read it."""
    for unit, length in (("days", _DAY_SECONDS), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= length:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} seconds"
