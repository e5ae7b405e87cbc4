"""A task's folder, clone or worktree: made whole, looked at, brought home, never removed with work in it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervisor.core.errors import Refused
from hypervisor.git.work import Tree, in_scope
from repositories import KINDS, NAMES, Place, Repo, make_repo, trees_of


@pytest.fixture(name="repo")
def _repo(tmp_path: Path) -> Repo:
    repo = make_repo(tmp_path / "the repo")
    repo.commit("src/code.py", "one\ntwo\nthree\n")
    return repo


@pytest.fixture(name="kind", params=list(KINDS))
def _kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(name="place")
def _place(repo: Repo, kind: str) -> Place:
    return Place(repo, kind)


def _all(_: str) -> bool:
    return True


def _src(path: str) -> bool:
    return in_scope(path, ["src"])


# Opening


def test_a_worktree_stands_on_a_branch_of_its_own_at_the_base(place: Place) -> None:
    assert place.tree.path.name == "t-1-1"
    assert place.git("symbolic-ref", "HEAD") == f"refs/heads/{place.tree.branch}"
    assert place.git("rev-parse", "HEAD") == place.tree.base == place.repo.git("rev-parse", "main")
    assert place.repo.git("status", "--porcelain") == ""


@pytest.mark.parametrize("task", ["-dash", "a b", "日本", "x" * 300, "../../etc", "a\nb", "T@{1}.lock", ""])
def test_any_id_of_a_task_gives_a_name_that_git_takes(repo: Repo, kind: str, task: str) -> None:
    trees = trees_of(repo, kind)
    tree = trees.open(task, 3, "main")
    assert tree.path.parent == repo.top / ".hypervisor/trees"
    assert len(tree.path.name) < 50
    assert tree.task == task
    assert trees.found() == [tree]


def test_ids_that_look_alike_have_worktrees_of_their_own(repo: Repo, kind: str) -> None:
    trees = trees_of(repo, kind)
    made = [trees.open(task, 1, "main") for task in ("A.b", "a-b", "a b", "a/b")]
    assert len({tree.path for tree in made}) == 4
    assert trees.open("a b", 2, "main").path.name == made[2].path.name[:-1] + "2"


def test_opening_twice_gives_the_same_worktree_with_its_work(place: Place) -> None:
    place.write("src/new.txt")
    again = place.trees.open("t-1", 1, "main")
    assert again == place.tree
    assert (again.path / "src/new.txt").exists()


def test_many_threads_open_at_once(repo: Repo, kind: str) -> None:
    made: list[Tree] = []

    def work(number: int) -> None:
        trees = trees_of(repo, kind)
        made.extend(trees.open(f"t{number}-{at}", 1, "main") for at in range(3))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 12
    assert all((tree.path / "src/code.py").exists() for tree in made)


def test_ignored_files_that_are_named_come_along(repo: Repo, kind: str) -> None:
    repo.commit(".gitignore", ".env\n*.key\n/cache/\n")
    repo.commit(".worktreeinclude", ".env\n*.key\n*.txt\n*\n!cache/\n")
    repo.write(".env", "secret\n")
    repo.write("deep er/-x.key", "key\n")
    repo.write("plain.txt", "not ignored\n")
    tree = trees_of(repo, kind).open("t", 1, "main")
    assert (tree.path / ".env").read_text() == "secret\n"
    assert (tree.path / "deep er/-x.key").read_text() == "key\n"
    assert not (tree.path / "plain.txt").exists()
    assert not (tree.path / ".hypervisor").exists()
    assert repo.git("status", "--porcelain", cwd=tree.path) == ""


def test_what_cannot_be_worked_in_is_refused(repo: Repo, kind: str) -> None:
    with pytest.raises(Refused, match="no such commit"):
        trees_of(repo, kind).open("t", 1, "nowhere")


def test_a_project_with_filters_gets_all_files_as_they_are_meant(repo: Repo, kind: str) -> None:
    repo.commit(".gitattributes", "*.up filter=up\n")
    repo.git("config", "filter.up.smudge", "tr a-z A-Z")
    repo.git("config", "filter.up.clean", "tr A-Z a-z")
    repo.commit("x.up", "low\n")
    place = Place(repo, kind)
    assert (place.tree.path / "x.up").read_text() == "LOW\n"
    place.write("y.up", "HIGH\n")
    gathered = place.trees.gather(place.tree, "m", _all)
    assert repo.git("show", f"{gathered.made}:y.up") == "high"


# Looking


def test_facts_of_all_kinds_of_changes_are_told(place: Place) -> None:
    place.git("mv", "src/code.py", "src/moved.py")
    place.git("rm", "-q", "README.md")
    (place.tree.path / "blob").write_bytes(b"\0\1\2")
    os.symlink("blob", place.tree.path / "link")
    for name in NAMES:
        place.write(name)
    sha = place.commit("x")
    one = place.trees.inspect(place.tree)
    place.git("update-index", "--add", "--cacheinfo", f"160000,{sha},module")
    place.git("commit", "-qm", "module")
    work = place.trees.inspect(place.tree)
    files = {"src/code.py", "src/moved.py", "README.md", "blob", "link", "x", *NAMES}
    assert (one.commits, set(one.files), one.submodules) == ((sha,), files, ())
    assert (set(work.files), work.submodules) == (files | {"module"}, ("module",))
    assert work.commits[0] == sha
    assert len(work.commits) == 2


def test_what_was_changed_and_changed_back_is_no_change(place: Place) -> None:
    place.commit("README.md", "other\n")
    place.commit("README.md", "read me\n")
    place.commit("src/a")
    assert place.trees.inspect(place.tree).files == ("src/a",)


def test_what_a_merge_of_another_branch_brings_is_told(place: Place) -> None:
    theirs = place.repo.commit("theirs")
    mine = place.commit("src/a")
    place.git("merge", "-q", "--no-edit", theirs)
    gathered = place.trees.gather(place.tree, "m", _all)
    assert mine in gathered.commits
    assert set(gathered.files) == {"src/a", "theirs"}


def test_uncommitted_changes_are_told_by_the_projects_names(repo: Repo, kind: str) -> None:
    repo.commit("sub/a.txt")
    place = Place(repo, kind, "sub")
    assert place.trees.place(place.tree) == place.tree.path / "sub"
    place.write("sub/a.txt", "x")
    place.write("sub/new é.txt")
    place.write("other/b.txt")
    assert set(place.trees.inspect(place.tree).uncommitted) == {"a.txt", "new é.txt", "../other/b.txt"}


def test_a_commit_elsewhere_is_astray(place: Place) -> None:
    place.git("checkout", "-q", "--detach")
    sha = place.commit("src/a")
    work = place.trees.inspect(place.tree)
    assert (work.on, work.astray, work.commits) == (None, (sha,), ())
    place.git("checkout", "-qb", "mine")
    work = place.trees.inspect(place.tree)
    assert (work.on, work.astray) == ("mine", (sha,))


# Bringing home


@pytest.mark.parametrize("words", [("checkout", "-q", "--detach"), ("checkout", "-qb", "mine")])
def test_commits_beside_the_branch_come_home(place: Place, words: tuple[str, ...]) -> None:
    first = place.commit("src/a")
    place.git(*words)
    second = place.commit("src/b")
    place.write("src/c")
    gathered = place.trees.gather(place.tree, "for the agent", _src)
    assert gathered.commits == (first, second, gathered.made)
    assert gathered.astray == ()
    assert set(gathered.files) == {"src/a", "src/b", "src/c"}
    assert place.git("symbolic-ref", "--short", "HEAD") == place.tree.branch
    assert place.git("status", "--porcelain") == ""


def test_commits_that_do_not_follow_the_branch_are_told_and_kept(place: Place) -> None:
    first = place.commit("src/a")
    place.git("checkout", "-q", "--detach", "HEAD~1")
    stray = place.commit("src/b")
    place.write("src/c")
    gathered = place.trees.gather(place.tree, "m", _src)
    assert (gathered.commits, gathered.astray, gathered.left) == ((first,), (stray,), ("src/c",))
    with pytest.raises(Refused, match="commit"):
        place.trees.remove(place.tree)
    assert place.git("rev-parse", stray) == stray


def test_what_a_user_commits_meanwhile_is_not_taken_for_the_agents(place: Place) -> None:
    theirs = place.repo.commit("src/later")
    place.git("checkout", "-q", "--detach", place.repo.git("rev-parse", "main"))
    mine = place.commit("src/b")
    gathered = place.trees.gather(place.tree, "m", _all)
    assert (gathered.commits, gathered.astray) == ((), (mine,))
    assert theirs not in gathered.commits


def test_only_changes_in_scope_are_committed_whatever_is_staged(place: Place) -> None:
    place.write("src/in scope.txt")
    place.write("outside.txt")
    place.git("add", "outside.txt")
    place.write("README.md", "changed\n")
    (place.tree.path / "src/code.py").unlink()
    gathered = place.trees.gather(place.tree, "for the agent", _src)
    assert set(gathered.files) == {"src/in scope.txt", "src/code.py"}
    assert set(gathered.outside) == {"outside.txt", "README.md"}
    assert place.git("diff", "--cached", "--name-only") == "outside.txt"
    assert place.git("log", "-1", "--format=%s|%an") == "for the agent|Hypervisor"


def test_changes_of_all_kinds_are_committed_as_they_are(place: Place) -> None:
    for name in NAMES:
        place.write(name)
    place.write("src/code.py", "changed\n").chmod(0o755)
    (place.tree.path / "README.md").unlink()
    place.write("README.md/now a folder")
    os.symlink("nowhere", place.tree.path / "link")
    gathered = place.trees.gather(place.tree, "m", _all)
    assert (gathered.outside, gathered.left) == ((), ())
    assert set(gathered.files) == {*NAMES, "src/code.py", "README.md", "README.md/now a folder", "link"}
    assert place.git("status", "--porcelain") == ""


def test_a_folder_that_became_a_link_is_committed(place: Place) -> None:
    shutil.rmtree(place.tree.path / "src")
    place.write("real/code.py")
    os.symlink("real", place.tree.path / "src")
    gathered = place.trees.gather(place.tree, "m", _all)
    assert set(gathered.files) == {"src", "src/code.py", "real/code.py"}
    assert place.git("status", "--porcelain") == ""


def test_gathering_twice_is_gathering_once(place: Place) -> None:
    place.write("src/a")
    first = place.trees.gather(place.tree, "m", _src)
    second = place.trees.gather(place.tree, "m", _src)
    assert (second.commits, second.made) == (first.commits, "")


def test_a_nested_repository_is_told_and_not_committed(place: Place) -> None:
    place.repo.git("init", "-q", str(place.tree.path / "src/nested"))
    place.write("src/nested/file")
    place.repo.git("add", "-A", cwd=place.tree.path / "src/nested")
    place.repo.git("commit", "-qm", "x", cwd=place.tree.path / "src/nested")
    gathered = place.trees.gather(place.tree, "m", _all)
    assert (gathered.made, gathered.outside) == ("", ("src/nested/",))
    with pytest.raises(Refused, match="nested"):
        place.trees.remove(place.tree)


@pytest.mark.parametrize("how", ["merge", "rebase"])
def test_conflicts_are_told_and_not_committed(place: Place, how: str) -> None:
    theirs = place.repo.commit("src/code.py", "theirs\n")
    place.commit("src/code.py", "mine\n")
    place.repo.git(how, theirs, cwd=place.tree.path, check=False)
    gathered = place.trees.gather(place.tree, "m", _all)
    assert (gathered.begun, gathered.conflicts, gathered.made) == (how, ("src/code.py",), "")
    assert gathered.left == ("src/code.py",)
    with pytest.raises(Refused):
        place.trees.remove(place.tree)


# Removing


def _uncommitted(place: Place) -> None:
    place.write("src/a")


def _staged(place: Place) -> None:
    place.write("src/a")
    place.git("add", "-A")


def _committed(place: Place) -> None:
    place.commit("src/a")


def _amended(place: Place) -> None:
    place.git("commit", "-q", "--amend", "-m", "mine")


def _detached(place: Place) -> None:
    place.git("checkout", "-q", "--detach")
    place.commit("src/a")


def _without_mark(place: Place) -> None:
    place.write("src/a")
    _mark_gone(place)


def _a_repository_of_its_own(place: Place) -> None:
    _mark_gone(place)
    place.repo.git("init", "-q", cwd=place.tree.path)
    place.commit("src/a")


@pytest.mark.parametrize(
    "act",
    [_uncommitted, _staged, _committed, _amended, _detached, _without_mark, _a_repository_of_its_own],
)
def test_nothing_unmerged_is_ever_removed(place: Place, act: Callable[[Place], None]) -> None:
    act(place)
    tip = place.git("rev-parse", "HEAD")
    with pytest.raises(Refused):
        place.trees.remove(place.tree, "main")
    kept = place.repo.git("rev-parse", "-q", "--verify", place.tree.branch, check=False) == tip
    assert place.tree.path.exists() or kept
    assert place.trees.found() == [place.tree]


def _nothing(_: Place) -> None:
    pass


def _folder_deleted(place: Place) -> None:
    shutil.rmtree(place.tree.path)


def _mark_gone(place: Place) -> None:
    mark = place.tree.path / ".git"
    shutil.rmtree(mark) if mark.is_dir() else mark.unlink()


def _reset(place: Place) -> None:
    place.git("reset", "-q", "--hard", "HEAD~1")


def _merged(place: Place) -> None:
    place.commit("src/a")
    place.trees.gather(place.tree, "m", _all)
    place.repo.git("merge", "-q", "--no-ff", place.tree.branch)


@pytest.mark.parametrize("act", [_nothing, _folder_deleted, _mark_gone, _reset, _merged])
def test_what_is_empty_or_merged_is_removed_without_a_trace(
    place: Place, act: Callable[[Place], None]
) -> None:
    act(place)
    place.trees.remove(place.tree, "main")
    assert not place.tree.path.exists()
    assert place.repo.git("branch", "--list", "hypervisor/*") == ""
    assert len(place.repo.git("worktree", "list").splitlines()) == 1
    assert place.trees.found() == []
    place.trees.remove(place.tree, "main")
    assert place.repo.git("status", "--porcelain") == ""


def test_a_folder_that_closed_itself_is_removed(place: Place) -> None:
    place.repo.write(".git/info/exclude", "deep/\n")
    place.write("deep/er/file").parent.chmod(0o500)
    place.trees.close(place.tree, place.trees.gather(place.tree, "m", _all), merged=False)
    assert place.kind == "worktree" or not place.tree.path.exists()


def test_work_in_a_folder_that_lost_its_git_folder_comes_home_and_the_users_checkout_is_not_touched(
    place: Place,
) -> None:
    place.write("src/a")
    place.repo.write("README.md", "the user's\n")
    _mark_gone(place)
    gathered = place.trees.gather(place.tree, "m", _all)
    assert gathered.files == ("src/a",)
    assert place.repo.git("status", "--porcelain") == "M README.md"


def test_the_commits_of_a_deleted_folder_are_still_told_and_it_can_be_opened_again(place: Place) -> None:
    sha = place.commit("src/a")
    place.trees.gather(place.tree, "m", _all)
    shutil.rmtree(place.tree.path)
    work = place.trees.inspect(place.tree)
    assert (work.gone, work.commits) == (True, (sha,))
    assert place.trees.gather(place.tree, "m", _all).commits == (sha,)
    assert (place.trees.open("t-1", 1, "main").path / "src/a").exists()


@pytest.mark.timeout(60)  # a pipe that is opened waits for a writer for ever
@pytest.mark.parametrize("what", ["checkout", "worktree", "pipe", "file"])
def test_what_an_agent_puts_in_the_place_of_its_folder_is_not_followed(place: Place, what: str) -> None:
    repo, path = place.repo, place.tree.path
    repo.git("worktree", "add", "-q", str(repo.top.parent / "theirs"), "-b", "theirs")
    before = (
        repo.git("status", "--porcelain"),
        repo.git("symbolic-ref", "HEAD"),
        repo.git("rev-parse", "main"),
    )
    shutil.rmtree(path)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "file":
        path.write_text("x")
    else:
        path.symlink_to(repo.top if what == "checkout" else repo.top.parent / "theirs")
    gathered = place.trees.gather(place.tree, "m", _all)
    assert (gathered.commits, gathered.files, gathered.outside) == ((), (), ())
    assert not os.path.lexists(path)
    path.symlink_to(repo.top.parent / "theirs")
    place.trees.close(place.tree, gathered, merged=False)
    again = place.trees.open("t-1", 1, "main")
    assert not again.path.is_symlink()
    assert (again.path / "README.md").is_file()
    assert (repo.top.parent / "theirs/README.md").is_file()
    assert before == (
        repo.git("status", "--porcelain"), repo.git("symbolic-ref", "HEAD"), repo.git("rev-parse", "main")
    )  # fmt: skip


def test_ignored_files_do_not_hold_a_worktree(repo: Repo, kind: str) -> None:
    repo.commit(".gitignore", "build/\n")
    place = Place(repo, kind)
    place.write("build/out.o")
    place.trees.remove(place.tree)
    assert not place.tree.path.exists()


# Scope


@pytest.mark.parametrize(
    ("path", "files", "expected"),
    [
        ("a.py", [], True),
        ("deep/a.py", [], True),
        ("../a.py", [], False),
        (".hypervisor/x", [], False),
        (".hypervisor/x", ["."], False),
        ("tasks/t.md", [], False),
        ("tasks/t.md", ["tasks/t.md"], True),
        ("src/a.py", ["src"], True),
        ("src/a.py", ["./src/"], True),
        ("src2/a.py", ["src"], False),
        ("src", ["src"], True),
        ("src/a.py", ["src/*.py"], True),
        ("src/b/a.py", ["src/*.py"], False),
        ("src/b/a.py", ["src/**/*.py"], True),
        ("src/b/a.py", ["s*"], True),
        ("app/[id].tsx", ["app/[id].tsx"], True),
        ("a\nb", ["a?b"], True),
        ("../lib/a", ["../lib"], True),
        ("../lib/a", ["."], False),
        ("x/y", ["."], True),
        ("src/nested/", ["src"], True),
    ],
)
def test_the_scope_of_a_task(path: str, files: list[str], expected: bool) -> None:
    assert in_scope(path, files, lambda name: name.startswith("tasks/")) is expected


def test_folders_of_another_batch_and_another_task_are_left_alone(place: Place) -> None:
    other = KINDS[place.kind](place.trees.repository, place.repo.top / ".hypervisor/trees 2", "b2")
    theirs = other.open("t-1", 1, "main")
    second = place.trees.open("t-2", 1, "main")
    assert place.trees.found() == [place.tree, second]
    place.trees.remove(place.tree)
    assert (theirs.path / "src/code.py").exists()
    assert place.trees.found() == [second]


def test_folders_of_both_kinds_are_found_together(repo: Repo) -> None:
    made = [trees_of(repo, kind).open(kind, 1, "main") for kind in KINDS]
    assert trees_of(repo, "clone").found() == made
    assert [tree.kind for tree in trees_of(repo, "worktree").found()] == list(KINDS)
