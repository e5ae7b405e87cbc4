"""Asking git: safe whatever the caller's environment and the user's settings say."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from hypervisor.core.errors import Refused
from hypervisor.git.git import Git, GitError, from_top, locked, shown
from hypervisor.git.repository import Repository
from repositories import NAMES, Repo, make_repo


@pytest.fixture(name="repo")
def _repo(tmp_path: Path) -> Repo:
    return make_repo(tmp_path / "the repo")


def test_the_basic_questions_are_answered(repo: Repo) -> None:
    git = Git(repo.top)
    assert git.top_level == repo.top
    assert git.branch() == "main"
    assert git.head() == repo.git("rev-parse", "HEAD")
    assert git.exists("main")
    assert not git.exists("nowhere")
    assert not git.exists("-n")
    repo.git("checkout", "-q", "--detach")
    assert git.branch() is None


def test_a_branch_with_a_misleading_name_is_not_taken_for_another(repo: Repo) -> None:
    first = repo.git("rev-parse", "HEAD")
    second = repo.commit("x")
    for name in ("refs/heads/main", "HEAD", second):
        repo.git("update-ref", f"refs/heads/{name}", first)
    git = Git(repo.top)
    assert [git.commit(name) for name in ("refs/heads/main", "HEAD", second, "main")] == [second] * 4


def test_gits_words_are_in_the_error(repo: Repo) -> None:
    with pytest.raises(GitError, match="unknown option"):
        Git(repo.top).run("branch", "--no-such-option-Z", "-Z")
    with pytest.raises(GitError, match="no such folder"):
        Git(repo.top / "gone").run("status")
    assert Git(repo.top).run("rev-parse", "nowhere", "--", check=False) is not None


def test_a_callers_git_variables_do_not_turn_us_to_another_repository(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_repo(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other.top / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.top))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    monkeypatch.setenv("GIT_PREFIX", "x/")
    assert Git(repo.top).top_level == repo.top
    assert Git(repo.top).status().entries == ()


def test_our_commits_run_no_hook_and_ask_for_no_key_and_have_an_author(repo: Repo) -> None:
    hook = repo.write(".git/hooks/pre-commit", "#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    repo.git("config", "commit.gpgsign", "true")
    repo.git("config", "gpg.program", "/nonexistent")
    git = Git(repo.top)
    git.run("commit", "-q", "--allow-empty", "-m", "ours")
    assert git.run("log", "-1", "--format=%an <%ae> %cn") == "Hypervisor <hypervisor@localhost> Hypervisor"
    repo.git("config", "user.name", "Grace")
    repo.git("config", "user.email", "grace@example.org")
    git.run("commit", "-q", "--allow-empty", "-m", "theirs")
    assert git.run("log", "-1", "--format=%an <%ae>") == "Grace <grace@example.org>"


def test_a_lock_that_goes_away_is_waited_for(repo: Repo) -> None:
    lock = repo.write(".git/index.lock", "")
    repo.write("new.txt")
    threading.Timer(0.3, lock.unlink).start()
    began = time.monotonic()
    Git(repo.top).run("add", "new.txt")
    assert time.monotonic() - began >= 0.25


def test_a_lock_that_stays_is_an_error_in_the_end(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypervisor.git.git.LOCK_WAIT", 0.2)
    repo.write(".git/index.lock", "")
    repo.write("new.txt")
    with pytest.raises(GitError, match=r"index\.lock"):
        Git(repo.top).run("add", "new.txt")


def test_any_name_of_a_file_comes_back_as_it_is(repo: Repo) -> None:
    for name in NAMES:
        repo.write(name)
    Path(os.fsdecode(os.fsencode(repo.top) + b"/not-utf8-\xff")).touch()
    found = {entry.path for entry in Git(repo.top).status().entries}
    assert found == {*NAMES, os.fsdecode(b"not-utf8-\xff")}


def test_the_users_settings_for_status_change_nothing(repo: Repo) -> None:
    for key, value in (("status.showUntrackedFiles", "no"), ("status.relativePaths", "true")):
        repo.git("config", key, value)
    repo.git("mv", "README.md", "R.md")
    repo.write("sub/deep.txt")
    entries = {(entry.path, entry.code) for entry in Git(repo.top / "sub").status().entries}
    assert entries == {("README.md", "D."), ("R.md", "A."), ("sub/deep.txt", "??")}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("none", "no git repository"),
        ("bare", "bare"),
        ("linked", "linked worktree"),
        ("empty", "no commit yet"),
    ],
)
def test_what_is_no_main_checkout_is_refused(repo: Repo, tmp_path: Path, case: str, words: str) -> None:
    place = tmp_path / case
    place.mkdir()
    if case == "bare":
        repo.git("init", "-q", "--bare", str(place))
    elif case == "empty":
        repo.git("init", "-q", str(place))
    elif case == "linked":
        repo.git("worktree", "add", "-q", "--detach", str(place))
    with pytest.raises(Refused, match=words):
        Repository.read(place)


def test_paths_are_told_from_the_project() -> None:
    assert from_top("a/b", "") == "a/b"
    assert from_top("sub/a", "sub/") == "a"
    assert from_top("other/a", "sub/deep/") == "../../other/a"
    assert from_top("nested/", "sub/") == "../nested/"
    assert shown("a b") == "a b"
    assert "\n" not in shown("a\nb")


def test_a_lock_file_keeps_threads_apart(tmp_path: Path) -> None:
    inside, most = 0, 0

    def enter() -> None:
        nonlocal inside, most
        with locked(tmp_path / "x" / "lock"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
