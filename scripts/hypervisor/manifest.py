"""What all workers of a batch must agree on: its manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .core import clock
from .core.errors import UsageError
from .core.paths import Project

SEPARATORS = {"newline": b"\n", "nul": b"\0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What all workers of a batch must agree on; written once."""

    #: Absolute path of the folder that relative items are relative to.
    base: str
    #: The queue file: absolute, or relative to the batch's folder.
    queue: str = "queue.txt"
    #: ``newline`` or ``nul``: what ends an item.
    separator: str = "newline"
    #: Whether every markdown file of the queue is a task, or only those of the project's globs.
    tasks: bool = False
    created: str = ""
    #: Items left out before the start, and why: ``{"item": ..., "reason": ...}``.
    skipped: tuple[Mapping[str, str], ...] = ()
    #: Tools that act on many items, as `gates.matches` reads them: nobody uses one before it is approved.
    bulk: Sequence[str] = ()


def task_manifest(project: Project, skipped: Iterable[tuple[str, str]]) -> Manifest:
    """Return the manifest of a batch of tasks of *project*."""
    return Manifest(
        base=str(project.root.resolve()),
        separator="nul",
        tasks=True,
        created=clock.now_text(),
        skipped=tuple({"item": item, "reason": why} for item, why in skipped),
    )


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest at *path*, None if there is none.

    Raises:
        UsageError: It is damaged, or something else.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        known = {key: data[key] for key in Manifest.__dataclass_fields__ if key in data}
        manifest = Manifest(**known)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: not a batch's manifest ({error}); move it away to begin anew") from error
    if manifest.separator not in SEPARATORS or not isinstance(manifest.base, str):
        raise UsageError(f"{path}: not a batch's manifest; move it away to begin anew")
    return manifest


def to_json(manifest: Manifest) -> bytes:
    """Return what stands in a manifest's file."""
    return (json.dumps(asdict(manifest), indent=1) + "\n").encode()
