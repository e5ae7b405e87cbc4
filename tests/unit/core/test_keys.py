"""Which lines are one item, and that what an item is called on disk is a name on any disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.core.project import attempt_name, canonical, item_key, resolve, task_key

_NAME = re.compile(r"[a-z0-9]+(-+[a-z0-9]+)*")

#: What a queue line may hold: any text, and bytes that are no text.
lines = st.one_of(
    st.text(max_size=300),
    st.binary(max_size=300).map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.text(alphabet="./a ~-:[{", max_size=12),
)


@pytest.fixture
def base(tmp_path: Path) -> str:
    return os.path.realpath(tmp_path)


# ------------------------------------------------------------------ one item or two


@pytest.mark.parametrize(
    "spelling",
    [
        "a/b.md",
        "./a/b.md",
        "a//b.md",
        "a/./b.md",
        "a/x/../b.md",
        "x/../a/b.md",
        "{base}/a/b.md",
        "{base}//a/b.md",
    ],
)
def test_spellings_of_one_place_are_one_item(base: str, spelling: str) -> None:
    assert canonical(spelling.replace("{base}", base), base) == "path:a/b.md"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a", "b"),
        ("a", "A"),
        ("a b", "a-b"),
        ("a", "a "),
        (" a", "a"),
        ("a", "a\r"),
        ("a", "/a"),
        ("~/a", "a"),
        ("é", "e\u0301"),  # two names on most file systems; guessing which would lose one
        ("x://a", "x:/a"),
        ("x://a/../b", "x://b"),
        ("[a", "a"),
        ("a.md", "a"),
        ("a/README.md", "b/README.md"),
        ("a\udcff", "a\udcfe"),
    ],
)
def test_two_items_are_two(base: str, one: str, other: str) -> None:
    assert item_key(canonical(one, base)) != item_key(canonical(other, base))


@pytest.mark.parametrize(
    "text", ["https://host/a/../b", "s3://b//c/.", '{"id": 1}', "[1, 2]", "a/..://b", "{", "["]
)
def test_a_text_stands_for_itself_to_the_byte(base: str, text: str) -> None:
    assert canonical(text, base) == f"text:{text}"


def test_no_path_has_the_form_of_a_text(base: str) -> None:
    assert canonical("text:a", base) == "path:text:a"
    assert canonical("path:a", base) != canonical("a", base)


def test_links_of_folders_are_resolved(base: str) -> None:
    os.mkdir(os.path.join(base, "real"))
    os.symlink("real", os.path.join(base, "link"))
    os.symlink(os.path.join(base, "link"), os.path.join(base, "again"))
    for spelling in ("real/x", "link/x", "again/x", "link/../real/x", f"{base}/again/x"):
        assert canonical(spelling, base) == "path:real/x"


def test_the_last_name_is_never_resolved(base: str) -> None:
    Path(base, "file").touch()
    os.symlink("file", os.path.join(base, "link"))
    assert canonical("link", base) == "path:link"
    os.unlink(os.path.join(base, "link"))
    assert canonical("link", base) == "path:link"  # the command may have moved it away


def test_an_item_need_not_exist_and_keeps_its_key_when_it_comes_and_goes(base: str) -> None:
    before = item_key(canonical("new", base))
    Path(base, "new").touch()
    with_file = item_key(canonical("new", base))
    os.unlink(os.path.join(base, "new"))
    os.symlink("elsewhere", os.path.join(base, "new"))
    assert before == with_file == item_key(canonical("new", base))


def test_dots_beyond_the_base_are_places_too(base: str) -> None:
    assert canonical("../x", base) == f"path:{os.path.dirname(base)}/x"
    assert canonical("..", base) == f"path:{os.path.dirname(base)}"
    assert canonical(".", base) == canonical("", base) == f"path:{base}"


def test_a_sibling_that_begins_with_the_bases_name_is_not_below_it(base: str) -> None:
    assert canonical(f"{base}-old/x", base) == f"path:{base}-old/x"


def test_the_base_may_be_the_root() -> None:
    assert canonical("/no-such/x", "/") == canonical("no-such/x", "/") == "path:no-such/x"


def test_a_project_may_be_moved_and_keeps_its_keys(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert canonical("a/b", str(tmp_path / "one")) == canonical("a/b", str(tmp_path / "two"))


@pytest.mark.parametrize(
    "item",
    [
        pytest.param("x" * 255, id="the longest name"),
        pytest.param("x" * 256, id="a name too long"),
        pytest.param("é" * 200, id="not ASCII"),
        pytest.param("a/" * 2048, id="4,096 bytes"),
        pytest.param("/".join(["d" * 200] * 40), id="8,000 bytes"),
        pytest.param("a\nb", id="newline"),
        pytest.param("a\0b", id="NUL"),
        pytest.param("\udcff\udcfe/x", id="not UTF-8"),
        "\t",
        "-",
        "--",
        "*?<>|",
    ],
)
def test_any_line_has_a_key_that_a_disk_can_bear(tmp_path: Path, base: str, item: str) -> None:
    key = item_key(canonical(item, base))
    (tmp_path / f"{attempt_name(key, 12)}.out").touch()
    (tmp_path / key).mkdir()


def test_a_key_says_what_it_is_of(base: str) -> None:
    assert item_key(canonical("tasks/Fix the Door.md", base)).startswith("tasks-fix-the-door-")
    assert item_key(canonical("Übung/Größe.md", base)).startswith("ubung-groe-")
    assert item_key(canonical("https://host/a/b?c=d", base)).startswith("a-b-c-d-")
    assert item_key(canonical("日本語", base)).startswith("item-")
    long = item_key("path:" + "y" * 90 + "/end")
    assert long[:-33].endswith("yyy-end")


# ------------------------------------------------------------------ what holds for all


@given(lines)
def test_a_key_is_a_plain_name_of_bounded_length(line: str) -> None:
    key = item_key(canonical(line, "/base"))
    assert _NAME.fullmatch(key)
    longest = f".{attempt_name(key, 10**6)}.out.99.{'0' * 16}.tmp"
    assert len(os.fsencode(longest)) <= 255


@given(st.lists(lines, unique=True, min_size=2, max_size=20))
def test_distinct_forms_have_distinct_keys_and_equal_forms_equal_ones(items: list[str]) -> None:
    forms = [canonical(item, "/base") for item in items]
    assert len({item_key(form) for form in forms}) == len(set(forms))


@given(lines)
def test_what_a_form_names_is_the_form_itself(line: str) -> None:
    """Naming the place by its own absolute path changes nothing."""
    form = canonical(line, "/base")
    kind, _, place = form.partition(":")
    if kind == "path":
        absolute = os.path.join("/base", place)
        if not ("://" in absolute or place in ("/", "/base")):
            assert canonical(absolute, "/base") == form


@given(lines, st.sampled_from(["/base", "/", "/a/b"]))
def test_the_short_way_says_what_resolving_says(line: str, base: str) -> None:
    form = canonical(line, base)
    if form.startswith("path:"):
        below = base.rstrip("/") + "/"
        assert form == f"path:{resolve(line, base).removeprefix(below)}"


def test_a_salt_keeps_the_items_of_two_batches_apart(base: str) -> None:
    form = canonical("a", base)
    assert len({item_key(form), item_key(form, "one"), item_key(form, "two")}) == 3
    assert item_key(form, "one").startswith("a-")


def test_a_task_has_one_key_by_whatever_path(tmp_path: Path) -> None:
    (tmp_path / "project/tasks").mkdir(parents=True)
    (tmp_path / "link").symlink_to("project")
    real = task_key(tmp_path / "project", tmp_path / "project/tasks/t-1.md")
    assert task_key(tmp_path / "link", tmp_path / "link/tasks/../tasks/t-1.md") == real
    assert real == item_key("path:tasks/t-1.md")


def test_each_attempt_has_a_name_of_its_own() -> None:
    assert [attempt_name("k", number) for number in (1, 2, 10)] == ["k", "k~2", "k~10"]
