"""Paths of files as the kernel tells them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hypervisor.core.files import real_path


def test_a_real_path_is_what_the_library_says_of_links_missing_files_and_strange_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real/below").mkdir(parents=True)
    (tmp_path / "real/below/a (deleted)").touch()
    (tmp_path / "real/b\udcff\n.md").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "nowhere").symlink_to("real/gone")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    names = ("real/below", "link/below/a (deleted)", "link/b\udcff\n.md", "link/../link/gone", "nowhere",
             "loop", ".", "", "link/below/..", str(tmp_path / "link/below"))  # fmt: skip
    for name in names:
        assert real_path(name) == os.path.realpath(name), name
        assert real_path(Path(name)) == os.path.realpath(Path(name)), name
