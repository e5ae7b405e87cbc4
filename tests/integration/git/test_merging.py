"""Merging: one at a time, only what verifies stays, and no crash leaves anything behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import ROOT, eventually, gone
from hypervisor.core.errors import Refused
from hypervisor.git.merging import Conflict, Integration, Merged, Unverified
from hypervisor.git.repository import Repository
from hypervisor.git.worktrees import Worktrees
from repositories import NAMES, Repo, integration_of, make_repo


def _good(_: Path) -> None:
    return None


def _never(_: str) -> bool:
    return False


def _is_task(path: str) -> bool:
    return path.startswith("tasks/")


@pytest.fixture(name="repo")
def _repo(tmp_path: Path) -> Repo:
    repo = make_repo(tmp_path / "the repo")
    repo.commit("tasks/t.md", "task\n")
    repo.commit("src/code.py", "one\n")
    return repo


def _integration(repo: Repo, sub: str = "") -> Integration:
    return integration_of(repo.top, repo.git("rev-parse", "main"), sub=sub)


def _trees(repo: Repo) -> Worktrees:
    return Worktrees(Repository.read(repo.top), repo.top / ".hypervisor/trees", "b1")


def _branch(repo: Repo, task: str, name: str, text: str = "text\n") -> str:
    tree = _trees(repo).open(task, 1, "main")
    repo.commit(name, text, tree.path)
    return tree.branch


def _is_clean(repo: Repo, place: Path) -> bool:
    return repo.git("status", "--porcelain", "--untracked-files=all", cwd=place) == ""


def test_work_is_merged_with_a_merge_commit_of_ours(repo: Repo) -> None:
    made = _integration(repo)
    branch = _branch(repo, "a", "src/a.py")
    seen: list[tuple[bool, str]] = []

    def verify(place: Path) -> None:
        whole = (place / "src/a.py").exists() and (place / "src/code.py").exists() and _is_clean(repo, place)
        seen.append((whole, repo.git("rev-parse", "HEAD", cwd=place)))

    merged = made.merge(branch, "Merge a\n\nbody", verify)
    assert merged == Merged(commit=made.tip)
    assert seen == [(True, made.tip)]
    assert repo.git("log", "-1", "--format=%s|%an|%P", made.tip).startswith("Merge a|Hypervisor|")
    assert len(repo.git("log", "-1", "--format=%P", made.tip).split()) == 2
    assert repo.git("status", "--porcelain") == ""
    assert repo.git("rev-parse", "main") == made.start_commit


def test_what_needs_no_verification_is_merged_without_a_checkout(repo: Repo) -> None:
    made = _integration(repo)
    assert isinstance(made.merge(_branch(repo, "a", "a"), "a"), Merged)
    assert not made.path.exists()


def test_a_branch_that_is_done_with_goes_with_the_merge(repo: Repo) -> None:
    made = _integration(repo)
    repo.git("branch", "done", repo.git("commit-tree", "main^{tree}", "-p", "main", "-m", "x"))
    merged = made.merge(repo.git("rev-parse", "done"), "m", done_with="done")
    assert merged == Merged(commit=made.tip)
    assert repo.git("branch", "--list", "done") == ""


def test_a_branch_that_moved_meanwhile_is_merged_into_as_it_is_then(repo: Repo) -> None:
    made, other = _integration(repo), _integration(repo)
    first, second, third = (_branch(repo, name, name) for name in "abc")
    made.merge(first, "a")
    other.merge(second, "b")
    asked: list[Path] = []
    assert isinstance(made.merge(third, "c", asked.append), Merged)
    assert len(asked) == 2  # what was verified alone was verified again with the rest
    assert {"a", "b", "c"} <= set(repo.git("ls-tree", "--name-only", made.tip).split())


def test_merging_again_is_merged_with_the_same_commit(repo: Repo) -> None:
    made = _integration(repo)
    first, second = _branch(repo, "a", "a"), _branch(repo, "b", "b")
    merged = made.merge(first, "a", _good)
    made.merge(second, "b", _good)
    assert made.merge(first, "a", lambda _: "not asked") == merged


def test_a_branch_without_commits_is_merged_as_it_is(repo: Repo) -> None:
    tree = _trees(repo).open("a", 1, "main")
    made = _integration(repo)
    assert made.merge(tree.branch, "a", _good) == Merged(commit=made.start_commit)


def test_a_conflict_names_its_files_and_leaves_nothing(repo: Repo) -> None:
    made = _integration(repo)
    for name in ("src/code.py", *NAMES):
        repo.commit(name, "start\n")
    made = _integration(repo)
    trees = _trees(repo)
    branches = []
    for task in ("a", "b"):
        tree = trees.open(task, 1, "main")
        for name in ("src/code.py", *NAMES):
            repo.commit(name, f"{task}\n", tree.path)
        branches.append(tree.branch)
    made.merge(branches[0], "a", _good)
    tip = made.tip
    conflict = made.merge(branches[1], "b", _good)
    assert isinstance(conflict, Conflict)
    assert set(conflict.files) == {"src/code.py", *NAMES}
    assert made.tip == _integration(repo).tip == tip
    assert "CONFLICT" in conflict.text


def test_a_conflict_in_a_project_below_the_top_names_files_as_the_project_does(repo: Repo) -> None:
    for name in ("top.txt", "sub/a.txt"):
        repo.commit(name, "start\n")
    for branch in ("one", "other"):
        repo.git("checkout", "-q", "-b", branch, "main")
        for name in ("top.txt", "sub/a.txt"):
            repo.commit(name, f"{branch}\n")
    repo.git("checkout", "-q", "main")
    made = integration_of(repo.top, sub="sub")
    made.merge("one", "m", _good)
    conflict = made.merge("other", "m", _good)
    assert isinstance(conflict, Conflict)
    assert set(conflict.files) == {"a.txt", "../top.txt"}


def test_unrelated_history_is_a_conflict_without_files(repo: Repo) -> None:
    repo.git("checkout", "-q", "--orphan", "lost")
    repo.commit("x")
    repo.git("checkout", "-q", "main")
    conflict = _integration(repo).merge("lost", "m", _good)
    assert isinstance(conflict, Conflict)
    assert conflict.files == ()
    assert "unrelated" in conflict.text


def test_what_does_not_verify_is_taken_back(repo: Repo) -> None:
    made = _integration(repo)
    branch = _branch(repo, "a", "a")

    def verify(place: Path) -> str:
        (place / "src/code.py").write_text("broken by the verification")
        (place / "litter").write_text("x")
        repo.git("commit", "-qam", "by the verification", cwd=place)
        return "2 tests failed"

    assert made.merge(branch, "a", verify) == Unverified(text="2 tests failed")
    assert made.tip == _integration(repo).tip == made.start_commit
    places: list[bool] = []
    assert isinstance(made.merge(branch, "a", lambda at: places.append(_is_clean(repo, at))), Merged)
    assert places == [True]


def test_a_verification_that_breaks_the_worktree_does_not_break_the_merge(repo: Repo) -> None:
    made = _integration(repo)
    first, second = _branch(repo, "a", "a"), _branch(repo, "b", "b")

    def verify(place: Path) -> None:
        subprocess.run(["rm", "-rf", str(place)], check=True)

    assert isinstance(made.merge(first, "a", verify), Merged)
    places: list[bool] = []
    assert isinstance(made.merge(second, "b", lambda at: places.append(_is_clean(repo, at))), Merged)
    assert places == [True]
    assert repo.git("status", "--porcelain") == ""


def test_a_verification_that_raises_takes_the_merge_back(repo: Repo) -> None:
    made = _integration(repo)
    branch = _branch(repo, "a", "a")

    def verify(_: Path) -> str:
        raise OSError("no such program")

    with pytest.raises(OSError, match="no such program"):
        made.merge(branch, "a", verify)
    assert made.tip == _integration(repo).tip == made.start_commit


def test_a_verification_reaches_nothing_of_the_users_git_folder(repo: Repo) -> None:
    made = _integration(repo)
    config = (repo.top / ".git/config").read_bytes()

    def verify(place: Path) -> str:
        for words in (["config", "core.fsmonitor", "false"], ["branch", "theirs"], ["tag", "v1"]):
            repo.git(*words, cwd=place)
        return "no"

    branch = _branch(repo, "a", "a")
    refs = repo.git("for-each-ref", "refs/heads/main", "refs/tags")
    made.merge(branch, "a", verify)
    assert (repo.top / ".git/config").read_bytes() == config
    assert repo.git("for-each-ref", "refs/heads/main", "refs/tags") == refs


def _merge_some(root: str, start: str, branches: list[str]) -> None:
    made = integration_of(Path(root), start)

    def work(branch: str) -> None:
        assert isinstance(made.merge(branch, branch, _good), Merged)

    threads = [threading.Thread(target=work, args=(branch,)) for branch in branches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.slow
def test_thirty_branches_merged_by_processes_and_threads_at_once_are_all_there(repo: Repo) -> None:
    trees = _trees(repo)
    opened = [trees.open(f"t{number}", 1, "main") for number in range(30)]
    for number, tree in enumerate(opened):
        repo.commit(f"src/{number}.py", cwd=tree.path)
    branches = [tree.branch for tree in opened]
    made = _integration(repo)
    context = multiprocessing.get_context("spawn")
    crew = [
        context.Process(target=_merge_some, args=(str(repo.top), made.start_commit, branches[at::2]))
        for at in range(2)
    ]
    for process in crew:
        process.start()
    for process in crew:
        process.join(100)
    assert [process.exitcode for process in crew] == [0, 0]
    files = repo.git("ls-tree", "-r", "--name-only", made.tip).splitlines()
    assert {f"src/{number}.py" for number in range(30)} <= set(files)
    assert len(repo.git("rev-list", "--merges", made.tip).splitlines()) == 30
    for tree in opened:
        trees.remove(tree, made.branch)
    assert made.fast_forward(_never).done
    made.close()
    assert repo.git("branch", "--format=%(refname)") == "refs/heads/main"
    assert len(repo.git("worktree", "list").splitlines()) == 1


# Somebody else writes the refs


def _evil(repo: Repo) -> str:
    return repo.git("commit-tree", "main^{tree}", "-p", "main", "-m", "evil")


@pytest.mark.parametrize("how", ["moved", "moved back", "deleted"])
def test_a_branch_that_an_agent_has_written_is_put_back_and_named(repo: Repo, how: str) -> None:
    made = _integration(repo)
    first, second = _branch(repo, "a", "a"), _branch(repo, "b", "b")
    assert isinstance(made.merge(first, "a"), Merged)
    tip = made.tip
    to = {"moved": _evil(repo), "moved back": made.start_commit, "deleted": ""}[how]
    repo.git("update-ref", *(() if to else ("-d",)), f"refs/heads/{made.branch}", *((to,) if to else ()))
    fresh = _integration(repo)
    for one in (made, fresh):
        assert one.tip == tip
    assert isinstance(made.merge(second, "b"), Merged)
    assert "no run put it" in made.forged[0] or "was deleted" in made.forged[0]
    assert repo.git("log", "--first-parent", "--format=%s", f"main..{made.branch}").splitlines() == ["b", "a"]


def test_what_is_brought_home_is_what_was_merged_and_not_what_a_ref_says(repo: Repo) -> None:
    made = _integration(repo)
    made.merge(_branch(repo, "a", "a"), "a")
    tip = made.tip
    repo.git("update-ref", f"refs/heads/{made.branch}", _evil(repo))
    assert _integration(repo).fast_forward(_never).after == tip
    assert repo.git("rev-parse", "main", made.branch).split() == [tip, tip]


def test_a_branch_made_before_the_first_merge_is_not_believed(repo: Repo) -> None:
    made, branch = _integration(repo), _branch(repo, "a", "a")
    repo.git("update-ref", f"refs/heads/{made.branch}", _evil(repo))
    assert made.fast_forward(_never).after == made.start_commit
    made.merge(branch, "a")
    assert "evil" not in repo.git("log", "--format=%s", made.branch)


def test_programs_that_were_set_after_the_run_began_are_not_run(repo: Repo, tmp_path: Path) -> None:
    repo.commit(".gitattributes", "*.py filter=x merge=x diff=x\n")
    made, flag = _integration(repo), tmp_path / "ran"
    first, second = _branch(repo, "a", "src/code.py", "a\n"), _branch(repo, "b", "src/code.py", "b\n")
    for key in ("filter.x.clean", "filter.x.smudge", "merge.x.driver", "core.sshCommand", "diff.x.command",
                "core.fsmonitor", "diff.external", "alias.merge-tree"):  # fmt: skip
        repo.git("config", key, f"touch '{flag}'; cat")
    repo.git("config", "core.worktree", str(tmp_path))
    repo.git("config", "core.bare", "true")
    repo.write(".git/hooks/reference-transaction", f"#!/bin/sh\ntouch '{flag}'\n").chmod(0o755)
    flag.unlink(missing_ok=True)
    assert isinstance(made.merge(first, "a", _good), Merged)
    assert isinstance(made.merge(second, "b", _good), Conflict)
    assert made.fast_forward(_never).done
    assert (repo.top / "src/code.py").read_text() == "a\n"
    assert not flag.exists()


# Crashes

#: A process that merges, and stops for ever at a step.
_VICTIM = """
import sys, time, pathlib
sys.path[:0] = sys.argv[1].split(":")
from hypervisor.git import git
from repositories import integration_of
root, start, branch, step, flag = sys.argv[2:]
def stop():
    pathlib.Path(flag).touch()
    time.sleep(60)
real = git.Git._run
seen = []
def run(self, words, *rest, **more):
    seen.append(words[0])
    if f"{words[0]} {seen.count(words[0])}" == step:
        stop()
    answer = real(self, words, *rest, **more)
    if f"after {words[0]} {seen.count(words[0])}" == step:
        stop()
    return answer
git.Git._run = run
made = integration_of(pathlib.Path(root), start)
made.merge(branch, "m", lambda place: stop() if step == "verify" else None)
"""

_STEPS = ("update-ref 1", "after update-ref 1", "merge-tree 1", "after merge-tree 1", "after commit-tree 1",
          "read-tree 1", "after read-tree 1", "verify", "update-ref 2", "after update-ref 2")  # fmt: skip


def _kill_at(repo: Repo, made: Integration, branch: str, step: str, flag: Path) -> None:
    words = [
        sys.executable,
        "-c",
        _VICTIM,
        f"{ROOT / 'scripts'}:{ROOT / 'tests'}",
        str(repo.top),
        made.start_commit,
        branch,
    ]
    process = subprocess.Popen([*words, step, str(flag)])
    try:
        eventually(flag.exists, f"the step {step}")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    gone(process.pid)


@pytest.mark.slow
@pytest.mark.parametrize("step", _STEPS)
def test_after_a_kill_at_any_step_the_next_merge_works(repo: Repo, tmp_path: Path, step: str) -> None:
    made = _integration(repo)
    first, second = _branch(repo, "a", "a"), _branch(repo, "b", "b")
    _kill_at(repo, made, first, step, tmp_path / "flag")
    assert made.tip == made.start_commit or repo.git("ls-tree", "--name-only", made.tip, "a") == "a"
    assert isinstance(made.merge(second, "b", _good), Merged)
    assert isinstance(made.merge(first, "a", _good), Merged)
    assert {"a", "b"} <= set(repo.git("ls-tree", "--name-only", made.tip).splitlines())
    assert len(repo.git("rev-list", "--merges", made.tip).splitlines()) == 2


def test_a_merge_waits_for_the_git_that_outlives_a_killed_process(repo: Repo, tmp_path: Path) -> None:
    repo.commit(".gitattributes", "*.py merge=slow\n")
    made = _integration(repo)
    first, second = _branch(repo, "a", "src/code.py", "a\n"), _branch(repo, "b", "b")
    repo.commit("x")
    other = _branch(repo, "c", "src/code.py", "c\n")
    made.merge(other, "c", _good)
    flag, ended = tmp_path / "flag", tmp_path / "ended"
    repo.git("config", "merge.slow.driver", f"touch '{flag}'; sleep 1; touch '{ended}'; exit 1")
    _kill_at(repo, made, first, "none", flag)
    assert not ended.exists()
    assert isinstance(made.merge(second, "b", _good), Merged)
    assert ended.exists()


def _merge_begun(repo: Repo, made: Integration) -> None:
    repo.write(".git/MERGE_HEAD", repo.git("rev-parse", "HEAD", cwd=made.path), made.path)


def _dirty(repo: Repo, made: Integration) -> None:
    repo.write("src/code.py", "x", made.path)
    repo.write("litter/x", "x", made.path)


def _locks(repo: Repo, made: Integration) -> None:
    repo.write(".git/index.lock", "", made.path)
    repo.write(".git/refs/heads/hypervisor/b1/merge.lock", "")


def _broken_index(repo: Repo, made: Integration) -> None:
    repo.write(".git/index", "not an index", made.path)


def _no_folder(repo: Repo, made: Integration) -> None:
    subprocess.run(["rm", "-rf", str(made.path)], check=True)


def _no_git_folder(repo: Repo, made: Integration) -> None:
    subprocess.run(["rm", "-rf", str(made.path / ".git")], check=True)


def _the_users_git_folder(repo: Repo, made: Integration) -> None:
    _no_git_folder(repo, made)
    (made.path / ".git").write_text(f"gitdir: {repo.top}/.git\n")


def _elsewhere(repo: Repo, made: Integration) -> None:
    repo.git("checkout", "-qb", "elsewhere", cwd=made.path)
    repo.commit("stray", cwd=made.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "act",
    [
        _merge_begun, _dirty, _locks, _broken_index, _no_folder, _no_git_folder, _the_users_git_folder,
        _elsewhere,
    ],
)  # fmt: skip
def test_whatever_is_left_in_the_clone_for_merging_the_next_merge_works(
    repo: Repo, act: Callable[[Repo, Integration], None]
) -> None:
    first, second = _branch(repo, "a", "a"), _branch(repo, "b", "b")
    made = _integration(repo)
    made.merge(first, "a", _good)
    repo.write("README.md", "the user's\n")
    act(repo, made)
    made = _integration(repo)
    places: list[bool] = []
    assert isinstance(made.merge(second, "b", lambda at: places.append(_is_clean(repo, at))), Merged)
    assert places == [True]
    assert repo.git("ls-tree", "--name-only", made.tip).split() == sorted(
        ["README.md", "a", "b", "src", "tasks"]
    )
    assert repo.git("status", "--porcelain") == "M README.md"


# Home


def _ready(repo: Repo) -> Integration:
    made = _integration(repo)
    made.merge(_branch(repo, "a", "src/a.py"), "a", _good)
    return made


def test_the_users_branch_and_checkout_come_to_the_tip_and_task_files_stay_modified(repo: Repo) -> None:
    made = _ready(repo)
    repo.write("tasks/t.md", "claimed\n")
    repo.write("notes.txt", "untracked\n")
    assert made.fast_forward(_is_task).done
    assert repo.git("rev-parse", "main") == made.tip
    assert (repo.top / "src/a.py").exists()
    assert (repo.top / "tasks/t.md").read_text() == "claimed\n"
    assert repo.git("status", "--porcelain") == "M tasks/t.md\n?? notes.txt"
    assert made.fast_forward(_is_task).done


def _ignored_in_the_way(repo: Repo) -> None:
    repo.write(".git/info/exclude", "a.py\n")
    repo.write("src/a.py", "mine\n")


def _conflict(repo: Repo) -> None:
    repo.git("checkout", "-qb", "x")
    repo.commit("src/code.py", "x\n")
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "--no-commit", "--no-ff", "x")


HINDRANCES: dict[str, tuple[Callable[[Repo], object], str]] = {
    "another branch": (lambda r: r.git("checkout", "-qb", "x"), "on x, not on main"),
    "detached": (lambda r: r.git("checkout", "-q", "--detach"), "detached"),
    "a merge": (_conflict, "merge is in progress"),
    "commits": (lambda r: r.commit("more"), "has commits that"),
    "modified": (lambda r: r.write("README.md", "x"), "README.md is modified"),
    "deleted": (lambda r: (r.top / "README.md").unlink(), "README.md is modified"),
    "staged task": (lambda r: (r.write("tasks/t.md", "x"), r.git("add", "-A")), "tasks/t.md is staged"),
    "staged new": (lambda r: (r.write("n.txt", "x"), r.git("add", "-A")), "n.txt is staged"),
    "untracked": (lambda r: r.write("src/a.py", "mine\n"), "src/a.py is in the way"),
    "ignored": (_ignored_in_the_way, "src/a.py is in the way"),
    "index lock": (lambda r: r.write(".git/index.lock", ""), "index.lock"),
}


@pytest.mark.parametrize("case", HINDRANCES)
def test_the_users_checkout_is_not_touched_when_anything_is_in_the_way(
    repo: Repo, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypervisor.git.git.LOCK_WAIT", 0.1)
    made = _ready(repo)
    act, words = HINDRANCES[case]
    act(repo)
    look = ("status", "--porcelain=v2", "--branch", "--untracked-files=all", "--ignored")
    before = repo.git(*look)
    answer = made.fast_forward(_is_task)
    assert not answer.done
    assert words in answer.why
    assert "\n" not in answer.why
    assert repo.git(*look) == before
    if case in ("untracked", "ignored"):
        assert (repo.top / "src/a.py").read_text() == "mine\n"


def test_a_task_file_that_the_work_changed_too_is_not_overwritten(repo: Repo) -> None:
    made = _integration(repo)
    made.merge(_branch(repo, "a", "tasks/t.md", "by the agent\n"), "a", _good)
    repo.write("tasks/t.md", "by the user\n")
    answer = made.fast_forward(_is_task)
    assert not answer.done
    assert "tasks/t.md" in answer.why
    assert (repo.top / "tasks/t.md").read_text() == "by the user\n"


def test_a_users_wish_to_stash_by_itself_does_not_hide_task_files(repo: Repo) -> None:
    repo.git("config", "merge.autoStash", "true")
    made = _ready(repo)
    repo.write("tasks/t.md", "claimed\n")
    assert made.fast_forward(_is_task).done
    assert repo.git("stash", "list") == ""


def test_a_folder_of_the_work_that_became_a_file_comes_home(repo: Repo) -> None:
    made = _integration(repo)
    tree = _trees(repo).open("a", 1, "main")
    repo.git("rm", "-rq", "src", cwd=tree.path)
    repo.commit("src", "a file now\n", tree.path)
    made.merge(tree.branch, "a", _good)
    assert made.fast_forward(_never).done
    assert (repo.top / "src").is_file()


def test_a_project_in_a_folder_of_the_repository_verifies_in_that_folder(repo: Repo) -> None:
    made = _integration(repo, "src")
    places: list[Path] = []
    made.merge(_branch(repo, "a", "src/a.py"), "a", places.append)
    assert places == [made.path / "src"]
    repo.write("README.md", "x")
    assert "../README.md is modified" in made.fast_forward(_never).why


def test_closing_keeps_a_branch_that_is_not_home(repo: Repo) -> None:
    made = _ready(repo)
    tip = made.tip
    made.close()
    assert not made.path.exists()
    assert repo.git("rev-parse", made.branch) == tip
    assert made.fast_forward(_never).done
    made.close()
    assert made.branch not in repo.git("branch", "--list", "hypervisor/*")


@pytest.mark.parametrize("start", ["nowhere", "main"])
def test_what_cannot_be_merged_is_refused(repo: Repo, start: str) -> None:
    made = integration_of(repo.top, start_branch=start)
    with pytest.raises(Refused, match="no such branch"):
        made.merge("nothing" if start == "main" else made.start_commit, "m", _good)
    assert os.listdir(repo.top / ".git/refs/heads") == ["main"]


def test_without_a_branch_to_begin_from_the_work_is_merged_all_the_same(repo: Repo) -> None:
    branch = _branch(repo, "a", "a")
    repo.git("checkout", "-q", "--detach")
    made = integration_of(repo.top, start_branch="")
    assert isinstance(made.merge(branch, "m"), Merged)
    made.close()
    assert repo.git("rev-parse", made.branch)
