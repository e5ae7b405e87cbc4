"""A private clone for each attempt: what an agent does there reaches nothing of the user's.

Its branch comes to the user's repository when the agent has ended. From then on the work lives there, and
the clone may go.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import Refused
from ..core.files import is_folder, remove_tree
from .git import Git, GitError, begun_in, shown
from .private_folder import PrivateFolder
from .work import Gathered, Opened, Tree
from .workspaces import Workspaces


@dataclass(frozen=True, slots=True)
class Clones(Workspaces):
    """The clones of one batch."""

    def open(self, task: str, attempt: int | str, base: str, place: Path | None = None) -> Tree:
        """See `Workspaces.open`."""
        name = self._name(task, attempt)
        path = place or self.folder.absolute() / name
        tree = self._read(self._record(name))
        if tree is not None and is_folder(tree.path):
            return tree
        start = tree.base if tree is not None else self._start(base)
        # Without a place it is the debris of a crash in here: nobody has worked in it.
        remove_tree(place / ".git" if place else path)
        branch = f"hypervisor/{self.batch}/{name}"
        made = Tree(path=path, branch=branch, base=start, task=task, kind="clone")
        tip = self.repository.git().commit(made.ref) if tree is not None else ""  # its folder was deleted
        private = self._private(made)
        private.make(f"ref: {made.ref}", {made.ref: tip or start})
        private.check_out(tip or start)
        self._include(made)
        if tree != made:
            self._write(made)
        return made

    def close(self, tree: Tree, gathered: Gathered, *, merged: bool, keep_files: bool = False) -> bool:
        """See `Workspaces.close`."""
        if not gathered.is_all:
            return False
        with contextlib.suppress(OSError):
            if not keep_files:
                remove_tree(tree.path)
            if merged or not gathered.commits:
                self._record(tree.name).unlink(missing_ok=True)
            elif keep_files:  # its work is on its branch; the folder is another's from now on
                self._write(replace(tree, path=self.folder.absolute() / tree.name))
            return True
        return False

    def remove(self, tree: Tree, merged_into: str | None = None, *, dry_run: bool = False) -> None:
        """See `Workspaces.remove`. A clone whose branch is in the user's repository goes in any case."""
        main = self.repository.git()
        into = main.commit(merged_into) if merged_into else ""
        if merged_into and not into:
            raise Refused(f"{merged_into}: no such branch or commit")
        if is_folder(tree.path):
            if not tree.merging:
                self._must_be_home(tree)
            if not dry_run:
                remove_tree(tree.path)
        tip = main.commit(tree.ref)
        if tip:
            merged = ("--not", tree.base, *([into] if into else []))
            commits = main.lines("rev-list", tip, *merged, nul=False)
            if commits and not tree.spare:
                raise Refused(
                    f"{tree.branch} has {len(commits)} unmerged commit(s), the newest {commits[0][:12]}"
                )
            if not dry_run:
                main.run("update-ref", "-d", tree.ref, tip)
        if not dry_run:
            self._record(tree.name).unlink(missing_ok=True)

    # ---------------------------------------------------------------- details

    def _private(self, tree: Tree) -> PrivateFolder:
        return PrivateFolder(repository=self.repository, path=tree.path)

    def _must_be_home(self, tree: Tree) -> None:
        """Bring a clone's branch to the user's repository; raise where that is not all that is in it."""
        at = self._mend(tree)
        assert at is not None  # noqa: S101 - there is a folder
        status = at.git.status()
        if status.entries:
            more = f" and {len(status.entries) - 1} more" if len(status.entries) > 1 else ""
            raise Refused(f"{tree.path} has uncommitted changes: {shown(status.entries[0].path)}{more}")
        begun = begun_in(at.folder)
        if begun and begun != "bisect":
            raise Refused(f"{tree.path} has a {begun} in progress")
        tip = status.head if status.branch == tree.branch else at.git.commit(tree.ref)
        stray = self._own(tree, at.git, status, tip)
        if stray:
            on = status.branch or "no branch"
            raise Refused(f"{tree.path} has {len(stray)} commit(s) on {on}, the newest {stray[-1][:12]}")
        why, beside = self._bring(tree, at, tip)
        if why:
            raise Refused(f"{tree.path} has commits that cannot be fetched: {why}")
        if beside:
            raise Refused(f"{tree.path} has {', '.join(beside)}")

    def _mend(self, tree: Tree) -> Opened | None:
        if not self._is_there(tree):
            return None
        private = self._private(tree)
        if not private.restore():
            # Its git folder is gone, or is another one. The files stay, and are compared with the base.
            if os.path.lexists(private.folder):
                os.rename(private.folder, self._free_aside(tree))
            private.make(f"ref: {tree.ref}", {tree.ref: tree.base})
            private.git.run("read-tree", tree.base)
        if tree.ref not in dict(private.refs()):  # deleted by its agent
            private.set_ref(tree.ref, tree.base)

        def move(new: str, _: str) -> None:
            private.set_ref(tree.ref, new)

        return Opened(git=private.git, folder=private.folder, branches=private.git, move=move)

    def _others(self) -> list[str]:
        return self.repository.git().lines("for-each-ref", "--format=%(objectname)", nul=False)

    def _bring(self, tree: Tree, at: Opened, tip: str) -> tuple[str, tuple[str, ...]]:
        why = self._fetched(tree, tip) if tip and tip != tree.base else ""
        return why, self._beside(tree, at.git, tip)

    def _fetched(self, tree: Tree, tip: str) -> str:
        """Fetch a clone's branch; return why that cannot be done, "" if it was."""
        main = self.repository.git()
        try:
            self._private(tree).send(tip, tree.base)
            try:
                main.run("update-ref", "-m", "hypervisor: fetch", tree.ref, tip, "")
            except GitError:
                old = main.commit(tree.ref)  # of an earlier look, or somebody's
                if not old or not main.contains(tip, old):
                    raise
                main.run("update-ref", "-m", "hypervisor: fetch", tree.ref, tip, old)
        except GitError as error:
            if "No space left" in str(error):
                raise
            return " ".join(str(error).split())
        return ""

    def _beside(self, tree: Tree, git: Git, tip: str) -> tuple[str, ...]:
        """Return what would be lost with a clone although it is committed, in words."""
        aside = self._aside(tree)
        found = [f"its former git folder in {aside}"] if os.path.lexists(aside) else []
        mine = (tip, tree.base)
        refs = sorted(self._private(tree).refs())
        others = [(ref, at) for ref, at in refs if ref != tree.ref and at not in mine]
        if others:
            known = "".join(f"^{at}\n" for at in (*mine, *self._others()) if at)
            for ref, at in others:
                asked = f"{at}\n{known}"
                if commits := git.run("rev-list", "--ignore-missing", "--stdin", input=asked).split():
                    found.append(f"{len(commits)} commit(s) on {ref.removeprefix('refs/heads/')}")
        return tuple(found)

    def _aside(self, tree: Tree) -> Path:
        return self.folder.absolute() / ".trees" / f"{tree.name}.git"

    def _free_aside(self, tree: Tree) -> Path:
        place = self._aside(tree)
        number = 1
        while os.path.lexists(place):
            number += 1
            place = place.with_name(f"{tree.name}.git.{number}")
        return place
