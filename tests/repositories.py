"""Repositories of users, and the folders of agents in them, for tests."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hypervisor.core.settings import default_settings
from hypervisor.git.clones import Clones
from hypervisor.git.merging import Integration
from hypervisor.git.repository import Repository
from hypervisor.git.workspaces import Workspaces
from hypervisor.git.worktrees import Worktrees
from hypervisor.store.store import Store

#: Names that people and machines give to files.
NAMES = (
    "a b.txt",
    "übung-日本.txt",
    "-dash.txt",
    "two\nlines.txt",
    "*.txt",
    "tab\t.txt",
    "back\\slash",
    '"q"',
)


@dataclass(frozen=True)
class Repo:
    """A user's repository, worked in as a user does."""

    top: Path

    def git(self, *words: str, cwd: Path | None = None, check: bool = True) -> str:
        who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
        done = subprocess.run(["git", *who, *words], cwd=cwd or self.top, capture_output=True, check=False)
        assert not check or done.returncode == 0, done.stderr.decode()
        return os.fsdecode(done.stdout).strip()

    def write(self, name: str, text: str = "text\n", cwd: Path | None = None) -> Path:
        path = (cwd or self.top) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def commit(self, name: str, text: str = "text\n", cwd: Path | None = None) -> str:
        self.write(name, text, cwd)
        self.git("add", "-A", cwd=cwd)
        self.git("commit", "-qm", f"change {name!r}", cwd=cwd)
        return self.git("rev-parse", "HEAD", cwd=cwd)


def make_repo(top: Path) -> Repo:
    """Make a repository with one commit on ``main`` and an ignored state folder."""
    top.mkdir(parents=True, exist_ok=True)
    repo = Repo(top)
    repo.git("init", "-q", "-b", "main")
    repo.commit("README.md", "read me\n")
    repo.write(".hypervisor/.gitignore", "*\n")
    return repo


#: The kinds of folders that agents work in.
KINDS: dict[str, type[Workspaces]] = {"clone": Clones, "worktree": Worktrees}


class Place:
    """A repository, its tasks' folders, and one of them."""

    def __init__(self, repo: Repo, kind: str, sub: str = "") -> None:
        self.repo, self.kind = repo, kind
        self.trees = trees_of(repo, kind, sub)
        self.tree = self.trees.open("t-1", 1, "main")

    def git(self, *words: str) -> str:
        return self.repo.git(*words, cwd=self.tree.path)

    def write(self, name: str, text: str = "text\n") -> Path:
        return self.repo.write(name, text, self.tree.path)

    def commit(self, name: str, text: str = "text\n") -> str:
        return self.repo.commit(name, text, self.tree.path)


def trees_of(repo: Repo, kind: str, sub: str = "", name: str = "trees") -> Workspaces:
    """Return the folders of a batch of the project at *sub*."""
    return KINDS[kind](Repository.read(repo.top / sub), repo.top / ".hypervisor" / name, "b1")


def integration_of(
    top: Path, start_commit: str = "", *, sub: str = "", start_branch: str = "main"
) -> Integration:
    """Return the integration branch of a batch of the project at *sub*, with a store in its state folder."""
    facts = Repository.read(top / sub)
    store = Store.open(top / ".hypervisor", default_settings())
    batch = store.batches.create("b1", str(top / ".hypervisor/b1"), {}).id
    start = start_commit or facts.head
    return Integration(
        facts, top / ".hypervisor/trees", "b1", start_branch, start, store.merges.of_batch(batch)
    )
