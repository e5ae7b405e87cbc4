"""The user's checkout while agents run: what changed there, and was brought by no coordinator."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ..core.files import matches_any
from ..core.project import Project
from .checkout import Snapshot, changed
from .git import locked

#: What `durable.replace` calls a file that is to take another's place.
_DRAFT = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp")


@contextlib.contextmanager
def checkout_lock(project: Project) -> Iterator[None]:
    """Hold that nobody looks at the user's checkout while a coordinator moves it on."""
    with locked(project.state / "checkout.lock"):
        yield


def look(project: Project, ignore: Callable[[str], bool]) -> Snapshot:
    """Look at the user's checkout; paths that *ignore* names are left out."""
    with checkout_lock(project):
        return Snapshot.take(project.root, ignore)


def changed_since(
    project: Project, ignore: Callable[[str], bool], before: Snapshot, moved: Callable[[str], bool]
) -> list[str]:
    """Return what changed in the user's checkout, but for work that a coordinator brought there.

    Args:
        project: The project.
        ignore: Tells the paths that do not count.
        before: What the checkout was like.
        moved: Tells whether a coordinator moved the user's branch to a commit.
    """
    after = look(project, ignore)
    if after.head != before.head and moved(after.head):
        after = replace(after, head=before.head)
    return changed(before, after)


def is_ours(path: str, globs: Sequence[str]) -> bool:
    """Tell whether a path below the root is a task file, which *globs* name, or the state of a tool."""
    folder, _, name = path.rpartition("/")
    if draft := _DRAFT.fullmatch(name):  # of an edit of ours that is under way
        path = f"{folder}/{draft[1]}" if folder else draft[1]
    return path.split("/", 1)[0] in (".hypervisor", ".claude") or matches_any(path, globs)
