"""Folders of agents that are hard to remove."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hypervisor.core.files import remove_tree


def test_a_folder_nested_by_the_thousand_is_removed(tmp_path: Path) -> None:
    top, here = tmp_path / "top", Path.cwd()
    top.mkdir()
    try:
        os.chdir(top)
        for _ in range(1200):  # deeper than Python recurses, and longer than a path may be
            os.mkdir("folder")
            os.chdir("folder")
        Path("file").write_text("x")
    finally:
        os.chdir(here)
    remove_tree(top)
    assert not top.exists()


def test_closed_folders_pipes_and_links_are_removed_and_what_a_link_names_is_not(tmp_path: Path) -> None:
    top, kept = tmp_path / "top", tmp_path / "kept"
    for folder in (top / "closed/inner", kept):
        folder.mkdir(parents=True)
    (kept / "file").write_text("x")
    os.mkfifo(top / "closed/pipe")
    (top / "closed/link").symlink_to(kept)
    os.chmod(top / "closed/inner", 0)
    os.chmod(top / "closed", 0)
    remove_tree(top)
    assert not top.exists()
    assert (kept / "file").read_text() == "x"


@pytest.mark.timeout(20)  # a pipe that is opened waits for a writer for ever
@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "file"])
def test_what_stands_in_the_place_of_a_folder_is_removed_and_not_followed(tmp_path: Path, kind: str) -> None:
    top, kept = tmp_path / "top", tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    if kind == "pipe":
        os.mkfifo(top)
    elif kind == "file":
        top.write_text("x")
    else:
        top.symlink_to(kept if kind == "link" else tmp_path / "nothing")
    remove_tree(top)
    assert not os.path.lexists(top)
    assert (kept / "file").read_text() == "x"
