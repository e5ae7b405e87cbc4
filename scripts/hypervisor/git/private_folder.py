"""A private git folder: a clone that borrows the user's objects, and can write nothing of the user's.

It is written by hand, which is what ``git clone --shared --single-branch --no-tags`` comes to without
the remote and without the processes. Whoever works in it may do anything to it; so it is made sound
again before git is run in it in our name, and its settings are never believed.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .git import Git
from .repository import Repository, read_plain

#: Settings of the user's repository that commits there depend on; all others stay behind.
_ALLOWED = re.compile(
    r"(user|author|committer)\.(name|email)"
    r"|core\.(autocrlf|eol|safecrlf|filemode|symlinks|ignorecase|precomposeunicode|protecthfs|protectntfs"
    r"|attributesfile|excludesfile|whitespace|bigfilethreshold|longpaths)"
    r"|i18n\.commitencoding|filter\..+|submodule\..+\.(url|active)"
)
#: It lives for one task only, so there is nothing to tidy up.
_OWN = (
    ("core.bare", "false"),
    ("core.logallrefupdates", "true"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
)
#: What would lead git elsewhere, or belongs to a process that has ended.
_REMOVED = ("commondir", "gitdir", "config.worktree", "info/grafts", "index.lock", "HEAD.lock", "config.lock")
#: Files that the user's git folder had when the run began (`Repository.rules`), or none.
_COPIED = ("info/exclude", "info/attributes", "shallow")
#: Folders at its top that nothing is written to but what bears its content's hash, or nothing at all.
_NOT_WRITTEN = ("objects", "modules", "hooks", "lfs")
#: Packs with fewer objects are unpacked, as `git fetch` does it.
_FEW = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateFolder:
    """The git folder of the checkout in *path*."""

    repository: Repository
    path: Path

    @property
    def folder(self) -> Path:
        """The git folder itself."""
        return self.path / ".git"

    @property
    def git(self) -> Git:
        """Git in the checkout. `restore` comes first where others have been at work there."""
        where = {
            "GIT_DIR": str(self.folder), "GIT_WORK_TREE": str(self.path), "GIT_NO_REPLACE_OBJECTS": "1",
        }  # fmt: skip
        return self.repository.git(cwd=self.path, environment=where)

    def make(self, head: str, refs: Mapping[str, str]) -> None:
        """Make the folder; *head* is a commit, or ``ref: `` and a branch's full name."""
        folder = str(self.folder)
        for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
            os.makedirs(f"{folder}/{name}")
        for name, data in self._files().items():
            _write(f"{folder}/{name}", data)
        for ref, commit in refs.items():
            self.set_ref(ref, commit)
        _write(f"{folder}/HEAD", f"{head}\n".encode())

    def restore(self) -> bool:
        """Make the folder sound again; tell whether that could be done, as it was still ours."""
        folder = str(self.folder)
        if not _is_plain(folder):
            return False
        files = self._files()
        for name in (*_REMOVED, *(name for name in _COPIED if name not in files)):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(f"{folder}/{name}")
        for lock in Path(folder, "refs").rglob("*.lock"):
            lock.unlink()
        for name in ("objects/info", "info"):
            os.makedirs(f"{folder}/{name}", exist_ok=True)
        for name, data in files.items():
            if read_plain(f"{folder}/{name}") != data:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{folder}/{name}")
                _write(f"{folder}/{name}", data)
        return True

    def check_out(self, commit: str, keep: tuple[int, ...] = ()) -> None:
        """Bring the index and all files to *commit*.

        It is the user's repository that they come from, with its filters and its promised objects.

        Raises:
            GitError: That cannot be done.
        """
        where = {
            "GIT_DIR": str(self.repository.common), "GIT_WORK_TREE": str(self.path),
            "GIT_INDEX_FILE": str(self.folder / "index"),
        }  # fmt: skip
        whole = ("core.splitIndex=false", "core.sparseCheckout=false", "index.sparse=false")
        git = self.repository.git(keep, cwd=self.path, environment=where, settings=whole)
        git.run("read-tree", "--reset", "-u", commit)

    def set_ref(self, ref: str, commit: str) -> None:
        """Write a ref; for a folder that is sound only."""
        path = self.folder / ref
        os.makedirs(path.parent, exist_ok=True)
        path.write_text(f"{commit}\n")

    def refs(self) -> Iterator[tuple[str, str]]:
        """Yield each ref with the object that it names."""
        loose = set()
        for at, _, names in os.walk(self.folder / "refs"):
            for name in names:
                path = Path(at, name)
                ref, text = str(path.relative_to(self.folder)), path.read_text("ascii", "replace").strip()
                loose.add(ref)
                if re.fullmatch(r"[0-9a-f]{40,64}", text):
                    yield ref, text
        packed = self.folder / "packed-refs"
        for line in os.fsdecode(packed.read_bytes()).splitlines() if packed.is_file() else ():
            commit, _, ref = line.partition(" ")
            if ref and ref not in loose and re.fullmatch(r"[0-9a-f]{40,64}", commit):
                yield ref, commit

    def send(self, tip: str, base: str) -> None:
        """Bring the objects of *tip* to the user's repository, which has *base* and all before it.

        What ``git fetch`` does, but for its questions: both ends are known. Each object is hashed anew,
        and none is taken whose parts are missing.

        Raises:
            GitError: Something is missing, or is not what its name says.
        """
        words = ("pack-objects", "--revs", "--stdout", "--thin", "--delta-base-offset", "-q", "--threads=1")
        with tempfile.TemporaryFile() as pack:
            self.git.write_to(pack, *words, input=f"{tip}\n^{base}\n")
            pack.seek(8)
            count = int.from_bytes(pack.read(4), "big")
            pack.seek(0)  # of the descriptor too, as that is what git gets
            os.lseek(pack.fileno(), 0, os.SEEK_SET)
            few = ("unpack-objects", "-q", "--strict")
            many = ("index-pack", "--stdin", "--fix-thin", "--strict", "--threads=1")
            self.repository.git().read_from(pack, *(few if count < _FEW else many))

    def _files(self) -> dict[str, bytes]:
        repository = self.repository
        found = {
            "config": _config(repository.object_format, repository.settings),
            "objects/info/alternates": _quoted(repository.common / "objects"),
        }
        found |= repository.rules
        return found


def _is_plain(folder: str) -> bool:
    """Tell whether a git folder is one, and no link in it leads elsewhere."""
    if os.path.islink(folder) or not os.path.isfile(f"{folder}/HEAD"):
        return False
    if not all(os.path.isdir(f"{folder}/{name}") for name in ("objects", "refs")):
        return False
    below = [folder]
    for at in below:
        with os.scandir(at) as entries:
            for entry in entries:
                if entry.is_symlink():
                    return False
                if entry.is_dir() and (at != folder or entry.name not in _NOT_WRITTEN):
                    below.append(entry.path)
    return True


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


@lru_cache(maxsize=4)
def _config(object_format: str, settings: tuple[tuple[str, str], ...]) -> bytes:
    """Return the settings of a private folder, of which *settings* are the user's."""
    sha1 = object_format == "sha1"
    version = (("core.repositoryformatversion", "0" if sha1 else "1"),)
    extension = () if sha1 else (("extensions.objectformat", object_format),)
    theirs = [one for one in settings if _ALLOWED.fullmatch(one[0])]
    lines = []
    for key, value in (*version, *extension, *_OWN, *theirs):
        section, _, rest = key.partition(".")
        sub, _, name = rest.rpartition(".")
        under = ' "{}"'.format(sub.replace("\\", "\\\\").replace('"', '\\"')) if sub else ""
        plain = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        lines.append(f'[{section}{under}]\n\t{name} = "{plain}"\n')
    return os.fsencode("".join(lines))


def _quoted(path: Path) -> bytes:
    """Return a path as a line of ``alternates``."""
    data = os.fsencode(path)
    if b"\n" in data or data[:1] in (b'"', b"#"):
        inner = data.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
        data = b'"' + inner + b'"'
    return data + b"\n"
