"""What set-up made is kept as it was, or its folder is not used again; all else is removed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervisor.git.prepared import note_files, reset_files

TRACKED = {"src/code.py", "packages/a/package.json"}


def write(top: Path, *names: str) -> None:
    for name in names:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    folder = tmp_path / "top"
    write(folder, *TRACKED, ".git/config", "made/tool", "packages/a/made/inner/lib")
    (folder / "made/link").symlink_to("tool")
    (folder / "made/empty").mkdir()
    write(tmp_path, "cache")
    os.link(tmp_path / "cache", folder / "made/cached")
    return folder


def everything(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*")}


MADE = {
    "made", "made/tool", "made/link", "made/empty", "made/cached", "packages", "packages/a",
    "packages/a/made", "packages/a/made/inner", "packages/a/made/inner/lib",
}  # fmt: skip


def test_what_set_up_made_stays_and_all_else_goes(top: Path, tmp_path: Path) -> None:
    noted = note_files(top, TRACKED)
    assert set(noted) == MADE
    write(top, "made/new", "made/empty/new", "hidden/.gitignore", "packages/b/x")
    (top / "out").symlink_to(tmp_path)
    assert reset_files(top, noted) == ""
    assert everything(top) == MADE
    assert (tmp_path / "cache").exists()


def test_a_cached_file_that_gets_another_name_elsewhere_counts_as_unchanged(
    top: Path, tmp_path: Path
) -> None:
    noted = note_files(top, TRACKED)
    os.link(tmp_path / "cache", tmp_path / "second")
    assert reset_files(top, noted) == ""
    os.unlink(tmp_path / "second")
    os.unlink(tmp_path / "cache")
    assert reset_files(top, noted) == ""


def _same_times(path: Path) -> None:
    was = path.stat()
    path.write_text("made/tooL")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def _swap(path: Path) -> None:
    path.unlink()
    path.symlink_to("/bin")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("made/tool", _same_times),
        ("made/tool", lambda path: path.unlink()),
        ("made/tool", lambda path: path.chmod(0o755)),
        ("made/tool", _swap),
        ("made/link", lambda path: (path.unlink(), path.symlink_to("/bin/true"))),
        ("made/empty", lambda path: path.rmdir()),
        ("made/empty", lambda path: path.chmod(0o777)),
        ("made/cached", lambda path: path.write_text("evil")),
        ("packages/a/made/inner", lambda path: path.rename(path.with_name("moved"))),
    ],
)
def test_a_folder_in_which_what_set_up_made_was_changed_is_not_used_again(
    top: Path, name: str, change: Callable[[Path], object]
) -> None:
    noted = note_files(top, TRACKED)
    change(top / name)
    assert reset_files(top, noted) != ""
