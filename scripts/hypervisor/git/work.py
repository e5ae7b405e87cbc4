"""What an agent left in its folder: commits, changes that are not committed, and what is elsewhere.

All names of files are relative to the project root, which may be a folder inside the repository;
what lies outside of it begins with ``../``.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..core.files import matches_any
from ..core.project import STATE
from .git import Entry, Git, from_top

#: The new mode of a link, in a line of git's raw form.
_LINK = " 120000 "
#: How changes are told: plainly, whatever the user's settings say.
_RAW = ("--raw", "--no-abbrev", "--no-renames", "--ignore-submodules=none", "--no-ext-diff", "-z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A folder in which an agent works on one task: a clone or a worktree."""

    path: Path
    branch: str
    #: The commit that it began from.
    base: str
    #: The task's id.
    task: str
    kind: Literal["clone", "worktree"]
    #: Whether its work may be discarded, as another's is merged.
    spare: bool = False
    #: The commit that its agent is to merge into the branch, "" for none: both are kept elsewhere too.
    merging: str = ""
    #: Branches and tags of the user's that could be moved from it, with what they named as it was made.
    known: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def ref(self) -> str:
        """The full name of its branch."""
        return f"refs/heads/{self.branch}"

    @property
    def name(self) -> str:
        """Its name among the folders of its batch."""
        return self.branch.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A folder that git can be run in."""

    git: Git
    #: Its git folder.
    folder: Path
    #: Git where the tree's branch is kept while its agent works.
    branches: Git
    #: Moves the tree's branch from the second commit to the first.
    move: Callable[[str, str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentWork:
    """What an agent left."""

    #: Commits on its branch beyond the base, oldest first.
    commits: tuple[str, ...] = ()
    #: Files that they change, all told; of a rename both names.
    files: tuple[str, ...] = ()
    #: Those of the files that are submodules.
    submodules: tuple[str, ...] = ()
    #: Those that are links to what is outside of the repository.
    leads_out: tuple[str, ...] = ()
    #: Changes that are not committed, untracked files among them; a nested repository ends in "/".
    uncommitted: tuple[str, ...] = ()
    #: The branch that is checked out; None if HEAD is detached.
    on: str | None = None
    #: Commits that HEAD has and no branch had before, and that are not on the tree's branch.
    astray: tuple[str, ...] = ()
    #: What was begun and not ended: "merge", "rebase" ...; "" if nothing.
    begun: str = ""
    #: Files in conflict.
    conflicts: tuple[str, ...] = ()
    #: Whether the folder is gone.
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What came home, and what did not."""

    #: The project's folder there.
    place: Path
    #: Commits on the branch beyond the base, oldest first.
    commits: tuple[str, ...] = ()
    #: Files that they change.
    files: tuple[str, ...] = ()
    #: Those that are links to what is outside of the repository.
    leads_out: tuple[str, ...] = ()
    #: The commit made for the agent, or "".
    made: str = ""
    #: Changes left uncommitted because they are not to be kept.
    outside: tuple[str, ...] = ()
    #: Changes left uncommitted because they could not be put on the branch.
    left: tuple[str, ...] = ()
    #: Commits elsewhere that could not be put on the branch.
    astray: tuple[str, ...] = ()
    #: What was begun and not ended.
    begun: str = ""
    conflicts: tuple[str, ...] = ()
    #: What else would be lost with the folder, in words: commits on other branches, stashes.
    beside: tuple[str, ...] = ()

    @property
    def is_all(self) -> bool:
        """Whether nothing is left in the folder that is not on the branch."""
        return not (self.outside or self.left or self.astray or self.begun or self.conflicts or self.beside)


def in_scope(path: str, files: Sequence[str], is_task_file: Callable[[str], bool] = lambda _: False) -> bool:
    """Tell whether a task with *files* may touch *path*; both relative to the project root.

    A folder means all below it. No files at all means everything in the project but task files.
    What is below ``.hypervisor/`` is in nobody's scope.
    """
    path = path.rstrip("/")
    if path.split("/")[0] == STATE:
        return False
    if not files:
        return not path.startswith("../") and not is_task_file(path)
    above = [path[:at] for at, letter in enumerate(path) if letter == "/"]
    for entry in files:
        plain = posixpath.normpath(entry)
        if plain == "." and not path.startswith("../"):
            return True
        if plain in (path, *above) or any(matches_any(name, [plain]) for name in (path, *above)):
            return True
    return False


def own_commits(
    git: Git, tree: Tree, head: str, on: str | None, others: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return the commits of *head*, which is checked out, that are new and not on the tree's branch.

    Args:
        git: Git in the folder.
        tree: The folder.
        head: The commit that is checked out, "" before the first one.
        on: The branch that is checked out.
        others: Commits that are known not to be new.

    Returns:
        The commits, oldest first.
    """
    if not head or on == tree.branch:
        return ()
    known = {tree.base, *others, *tree.known.values()}
    for line in git.lines("for-each-ref", "--format=%(objectname) %(refname)", nul=False):
        at, _, ref = line.partition(" ")
        old = ref in tree.known and ref != f"refs/heads/{on}"
        if old or ref.startswith(("refs/heads/hypervisor/", "refs/remotes/")):
            known.add(at)
    asked = "".join(f"^{at}\n" for at in sorted(known))
    found = git.run("rev-list", "--reverse", "--ignore-missing", "--stdin", input=f"{head}\n{asked}")
    return tuple(found.split())


def committed(git: Git, base: str, tip: str, prefix: str) -> AgentWork:
    """Return the commits from *base* to *tip*, and what they do to files."""
    commits: list[str] = []
    parents: list[str] = []
    raw: list[str] = []
    words = ("--reverse", "--topo-order", "--format=%H %P", "--no-show-signature", "--no-notes", *_RAW)
    fields = iter(git.lines("log", *words, f"{base}..{tip}", "--"))
    for one in (text.lstrip("\n") for text in fields):
        if one.startswith(":"):
            raw += (one, next(fields))
        else:
            commit, *parents = one.split()
            commits.append(commit)
    if not (commits == [tip] and parents == [base]) and tip != base:  # the sum of several, or of a merge
        start = git.run("merge-base", base, tip, check=False) or git.run(
            "hash-object", "-t", "tree", "--stdin"
        )
        raw = git.lines("diff", *_RAW, start, tip, "--")
    pairs = [(head, from_top(top, prefix)) for head, top in zip(raw[::2], raw[1::2], strict=True)]
    links = [(head.split()[3], top) for head, top in zip(raw[::2], raw[1::2], strict=True) if _LINK in head]
    return AgentWork(
        commits=tuple(commits),
        files=tuple(path for _, path in pairs),
        leads_out=tuple(from_top(top, prefix) for blob, top in links if _leads_out(git, blob, top)),
        submodules=tuple(path for head, path in pairs if "160000" in head.removeprefix(":").split()[:2]),
    )


def _leads_out(git: Git, blob: str, path: str) -> bool:
    """Tell whether the link *path* (from the top), whose content is *blob*, leads out of the repository."""
    target = git.run("cat-file", "blob", blob)
    return posixpath.normpath(posixpath.join("/top", posixpath.dirname(path), target)).split("/")[1] != "top"


def commit_files(
    at: Opened, tree: Tree, message: str, entries: Sequence[Entry], parents: Sequence[str], *, staged: bool
) -> str:
    """Commit files as they are, and nothing else that the index may have.

    Args:
        at: The folder.
        tree: What is known of it.
        message: The message of the commit.
        entries: The files.
        parents: The commit that is checked out; for a merge that is in progress the other one as well.
        staged: Whether the index has changes; they stay in it.

    Returns:
        The commit, "" if the files are as *head* has them.
    """
    git, folder = at.git, at.folder
    gone: list[str] = []
    there: list[str] = []
    top, head = tree.path.resolve(), parents[0]
    for entry in entries:
        name = top / entry.path
        is_there = os.path.lexists(name) and name.parent.resolve() == name.parent
        (there if is_there else gone).append(f"{entry.path}\0")
    with tempfile.TemporaryDirectory(dir=folder) as spare:
        index = Path(spare) / "index"
        other = replace(git, environment={**git.environment, "GIT_INDEX_FILE": str(index)})
        if staged:
            other.run("read-tree", head)
        else:
            shutil.copyfile(folder / "index", index)
        _update_index(other, gone, there)
        made = other.run("write-tree")
        # A file that comes or goes is a change; one that differs may be the same to git.
        sure = any(entry.code in ("??", ".D") for entry in entries)
        if not sure and len(parents) == 1 and made == git.run("rev-parse", f"{head}^{{tree}}"):
            return ""
        words = [word for parent in parents for word in ("-p", parent)]
        commit = git.run("commit-tree", made, *words, input=message)
        at.move(commit, head)
        if staged:
            _update_index(git, gone, there)
        else:
            os.replace(index, folder / "index")
    return commit


def _update_index(git: Git, gone: Sequence[str], there: Sequence[str]) -> None:
    if gone:
        git.run("update-index", "--force-remove", "-z", "--stdin", input="".join(gone))
    if there:
        git.run("update-index", "--add", "--remove", "--replace", "-z", "--stdin", input="".join(there))
