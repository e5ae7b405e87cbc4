"""Publication of results: what a decided result implies is written to files, then noted in the store.

A result is committed first, with the edit of its task file in it; the file is edited next; ``published_at``
is set last. A crash in between leaves a decided, unpublished result, and whoever opens, claims or lists next
publishes it *before* looking at the file. So a file that says ``active`` after publication was reopened by
its owner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..store.records import Work
from ..store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class NotChanged:
    """A part of an edit that was left out: the file's owner changed the same place since."""

    path: str
    why: str


def publish(store: Store, works: Sequence[Work]) -> list[NotChanged]:
    """Write what the results of decided *works* imply, and set them published.

    Edits the task files (all together: temporary files, fsync in parallel, rename, one fsync a folder),
    sets the tasks of given-up work to blocked, and writes ``results/<key>.json`` where there is a folder
    ``results``. May be repeated: an edit that was applied is not applied twice, and one that no longer fits
    is left out and told on standard error: the file's owner was there last.

    Raises:
        OSError: A file could not be written; the results stay unpublished, for the next call.
    """
    raise NotImplementedError


def publish_pending(store: Store) -> int:
    """Publish all results that are decided and unpublished; return how many there were."""
    raise NotImplementedError


def restore(store: Store, works: Iterable[int] = ()) -> list[int]:
    """Take back in task files what ended attempts wrote there, and note it (`Claims.set_restored`).

    Only attempts that ended without a result, of work that is ready; a file that says something else by
    now is left alone.

    Args:
        store: The store.
        works: Which work; all of the store by default.

    Returns:
        The work of which a file is restored.
    """
    raise NotImplementedError


def take_back(store: Store, work: Work) -> list[NotChanged]:
    """Undo in a task file what one cycle's result and claims changed, the latest change first."""
    raise NotImplementedError
