"""Whose words a file has: those that came with the repository, and those that were written here."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypervisor.git.git import GitError
from hypervisor.git.origins import brought
from repositories import Repo, make_repo


def lines_in(_: Path, content: bytes) -> frozenset[str] | None:
    return None if content == b"unreadable" else frozenset(content.decode().split("\n"))


def of_others(repo: Repo, *names: str) -> dict[str, list[str]]:
    wanted = {repo.top / name: frozenset((repo.top / name).read_text().split("\n")) - {""} for name in names}
    return {
        str(path.relative_to(repo.top)): sorted(texts)
        for path, texts in brought(repo.top, wanted, lines_in).items()
    }


@pytest.fixture
def theirs(tmp_path: Path) -> Repo:
    repo = make_repo(tmp_path / "theirs")
    repo.commit("tasks/a.md", "theirs\n")
    return repo


@pytest.fixture
def clone(theirs: Repo) -> Repo:
    theirs.git("clone", "-q", str(theirs.top), str(theirs.top.parent / "clone"))
    repo = Repo(theirs.top.parent / "clone")
    for key, value in (("user.name", "Ada"), ("user.email", "ada@example.org")):
        repo.git("config", key, value)
    return repo


def test_what_was_cloned_came_with_the_repository(clone: Repo) -> None:
    assert of_others(clone, "tasks/a.md") == {"tasks/a.md": ["theirs"]}


def test_a_repository_that_knows_no_remote_was_made_here(theirs: Repo) -> None:
    assert of_others(theirs, "tasks/a.md") == {}


def test_what_is_not_committed_was_written_here(clone: Repo) -> None:
    clone.write("tasks/a.md", "theirs\nmine\n")
    clone.write("tasks/b.md", "mine\n")
    assert of_others(clone, "tasks/a.md", "tasks/b.md") == {"tasks/a.md": ["theirs"]}


def test_what_was_committed_here_was_written_here_also_once_it_is_pushed(clone: Repo, tmp_path: Path) -> None:
    clone.commit("tasks/a.md", "theirs\nmine\n")
    clone.commit("tasks/b.md", "mine, in one\nsecond\n")
    clone.git("commit", "-q", "--amend", "-m", "again")
    clone.git("init", "-q", "--bare", str(tmp_path / "bare.git"))
    clone.git("remote", "set-url", "origin", str(tmp_path / "bare.git"))
    clone.git("push", "-q", "origin", "HEAD:main")
    clone.git("fetch", "-q")
    assert of_others(clone, "tasks/a.md", "tasks/b.md") == {"tasks/a.md": ["theirs"]}


@pytest.mark.parametrize(
    "words", [("pull", "-q", "--no-rebase"), ("pull", "-q", "--rebase"), ("cherry-pick", "FETCH_HEAD")]
)
def test_what_was_pulled_came_with_the_repository(clone: Repo, theirs: Repo, words: tuple[str, ...]) -> None:
    clone.commit("tasks/mine.md", "mine\n")
    theirs.commit("tasks/new.md", "new\n")
    clone.git("fetch", "-q")
    clone.git(*words)
    assert of_others(clone, "tasks/mine.md", "tasks/new.md") == {"tasks/new.md": ["new"]}


def test_a_file_of_a_repository_within_came_with_it(clone: Repo) -> None:
    make_repo(clone.top / "tasks/sub").commit("b.md", "theirs\n")
    assert of_others(clone, "tasks/sub/b.md") == {"tasks/sub/b.md": ["theirs"]}


def test_a_link_to_a_file_is_that_file(clone: Repo, theirs: Repo) -> None:
    theirs.write("data/b.md", "theirs\n")
    (theirs.top / "tasks/b.md").symlink_to("../data/b.md")
    theirs.commit("x")
    clone.git("pull", "-q")
    assert of_others(clone, "tasks/b.md") == {"tasks/b.md": ["theirs"]}


@pytest.mark.parametrize("name", ["two\nlines.md", "a b 5 blob.md", "ü.md", '"q".md'])
def test_odd_names_are_not_mistaken(clone: Repo, theirs: Repo, name: str) -> None:
    theirs.commit(f"tasks/{name}", "theirs\n")
    clone.git("pull", "-q")
    assert of_others(clone, f"tasks/{name}", "tasks/a.md") == {
        f"tasks/{name}": ["theirs"],
        "tasks/a.md": ["theirs"],
    }


def test_what_could_not_be_read_before_is_not_the_users(clone: Repo, theirs: Repo) -> None:
    theirs.commit("tasks/a.md", "unreadable")
    clone.git("pull", "-q")
    clone.write("tasks/a.md", "text\n")
    assert of_others(clone, "tasks/a.md") == {"tasks/a.md": ["text"]}


def test_a_repository_that_git_refuses_to_read_tells_nothing(clone: Repo) -> None:
    (clone.top / ".git/config").write_text("[core\n")
    with pytest.raises(GitError):
        of_others(clone, "tasks/a.md")


def test_a_folder_without_git_is_the_users(tmp_path: Path) -> None:
    repo = Repo(tmp_path)
    repo.write("tasks/a.md", "mine\n")
    assert of_others(repo, "tasks/a.md") == {}


def test_before_the_first_commit_all_is_the_users(tmp_path: Path, theirs: Repo) -> None:
    theirs.git("init", "-q", str(tmp_path / "new"))
    new = Repo(tmp_path / "new")
    new.git("fetch", "-q", str(theirs.top), "main:refs/remotes/origin/main")
    new.write("tasks/a.md", "mine\n")
    assert of_others(new, "tasks/a.md") == {}
