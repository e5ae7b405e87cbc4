"""A folder of its own for each task: made, looked at, brought home, and removed without a loss.

What clones and worktrees have in common. All names of files are relative to the project root, which may
be a folder inside the repository; what lies outside of it begins with ``../``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import Refused
from ..core.files import is_folder, replace_file
from ..core.project import STATE
from .git import Git, Status, begun_in, from_top, is_full
from .half_merge import begin_merge, conclude_merge, is_merging
from .repository import Repository
from .work import AgentWork, Gathered, Opened, Tree, commit_files, committed, own_commits


@dataclass(frozen=True, slots=True)
class Workspaces(ABC):
    """The folders of one batch's tasks. `Clones` and `Worktrees` say how they are made."""

    repository: Repository
    #: Folder that they stand in.
    folder: Path
    batch: str

    # ------------------------------------------------- what the kinds differ in

    @abstractmethod
    def open(self, task: str, attempt: int | str, base: str, place: Path | None = None) -> Tree:
        """Make a folder on a new branch from the commit *base*, or return the one that is there.

        Args:
            task: The task's id.
            attempt: The attempt's number; with a dot and the candidate's where there are several.
            base: The commit.
            place: Of clones: the folder to make it in. What is in there beside tracked files stays.

        Raises:
            Refused: There is no such commit, or the branch holds work of somebody.
        """

    @abstractmethod
    def remove(self, tree: Tree, merged_into: str | None = None, *, dry_run: bool = False) -> None:
        """Remove a folder and its branch, if all that is in them is in *merged_into* or nothing is.

        Args:
            tree: The folder.
            merged_into: A branch or commit.
            dry_run: Remove nothing; only raise as if.

        Raises:
            Refused: Something would be lost; the message names it.
        """

    @abstractmethod
    def close(self, tree: Tree, gathered: Gathered, *, merged: bool, keep_files: bool = False) -> bool:
        """Remove a folder that was gathered, unless it holds work that is nowhere else.

        Args:
            tree: The folder.
            gathered: What was gathered there.
            merged: Whether that is merged.
            keep_files: Of clones: give the folder up, but leave its files to whoever uses it next.

        Returns:
            Whether it is gone, or given up.
        """

    @abstractmethod
    def _mend(self, tree: Tree) -> Opened | None:
        """Return the folder, made sound again if need be; None if there is none; see `_is_there`."""

    @abstractmethod
    def _others(self) -> list[str]:
        """Return commits that no agent can have made."""

    @abstractmethod
    def _bring(self, tree: Tree, at: Opened, tip: str) -> tuple[str, tuple[str, ...]]:
        """Bring the tree's branch, which is at *tip*, to the user's repository.

        Returns:
            Why that cannot be done, "" if it was; and what else would be lost with the folder, in words.
        """

    # -------------------------------------------------------------- the same

    def _is_there(self, tree: Tree) -> bool:
        """Tell whether a tree's folder is there; remove what else its agent has put in its place.

        Git would follow a link, and work in the checkout that it leads to.
        """
        if is_folder(tree.path):
            return True
        if os.path.lexists(tree.path):
            os.unlink(tree.path)
        return False

    def place(self, tree: Tree) -> Path:
        """Return the project's folder in the tree."""
        return tree.path / self.repository.prefix

    def found(self) -> list[Tree]:
        """Return all trees whose folder or branch is there, of either kind, in the order of their names."""
        main = self.repository.git()
        records = sorted((self.folder / ".trees").glob("*.json"))
        trees = [tree for tree in map(self._read, records) if tree is not None]
        return [tree for tree in trees if is_folder(tree.path) or main.exists(tree.ref)]

    def kept(self, task: str, attempt: int | str) -> Tree | None:
        """Return the tree of an attempt if its folder is there."""
        tree = self._read(self._record(self._name(task, attempt)))
        return tree if tree is not None and is_folder(tree.path) else None

    def set_spare(self, tree: Tree) -> None:
        """Let `remove` discard the work of a tree."""
        found = self._read(self._record(tree.name))
        if found is not None:
            self._write(replace(found, spare=True))

    def begin_merge(self, tree: Tree, commit: str) -> Tree:
        """Begin to merge *commit* in a folder that nobody has worked in; return the tree with that merge.

        What becomes of it there is nowhere else, but both sides are: `remove` discards it.

        Raises:
            GitError: It cannot be begun.
        """
        made = replace(tree, spare=True, merging=commit)
        self._write(made)
        at = self._mend(made)
        assert at is not None  # noqa: S101 - it was just made
        begin_merge(at, commit)
        return made

    def inspect(self, tree: Tree) -> AgentWork:
        """Look at what is in a folder."""
        main, prefix = self.repository.git(), self.repository.prefix
        at = self._mend(tree)
        if at is None:
            tip = main.commit(tree.ref)
            return replace(committed(main, tree.base, tip, prefix) if tip else AgentWork(), gone=True)
        status = at.git.status()
        tip = at.branches.commit(tree.ref)
        return replace(
            committed(at.git, tree.base, tip, prefix),
            uncommitted=tuple(from_top(entry.path, prefix) for entry in status.entries),
            on=status.branch,
            astray=self._own(tree, at.git, status, tip),
            begun=begun_in(at.folder),
            conflicts=self._conflicts(status),
        )

    def gather(self, tree: Tree, message: str, keep: Callable[[str], bool]) -> Gathered:
        """Put stray commits and uncommitted changes that *keep* wants onto the tree's branch.

        Nothing is done while something that was begun (a merge, a rebase) has not ended.
        """
        prefix, place = self.repository.prefix, self.place(tree)
        at = self._mend(tree)
        if at is None:
            work = self.inspect(tree)
            return Gathered(place=place, commits=work.commits, files=work.files, leads_out=work.leads_out)
        git = at.git
        status = git.status()
        merged = ""
        if status.branch == tree.branch and is_merging(at, tree):
            plain = [one for one in status.entries if not one.path.endswith("/")]
            chosen = [one for one in plain if one.code == "uu" or keep(from_top(one.path, prefix))]
            merged = conclude_merge(at, tree, status.head, message, chosen)
            status = git.status()
        begun, conflicts = begun_in(at.folder), self._conflicts(status)
        stuck = bool(begun or conflicts)
        tip = status.head
        astray: tuple[str, ...] = ()
        if status.branch != tree.branch:
            tip = at.branches.commit(tree.ref)
            if stuck or not self._come_back(git, tree, status, tip):
                stuck, astray = True, self._own(tree, git, status, tip)
            else:
                status = git.status()
                tip = status.head
        entries = {from_top(entry.path, prefix): entry for entry in status.entries}
        wanted = [path for path in entries if not path.endswith("/") and keep(path)]
        made = merged
        if wanted and not stuck:
            staged = any(entry.code[0] not in ".?" for entry in status.entries)
            chosen = [entries[path] for path in wanted]
            made = commit_files(at, tree, message, chosen, (tip,), staged=staged) or merged
        tip = made or tip
        why, beside = self._bring(tree, at, tip)
        work = AgentWork()
        if why:
            astray = (*astray, f"{tip[:12]} ({why})")
        elif tip != tree.base:
            work = committed(self.repository.git(), tree.base, tip, prefix)
        return Gathered(
            place=place, commits=work.commits, files=work.files, leads_out=work.leads_out, made=made,
            outside=tuple(path for path in entries if path not in set(wanted)),
            left=tuple(wanted) if stuck else (),
            astray=astray, begun=begun, conflicts=conflicts, beside=beside,
        )  # fmt: skip

    # ---------------------------------------------------------------- details

    def _conflicts(self, status: Status) -> tuple[str, ...]:
        prefix = self.repository.prefix
        return tuple(from_top(entry.path, prefix) for entry in status.entries if entry.code == "uu")

    def _own(self, tree: Tree, git: Git, status: Status, tip: str) -> tuple[str, ...]:
        if status.branch == tree.branch:
            return ()
        return own_commits(git, tree, status.head, status.branch, [*self._others(), *([tip] if tip else [])])

    def _come_back(self, git: Git, tree: Tree, status: Status, tip: str) -> bool:
        """Bring HEAD to the tree's branch, with what it has; tell whether that could be done."""
        own = self._own(tree, git, status, tip)
        if not own:
            return git.ok("checkout", "-q", "--no-guess", tree.branch, "--")
        reached = git.lines("rev-list", status.head, "--not", tip, tree.base, nul=False)
        new = status.branch is None or f"refs/heads/{status.branch}" not in tree.known
        if not new or set(reached) != set(own) or not git.contains(status.head, tip):
            return False
        git.run("update-ref", "-m", "hypervisor: gather", tree.ref, status.head, tip)
        git.run("symbolic-ref", "HEAD", tree.ref)
        return True

    def _start(self, base: str) -> str:
        """Return the commit that *base* names.

        Raises:
            Refused: It names none.
        """
        start = base if is_full(base) else self.repository.git().commit(base)
        if not start:
            raise Refused(f"{base}: no such commit")
        return start

    def _name(self, task: str, attempt: int | str) -> str:
        """Return the name of the folder of an attempt: the task's id as far as git takes it, or a hash."""
        plain = re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")[:40].strip("-")
        if plain != task.lower():  # ids that differ only there must not meet
            mark = hashlib.blake2b(task.encode("utf-8", "surrogateescape"), digest_size=5).hexdigest()
            plain = f"{plain[:30].strip('-') or 'task'}-{mark}"
        return f"{plain}-{attempt}"

    def _record(self, name: str) -> Path:
        return self.folder.absolute() / ".trees" / f"{name}.json"

    def _write(self, tree: Tree) -> None:
        data = {
            "kind": tree.kind, "branch": tree.branch, "base": tree.base, "task": tree.task,
            "known": dict(tree.known), "spare": tree.spare, "merging": tree.merging,
            "folder": os.path.relpath(tree.path, self.folder.absolute()),
        }  # fmt: skip
        record = self._record(tree.name)
        record.parent.mkdir(parents=True, exist_ok=True)
        replace_file(record, json.dumps(data).encode())

    def _read(self, record: Path) -> Tree | None:
        try:
            data = json.loads(record.read_bytes())
        except FileNotFoundError:
            return None
        return Tree(
            path=record.parent.parent / data.get("folder", record.stem), branch=data["branch"],
            base=data["base"], task=data["task"], kind=data["kind"], known=data["known"],
            spare=data.get("spare", False), merging=data.get("merging", ""),
        )  # fmt: skip

    def _include(self, tree: Tree) -> None:
        """Copy the ignored files that ``.worktreeinclude`` names (``.env``), never over a file."""
        root, main = self.repository.root, self.repository.git()
        self.place(tree).mkdir(parents=True, exist_ok=True)
        if not (root / ".worktreeinclude").is_file():
            return
        names = main.lines("ls-files", "--others", "--ignored", "--exclude-from=.worktreeinclude", "-z")
        asked = "".join(f"./{name}\0" for name in names if not name.endswith("/"))
        ignored = main.run("check-ignore", "-z", "--stdin", check=False, input=asked).split("\0")
        place = self.place(tree)
        for name in (dotted.removeprefix("./") for dotted in ignored if dotted):
            source, target = root / name, place / name
            inside = target.parent.resolve().is_relative_to(tree.path.resolve())
            if name.split("/")[0] == STATE or os.path.lexists(target) or not inside:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
                shutil.copy2(source, target, follow_symlinks=False)
