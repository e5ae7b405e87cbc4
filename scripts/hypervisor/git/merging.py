"""Bringing verified work together, one branch at a time, and home to the user's branch.

A merge is made among git's objects, without a checkout; only where it has to be verified are its files
written, in a private clone. The integration branch moves last, so a crash at any step leaves it as it was.
Where it is, the store says: a ref that an agent has written is put back.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..core.errors import Refused
from ..core.files import remove_tree
from ..store.merges import BatchMerges
from ..store.records import Claim
from .git import Entry, Git, GitError, begun_in, from_top, is_full, locked, shown
from .private_folder import PrivateFolder
from .repository import Repository

#: git's exit codes: a conflict; words that it does not know.
_CONFLICT, _USAGE = 1, 129


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

    def why(self, beside: str) -> str:
        """Return that it conflicts with *beside*, in one line."""
        return f"conflicts with {beside} in {', '.join(map(shown, self.files[:5])) or self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unverified:
    """The merged work did not verify, so the branch was not moved."""

    #: What the verification said.
    text: str

    def why(self, beside: str) -> str:
        """Return that it does not verify beside *beside*, in one line."""
        return f"does not verify beside {beside} ({self.text})"


@dataclass(frozen=True, slots=True, kw_only=True)
class FastForward:
    """Whether the user's branch and checkout are at the tip now."""

    done: bool
    #: Why not, in one line; "" where it is done.
    why: str = ""
    #: The commits before and after; the same where there was nothing to do.
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A merge commit that no branch has yet."""

    commit: str
    tree: str


@dataclass(slots=True)
class Integration:
    """The branch of a batch that collects what verified."""

    repository: Repository
    #: Folder of the batch's clones.
    folder: Path
    batch: str
    #: The user's branch that the batch began from.
    start_branch: str
    start_commit: str
    #: What is known of the branch; None where nothing is merged on it.
    merges: BatchMerges | None = None
    #: What was found on the branch and put there by no run, in words.
    forged: list[str] = field(default_factory=list)
    #: Gets the project's folder in the files of a commit, and the commit; makes it ready to verify in, or
    #: returns why it is not.
    prepare: Callable[[Path, str], str] = field(default=lambda _place, _commit: "", kw_only=True)
    #: The branch's commit and that one's tree, as last seen; "" before that.
    _tip: str = field(default="", init=False)
    _tree: str = field(default="", init=False)

    @property
    def branch(self) -> str:
        """Its branch. Not ``hypervisor/<batch>``: git has no branch beside branches below it."""
        return f"hypervisor/{self.batch}/merge"

    @property
    def log(self) -> BatchMerges:
        """What is known of the branch, for those who merge on it."""
        assert self.merges is not None  # noqa: S101 - they give it
        return self.merges

    @property
    def path(self) -> Path:
        """The clone in which merges are verified."""
        return self.folder / "merge"

    @property
    def tip(self) -> str:
        """The newest commit that verified, as far as this process knows."""
        return self._tip or self._settled(self._read(self.repository.git())[0])

    def merge(
        self,
        branch: str,
        message: str,
        verify: Callable[[Path], str | None] | None = None,
        claim: Claim | None = None,
        done_with: str = "",
    ) -> Merged | Conflict | Unverified:
        """Merge *branch*, unless it does not verify; one merge at a time, others wait.

        Args:
            branch: A branch or commit.
            message: The message of the merge commit.
            verify: Gets the project's folder in the merged tree; returns why it is not good, or None.
                Without it no files are written.
            claim: Whose work it is, where it is that of an attempt.
            done_with: A branch at that commit that is deleted in the same step.

        Raises:
            Refused: There is no such branch, or the repository cannot be worked in.
            GitError: Git could not merge for another reason than the work (a full disk, say).
        """
        with locked(self.folder / ".merge.lock") as keep:
            main = self.repository.git((keep,))
            target = branch if is_full(branch) else main.commit(branch)
            if not target:
                raise Refused(f"{branch}: no such branch or commit")
            message = message or f"Merge {branch}"
            self._begin(main, anew=False)
            while True:
                made = self._merge(main, target, message)
                if not isinstance(made, _Made):
                    return made
                reason = self._unverified(made.commit, verify, keep)
                if reason is not None:
                    return Unverified(text=reason)
                self.log.add(made.commit, claim)  # first: after a crash it shows whose the commit is
                if self._move(main, made, target, done_with):
                    return Merged(commit=made.commit)

    def _merge(self, main: Git, target: str, message: str) -> Merged | Conflict | _Made:
        """Make the merge commit of the tip and *target*, or return why there is none."""
        before = self._tip
        tree = merged_tree(main, before, target)
        if isinstance(tree, Conflict):
            return tree
        if tree == self._tree and main.contains(before, target):
            return Merged(commit=self._merge_of(main, target, before))
        commit = main.run("commit-tree", tree, "-p", before, "-p", target, input=message)
        return _Made(commit=commit, tree=tree)

    def why_not(self, commit: str, verify: Callable[[Path], str | None]) -> str | None:
        """Return why *commit*, whose files are written for that, is not good; None if it is."""
        with locked(self.folder / ".merge.lock") as keep:
            return self._unverified(commit, verify, keep)

    def _unverified(self, commit: str, verify: Callable[[Path], str | None] | None, keep: int) -> str | None:
        """Return why *commit* is not good; None if it is."""
        if verify is None:
            return None
        private = PrivateFolder(repository=self.repository, path=self.path)
        fresh = not private.restore()
        try:
            if not fresh:
                (private.folder / "HEAD").write_text(f"{commit}\n")
                private.check_out(commit, (keep,))
                private.git.run("clean", "-q", "-ffd")
        except (GitError, OSError):  # an index cut short, say
            fresh = True
        if fresh:
            remove_tree(self.path)
            private.make(commit, {})
            private.check_out(commit, (keep,))
        place = self.path / self.repository.prefix
        place.mkdir(parents=True, exist_ok=True)
        return self.prepare(place, commit) or verify(place)

    def _move(self, main: Git, made: _Made, target: str, done_with: str) -> bool:
        """Move the branch to what was made; tell whether it was still where the merge began."""
        before = self._tip
        steps = [f"update refs/heads/{self.branch} {made.commit} {before}\n"]
        if done_with:
            steps.append(f"delete refs/heads/{done_with} {target}\n")
        try:
            main.run("update-ref", "-m", "hypervisor: merge", "--stdin", input="".join(steps))
        except GitError:
            if not self._begin(main, anew=True) and self._tip == before:
                raise
            return False  # another process of this batch has moved it, or an agent has
        self.log.set_moved(made.commit)
        self._tip, self._tree = made.commit, made.tree
        return True

    def _merge_of(self, git: Git, target: str, tip: str) -> str:
        span = f"{self.start_commit}..{tip}"
        found = git.lines("rev-list", "--first-parent", "--merges", "--parents", span, nul=False)
        for line in found:
            commit, _, *brought = line.split()
            if target in brought:
                return commit
        return tip

    def _read(self, main: Git) -> tuple[str, str, bool]:
        """Return what the branch's ref says (commit and tree), and whether the user's branch is there."""
        ours, theirs = (f"refs/heads/{name}" for name in (self.branch, self.start_branch or self.branch))
        words = ("for-each-ref", "--format=%(refname) %(objectname) %(tree)", ours, theirs)
        found = {line.split(" ")[0]: line.split(" ")[1:] for line in main.lines(*words, nul=False)}
        tip, tree = found.get(ours, ("", ""))
        return tip, tree, theirs in found or not self.start_branch

    def _settled(self, ref: str) -> str:
        """Return where the branch is; *ref* counts only where it is what a run noted and died over."""
        known = (
            self.merges.tips() if self.merges else []
        )  # after the ref: what is noted is noted before the ref moves
        last = max((at for at, (_, moved) in enumerate(known) if moved), default=-1)
        if ref and ref in (commit for commit, _ in known[last + 1 :]):
            return ref
        return known[last][0] if last >= 0 else self.start_commit

    def _begin(self, main: Git, *, anew: bool) -> bool:
        """Find where the branch is, unless that is known; tell whether its ref had to be put back."""
        if self._tip and self._tree and not anew:
            return False
        full = f"refs/heads/{self.branch}"
        # We hold the lock, and git below us holds it too: a lock file here is a dead one's.
        (self.repository.common / f"{full}.lock").unlink(missing_ok=True)
        ref, tree, has_start = self._read(main)
        if not has_start:
            raise Refused(f"{self.start_branch}: no such branch")
        tip = self._settled(ref)
        if ref != tip:
            if ref or tip != self.start_commit:
                what = f"was at {ref[:12]}, where no run put it" if ref else "was deleted"
                self.forged.append(f"{self.branch} {what}; put back to {tip[:12]}")
            main.run("update-ref", "-m", "hypervisor: begin", full, tip, ref)
            tree = main.run("rev-parse", f"{tip}^{{tree}}")
        elif (tip, False) in self.log.tips():  # a run died between the two
            self.log.set_moved(tip)
        self._tip, self._tree = tip, tree
        return ref != tip

    # ------------------------------------------------------------------- home

    def fast_forward(self, is_task_file: Callable[[str], bool], to: str = "") -> FastForward:
        """Move the user's branch and checkout to the tip, or change nothing and say why.

        Modified task files stay as they are; any other change of the user's stops it.

        Args:
            is_task_file: Tells the paths of task files.
            to: Another commit than the tip.
        """
        with locked(self.folder / ".merge.lock"):
            main = self.repository.git()
            if (ref := self._read(main)[0]) and ref != self._settled(ref):
                self._begin(main, anew=True)
            tip = to or self._settled(ref)
            status = main.status()
            before = status.head
            if status.branch != self.start_branch:
                on = f"on {status.branch}" if status.branch else "on no branch (detached HEAD)"
                return FastForward(done=False, why=f"the checkout is {on}, not on {self.start_branch}")
            if begun := begun_in(self.repository.common):
                return FastForward(done=False, why=f"a {begun} is in progress in the checkout")
            shared = before if before == tip else main.run("merge-base", before, tip, check=False)
            if shared == tip:
                return FastForward(done=True, before=before, after=before)
            if shared != before:
                there = "the remote's" if to else self.branch
                why = f"{self.start_branch} has commits that {there} does not have"
                return FastForward(done=False, why=why)
            if why := self._hindrance(main, status.entries, tip, is_task_file):
                return FastForward(done=False, why=why)
            try:
                main.run("merge", "-q", "--ff-only", "--no-autostash", "--no-verify-signatures",
                         "--no-overwrite-ignore", tip)  # fmt: skip
            except GitError as error:
                return FastForward(done=False, why=" ".join(str(error).split()))
            return FastForward(done=True, before=before, after=tip)

    def _hindrance(
        self, git: Git, entries: Sequence[Entry], tip: str, is_task_file: Callable[[str], bool]
    ) -> str:
        """Return what in the user's checkout is in the way of *tip*, "" for nothing."""
        prefix, top = self.repository.prefix, self.repository.top
        for entry in entries:
            if entry.code == "??":
                continue
            path = from_top(entry.path, prefix)
            if entry.code[0] != ".":
                return f"{shown(path)} is staged in the checkout"
            if not is_task_file(path):
                return f"{shown(path)} is modified in the checkout"
        told = git.lines("diff", "--name-status", "--no-renames", "-z", "HEAD", tip)
        touched = dict(zip(told[1::2], told[::2], strict=True))
        for entry in entries:
            if entry.code != "??" and entry.path in touched:
                return f"{shown(from_top(entry.path, prefix))} is modified in the checkout and by the work"
        # git itself would overwrite a file that it ignores.
        for path in (path for path, letter in touched.items() if letter == "A"):
            if os.path.lexists(top / path) and not _is_left_by(top, path):
                return f"{shown(from_top(path, prefix))} is in the way: the work adds a file of that name"
        return ""

    def close(self) -> None:
        """Remove the clone, and the branch if all of it is in the user's branch."""
        with locked(self.folder / ".merge.lock"):
            remove_tree(self.path)
            main, full = self.repository.git(), f"refs/heads/{self.branch}"
            merged = ("--merged", f"refs/heads/{self.start_branch}")
            tip = main.run("for-each-ref", "--format=%(objectname)", *merged, full, check=False)
            if tip and tip == self._settled(tip):
                main.run("update-ref", "-d", full, tip)
                self.log.close()
            self._tip = self._tree = ""


def merged_tree(git: Git, before: str, target: str) -> str | Conflict:
    """Merge two commits among git's objects, in the project's root; return the tree.

    Raises:
        Refused: This git cannot do so.
        GitError: It could not merge for another reason than the work (a full disk, say).
    """
    words = ("merge-tree", "--write-tree", "-z", "--name-only", "--messages")
    code, out, said = git.answer(*words, before, target)
    fields = out.split("\0")
    if code == _CONFLICT:
        end = fields.index("")
        return Conflict(  # its names are relative to the folder that git is run in
            files=tuple(fields[1:end]),
            text=" ".join(x.strip() for x in fields[end:] if x.startswith("CONFLICT")),
        )
    if "unrelated histories" in said:
        return Conflict(files=(), text=said.strip())
    if code == _USAGE:
        raise Refused("git cannot merge without a checkout; install git 2.38 or later")
    if code != 0:
        raise GitError(f"git merge-tree in {git.cwd}: {said.strip() or out.strip() or f'exit {code}'}")
    return fields[0].strip()


def read_blob(git: Git, commit: str, path: str) -> bytes | None:
    """Return a file as a commit has it, by its path from the top; None if it has none."""
    code, out, _ = git.answer("cat-file", "blob", f"{commit}:{path}")
    return os.fsencode(out) if code == 0 else None


def tree_with(git: Git, tree: str, path: str, data: bytes, spare: Path) -> str:
    """Return *tree* with another content of a file that it has.

    Args:
        git: Git in the repository.
        tree: A tree, or a commit.
        path: The file's path from the top.
        data: Its new content.
        spare: A folder for a temporary index.
    """
    found = git.lines("ls-tree", "-z", tree, "--", f":(top,literal){path}")
    mode = found[0].split(" ", 1)[0] if found else "100644"
    blob = git.run("hash-object", "-w", "--stdin", input=os.fsdecode(data))
    with tempfile.TemporaryDirectory(dir=spare) as folder:
        index = {**git.environment, "GIT_INDEX_FILE": os.path.join(folder, "index")}
        other = replace(git, environment=index)
        other.run("read-tree", tree)
        other.run("update-index", "-z", "--index-info", input=f"{mode} {blob}\t{path}\0")
        return other.run("write-tree")


def _is_left_by(top: Path, path: str) -> bool:
    # A folder of which the work removes every file, to put a file there: git sees to that.
    place = top / path
    if place.is_symlink() or not place.is_dir():
        return False
    return not Git(top).lines("ls-files", "--others", "-z", f":(top,literal){path}")
