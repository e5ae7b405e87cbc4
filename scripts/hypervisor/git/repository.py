"""Facts of the repository that a project is in, read once: where it is, and what the user's settings are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import Refused
from .git import Git, fallback_identity, inherited

_QUESTIONS = (
    "--is-inside-work-tree", "--absolute-git-dir", "--git-common-dir", "--show-object-format",
    "--show-prefix", "--show-toplevel",
)  # fmt: skip
_LOCAL = ("local", "worktree")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository with a checkout in which a project stands, as it was when it was read."""

    #: The project's root, in the main checkout.
    root: Path
    #: The top of that checkout.
    top: Path
    #: The git folder.
    common: Path
    #: Where the root is below the top: "" or "a/b/".
    prefix: str
    #: The commit that was checked out.
    head: str
    #: The branch that was checked out, None if there was none.
    branch: str | None
    #: ``sha1`` or ``sha256``.
    object_format: str
    #: The settings that belong to this repository alone, in their order.
    settings: tuple[tuple[str, str], ...]
    #: Variables that name an author where the user's settings do not.
    identity: dict[str, str] = field(default_factory=dict)
    #: What git inherits of this process's environment.
    inherited: dict[str, str] = field(default_factory=inherited, repr=False)

    @classmethod
    def read(cls, root: Path) -> Repository:
        """Read the facts of the repository that *root* is in.

        Raises:
            Refused: There is no repository, no commit, no checkout, or it is a linked worktree.
        """
        git = Git(root)
        # In one question, whose answers stop at the first that there is none for.
        last = ("HEAD^{commit}", "--symbolic-full-name", "HEAD")
        code, out, _ = git.answer("rev-parse", *_QUESTIONS, *last)
        told = out.splitlines()
        if len(told) != len(_QUESTIONS) + 2:
            told = _asked_one_by_one(git, root, code != 0)
        _, folder, common, object_format, prefix, top, head, branch = told
        where = Path(os.path.realpath(root / common))
        if Path(os.path.realpath(folder)) != where:
            raise Refused(f"{root}: a linked worktree; go to the main checkout of {where}")
        settings = _settings(git)
        return cls(
            root=root, top=Path(top), common=where, prefix=prefix, head=head,
            branch=branch.removeprefix("refs/heads/") if branch.startswith("refs/heads/") else None,
            object_format=object_format,
            settings=tuple((key, value) for scope, key, value in settings if scope in _LOCAL),
            identity=fallback_identity([key for _, key, _ in settings], os.environ),
        )  # fmt: skip

    def git(
        self,
        keep: tuple[int, ...] = (),
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        settings: tuple[str, ...] = (),
        seconds: float | None = None,
    ) -> Git:
        """Return git in the project's root, or in *cwd*; see the fields of `Git`."""
        return Git(
            cwd or self.root, keep=keep, environment=environment or {}, settings=settings,
            identity=self.identity, inherited=self.inherited, seconds=seconds,
        )  # fmt: skip


def _asked_one_by_one(git: Git, root: Path, failed: bool) -> list[str]:
    """Return the same answers, or raise with the reason why one is missing."""
    if failed:
        if not git.ok("rev-parse", "--git-dir"):
            raise Refused(f"{root}: no git repository; `git init` makes one")
        if git.run("rev-parse", "--is-inside-work-tree", check=False) != "true":
            raise Refused(f"{root}: a bare repository has no checkout to work from; use a clone of it")
        if not git.head():
            raise Refused(f"{root}: the repository has no commit yet; make the first one")
    found = [
        git.run("rev-parse", question) for question in _QUESTIONS
    ]  # a folder with a line end in its name
    return [*found, git.head(), git.run("rev-parse", "--symbolic-full-name", "HEAD")]


def _settings(git: Git) -> list[tuple[str, str, str]]:
    """Return scope, name and value of each setting."""
    fields = iter(git.run("config", "--list", "--includes", "--show-scope", "-z").split("\0"))
    found = []
    for scope, setting in zip(fields, fields, strict=False):
        key, given, value = setting.partition("\n")
        found.append((scope, key, value if given else "true"))
    return found
