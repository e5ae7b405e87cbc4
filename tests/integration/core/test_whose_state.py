"""State of others is not used: another user's, everybody's, and what stands above the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hypervisor.core import bootstrap
from hypervisor.core.errors import Refused
from hypervisor.core.project import cache_folder, find_project


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give a folder of a project below another one that may have state."""
    folder = tmp_path / "above/project"
    folder.mkdir(parents=True)
    return folder


def _of_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)


def test_another_users_state_above_a_project_is_passed_over(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _of_another(place.parent / ".hypervisor", monkeypatch)
    assert find_project(place, {}).root == place


def test_another_users_state_in_a_project_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _of_another(place / ".hypervisor", monkeypatch)
    for environ in ({}, {"HYPERVISOR_HOME": str(place / ".hypervisor")}):
        with pytest.raises(Refused, match=r"belongs to the user with id \d+, not to you; nothing of others"):
            find_project(place, environ)


def test_state_that_everybody_may_write_to_is_refused(place: Path) -> None:
    (place / ".hypervisor").mkdir()
    (place / ".hypervisor").chmod(0o777)
    with pytest.raises(Refused, match="everybody may write to it; `chmod o-w` it"):
        find_project(place, {})


def test_what_stands_above_the_repository_is_no_part_of_it(place: Path) -> None:
    (place.parent / ".hypervisor").mkdir()
    assert find_project(place, {}).root == place.parent
    (place / ".git").mkdir()
    (place / "deep/er").mkdir(parents=True)
    assert find_project(place / "deep/er", {}).root == place


def test_an_agents_clone_belongs_to_the_project_that_it_lies_in(place: Path) -> None:
    clone = place / ".hypervisor/worktrees/b1/t-1-1"
    (clone / ".git").mkdir(parents=True)
    assert find_project(clone, {}).root == place


def test_what_python_has_compiled_for_another_user_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache/hypervisor").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert bootstrap._cache() == str(tmp_path / "cache/hypervisor")
    os.chown(tmp_path / "cache/hypervisor", 12345 if os.geteuid() == 0 else -1, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert bootstrap._cache() == ""
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert bootstrap._cache() == str(tmp_path / ".cache/hypervisor")


@pytest.mark.parametrize(
    ("named", "expected"), [("", "/h/.cache"), ("relative/cache", "/h/.cache"), ("/cache", "/cache")]
)
def test_a_relative_cache_folder_is_not_used(named: str, expected: str) -> None:
    assert str(cache_folder({"XDG_CACHE_HOME": named, "HOME": "/h"})) == expected
