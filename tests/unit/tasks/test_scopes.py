"""Scopes: which tasks may touch the same file; in doubt they may."""

from __future__ import annotations

import time
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.core.files import matches_any
from hypervisor.tasks.scopes import Scopes, overlap

OVERLAPPING = [
    ("a.txt", "a.txt"),
    ("a.txt", "./a.txt"),
    ("a//b", "a/b"),
    ("a/../b", "b"),
    ("docs/", "docs/x/y.md"),
    ("docs", "docs/x.md"),
    ("docs/", "docs"),
    (".", "a.txt"),
    ("./", "src/**/*.py"),
    ("**", "a.txt"),
    ("**/*", "a/b"),
    ("src/**", "src"),
    ("src/**", "src/a/b.py"),
    ("src/**/*.py", "src/a.py"),
    ("src/**/*.py", "src/a/b/c.py"),
    ("src/**/*.py", "src/pkg"),
    ("src/**/*.py", "src/pkg/"),
    ("src/**/*.py", "**/test_*.py"),
    ("src/*", "src/a/b.py"),
    ("src/*.py", "src/a*"),
    ("src/a?.py", "src/ab.py"),
    ("src/[ab].py", "src/a.py"),
    ("src/{a,b}.py", "src/b.py"),
    ("{src/a,docs/b}/x.py", "docs/b/x.py"),
    ("app/[id]/page.tsx", "app/[id]/page.tsx"),
    ("app/[id]/page.tsx", "app/x/page.tsx"),
    ("a[b/c.py", "a[b/c.py"),
    ("a\\*b", "a*b"),
    ("**/../b", "x/b"),
    ("../x", "a"),
    ("a/../../p/a", "a"),
    ("/etc/x", "a"),
    ("etc/conf.d", "etc/**/*.py"),
    ("a.txt", "a.txt/b"),
    ("caf\u00e9", "cafe\u0301"),
    ("a**b", "ax/yb"),
]

APART = [
    ("a.txt", "b.txt"),
    ("src/", "docs/"),
    ("src", "src2"),
    ("src/a", "src/ab"),
    ("README", "readme"),
    ("src/**/*.py", "docs/**/*.py"),
    ("src/**/*.py", "src/**/*.md"),
    ("src/*.py", "src/*.md"),
    ("src/*.py", "src/sub/*.py"),
    ("src/*.py", "src/a.md"),
    ("src/**/*.py", "src/a.md"),
    ("**/*.py", "README.md"),
    ("**/a.py", "src/b.py"),
    ("src/a*.py", "src/b*.py"),
    ("src/{a,b}.py", "src/b.md"),
    ("a/../b", "a"),
    ("src/../docs/*.md", "src/*.md"),
]


@pytest.mark.parametrize(("a", "b"), OVERLAPPING)
def test_what_may_mean_the_same_file_overlaps(a: str, b: str) -> None:
    assert overlap([a], [b])
    assert overlap([b], [a])


@pytest.mark.parametrize(("a", "b"), APART)
def test_what_cannot_mean_the_same_file_is_apart(a: str, b: str) -> None:
    assert overlap([a], [b]) is None
    assert overlap([b], [a]) is None


def test_the_pair_is_told_in_words() -> None:
    assert overlap(["x", "src/"], ["y", "src/a.py"]) == "src/ and src/a.py"
    assert overlap(["a.txt"], ["a.txt"]) == "a.txt"


@pytest.mark.parametrize("nothing", [[], [""], ["  "]])
def test_who_names_no_file_overlaps_nothing(nothing: list[str]) -> None:
    assert overlap(nothing, ["**"]) is None
    scopes = Scopes()
    scopes.add("t-1", ["**"])
    assert scopes.conflict(nothing) is None
    scopes.add("t-2", nothing)
    scopes.remove("t-1")
    assert scopes.conflict(["**"]) is None


NAMES = st.sampled_from(["a", "b", "src", "a.py", "b.md", "*", "**", "*.py", "a*", "?", "[ab]"])
PATTERNS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PATHS = st.lists(st.sampled_from(["a", "b", "src", "a.py", "b.md", "ab"]), min_size=1, max_size=4).map(
    "/".join
)


@given(PATTERNS, PATTERNS, PATHS)
def test_two_scopes_that_mean_one_path_always_overlap(a: str, b: str, path: str) -> None:
    if matches_any(path, [a]) and matches_any(path, [b]):
        assert overlap([a], [b])


@given(PATHS, PATTERNS)
def test_a_folder_means_all_below_it(folder: str, pattern: str) -> None:
    below = f"{folder}/x.py"
    if matches_any(below, [pattern]) and not PurePosixPath(folder).suffix:
        assert overlap([folder], [pattern])


@given(PATTERNS, PATTERNS)
def test_overlap_has_no_direction(a: str, b: str) -> None:
    assert (overlap([a], [b]) is None) == (overlap([b], [a]) is None)


@given(st.lists(st.lists(PATTERNS, max_size=3), max_size=8), st.lists(PATTERNS, max_size=3), st.data())
def test_the_tree_says_what_a_comparison_with_each_would(
    running: list[list[str]], wanted: list[str], data: st.DataObject
) -> None:
    scopes = Scopes()
    for number, files in enumerate(running):
        scopes.add(str(number), files)
    gone = data.draw(st.sets(st.integers(0, max(0, len(running) - 1))))
    for number in gone:
        scopes.remove(str(number))
    expected = {str(n) for n, files in enumerate(running) if n not in gone and overlap(files, wanted)}
    found = scopes.conflict(wanted)
    assert found in expected if expected else found is None


def test_what_is_removed_leaves_nothing() -> None:
    scopes = Scopes()
    scopes.add("t-1", ["a/b/c", "a/**"])
    scopes.add("t-1", ["a/b"])
    assert scopes.conflict(["a/x"]) is None
    assert scopes.conflict(["a/b/c"]) == "t-1"
    scopes.remove("t-1")
    scopes.remove("t-1")
    assert len(scopes) == 0
    assert scopes.conflict(["**"]) is None


def test_among_a_thousand_running_an_answer_takes_well_under_a_millisecond() -> None:
    scopes = Scopes()
    for number in range(1000):
        scopes.add(str(number), [f"src/m{number}/a.py", f"tests/m{number}/"])
    begin = time.perf_counter()
    for number in range(2000):
        found = scopes.conflict([f"docs/{number}.md", f"src/m{number}/a.py"])
        assert found == (str(number) if number < 1000 else None)
    assert (time.perf_counter() - begin) / 2000 < 0.001
