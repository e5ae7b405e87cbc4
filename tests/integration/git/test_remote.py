"""What a coordinator does at a remote: new branches, fast-forwards, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hypervisor.core.errors import UsageError
from hypervisor.git.remote import PushRefused, Remote, RemoteUnreachable
from hypervisor.git.repository import Repository
from repositories import Repo, make_repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = make_repo(tmp_path / "repo")
    made.git("init", "-q", "--bare", "-b", "main", str(tmp_path / "remote.git"))
    made.git("remote", "add", "origin", str(tmp_path / "remote.git"))
    made.git("push", "-q", "-u", "origin", "main")
    return made


def remote_of(repo: Repo, seconds: float = 20.0) -> Remote:
    return Remote.of(Repository.read(repo.top), "main", seconds)


def other(repo: Repo, name: str = "other") -> Repo:
    place = repo.top.parent / name
    repo.git("clone", "-q", str(repo.top.parent / "remote.git"), str(place))
    return Repo(place)


def test_a_push_is_a_fast_forward_or_nothing(repo: Repo) -> None:
    friend = other(repo)
    theirs = friend.commit("theirs.txt")
    friend.git("push", "-q")
    mine = repo.commit("mine.txt")
    remote = remote_of(repo)
    assert not remote.push(mine)
    assert remote.fetch() == theirs
    repo.git("merge", "-q", "origin/main", "-m", "merge")
    assert remote.push(repo.git("rev-parse", "HEAD"))
    assert remote.fetch() == repo.git("rev-parse", "HEAD")


def test_a_task_branch_is_created_once_and_never_moved(repo: Repo) -> None:
    remote, branch = remote_of(repo), "hypervisor/b1/t-1-1"
    first = repo.commit("first.txt")
    remote.push_new(first, branch)
    remote.push_new(first, branch)  # the answer to the first push was lost
    second = repo.commit("second.txt")
    with pytest.raises(PushRefused, match="already, with another commit"):
        remote.push_new(second, branch)
    friend = other(repo)
    assert friend.git("rev-parse", f"origin/{branch}") == first


def test_work_of_a_batch_is_fetched_and_dropped_only_at_its_commit(repo: Repo) -> None:
    friend, branch = other(repo), "hypervisor/b1/t-1-1"
    work = friend.commit("work.txt")
    Remote.of(Repository.read(friend.top), "main", 20.0).push_new(work, branch)
    remote = remote_of(repo)
    remote.fetch(["b1"])
    assert repo.git("rev-parse", "refs/hypervisor/origin/b1/t-1-1") == work
    remote.drop([(branch, repo.git("rev-parse", "HEAD"))])
    assert repo.git("ls-remote", "origin", f"refs/heads/{branch}")
    remote.drop([(branch, work)])
    assert not repo.git("ls-remote", "origin", f"refs/heads/{branch}")
    assert not repo.git("for-each-ref", "refs/hypervisor")


def test_a_remote_that_is_gone_is_one_line_without_its_password(repo: Repo) -> None:
    repo.git("remote", "set-url", "origin", "http://ada:secret@127.0.0.1:1/x.git")
    with pytest.raises(RemoteUnreachable) as told:
        remote_of(repo).fetch()
    assert "\n" not in str(told.value)
    assert "127.0.0.1" in str(told.value)
    assert "secret" not in str(told.value)


def test_a_remote_that_hangs_is_given_up_with_all_that_git_started(repo: Repo) -> None:
    hang = repo.top.parent / "hang"
    hang.write_text("#!/bin/sh\nexec sleep 600\n")
    hang.chmod(0o755)
    repo.git("config", "remote.origin.uploadpack", str(hang))
    began = time.monotonic()
    with pytest.raises(RemoteUnreachable, match=r"no answer within 0\.3 s"):
        remote_of(repo, 0.3).fetch()
    assert time.monotonic() - began < 10


def test_a_refusal_of_the_server_is_told_in_its_words(repo: Repo) -> None:
    hook = repo.top.parent / "remote.git/hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'main is protected' >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(PushRefused, match=r"pre-receive hook declined.*main is protected"):
        remote_of(repo).push(repo.commit("mine.txt"))


def test_a_remote_without_the_branch_has_no_commit_and_takes_the_first(repo: Repo) -> None:
    repo.git("push", "-q", "origin", "main:elsewhere")
    repo.git("-C", str(repo.top.parent / "remote.git"), "update-ref", "-d", "refs/heads/main")
    remote = remote_of(repo)
    assert remote.fetch() == ""
    assert remote.push(repo.git("rev-parse", "HEAD"))


def test_which_remote_is_meant_must_be_clear(repo: Repo) -> None:
    repo.git("remote", "rename", "origin", "upstream")
    assert remote_of(repo).name == "upstream"
    repo.git("branch", "--unset-upstream")
    repo.git("remote", "add", "fork", "elsewhere")
    with pytest.raises(UsageError, match=r"several remotes \(fork, upstream\)"):
        remote_of(repo)
