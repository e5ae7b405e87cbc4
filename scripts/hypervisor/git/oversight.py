"""The user's checkout while agents run: what changed there, and was brought by no coordinator."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ..core.files import matches_any
from ..core.project import Project
from .checkout import Snapshot, changed
from .git import locked
from .git_folder import GitFolder, is_merge_branch
from .repository import Repository

#: What an edit of ours, or an editor, calls the file that it keeps beside the one it changes: a draft, a
#: swap file, a lock, a backup (vim, emacs, nano, kate, JetBrains, gedit, Word).
_BESIDE = re.compile(
    r"\.(.+)\.(?:[0-9a-f]{16}\.tmp|sw[a-z]|kate-swp|[A-Za-z0-9]{6})|(.+)(?:~|\.~\d+~|\.bak|\.orig|\.tmp|\.swp)"
    r"|\.#(.+)|#(.+)#|~\$(.+)|(.+)___jb_(?:tmp|old)___"
)
#: Names that editors try whether they can write in a folder, or save through; they bear no other name.
_PROBE = re.compile(r"4913|\.goutputstream-\w{6}")


@contextlib.contextmanager
def checkout_lock(project: Project) -> Iterator[None]:
    """Hold that nobody looks at the user's checkout while a coordinator moves it on."""
    with locked(project.state / "checkout.lock"):
        yield


class CheckoutWatch:
    """Looks at the user's checkout before and after attempts. Thread-safe.

    Args:
        project: The project.
        repository: Its repository.
        ignore: Tells the paths that do not count.
        known: Tells whether a run put a commit on a branch; with ``home=True``, on the user's.
    """

    def __init__(
        self,
        project: Project,
        repository: Repository,
        ignore: Callable[[str], bool],
        known: Callable[..., bool],
    ) -> None:
        self._project, self._repository = project, repository
        self._ignore, self._known = ignore, known
        self._folder = GitFolder(repository)
        self._lock = threading.Lock()
        self._newest: tuple[float, Snapshot] | None = None

    def look(self) -> Snapshot:
        """Return what the checkout is like; who asks at once gets the same answer, begun after they asked."""
        asked = time.monotonic()
        with self._lock:
            if self._newest is None or self._newest[0] <= asked:
                with checkout_lock(self._project):
                    began = time.monotonic()
                    self._newest = (began, Snapshot.take(self._repository, self._ignore, self._folder))
            return self._newest[1]

    def changed_since(self, before: Snapshot) -> list[str]:
        """Return what changed in the checkout, but for work that a coordinator brought there."""
        after = self.look()
        moved = after.head != before.head and self._known(after.head, home=True)
        if moved:
            after = replace(after, head=before.head)
        names = {*before.git, *after.git}
        ours = {
            name for name in names if self._is_ours(before, name, before.git.get(name), after.git.get(name))
        }
        kept = [{name: at for name, at in one.git.items() if name not in ours} for one in (before, after)]
        return changed(replace(before, git=kept[0]), replace(after, git=kept[1]))

    def _is_ours(self, before: Snapshot, name: str, was: str | None, now: str | None) -> bool:
        """Tell whether it was a coordinator that changed something in the git folder."""
        if was == now:
            return False
        if is_merge_branch(name):  # deleted once it is merged; begun at a commit that was there before
            return self._known(now or was) or now == before.head
        return name == f"refs/heads/{before.branch}" and now is not None and self._known(now, home=True)


def is_ours(path: str, globs: Sequence[str]) -> bool:
    """Tell whether a path below the root is no work: a task file, which *globs* name, or the state of a tool.

    So is what an editor keeps beside a task file while a person has it open.
    """
    folder, _, name = path.rpartition("/")
    if path.split("/", 1)[0] in (".hypervisor", ".claude") or matches_any(path, globs):
        return True
    if _PROBE.fullmatch(name):
        name = "probe.md"
    elif found := _BESIDE.fullmatch(name):
        name = next(filter(None, found.groups()))
    else:
        return False
    return matches_any(f"{folder}/{name}" if folder else name, globs)
