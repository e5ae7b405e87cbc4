"""Bringing verified work together, one branch at a time, and home to the user's branch.

The integration branch only ever moves to a commit that verified: the merge is made on a detached
HEAD, so a crash at any step leaves the branch as it was, and the next merge begins anew.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import Refused
from .git import Git, GitError, from_top, locked, main_checkout, prefix_of, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The work is on the integration branch."""

    #: The merge commit; the tip where there was nothing to merge.
    commit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """The work cannot be merged; nothing was changed."""

    #: Paths in conflict, relative to the project root; empty where git refused for another reason.
    files: tuple[str, ...]
    #: Git's words.
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unverified:
    """The merged work did not verify; the merge was taken back."""

    #: What the verification said.
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FastForward:
    """Whether the user's branch and checkout are at the tip now."""

    done: bool
    #: Why not, in one line; "" where it is done.
    why: str = ""


@dataclass(frozen=True, slots=True)
class Integration:
    """The branch of a batch that collects what verified."""

    #: The project root.
    root: Path
    #: Folder of the batch's worktrees.
    folder: Path
    batch: str
    #: The user's branch that the batch began from.
    start_branch: str
    start_commit: str

    @property
    def branch(self) -> str:
        """Its branch. Not ``hypervisor/<batch>``: git has no branch beside branches below it."""
        return f"hypervisor/{self.batch}/merge"

    @property
    def path(self) -> Path:
        """Its worktree."""
        return self.folder / "merge"

    @property
    def tip(self) -> str:
        """The newest commit that verified."""
        return Git(self.root).commit(f"refs/heads/{self.branch}") or self.start_commit

    def merge(
        self,
        branch: str,
        message: str,
        verify: Callable[[Path], str | None],
        note: Callable[[str], object] = lambda _: None,
    ) -> Merged | Conflict | Unverified:
        """Merge *branch*, and take it back unless it verifies; one merge at a time, others wait.

        Args:
            branch: A branch or commit.
            message: The message of the merge commit.
            verify: Gets the project's folder in the merged tree; returns why it is not good, or None.
            note: Called with the merge commit once it is verified, before the branch is moved to it: after a
                crash it shows whose the commit is that the branch may have.

        Raises:
            Refused: There is no such branch, or the repository cannot be worked in.
            GitError: Git could not merge for another reason than the work (a full disk, say).
        """
        with locked(self.folder / ".merge.lock") as keep:
            git = self._ready(keep)
            before = self.tip
            target = git.commit(branch)
            if not target:
                raise Refused(f"{branch}: no such branch or commit")
            if git.contains(before, target):
                return Merged(commit=self._merge_of(git, target, before))
            try:
                return self._merge(git, before, target, (message or f"Merge {branch}", verify, note))
            finally:
                with contextlib.suppress(GitError):  # what is wrong there is mended before the next one
                    git.run("checkout", "-q", "-f", "--detach", self.tip)
                    git.run("clean", "-q", "-ffd")

    def _merge(
        self,
        git: Git,
        before: str,
        target: str,
        how: tuple[str, Callable[[Path], str | None], Callable[[str], object]],
    ) -> Merged | Conflict | Unverified:
        message, verify, note = how
        try:
            git.run("merge", "-q", "--no-ff", "--no-edit", "--no-autostash", "--no-verify-signatures",
                    "--no-log", "-m", message, target)  # fmt: skip
        except GitError as error:
            files = git.lines("diff", "--name-only", "--no-renames", "--diff-filter=U", "-z")
            if not files and "unrelated histories" not in str(error):
                raise
            prefix = prefix_of(Git(self.root))
            return Conflict(files=tuple(from_top(path, prefix) for path in files), text=str(error))
        merged = git.head()
        place = self.path / prefix_of(Git(self.root))
        place.mkdir(parents=True, exist_ok=True)
        reason = verify(place)
        if reason is not None:
            return Unverified(text=reason)
        note(merged)
        main = Git(self.root, keep=git.keep)  # the verification may have broken the worktree
        main.run("update-ref", "-m", "hypervisor: merge", f"refs/heads/{self.branch}", merged, before)
        return Merged(commit=merged)

    def _merge_of(self, git: Git, target: str, tip: str) -> str:
        span = f"{self.start_commit}..{tip}"
        found = git.lines("rev-list", "--first-parent", "--merges", "--parents", span, nul=False)
        for line in found:
            commit, _, *brought = line.split()
            if target in brought:
                return commit
        return tip

    def fast_forward(self, is_task_file: Callable[[str], bool]) -> FastForward:
        """Move the user's branch and checkout to the tip, or change nothing and say why.

        Modified task files stay as they are; any other change of the user's stops it.
        """
        with locked(self.folder / ".merge.lock"):
            try:
                git = main_checkout(self.root)
            except Refused as error:
                return FastForward(done=False, why=str(error))
            tip = self.tip
            why = self._hindrance(git, tip, is_task_file)
            if why:
                return FastForward(done=False, why=why)
            if git.contains("HEAD", tip):
                return FastForward(done=True)
            try:
                git.run("merge", "-q", "--ff-only", "--no-autostash", "--no-verify-signatures",
                        "--no-overwrite-ignore", tip)  # fmt: skip
            except GitError as error:
                return FastForward(done=False, why=" ".join(str(error).split()))
            return FastForward(done=True)

    def _hindrance(self, git: Git, tip: str, is_task_file: Callable[[str], bool]) -> str:
        status = git.status()
        if status.branch != self.start_branch:
            on = f"on {status.branch}" if status.branch else "on no branch (detached HEAD)"
            return f"the checkout is {on}, not on {self.start_branch}"
        begun = git.begun()
        if begun:
            return f"a {begun} is in progress in the checkout"
        if git.contains("HEAD", tip):
            return ""
        if not git.contains(tip, "HEAD"):
            return f"{self.start_branch} has commits that {self.branch} does not have"
        prefix = prefix_of(git)
        for entry in status.entries:
            if entry.code == "??":
                continue
            path = from_top(entry.path, prefix)
            if entry.code[0] != ".":
                return f"{shown(path)} is staged in the checkout"
            if not is_task_file(path):
                return f"{shown(path)} is modified in the checkout"
        top = git.top_level
        touched = set(git.lines("diff", "--name-only", "--no-renames", "-z", "HEAD", tip))
        for entry in status.entries:
            if entry.code != "??" and entry.path in touched:
                return f"{shown(from_top(entry.path, prefix))} is modified in the checkout and by the work"
        # git itself would overwrite a file that it ignores.
        added = git.lines("diff", "--name-only", "--no-renames", "--diff-filter=A", "-z", "HEAD", tip)
        for path in added:
            if os.path.lexists(top / path) and not _is_left_by(top, path):
                return f"{shown(from_top(path, prefix))} is in the way: the work adds a file of that name"
        return ""

    def close(self) -> None:
        """Remove the merge worktree, and the branch if all of it is in the user's branch."""
        with locked(self.folder / ".merge.lock"):
            git = main_checkout(self.root)
            self._clear(git)
            tip = git.commit(f"refs/heads/{self.branch}")
            home = git.commit(f"refs/heads/{self.start_branch}")
            if tip and home and git.contains(home, tip):
                git.run("update-ref", "-d", f"refs/heads/{self.branch}", tip)

    def _clear(self, git: Git) -> None:
        with locked(git.common / "hypervisor.lock"):
            if not git.ok("worktree", "remove", "--force", "--force", str(self.path)):
                shutil.rmtree(self.path, ignore_errors=True)
            git.run("worktree", "prune")

    def _ready(self, keep: int) -> Git:
        """Return git in the merge worktree, clean and at the tip, whatever a crash left there."""
        main = main_checkout(self.root)
        if not main.exists(f"refs/heads/{self.start_branch}"):
            raise Refused(f"{self.start_branch}: no such branch")
        full = f"refs/heads/{self.branch}"
        # We hold the lock, and git below us holds it too: a lock file here is a dead one's.
        (main.common / f"{full}.lock").unlink(missing_ok=True)
        if not main.commit(full):
            main.run("update-ref", "-m", "hypervisor: begin", full, self.start_commit, "")
        git = Git(self.path, ceiling=self.folder, keep=(keep,))
        if self._is_whole(git, main):
            for name in ("index.lock", "HEAD.lock", "ORIG_HEAD.lock", "MERGE_HEAD.lock"):
                (git.folder / name).unlink(missing_ok=True)
            with contextlib.suppress(GitError):  # an index cut short, say
                git.run("reset", "-q", "--hard")  # ends a merge that was begun
                git.run("checkout", "-q", "-f", "--detach", self.tip)
                git.run("clean", "-q", "-ffd")
                if not git.begun() and git.head() == self.tip:
                    return git
        self._clear(main)
        with locked(main.common / "hypervisor.lock"):
            Git(main.cwd, keep=(keep,)).run(
                "worktree", "add", "-q", "--force", "--detach", str(self.path.absolute()), self.tip
            )
        return git

    def _is_whole(self, git: Git, main: Git) -> bool:
        try:
            top = os.path.realpath(git.top_level)
            return top == os.path.realpath(self.path) and git.common == main.common
        except GitError:
            return False


def _is_left_by(top: Path, path: str) -> bool:
    # A folder of which the work removes every file, to put a file there: git sees to that.
    place = top / path
    if place.is_symlink() or not place.is_dir():
        return False
    return not Git(top).lines("ls-files", "--others", "-z", f":(top,literal){path}")
