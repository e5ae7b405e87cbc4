"""A worktree of its own for each task: made, looked at, brought home, and removed without a loss.

All names of files are relative to the project root, which may be a folder inside the repository;
what lies outside of it begins with ``../``.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .durable import write_once
from .errors import Refused
from .git import Entry, Git, GitError, from_top, locked, main_checkout, prefix_of, shown
from .globs import matches_any
from .paths import STATE

_NAMES = ("--no-renames", "--name-only", "-z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A worktree of a task."""

    path: Path
    branch: str
    #: The commit that it began from.
    base: str
    #: The task's id.
    task: str
    #: Branches and tags that were there when it was made, with what they named.
    known: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an agent left in its worktree."""

    #: Commits on its branch beyond the base, oldest first.
    commits: tuple[str, ...] = ()
    #: Files that they change, all told; of a rename both names.
    files: tuple[str, ...] = ()
    #: Those of the files that are gone.
    deleted: tuple[str, ...] = ()
    #: Those of the files that are binary.
    binary: tuple[str, ...] = ()
    #: Those of the files that are links.
    symlinks: tuple[str, ...] = ()
    #: Those of the files that are submodules.
    submodules: tuple[str, ...] = ()
    #: Changes that are not committed, untracked files among them; a nested repository ends in "/".
    uncommitted: tuple[str, ...] = ()
    #: The branch that is checked out; None if HEAD is detached.
    on: str | None = None
    #: Commits that HEAD has and no branch had before, and that are not on the tree's branch.
    astray: tuple[str, ...] = ()
    #: Whether the branch no longer contains the base.
    rewritten: bool = False
    #: What happened to other branches, tags and the stash, in words.
    refs: tuple[str, ...] = ()
    #: Stash entries that were added.
    stashes: tuple[str, ...] = ()
    #: What was begun and not ended: "merge", "rebase" ...; "" if nothing.
    begun: str = ""
    #: Files in conflict.
    conflicts: tuple[str, ...] = ()
    #: Whether the folder is gone.
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What came home, and what did not."""

    #: Commits on the branch beyond the base, oldest first.
    commits: tuple[str, ...]
    #: Files that they change.
    files: tuple[str, ...]
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


@dataclass(frozen=True, slots=True)
class Worktrees:
    """The worktrees of one batch."""

    #: The project root.
    root: Path
    #: Folder that they stand in.
    folder: Path
    batch: str

    def open(self, task: str, generation: int, base: str) -> Tree:
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
            name = f"{self._slug(task)}-{generation}"
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
        work = _facts(main, tree.base, tip, prefix) if tip else Work()
        work = replace(work, rewritten=not tip or not main.contains(tip, tree.base))
        if before is not None:
            words, stashes = _ref_changes(before, self.refs())
            work = replace(work, refs=words, stashes=stashes)
        if git is None:
            return replace(work, gone=True)
        status = git.status()
        return replace(
            work,
            uncommitted=tuple(from_top(entry.path, prefix) for entry in status.entries),
            on=git.branch(),
            astray=_own(git, tree),
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
                made = _commit(git, tree, message, [entries[path] for path in wanted])
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
        own = _own(git, tree)
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


def _is_whole(git: Git, main: Git) -> bool:
    try:
        top = os.path.realpath(git.top_level)
        return top == os.path.realpath(git.cwd) and git.common == main.common != git.folder
    except GitError:
        return False


def _listed(main: Git) -> list[str]:
    return main.lines("worktree", "list", "--porcelain", "-z")


def _own(git: Git, tree: Tree) -> tuple[str, ...]:
    """Return the commits of HEAD that are new and not on the tree's branch, oldest first."""
    head, on = git.head(), git.branch()
    if not head or on == tree.branch:
        return ()
    others = {tree.base, *(at for ref, at in tree.known.items() if ref.startswith("refs/"))}
    for line in git.lines("for-each-ref", "--format=%(objectname) %(refname)", nul=False):
        at, _, ref = line.partition(" ")
        old = ref in tree.known and ref != f"refs/heads/{on}"
        if old or ref.startswith(("refs/heads/hypervisor/", "refs/remotes/")):
            others.add(at)
    asked = "".join(f"^{at}\n" for at in sorted(others))
    found = git.run("rev-list", "--reverse", "--ignore-missing", "--stdin", input=f"{head}\n{asked}")
    return tuple(found.split())


def _facts(git: Git, base: str, tip: str, prefix: str) -> Work:
    start = git.run("merge-base", base, tip, check=False) or git.run("hash-object", "-t", "tree", "--stdin")
    fields = iter(git.lines("diff", "--raw", "--no-renames", "--ignore-submodules=none", "-z", start, tip))
    kinds: dict[str, list[str]] = {"files": [], "deleted": [], "symlinks": [], "submodules": [], "binary": []}
    for head, top in zip(fields, fields, strict=True):
        old, new, _, _, letter = head.removeprefix(":").split()
        path = from_top(top, prefix)
        kinds["files"].append(path)
        if letter == "D":
            kinds["deleted"].append(path)
        if "120000" in (old, new):
            kinds["symlinks"].append(path)
        if "160000" in (old, new):
            kinds["submodules"].append(path)
    for line in git.lines("diff", "--numstat", "--no-renames", "--no-ext-diff", "-z", start, tip):
        if line.startswith("-\t-\t"):
            kinds["binary"].append(from_top(line[4:], prefix))
    commits = git.lines("rev-list", "--reverse", "--topo-order", f"{base}..{tip}", nul=False)
    return Work(
        commits=tuple(commits),
        files=tuple(kinds["files"]),
        deleted=tuple(kinds["deleted"]),
        binary=tuple(kinds["binary"]),
        symlinks=tuple(kinds["symlinks"]),
        submodules=tuple(kinds["submodules"]),
    )


def _ref_changes(
    before: Mapping[str, str], after: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    words: list[str] = []
    stashes: list[str] = []
    for ref in sorted({*before, *after}):
        old, new = before.get(ref), after.get(ref)
        if old == new or ref.startswith("refs/heads/hypervisor/"):
            continue  # the branches of batches move at all times
        if ref.startswith("stash "):
            if new is not None:
                stashes.append(new)
            else:
                words.append(f"stash entry {ref[6:18]} ({old}) was dropped")
            continue
        kind, name = ("branch", ref[11:]) if ref.startswith("refs/heads/") else ("tag", ref[10:])
        what = "was made" if old is None else "was deleted" if new is None else "was moved"
        words.append(f"{kind} {name} {what}")
    return tuple(words), tuple(stashes)


def _commit(git: Git, tree: Tree, message: str, entries: Sequence[Entry]) -> str:
    """Commit the files of *entries* as they are, and nothing else that the index may have."""
    gone: list[str] = []
    there: list[str] = []
    top = tree.path.resolve()
    for entry in entries:
        name = top / entry.path
        is_there = os.path.lexists(name) and name.parent.resolve() == name.parent
        (there if is_there else gone).append(f"{entry.path}\0")
    head = git.head()
    remove = ("update-index", "--force-remove", "-z", "--stdin")
    add = ("update-index", "--add", "--remove", "--replace", "-z", "--stdin")
    with tempfile.TemporaryDirectory(dir=git.folder) as spare:
        index = Path(spare) / "index"
        git.with_index(index, "read-tree", head)
        git.with_index(index, *remove, input="".join(gone))
        git.with_index(index, *add, input="".join(there))
        made = git.with_index(index, "write-tree")
    if made == git.run("rev-parse", f"{head}^{{tree}}"):
        return ""
    commit = git.run("commit-tree", made, "-p", head, input=message)
    git.run("update-ref", "-m", "hypervisor: gather", f"refs/heads/{tree.branch}", commit, head)
    git.run(*remove, input="".join(gone))
    git.run(*add, input="".join(there))
    return commit
