"""Which tasks may run at once: what they say of themselves decides, each edge has its reason."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import Shell, shell, write_task
from hypervisor.tasks.conflicts import Independence, Part, examine, paths_in
from hypervisor.tasks.scopes import overlap


def part(name: str, **known: Any) -> Part:
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in known.items()
    }
    return Part(id=name, **fields)


def edges(found: Independence) -> list[tuple[str, str, str, str]]:
    return [(edge.a, edge.b, edge.kind, edge.first) for edge in found.edges]


# ------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("Fix src/cli.ts:2876 and `board.ts`.", ("src/cli.ts", "board.ts")),
        ("Backlog.md is a product, example.com a host, 1.2.3 a version, and/or 3/4 no path.", ()),
        ("See src/a.py; then change src/b.py.", ("src/b.py",)),
        ("Change src/a.py as in src/b.py. Do not touch src/c.py.", ("src/a.py",)),
        ("https://a.example/src/x.py and [link](docs/a.md) and ../up.js", ()),
        ("```\nsrc/a.py\n```\n<!-- src/b.py -->\nsrc/c.py", ("src/c.py",)),
        ("## Notes\n\nsrc/a.py\n\n### More\n\nsrc/b.py\n\n## Plan\n\nsrc/c.py", ("src/c.py",)),
        ("Run `bun src/cli.ts edit`; a grep of src/web/ finds none. Change `src/x.ts:3`.", ("src/x.ts",)),
        ("All of `docs/` and src/**", ("docs/", "src/**")),
        ("- add ./tools/Makefile\n- see also lib/x.go", ("tools/Makefile",)),
    ],
)
def test_a_text_names_what_it_says_will_be_changed(body: str, expected: tuple[str, ...]) -> None:
    found = paths_in("", body)
    assert found == expected or (body.startswith("All") and set(expected) >= set(found) and found)


@pytest.mark.slow
@pytest.mark.timeout(60)  # two seconds at most; minutes where it grows with the square of the length
@pytest.mark.parametrize("unit", ["a.", "a/", "- ", "`", "a.b-c/", "](", "`a.py` ", "a.py ", " `", "# a\n"])
def test_a_text_that_is_made_to_be_slow_is_read_at_once(unit: str) -> None:
    assert paths_in("", unit * (400_000 // len(unit))) in ((), ("a.py",))


# ------------------------------------------------------------------------- edges


def test_what_is_declared_is_taken_at_its_word() -> None:
    found = examine([
        part("a", files=["src/x.py"], named=["docs/all.md"]),
        part("b", files=["src/"], named=["docs/all.md"]),
        part("c", named=["docs/all.md", "src/y.py"]),
        part("d", files=["docs/other.md"]),
    ])  # fmt: skip
    assert edges(found) == [("a", "b", "files", ""), ("b", "c", "text", "")]
    assert found.edges[0].reason == "both may change src/x.py and src/ (a `files`, b `files`)"
    assert found.edges[1].reason == "both may change src/ and src/y.py (b `files`, c its text)"
    assert found.waves == (("a", "c", "d"), ("b",))


def test_a_text_may_name_a_file_by_the_end_of_its_path() -> None:
    found = examine(
        [part("a", named=["board.ts"]), part("b", files=["src/ui/board.ts"]), part("c", named=["rd.ts"])]
    )
    assert edges(found) == [("a", "b", "text", "")]


def test_siblings_are_kept_apart_unless_it_is_shown_that_they_are() -> None:
    shown = [part(name, parent="p", files=[f"{name}.py"]) for name in "abc"]
    assert edges(examine(shown)) == []
    found = examine([*shown[:2], part("d", parent="P"), part("e", parent="q")])
    assert edges(found) == [("a", "d", "parent", ""), ("b", "d", "parent", "")]
    assert "d does not say what it touches" in found.edges[0].reason
    assert found.silent == ("d", "e")


def test_dependencies_and_parts_say_which_comes_first() -> None:
    found = examine([
        part("whole"), part("late", depends_on=["EARLY"]), part("early", parent="Whole"),
        part("after", parent="whole", depends_on=["whole"]),
    ])  # fmt: skip
    assert set(edges(found)) == {
        ("early", "late", "dependency", "early"), ("whole", "after", "dependency", "whole"),
        ("early", "whole", "part", "early"), ("early", "after", "parent", ""),
    }  # fmt: skip
    assert found.waves == (("early",), ("whole", "late"), ("after",))


def test_a_circle_ends() -> None:
    circle = [part("a", depends_on=["b"]), part("b", depends_on=["c"]), part("c", depends_on=["a"])]
    found = examine([*circle, part("x", parent="y"), part("y", parent="x"), part("z", depends_on=["z"])])
    assert sorted(itertools.chain(*found.waves)) == ["a", "b", "c", "x", "y", "z"]


@pytest.mark.parametrize(
    ("parts", "way", "words"),
    [
        ([], "none", "no task"),
        ([part("a")], "one", "not a batch"),
        ([part("a"), part("b")], "direct", "one worker each"),
        ([part(name) for name in "abcd"], "direct", "4 tasks in 1 wave"),
        ([part(name) for name in "abcde"], "hypervisor", "at most 5 at once"),
        ([part(name, files=["x"]) for name in "abcde"], "sequential", "process sequentially"),
        ([part("a"), part("b", depends_on=["a"])], "sequential", "no two may run at once"),
    ],
)
def test_the_advice_follows_from_how_many_may_run_at_once(parts: list[Part], way: str, words: str) -> None:
    found = examine(parts)
    assert found.way == way
    assert words in found.advice


_PATHS = st.sampled_from(
    ["src/", "src/a.py", "src/b.py", "src/*.py", "a.py", "docs/x.md", "**/x.md", "x.md", "", "/"]
)
_PARTS = st.lists(
    st.tuples(
        st.lists(_PATHS, max_size=2),
        st.lists(_PATHS, max_size=2),
        st.sampled_from(["", "p", "q", "i0"]),
        st.lists(st.sampled_from([f"i{n}" for n in range(6)]), max_size=2),
    ),
    max_size=9,
)


@given(_PARTS)
@settings(max_examples=200, deadline=None)
def test_no_two_in_a_wave_conflict_and_all_are_in_one(
    drawn: list[tuple[list[str], list[str], str, list[str]]],
) -> None:
    parts = [
        part(f"i{n}", files=files, named=named, parent=parent, depends_on=needs)
        for n, (files, named, parent, needs) in enumerate(drawn)
    ]
    found = examine(parts)
    assert sorted(itertools.chain(*found.waves)) == sorted(one.id for one in parts)
    apart = {frozenset((edge.a, edge.b)) for edge in found.edges}
    assert len(apart) == found.conflicts == len(found.edges)
    by_id = {one.id: one for one in parts}
    for wave in found.waves:
        for a, b in itertools.combinations(wave, 2):
            assert frozenset((a, b)) not in apart
            # The index of what is near passes over nothing that a comparison of all would find.
            assert not overlap(by_id[a].scope, by_id[b].scope)
    assert examine(parts) == found


# ----------------------------------------------------------------------- command


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        yield made


def test_preflight_tells_the_waves_and_why(user: Shell) -> None:
    for name, keys in {
        "t-1": {"files": "[src/cli.py]"}, "t-2": {}, "t-3": {"depends_on": "[t-1]", "files": "[lib/]"},
        "t-4": {"status": "done"}, "t-5": {"files": "[docs/]"}, "t-6": {"files": "[tests/]"},
    }.items():  # fmt: skip
        write_task(user.cwd / "tasks" / f"{name}.md", **keys)
    with (user.cwd / "tasks/t-2.md").open("a") as file:
        file.write("\nRename a flag in `src/cli.py`.\n")
    found = user.hypervisor("preflight", "--all", "--waves", "--json").passed().json
    assert found["waves"] == [["t-1", "t-5", "t-6"], ["t-2", "t-3"]]
    assert [(one["a"], one["b"], one["kind"]) for one in found["conflicts"]] == [
        ("t-1", "t-3", "dependency"), ("t-1", "t-2", "text"),
    ]  # fmt: skip
    assert found["way"] == "hypervisor"
    lines = user.hypervisor("preflight", "--all", "--waves").passed().lines
    assert "conflict  t-3 after t-1: t-3 depends on t-1" in lines
    assert "conflict  t-1, t-2: both may change src/cli.py (t-1 `files`, t-2 its text)" in lines
    assert lines[-1] == "5 tasks in 2 waves, at most 3 at once: use hypervisor"
    assert user.hypervisor("preflight", "t-1", "--waves").passed().lines[-1] == "1 task: not a batch; do it"
    assert "waves" not in user.hypervisor("preflight", "--all", "--json").passed().json
