"""A worktree of its own for each task: made, looked at, brought home, and removed without a loss.

All names of files are relative to the project root, which may be a folder inside the repository;
what lies outside of it begins with ``../``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import Refused
from ..core.files import write_once
from ..core.project import STATE
from .git import Git, GitError, from_top, locked, main_checkout, prefix_of, shown
from .work import Gathered, Tree, Work, commit_files, committed, own_commits, ref_changes


@dataclass(frozen=True, slots=True)
class Worktrees:
    """The worktrees of one batch."""

    #: The project root.
    root: Path
    #: Folder that they stand in.
    folder: Path
    batch: str

    def open(self, task: str, attempt: int, base: str) -> Tree:
        """Make a worktree on a new branch from the commit *base*, or return the one that is there.

        Raises:
            Refused: The repository cannot be worked in, or the branch holds work of somebody.
        """
        main = main_checkout(self.root)
        start = main.commit(base)
        if not start:
            raise Refused(f"{base}: no such commit")
        with locked(main.common / "hypervisor.lock") as keep:
            main = replace(main, keep=(keep,))
            name = f"{self._slug(task)}-{attempt}"
            path, branch = self.folder.absolute() / name, f"hypervisor/{self.batch}/{name}"
            tree = self._read(self._record(name))
            if tree is None:  # what stands there is the debris of a crash in here: nobody worked in it
                tip = main.commit(f"refs/heads/{branch}")
                if tip and not main.contains(start, tip):
                    raise Refused(f"{branch} is there already, with commits of its own; merge or delete it")
                self._discard(main, path)
                known = {ref: commit for ref, commit in self.refs().items() if ref != f"refs/heads/{branch}"}
                main.run("worktree", "add", "-q", "--no-track", "-B", branch, str(path), start)
                tree = Tree(path=path, branch=branch, base=start, task=task, known=known)
                self.place(tree).mkdir(parents=True, exist_ok=True)
                self._include(main, tree)
                data = {"branch": branch, "base": start, "task": task, "known": known}
                write_once(self._record(name), json.dumps(data).encode())
            elif not path.is_dir():  # deleted by hand: the branch has what was committed
                self._discard(main, path)
                new = () if main.exists(f"refs/heads/{branch}") else ("-b", branch)
                main.run("worktree", "add", "-q", *new, str(path), start if new else branch)
                self.place(tree).mkdir(parents=True, exist_ok=True)
                self._include(main, tree)
            return tree

    def place(self, tree: Tree) -> Path:
        """Return the project's folder in the worktree."""
        return tree.path / prefix_of(Git(self.root))

    def found(self) -> list[Tree]:
        """Return the worktrees whose folder or branch is there, in the order of their names."""
        main = main_checkout(self.root)
        records = sorted((self.folder / ".trees").glob("*.json"))
        trees = [tree for tree in map(self._read, records) if tree is not None]
        return [t for t in trees if t.path.is_dir() or main.exists(f"refs/heads/{t.branch}")]

    def refs(self) -> dict[str, str]:
        """Return all branches and tags with what they name, and the stash's entries."""
        git = Git(self.root)
        form = "--format=%(refname) %(objectname)"
        lines = git.lines("for-each-ref", form, "refs/heads", "refs/tags", nul=False)
        found = dict(line.split(" ", 1) for line in lines)
        if git.ok("rev-parse", "-q", "--verify", "refs/stash"):
            stashed = git.lines("reflog", "show", "--format=%H %gs", "refs/stash", nul=False)
            found |= {f"stash {line[:40]}": line.partition(" ")[2] for line in stashed}
        return found

    def inspect(self, tree: Tree, before: Mapping[str, str] | None = None) -> Work:
        """Look at what is in a worktree; *before* is what `refs` said when its agent began."""
        main = main_checkout(self.root)
        prefix = prefix_of(main)
        git = self._mend(main, tree)
        tip = main.commit(f"refs/heads/{tree.branch}")
        work = committed(main, tree.base, tip, prefix) if tip else Work()
        work = replace(work, rewritten=not tip or not main.contains(tip, tree.base))
        if before is not None:
            words, stashes = ref_changes(before, self.refs())
            work = replace(work, refs=words, stashes=stashes)
        if git is None:
            return replace(work, gone=True)
        status = git.status()
        return replace(
            work,
            uncommitted=tuple(from_top(entry.path, prefix) for entry in status.entries),
            on=git.branch(),
            astray=own_commits(git, tree),
            begun=git.begun(),
            conflicts=tuple(from_top(e.path, prefix) for e in status.entries if e.code == "uu"),
        )

    def gather(self, tree: Tree, message: str, keep: Callable[[str], bool]) -> Gathered:
        """Put stray commits and uncommitted changes that *keep* wants onto the tree's branch.

        Nothing is done while something that was begun (a merge, a rebase) has not ended.
        """
        main = main_checkout(self.root)
        prefix = prefix_of(main)
        git = self._mend(main, tree)
        made = ""
        outside: tuple[str, ...] = ()
        left: tuple[str, ...] = ()
        if git is not None:
            before = self.inspect(tree)
            stuck = bool(before.begun or before.conflicts) or not self._come_back(git, tree)
            entries = {from_top(entry.path, prefix): entry for entry in git.status().entries}
            wanted = [path for path in entries if not path.endswith("/") and keep(path)]
            outside = tuple(path for path in entries if path not in set(wanted))
            if stuck:
                left = tuple(wanted)
            elif wanted:
                made = commit_files(git, tree, message, [entries[path] for path in wanted])
        after = self.inspect(tree)
        return Gathered(
            commits=after.commits,
            files=after.files,
            made=made,
            outside=outside,
            left=left,
            astray=after.astray,
            begun=after.begun,
            conflicts=after.conflicts,
        )

    def _come_back(self, git: Git, tree: Tree) -> bool:
        """Bring HEAD to the tree's branch, with what it has; tell whether that could be done."""
        on, full, head = git.branch(), f"refs/heads/{tree.branch}", git.head()
        if on == tree.branch:
            return True
        tip = git.commit(full)
        own = own_commits(git, tree)
        if not own:
            return git.ok("checkout", "-q", "--no-guess", tree.branch, "--")
        reached = git.lines("rev-list", head, "--not", tip, tree.base, nul=False)
        new = on is None or f"refs/heads/{on}" not in tree.known
        if not new or set(reached) != set(own) or not git.contains(head, tip):
            return False
        git.run("update-ref", "-m", "hypervisor: gather", full, head, tip)
        git.run("symbolic-ref", "HEAD", full)
        return True

    def remove(self, tree: Tree, merged_into: str | None = None) -> None:
        """Remove a worktree and its branch, if all that is in them is in *merged_into* or nothing is.

        Raises:
            Refused: Something would be lost; the message names it, and nothing is removed.
        """
        main = main_checkout(self.root)
        full = f"refs/heads/{tree.branch}"
        with locked(main.common / "hypervisor.lock"):
            git = self._mend(main, tree)
            into = main.commit(merged_into) if merged_into else ""
            if merged_into and not into:
                raise Refused(f"{merged_into}: no such branch or commit")
            merged = ["--not", tree.base, *([into] if into else [])]
            tip = main.commit(full)
            commits = main.lines("rev-list", tip, *merged, nul=False) if tip else []
            if commits:
                raise Refused(
                    f"{tree.branch} has {len(commits)} unmerged commit(s), the newest {commits[0][:12]}"
                )
            if git is not None:
                self._must_be_empty(git, tree, merged)
            self._discard(main, tree.path)
            if tip and not any(line == f"branch {full}" for line in _listed(main)):
                main.run("update-ref", "-d", full, tip)
            self._record(tree.path.name).unlink(missing_ok=True)

    def _must_be_empty(self, git: Git, tree: Tree, merged: list[str]) -> None:
        entries = git.status().entries
        if entries:
            more = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
            raise Refused(f"{tree.path} has uncommitted changes: {shown(entries[0].path)}{more}")
        begun = git.begun()
        if begun and begun != "bisect":
            raise Refused(f"{tree.path} has a {begun} in progress")
        if git.branch() is None:
            stray = git.lines("rev-list", git.head(), *merged, "--branches", "--tags", nul=False)
            if stray:
                raise Refused(
                    f"{tree.path} has {len(stray)} commit(s) on no branch, the newest {stray[0][:12]}"
                )
        if (git.folder / "modules").is_dir() and self.inspect(tree).submodules:
            raise Refused(f"{tree.path} has submodules whose commits may be nowhere else")

    def _mend(self, main: Git, tree: Tree) -> Git | None:
        """Return git in the worktree, whose ties to the repository are made anew if need be."""
        if not tree.path.is_dir():
            return None
        full = f"refs/heads/{tree.branch}"
        if not main.commit(full):
            main.run("update-ref", full, tree.base, "")
        git = Git(tree.path, ceiling=tree.path.parent)
        if _is_whole(git, main):
            return git
        main.run("worktree", "repair", str(tree.path), check=False)
        if _is_whole(git, main):
            return git
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
        return git

    def _discard(self, main: Git, path: Path) -> None:
        if not main.ok("worktree", "remove", "--force", "--force", str(path)) and path.is_dir():
            shutil.rmtree(path)
        if f"worktree {path.resolve()}" in _listed(main):  # locked, and its folder gone
            main.run("worktree", "unlock", str(path), check=False)
        main.run("worktree", "prune")

    def _slug(self, task: str) -> str:
        plain = re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")[:40].strip("-") or "task"
        mark = hashlib.blake2b(task.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        names = self.folder / ".trees"
        names.mkdir(parents=True, exist_ok=True)
        wanted = task.encode("utf-8", "surrogateescape")
        for slug in (plain, f"{plain}-{mark[:6]}", f"{plain}-{mark}"):
            place = names / f"{slug}.id"
            if write_once(place, wanted) or place.read_bytes() == wanted:
                return slug
        raise Refused(f"{task}: no name for its worktree is free")

    def _record(self, name: str) -> Path:
        return self.folder.absolute() / ".trees" / f"{name}.json"

    def _read(self, record: Path) -> Tree | None:
        try:
            data = json.loads(record.read_bytes())
        except FileNotFoundError:
            return None
        return Tree(
            path=record.parent.parent / record.stem,
            branch=data["branch"],
            base=data["base"],
            task=data["task"],
            known=data["known"],
        )

    def _include(self, main: Git, tree: Tree) -> None:
        """Copy the ignored files that ``.worktreeinclude`` names (``.env``), never over a file."""
        if not (self.root / ".worktreeinclude").is_file():
            return
        names = main.lines("ls-files", "--others", "--ignored", "--exclude-from=.worktreeinclude", "-z")
        asked = "".join(f"./{name}\0" for name in names if not name.endswith("/"))
        ignored = main.run("check-ignore", "-z", "--stdin", check=False, input=asked).split("\0")
        place = self.place(tree)
        for name in (dotted.removeprefix("./") for dotted in ignored if dotted):
            source, target = self.root / name, place / name
            inside = target.parent.resolve().is_relative_to(tree.path.resolve())
            if name.split("/")[0] == STATE or os.path.lexists(target) or not inside:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def _is_whole(git: Git, main: Git) -> bool:
    try:
        top = os.path.realpath(git.top_level)
        return top == os.path.realpath(git.cwd) and git.common == main.common != git.folder
    except GitError:
        return False


def _listed(main: Git) -> list[str]:
    return main.lines("worktree", "list", "--porcelain", "-z")
