"""The remote that a coordinator fetches from and pushes to. Nothing there is ever overwritten.

A branch is pushed in one of two ways: as a new one, or as a fast-forward. The server compares the value that
we saw with the one that it has, so of two that push at once one is refused, and begins anew from what the
other pushed. Agents never get here: their private clones have no remote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..core.errors import UsageError
from .git import Git, GitError
from .repository import Repository

#: What git says of a push that came too late, or that meets another one on the server.
_TOO_LATE = ("fetch first", "non-fast-forward", "stale info", "cannot lock ref", "failed to update ref",
             "incorrect old value", "reference already exists", "failed to lock")  # fmt: skip
#: How often a fetch is tried that meets another one in the same repository.
_TRIES = 20
_SECRET = re.compile(r"//[^/@\s]*@")


class RemoteUnreachable(GitError):
    """Raised when the remote does not answer; nothing was changed, or that is not known. Try again."""


class PushRefused(GitError):
    """Raised when the remote refuses a push for a reason of its own, such as a protected branch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """One branch of a remote, and the branches of batches beside it."""

    repository: Repository
    #: Its name in the repository's settings.
    name: str
    #: The branch there that work is delivered to.
    branch: str
    #: Seconds after which it counts as unreachable.
    seconds: float

    @classmethod
    def of(cls, repository: Repository, branch: str, seconds: float) -> Remote:
        """Return the remote that *branch* follows; else ``origin``, else the only one that there is.

        Raises:
            UsageError: There is none, or it is not clear which one.
        """
        git = repository.git()
        name = git.run("config", f"branch.{branch}.remote", check=False)
        there = git.run("config", f"branch.{branch}.merge", check=False).removeprefix("refs/heads/")
        if name and name != ".":
            return cls(repository=repository, name=name, branch=there or branch, seconds=seconds)
        names = git.run("remote", check=False).split()
        if "origin" not in names and len(names) != 1:
            found = f"several remotes ({', '.join(names)})" if names else "no remote"
            raise UsageError(
                f"{repository.root}: {found}, and {branch} follows none; "
                f"`git push -u REMOTE {branch}` sets one"
            )
        name = "origin" if "origin" in names else names[0]
        return cls(repository=repository, name=name, branch=branch, seconds=seconds)

    @property
    def tracking(self) -> str:
        """The local ref of its branch."""
        return f"refs/remotes/{self.name}/{self.branch}"

    def fetch(self, batches: Iterable[str] = ()) -> str:
        """Fetch the branch, and all work that was pushed for *batches*; return the branch's commit.

        Returns:
            The commit; "" where the remote has no such branch yet.

        Raises:
            RemoteUnreachable: It does not answer.
        """
        git = self._git()
        work = [f"+refs/heads/hypervisor/{one}/*:{self._kept(one)}/*" for one in batches]
        for _ in range(_TRIES):
            try:
                return self._fetch(git, work)
            except RemoteUnreachable as error:
                if "cannot lock ref" not in str(error) and "unable to update local ref" not in str(error):
                    raise
        return self._fetch(git, work)  # another fetch into this repository is always a moment faster

    def _fetch(self, git: Git, work: list[str]) -> str:
        words = ("fetch", "-q", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", self.name)
        code, out, said = git.answer(*words, f"+refs/heads/{self.branch}:{self.tracking}", *work)
        if "couldn't find remote ref" in said:
            return ""
        if code != 0:
            raise RemoteUnreachable(self._line(said or out))
        return git.commit(self.tracking)

    def push_new(self, commit: str, branch: str) -> None:
        """Push *commit* as a branch that is not there yet; one that is there with it is as good.

        Raises:
            PushRefused: The branch is there, with another commit.
            RemoteUnreachable: The remote does not answer.
        """
        ref = f"refs/heads/{branch}"
        if not self._push(f"--force-with-lease={ref}:", f"{commit}:{ref}"):
            raise PushRefused(f"{self.name} has a branch {branch} already, with another commit")

    def push(self, commit: str, branch: str = "") -> bool:
        """Fast-forward the branch to *commit*; return False where others have pushed meanwhile.

        Raises:
            PushRefused: The remote does not take it.
            RemoteUnreachable: It does not answer; whether it took the push is not known.
        """
        return self._push(f"{commit}:refs/heads/{branch or self.branch}")

    def drop(self, branches: Iterable[tuple[str, str]]) -> None:
        """Delete branches, each still at its commit, and what was fetched of them. May be left undone."""
        pairs = list(branches)
        if pairs:
            leases = [f"--force-with-lease=refs/heads/{name}:{commit}" for name, commit in pairs]
            self._git().answer(
                "push", "-q", "--no-verify", self.name, *leases, *(f":refs/heads/{name}" for name, _ in pairs)
            )
        for name, commit in pairs:
            batch, _, rest = name.removeprefix("hypervisor/").partition("/")
            self.repository.git().answer("update-ref", "-d", f"{self._kept(batch)}/{rest}", commit)

    # ---------------------------------------------------------------- details

    def _kept(self, batch: str) -> str:
        return f"refs/hypervisor/{self.name}/{batch}"

    def _git(self) -> Git:
        return self.repository.git(seconds=self.seconds)

    def _push(self, *words: str) -> bool:
        code, out, said = self._git().answer("push", "--porcelain", "--no-verify", self.name, *words)
        if code == 0:
            return True
        refused = next((line.split("\t")[-1] for line in out.splitlines() if line.startswith("!\t")), "")
        if any(words in refused for words in _TOO_LATE):
            return False
        if refused:
            told = [line.removeprefix("remote:").strip() for line in said.splitlines() if "remote:" in line]
            raise PushRefused(self._line(" ".join([refused, *told[:3]])))
        raise RemoteUnreachable(self._line(said or out))

    def _line(self, said: str) -> str:
        """Return git's words as one line, without a password that the remote's address may have in it."""
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        fatal = [line for line in lines if line.startswith(("fatal:", "error:", "ssh:"))]
        line = (fatal or lines or ["no answer"])[0 if len(fatal) < 2 else -1]
        return f"{self.name}: {_SECRET.sub('//', line.removeprefix('fatal:').strip())}"
