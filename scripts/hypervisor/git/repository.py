"""Facts of the repository that a project is in, read once: where it is, and what the user's settings are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ..core.errors import Refused
from ..core.files import file_stamp
from .git import Git, fallback_identity, inherited

_QUESTIONS = (
    "--is-inside-work-tree", "--absolute-git-dir", "--git-common-dir", "--show-object-format",
    "--show-prefix", "--show-toplevel",
)  # fmt: skip
_LOCAL = ("local", "worktree")
_RULES = ("info/exclude", "info/attributes", "shallow")
#: Settings that make git run something when it looks at files, merges, or fetches what it misses.
_PROGRAMS = re.compile(
    r"filter\..+|merge\..+\.driver|diff\.(external|.+\.(command|textconv))"
    r"|core\.(sshcommand|gitproxy|attributesfile|alternaterefscommand)"
    r"|remote\..+\.(uploadpack|receivepack|promisor|vcs)|gpg\.(.+\.)?program|credential\.(.+\.)?helper"
)


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
    #: Files of the git folder that say what is ignored, how files are treated, and where history ends.
    rules: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    #: All settings that name programs, the user's own and those of the repository.
    programs: tuple[tuple[str, str], ...] = ()
    #: The files that the settings came from, and what each was like then.
    config_files: tuple[str, ...] = ()
    config_stamps: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
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
        own = (str(where / "config"), str(where / "config.worktree"), *_of_user(os.environ))
        settings, origins = _settings(git)
        files = tuple(sorted({*own, *(os.path.join(top, name) for name in origins)}))
        return cls(
            root=root, top=Path(top), common=where, prefix=prefix, head=head,
            branch=branch.removeprefix("refs/heads/") if branch.startswith("refs/heads/") else None,
            object_format=object_format,
            settings=tuple((key, value) for scope, key, value in settings if scope in _LOCAL),
            rules=tuple(
                (name, data) for name in _RULES if (data := read_plain(f"{where}/{name}")) is not None
            ),
            config_files=files, config_stamps=tuple(map(file_stamp, files)),
            programs=tuple((key, value) for _, key, value in settings if _PROGRAMS.fullmatch(key)),
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
        """Return git in the project's root, or in *cwd*; see the fields of `Git`.

        Programs that its settings name are those that they named when the repository was read: what an agent
        has set since then is not run. In the root it is this repository and this checkout, whatever the
        settings say now.
        """
        here = {"GIT_DIR": str(self.common), "GIT_WORK_TREE": str(self.top)} if cwd is None else {}
        return Git(
            cwd or self.root, keep=keep, environment={**here, **(environment or {})},
            settings=(*self._frozen(), *settings), identity=self.identity, inherited=self.inherited,
            seconds=seconds,
        )  # fmt: skip

    def _frozen(self) -> tuple[str, ...]:
        """Return settings that take back what was changed since the repository was read."""
        stamps = tuple(map(file_stamp, self.config_files))
        return () if stamps == self.config_stamps else _taken_back(self.root, self.programs, stamps)


@lru_cache(maxsize=8)
def _taken_back(
    root: Path, before: tuple[tuple[str, str], ...], _stamps: tuple[tuple[int, ...], ...]
) -> tuple[str, ...]:
    was: dict[str, list[str]] = {}
    now: dict[str, list[str]] = {}
    for key, value in before:
        was.setdefault(key, []).append(value)
    for _, key, value in _settings(Git(root))[0]:
        if _PROGRAMS.fullmatch(key):
            now.setdefault(key, []).append(value)
    changed = (key for key in {*was, *now} if was.get(key) != now.get(key))
    return tuple(f"{key}={was[key][-1] if key in was else _none(key)}" for key in sorted(changed))


def _none(key: str) -> str:
    """Return the value of a setting that names a program, for none."""
    if key.startswith("filter."):
        return "false" if key.endswith(".required") else ""
    if key.endswith((".promisor", ".fsmonitor")):
        return "false"
    # A merge that is left to it has failed; what would be fetched with it is not.
    return "/dev/null" if key == "core.attributesfile" else "false"


def _of_user(environ: Mapping[str, str]) -> list[str]:
    """Return the files of the user's that git reads, there or not."""
    home = environ.get("HOME", "")
    config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    named = environ.get("GIT_CONFIG_GLOBAL") or f"{home}/.gitconfig"
    return [named, *(f"{config}/git/{name}" for name in ("config", "attributes", "ignore"))]


def read_plain(path: str) -> bytes | None:
    """Return what is in a file, None if it is not there or no file."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


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


def _settings(git: Git) -> tuple[list[tuple[str, str, str]], set[str]]:
    """Return scope, name and value of each setting; and the files that they are in."""
    words = ("config", "--list", "--includes", "--show-scope", "--show-origin", "-z")
    fields = iter(git.run(*words).split("\0"))
    found, files = [], set()
    for scope, origin, setting in zip(fields, fields, fields, strict=False):
        key, given, value = setting.partition("\n")
        found.append((scope, key, value if given else "true"))
        if origin.startswith("file:"):
            files.add(origin.removeprefix("file:"))
    return found, files
