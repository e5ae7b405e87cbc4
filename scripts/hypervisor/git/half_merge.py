"""A merge that is begun in an agent's folder, for the agent to finish; concluded for it where it did not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace

from .git import Entry, Git, GitError, begun_in
from .work import Opened, Tree, commit_files

#: git's exit codes of a merge that is in progress: clean, and with conflicts.
_BEGUN = (0, 1)
#: How the lines begin that git puts around both sides of a conflict.
_MARKERS = ("<<<<<<< ", ">>>>>>> ")


def begin_merge(at: Opened, commit: str) -> None:
    """Begin to merge *commit* into what is checked out, and leave the merge in progress.

    Raises:
        GitError: It cannot be begun.
    """
    git = replace(at.git, settings=(*at.git.settings, "merge.conflictStyle=merge"))
    code, out, said = git.answer("merge", "--no-commit", "--no-ff", "-q", commit)
    if code not in _BEGUN or begun_in(at.folder) != "merge":
        raise GitError(f"git merge {commit[:12]}: {said.strip() or out.strip() or f'exit {code}'}")


def conclude_merge(at: Opened, tree: Tree, head: str, message: str, entries: Sequence[Entry]) -> str:
    """Commit the merge that is in progress in a folder, with both parents; return the commit.

    What is in conflict still is committed as it is: see `marked_files`.

    Args:
        at: The folder.
        tree: What is known of it; `Tree.merging` is the second parent.
        head: The commit that is checked out.
        message: The message of the commit.
        entries: The files that are taken as they are, whatever the index has.
    """
    made = commit_files(at, tree, message, entries, (head, tree.merging), staged=False)
    for name in ("MERGE_HEAD", "MERGE_MSG", "MERGE_MODE", "AUTO_MERGE"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(at.folder / name)
    return made


def is_merging(at: Opened, tree: Tree) -> bool:
    """Tell whether the merge that was begun in a folder is still in progress there."""
    if not tree.merging or begun_in(at.folder) != "merge":
        return False
    return (at.folder / "MERGE_HEAD").read_text("ascii", "replace").split() == [tree.merging]


def marked_files(git: Git, tip: str, sides: tuple[str, str]) -> tuple[str, ...]:
    """Return the files of a merge in which conflict markers were left, by their paths from the top.

    Args:
        git: Git in a repository that has all three.
        tip: The merge commit.
        sides: Both commits that it merges; a file with markers on one side may have them.
    """
    found = [set(_with_markers(git, commit)) for commit in (tip, *sides)]
    return tuple(sorted(found[0] - found[1] - found[2]))


def _with_markers(git: Git, commit: str) -> list[str]:
    patterns = [word for mark in _MARKERS for word in ("-e", f"^{mark}")]
    code, out, said = git.answer("grep", "-l", "-z", "-I", "--full-name", *patterns, commit, "--", ":/")
    if code > 1:
        raise GitError(f"git grep: {said.strip()}")
    return [line.partition(":")[2] for line in out.split("\0") if line]
