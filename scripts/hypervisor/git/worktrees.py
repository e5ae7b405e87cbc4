"""A git worktree for each attempt: it shares refs, settings and stashes with the user's checkout."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import Refused
from ..core.files import is_folder
from .git import Git, GitError, begun_in, locked, shown
from .work import Gathered, Opened, Tree, committed
from .workspaces import Workspaces

#: Refs that an agent in a worktree may move.
_KNOWN = ("refs/heads/", "refs/tags/")


@dataclass(frozen=True, slots=True)
class Worktrees(Workspaces):
    """The worktrees of one batch."""

    def open(self, task: str, attempt: int | str, base: str, place: Path | None = None) -> Tree:
        """See `Workspaces.open`."""
        assert place is None  # noqa: S101 - git keeps a list of worktrees by their folders
        start = self._start(base)
        with locked(self.repository.common / "hypervisor.lock") as keep:
            main = self.repository.git((keep,))
            name = self._name(task, attempt)
            path, branch = self.folder.absolute() / name, f"hypervisor/{self.batch}/{name}"
            tree = self._read(self._record(name))
            if tree is None:  # what stands there is the debris of a crash in here: nobody worked in it
                refs = main.lines("for-each-ref", "--format=%(refname) %(objectname)", nul=False)
                known = dict(line.split(" ", 1) for line in refs if line.startswith(_KNOWN))
                tip = known.pop(f"refs/heads/{branch}", "")
                if tip and not main.contains(start, tip):
                    raise Refused(f"{branch} is there already, with commits of its own; merge or delete it")
                if is_folder(path) or tip:
                    self._discard(main, path)
                main.run("worktree", "add", "-q", "--no-track", "-B", branch, str(path), start)
                tree = Tree(path=path, branch=branch, base=start, task=task, kind="worktree", known=known)
                self._include(tree)
                self._write(tree)
            elif not is_folder(path):  # deleted by hand: the branch has what was committed
                self._discard(main, path)
                new = () if main.exists(tree.ref) else ("-b", branch)
                main.run("worktree", "add", "-q", *new, str(path), start if new else branch)
                self._include(tree)
            return tree

    def close(self, tree: Tree, gathered: Gathered, *, merged: bool, keep_files: bool = False) -> bool:
        """See `Workspaces.close`."""
        assert not keep_files  # noqa: S101 - see `open`
        with contextlib.suppress(Refused):
            self.remove(tree, merged_into=gathered.commits[-1] if merged else None)
        return not is_folder(tree.path)

    def remove(self, tree: Tree, merged_into: str | None = None, *, dry_run: bool = False) -> None:
        """See `Workspaces.remove`. Nothing is removed where anything would be lost."""
        with locked(self.repository.common / "hypervisor.lock"):
            main = self.repository.git()
            at = self._mend(tree)
            into = main.commit(merged_into) if merged_into else ""
            if merged_into and not into:
                raise Refused(f"{merged_into}: no such branch or commit")
            merged = ["--not", tree.base, *([into] if into else [])]
            tip = main.commit(tree.ref)
            commits = main.lines("rev-list", tip, *merged, nul=False) if tip else []
            if commits and not tree.spare:
                raise Refused(
                    f"{tree.branch} has {len(commits)} unmerged commit(s), the newest {commits[0][:12]}"
                )
            if at is not None:
                self._must_be_empty(at, tree, merged)
            if dry_run:
                return
            self._discard(main, tree.path)
            if tip and not any(line == f"branch {tree.ref}" for line in _listed(main)):
                main.run("update-ref", "-d", tree.ref, tip)
            self._record(tree.name).unlink(missing_ok=True)

    # ---------------------------------------------------------------- details

    def _must_be_empty(self, at: Opened, tree: Tree, merged: list[str]) -> None:
        git, folder, status = at.git, at.folder, at.git.status()
        if status.entries:
            more = f" and {len(status.entries) - 1} more" if len(status.entries) > 1 else ""
            raise Refused(f"{tree.path} has uncommitted changes: {shown(status.entries[0].path)}{more}")
        begun = begun_in(folder)
        if begun and begun != "bisect":
            raise Refused(f"{tree.path} has a {begun} in progress")
        if status.branch is None:
            stray = git.lines("rev-list", status.head, *merged, "--branches", "--tags", nul=False)
            if stray:
                raise Refused(
                    f"{tree.path} has {len(stray)} commit(s) on no branch, the newest {stray[0][:12]}"
                )
        if (folder / "modules").is_dir():
            tip = self.repository.git().commit(tree.ref)
            if committed(git, tree.base, tip, self.repository.prefix).submodules:
                raise Refused(f"{tree.path} has submodules whose commits may be nowhere else")

    def _mend(self, tree: Tree) -> Opened | None:
        """Return the worktree, whose ties to the repository are made anew if need be."""
        main = self.repository.git()
        if not main.commit(tree.ref):
            main.run("update-ref", tree.ref, tree.base, "")
        if not self._is_there(tree):
            return None
        git = replace(self.repository.git(cwd=tree.path), ceiling=tree.path.parent)

        def move(new: str, old: str) -> None:
            main.run("update-ref", "-m", "hypervisor: gather", tree.ref, new, old)

        if folder := self._git_folder(git):
            return Opened(git=git, folder=folder, branches=main, move=move)
        main.run("worktree", "repair", str(tree.path), check=False)
        if folder := self._git_folder(git):
            return Opened(git=git, folder=folder, branches=main, move=move)
        # Its entry is gone: a new one is made elsewhere, and moved here. The files stay.
        own = tree.path / ".git"
        if own.is_dir() and not own.is_symlink():
            raise Refused(f"{tree.path} has become a repository of its own; look at it")
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".mend-") as spare:
            main.run("worktree", "prune")
            place = Path(spare) / tree.path.name
            main.run("worktree", "add", "-q", "--force", "--no-checkout", str(place), tree.branch)
            own.unlink(missing_ok=True)
            os.rename(place / ".git", own)
            main.run("worktree", "repair", str(tree.path))
        git.run("reset", "-q", check=False)
        return Opened(git=git, folder=git.folder, branches=main, move=move)

    def _git_folder(self, git: Git) -> Path | None:
        """Return the git folder of a worktree, None if its ties to the repository are broken."""
        try:
            told = git.run("rev-parse", "--show-toplevel", "--git-common-dir", "--absolute-git-dir")
            top, common, own = (os.path.realpath(git.cwd / line) for line in told.split("\n"))
        except (GitError, ValueError):  # or a line end in a name
            return None
        shared = str(self.repository.common)
        return Path(own) if top == os.path.realpath(git.cwd) and common == shared != own else None

    def _discard(self, main: Git, path: Path) -> None:
        if os.path.lexists(path) and not is_folder(path):
            os.unlink(path)  # git would follow a link, and remove the worktree that it leads to
        if not main.ok("worktree", "remove", "--force", "--force", str(path)) and is_folder(path):
            shutil.rmtree(path)
        if f"worktree {path.resolve()}" in _listed(main):  # locked, and its folder gone
            main.run("worktree", "unlock", str(path), check=False)
        main.run("worktree", "prune")

    def _others(self) -> list[str]:
        return []  # `Tree.known` tells the user's branches from those of the agent

    def _bring(self, *_: object) -> tuple[str, tuple[str, ...]]:
        return "", ()  # branches and stashes are the user's as well


def _listed(main: Git) -> list[str]:
    return main.lines("worktree", "list", "--porcelain", "-z")
