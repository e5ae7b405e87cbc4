"""Frontmatter is read as it is meant, and an edit changes what it has to and no byte more."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypervisor.core.errors import Unreadable
from hypervisor.core.model import FileEdit, LineEdit
from hypervisor.documents import yaml_edit, yaml_nodes
from hypervisor.documents.yaml_edit import Value, apply, parse, revert
from made_documents import KEYS, LINES, NEW_VALUES, documents


def edited(text: str, key: str, value: Value) -> str:
    """Return *text* after an edit, having checked that it can be done twice and undone."""
    data = text.encode()
    edit = FileEdit(path="t.md", keys=(parse(data, "t.md").edit(key, value),))
    after, conflicts = apply(data, edit)
    assert conflicts == []
    assert apply(after, edit) == (after, [])
    assert revert(after, edit) == (data, [])
    return after.decode()


def front(lines: str) -> str:
    return f"---\n{lines}---\nbody\n"


def refusal(text: str | bytes) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        parse(text.encode() if isinstance(text, str) else text, "t.md")
    return caught.value


# ------------------------------------------------------------------------ reading


def test_words_keep_their_spelling() -> None:
    document = parse(front("id: 007\nv: 1.10\nd: 2025-01-01\ns: no\nq: 'x y'\nn:\nl: [a]\n").encode(), "t.md")
    assert dict(document.words) == {
        "id": "007", "v": "1.10", "d": "2025-01-01", "s": "no", "q": "x y", "n": "",
    }  # fmt: skip
    assert document.values["id"] == 7
    assert document.values["l"] == ["a"]


@pytest.mark.parametrize("word", ["2025-02-30", "=", "<<", "0b_", "9" * 5000, "1:99:99:99:99"])
def test_a_value_that_only_looks_like_something_else_is_its_word(word: str) -> None:
    document = parse(front(f"id: {word}\n").encode(), "t.md")
    assert document.words["id"] == word


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("closing", ["---", "...", "--- \t"])
def test_line_ends_and_marks_of_any_editor_are_read(newline: str, bom: str, closing: str) -> None:
    text = bom + newline.join(["---", "id: 1", "title: 😀 x", "n: 2", closing, "body", "---", "more"])
    document = parse(text.encode(), "t.md")
    assert document.values == {"id": 1, "title": "😀 x", "n": 2}
    assert document.body == newline.join(["body", "---", "more"])
    assert document.newline == newline


def test_unicode_line_separators_are_characters_of_the_value() -> None:
    text = front("title: a\u2028b\x85c\u2029d\nid: 1\n")
    document = parse(text.encode(), "t.md")
    assert document.values == {"title": "a\u2028b\x85c\u2029d", "id": 1}
    assert edited(text, "id", "2") == text.replace("id: 1", "id: '2'")


def test_empty_frontmatter_has_no_keys() -> None:
    assert parse(b"---\n---", "t.md").values == {}
    assert parse(b"---\n# nothing yet\n---\nx", "t.md").body == "x"


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("", "no frontmatter", "first line"),
        ("# Title\n", "no frontmatter", "first line"),
        ("\n---\nid: 1\n---\n", "no frontmatter", "first line"),
        ("---\nid: 1\n", "no frontmatter", "no line ---"),
        ("----\nid: 1\n----\n", "no frontmatter", "first line"),
        ("---\nid: 1\na: b: c\n---\n", "bad yaml", "3:5 "),
        ("---\r\nid: 1\r\na: b: c\r\n---\r\n", "bad yaml", "3:5 "),
        ("\ufeff---\na: 😀😀: c: d\n---\n", "bad yaml", "2:"),
        ("---\na:\n\t- x\n---\n", "bad yaml", "3:1 "),
        ("---\na: \x00\n---\n", "bad yaml", "2:4 control character U+0000"),
        ("---\n- a\n---\n", "not a mapping", "sequence at 2:1"),
        ("---\nsome words\n---\n", "not a mapping", "scalar at 2:1"),
        ("---\na: !ruby/object x\n---\n", "bad yaml", "!ruby/object"),
        ("---\na: !!python/object/apply:os.getcwd []\n---\n", "bad yaml", "os.getcwd"),
        ("---\na: 1\n--- b\nc: 1\n---\n", "bad yaml", "another document"),
        ("---\n? [a]\n: b\n---\n", "bad yaml", "2:3 key that is not a word"),
        ("---\na: {[x]: 1}\n---\n", "bad yaml", "unhashable"),
        ("---\na: *gone\n---\n", "bad yaml", "2:4"),
        ("---\n\ufeffa: 1\n---\n", "bad yaml", "byte order mark"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text: str, reason: str, detail: str) -> None:
    error = refusal(text)
    assert error.reason == reason
    assert detail in error.detail
    assert str(error).startswith("t.md: ")


def test_what_is_not_utf_8_is_told_with_its_byte() -> None:
    error = refusal("---\ntitle: café\n---\n".encode("latin-1"))
    assert (error.reason, error.detail) == ("not utf-8", "byte 14")
    assert refusal("---\na: 1\n---\n".encode("utf-16")).reason == "not utf-8"


@pytest.mark.parametrize("second", ["id: 3", '"id": 3', "'id': 3"])
def test_a_key_that_stands_twice_is_named_with_both_lines(second: str) -> None:
    error = refusal(front(f"id: 1\nx: 2\n{second}\n"))
    assert "`id` stands twice, in lines 2 and 4" in error.detail


BOMB = "a: &a [x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)},*{chr(97 + i)},*{chr(97 + i)}]\n" for i in range(9)
)
TRAPS = {
    "flow": "a: " + "[" * 100_000,
    "maps": "a: " + "{a: " * 50_000,
    "dashes": "- " * 100_000,
    "questions": "? " * 100_000,
    "indents": "".join(" " * depth + "a:\n" for depth in range(1200)),
    "bomb": BOMB,
    "itself": "a: &x [*x]",
    "above": "a: &x {b: [c, *x]}",
    "root": "&r\na: *r",
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_refused(trap: str) -> None:
    assert refusal(front(TRAPS[trap] + "\n")).reason == "bad yaml"


def test_deep_nesting_does_not_end_the_process() -> None:
    # The C loader alone dies of it, so it is tried where that would be seen.
    code = (
        "import sys; from hypervisor.documents import reader; from hypervisor.core import errors\n"
        "for data in (b'['*10**6, b'- '*10**6, b'{a: '*10**5):\n"
        "  try: reader.read(b'---\\na: ' + data + b'\\n---\\n', 'x')\n"
        "  except errors.Unreadable: print('refused')\n"
    )
    scripts = Path(yaml_edit.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=scripts, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["refused"] * 3


def test_a_few_aliases_and_merge_keys_are_read() -> None:
    text = front("base: &b {x: 1, y: 2}\n<<: *b\ny: 3\nz: *b\n")
    values = parse(text.encode(), "t.md").values
    assert (values["x"], values["y"], values["z"]) == (1, 3, {"x": 1, "y": 2})


def test_it_works_without_the_c_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml, "CSafeLoader", None)
    monkeypatch.delattr(yaml, "CSafeLoader")
    spec = importlib.util.spec_from_file_location("hypervisor.documents.nodes_plain", yaml_nodes.__file__)
    assert spec is not None
    assert spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, plain)
    spec.loader.exec_module(plain)
    monkeypatch.setattr(yaml_nodes, "_Loader", plain._Loader)
    assert yaml.SafeLoader in yaml_nodes._Loader.__mro__
    text = "---\r\na: 😀  # c\r\nl:\r\n  - x\r\n\r\n# c\r\nb: |\r\n  # y\r\nz: \u2028\r\n---\r\n"
    assert edited(text, "b", "no") == text.replace("|\r\n  # y", "'no'")
    assert edited(text, "l", ["w", "z"]) == text.replace("  - x\r\n", "  - w\r\n  - z\r\n")
    for trap in TRAPS.values():
        assert refusal(front(trap + "\n")).reason == "bad yaml"


# ------------------------------------------------------------------------ editing


@pytest.mark.parametrize(
    ("line", "value", "expected"),
    [
        ("status: To Do", "Done", "status: Done"),
        ("status:   To Do   # why", "Done", "status:   Done   # why"),
        ("status:\tTo Do\t# why", "Done", "status:\tDone\t# why"),
        ("status : To Do", "Done", "status : Done"),
        ("status: 'To Do'", "it's", "status: 'it''s'"),
        ('status: "To Do" # c', 'say "x"', 'status: "say \\"x\\"" # c'),
        ('"status": x', "Done", '"status": Done'),
        ("status:", "Done", "status: Done"),
        ("status: # c", "Done", "status: Done # c"),
        ("status:   ", "Done", "status: Done   "),
        ("status: ~", "Done", "status: Done"),
        ("status: x", "", "status: ''"),
        ("status: x", "no", "status: 'no'"),
        ("status: x", "y", "status: 'y'"),
        ("status: x", "1.10", "status: '1.10'"),
        ("status: x", "null", "status: 'null'"),
        ("status: x", "~", "status: '~'"),
        ("status: x", "a: b", "status: 'a: b'"),
        ("status: x", "a #b", "status: 'a #b'"),
        ("status: x", "a#b", "status: a#b"),
        ("status: x", "http://x/y?z", "status: http://x/y?z"),
        ("status: x", "@nic", "status: '@nic'"),
        ("status: x", "*a", "status: '*a'"),
        ("status: x", "&a", "status: '&a'"),
        ("status: x", "- a", "status: '- a'"),
        ("status: x", " a ", "status: ' a '"),
        ("status: x", "2025-01-01", "status: '2025-01-01'"),
        ("status: x", "0o17", "status: '0o17'"),
        ("status: x", "1e3", "status: '1e3'"),
        ("status: x", "a\nb", 'status: "a\\nb"'),
        ("status: x", "a\u2028b\x07", 'status: "a\\u2028b\\x07"'),
        ("status: x", "é 😀", "status: é 😀"),
        ("status: one\n  two", "Done", "status: Done"),
        ('status: "one\n  two" # c', "Done", 'status: "Done" # c'),
        ("status: |\n  one\n  # two\n\n# c", "Done", "status: Done\n\n# c"),
        ("status: >-\n  one", "Done", "status: Done"),
        ("status: [a, b] # c", ["b"], "status: [b] # c"),
        ("status: [ a, b ]", ["a", "b", "c, d"], "status: [ a, b, 'c, d' ]"),
        ("status: ['@a']", ["@b", "c"], "status: ['@b', 'c']"),
        ("status: [a]", [], "status: []"),
        ("status: []", ["bot"], "status: [bot]"),
        ("status: [a, # one\n  b]", ["x", "w"], "status: [x, # one\n  w]"),
        ("status:", ["bot"], "status: [bot]"),
        ("status: bot", ["bot"], "status: [bot]"),
        ("status: [bot]", "bot", "status: bot"),
        ("status:\n  - a", "bot", "status: bot"),
        ("status:\n  - a\n  - b", [], "status: []"),
        ("status:\n  - a\n  - b", ["x"], "status:\n  - x"),
        ("status:\n- a # one\n\n# two\n- b # three\n# four", ["x", "w"],
         "status:\n- x # one\n\n# two\n- w # three\n# four"),
        ("status:\n-   'a'  # one", ["a", "b"], "status:\n-   'a'  # one\n-   'b'"),
        ("status:\n  - a # one\n  - b # two", ["a"], "status:\n  - a # one"),
        ("status: # people\n  # here\n  - a", ["b"], "status: # people\n  # here\n  - b"),
    ],
)  # fmt: skip
def test_a_value_changes_and_keeps_its_shape(line: str, value: Value, expected: str) -> None:
    text = f"---\n# head\nid: 007\n{line}\nlast: 1.10 # c\n---\nbody\nstatus: x\n"
    assert edited(text, "status", value) == text.replace(line, expected, 1)


def test_a_comment_after_the_value_stays() -> None:
    assert edited(front("status: a # b\n"), "status", "c") == front("status: c # b\n")


def test_a_value_that_says_it_already_is_left_as_it_is_written() -> None:
    for line, value in (("a: 'x'", "x"), ("a: [ 'x' ]", ["x"]), ("a: &q x", "x"), ("a:\n- x", ["x"])):
        assert edited(front(line + "\n"), "a", value) == front(line + "\n")


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("ending", ["---", "---\n", "...\nbody"])
def test_a_new_key_goes_to_the_end_of_the_frontmatter(newline: str, ending: str) -> None:
    text = f"---\nid: 1\n# tail\n{ending}".replace("\n", newline)
    added = f"# tail\nassignee: bot\n{ending}".replace("\n", newline)
    assert edited(text, "assignee", "bot") == text.replace(f"# tail\n{ending}".replace("\n", newline), added)


def test_a_new_key_keeps_the_indent_of_the_others() -> None:
    assert edited(front("  id: 1\n"), "a", ["x", "y: z"]) == front("  id: 1\n  a: [x, 'y: z']\n")
    assert edited("---\n---\n", "no", "x") == "---\n'no': x\n---\n"


@pytest.mark.parametrize("key", ["one", "two", "three"])
def test_a_removed_key_comes_back_to_its_place(key: str) -> None:
    text = front("# top\none: 1 # a\n\n# between\ntwo:\n  - x # b\n# more\nthree: |\n  z\n\n# tail\n")
    after = edited(text, key, None)
    assert key not in parse(after.encode(), "t.md").values
    assert after.count("#") >= text.count("#") - 1


def test_all_keys_removed_come_back_in_any_order() -> None:
    data = front("# top\none: 1 # a\n# x\ntwo: 2\n# y\nthree: 3\n# tail\n").encode()
    document = parse(data, "t.md")
    for order in (["one", "two", "three"], ["three", "two", "one"], ["two", "one", "three"]):
        edit = FileEdit(path="t.md", keys=tuple(document.edit(key, None) for key in order))
        after, conflicts = apply(data, edit)
        assert (parse(after, "t.md").values, conflicts) == ({}, [])
        assert revert(after, edit) == (data, [])


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ("{id: 1, status: x}\n", "status"),
        ("{id: 1}\n", "status"),
        ("? status\n: x\n", "status"),
        ("status: &a x\nother: *a\n", "status"),
        ("other: &a x\nstatus: *a\n", "status"),
        ("status: !!str x\n", "status"),
        ("status: &l\n  - x\n", "status"),
        ("status: | # why\n  x\n", "status"),
        ("status:\n  # why\n  a: 1 # b\n", "status"),
        ("base: &b {x: 1}\n<<: *b\n", "<<"),
    ],
)
def test_what_cannot_be_edited_without_loss_is_refused(lines: str, key: str) -> None:
    document = parse(front(lines).encode(), "t.md")
    with pytest.raises(Unreadable, match=r"cannot be edited.*by hand"):
        document.edit(key, "y")


@pytest.mark.parametrize(
    "lines", ["l: [{a: 1}, b]\n", "l:\n  - a: 1\n", "l: [&x a, *x]\n", "l:\n  - |\n    x\n"]
)
def test_a_list_of_more_than_words_is_refused(lines: str) -> None:
    document = parse(front(lines).encode(), "t.md")
    with pytest.raises(Unreadable, match="more than words"):
        document.edit("l", ["z"])


def test_beside_anchors_and_merge_keys_other_keys_can_be_edited() -> None:
    text = front("base: &b {x: 1}\n<<: *b\nstatus: x\nref: *b\n")
    assert edited(text, "status", "w") == text.replace("status: x", "status: w")
    assert edited(text, "x", "9") == text.replace("ref: *b\n", "ref: *b\nx: '9'\n")


# ------------------------------------------------------------- conflicts and lines


def test_what_a_person_changed_since_is_left_and_told() -> None:
    data = front("status: a\nwho: x\n").encode()
    document = parse(data, "t.md")
    edit = FileEdit(
        path="t.md", keys=(document.edit("status", "b"), document.edit("who", "w"), document.edit("new", "1"))
    )
    theirs = data.replace(b"status: a", b"status: mine")
    after, conflicts = apply(theirs, edit)
    assert after == front("status: mine\nwho: w\nnew: '1'\n").encode()
    assert conflicts == ["t.md: `status` was changed since"]
    changed = apply(data, edit)[0].replace(b"who: w", b"who: z").replace(b"'1'\n", b"'1' # mine\n")
    back, conflicts = revert(changed, edit)
    assert back == front("status: a\nwho: z\nnew: '1' # mine\n").encode()
    assert len(conflicts) == 2


def test_a_key_that_is_gone_is_told() -> None:
    data = front("status: a\n").encode()
    edit = FileEdit(path="t.md", keys=(parse(data, "t.md").edit("status", "b"),))
    assert apply(front("").encode(), edit) == (
        front("").encode(),
        ["t.md: `status` was removed since; left out"],
    )


def line_edit(body: str, text: str, after: str | None) -> str:
    data = ("---\nid: 1\n---\n" + body).encode()
    edit = FileEdit(path="t.md", lines=(LineEdit(text=text, after=after),))
    done, conflicts = apply(data, edit)
    assert conflicts == []
    assert apply(done, edit) == (done, [])
    if done != data:
        assert revert(done, edit) == (data, [])
    return parse(done, "t.md").body


@pytest.mark.parametrize(
    ("body", "after", "expected"),
    [
        ("# T\ntext\n", "# T", "# T\n[[p]]\ntext\n"),
        ("T\n---\ntext\n", "---", "T\n---\n[[p]]\ntext\n"),
        ("---\n\nT\n---\n", "---", "---\n\nT\n---\n[[p]]\n"),
        ("```\n# T\n```\n# T\n", "# T", "```\n# T\n```\n# T\n[[p]]\n"),
        ("text\n# T\nline\n", "line", "text\n# T\nline\n[[p]]\n"),
        ("text\n", "# gone", "[[p]]\ntext\n"),
        ("text\n", "", "[[p]]\ntext\n"),
        ("", "", "[[p]]\n"),
        ("text", None, "text\n[[p]]"),
        ("text\n", None, "text\n[[p]]\n"),
        ("# T", "# T", "# T\n[[p]]"),
        ("```\n[[p]]\n```\n", None, "```\n[[p]]\n```\n[[p]]\n"),
        ("x\n[[p]]\ny\n", None, "x\n[[p]]\ny\n"),
        ("```\nnever closed\n", None, "```\nnever closed\n[[p]]\n"),
    ],
)
def test_a_line_goes_to_its_place_once(body: str, after: str | None, expected: str) -> None:
    assert line_edit(body, "[[p]]\n", after) == expected


def test_a_section_that_stands_there_is_not_put_in_twice() -> None:
    text = "\n## Completion\n\n- Outcome: done\n"
    assert line_edit("x\n## Completion\n- Outcome: done\n\nmore\n", text, None).count("Completion") == 1


def test_lines_survive_a_closing_line_at_the_very_end() -> None:
    data = b"---\r\nid: 1\r\n---"
    edit = FileEdit(path="t.md", lines=(LineEdit(text="b\r\n", after=None), LineEdit(text="a\r\n", after="")))
    after, _ = apply(data, edit)
    assert after == b"---\r\nid: 1\r\n---\r\na\r\nb"
    assert revert(after, edit) == (data, [])


def test_lines_changed_since_are_left_and_told() -> None:
    data = b"---\nid: 1\n---\nx\n"
    edit = FileEdit(path="t.md", lines=(LineEdit(text="[[p]]\n", after=None),))
    after = apply(data, edit)[0].replace(b"[[p]]", b"[[p]] and more")
    back, conflicts = revert(after, edit)
    assert (back, len(conflicts)) == (after, 1)


def test_an_edit_outlives_json() -> None:
    data = front("a: 1\nb: 2\n").encode()
    document = parse(data, "t.md")
    edit = FileEdit(path="t.md", keys=(document.edit("a", None), document.edit("b", "x")))
    again = FileEdit.from_json(edit.to_json())
    assert revert(apply(data, again)[0], again) == (data, [])


# --------------------------------------------------------------------- any document

MANY = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(documents(), st.sampled_from([*KEYS, "new"]), NEW_VALUES)
def test_only_the_bytes_of_the_edited_key_change(data: bytes, key: str, value: Value) -> None:
    before = parse(data, "t.md")
    try:
        edit = before.edit(key, value)
    except Unreadable:
        return
    after = parse(apply(data, FileEdit(path="t.md", keys=(edit,)))[0], "t.md")
    assert after.values.get(key) == (value if value is not None else None)
    assert (key in after.values) == (value is not None)
    for other in before.values:
        if other != key:
            assert after.values[other] == before.values[other]
            assert after.source(other) == before.source(other)
    entry = before.entries.get(key)
    top, bottom = (entry.start, entry.end) if entry else (before.bottom, before.bottom)
    if entry and value is None:
        top, bottom = entry.top, entry.bottom
    # The one byte of leeway is the blank between the colon and a value that was or is empty.
    assert after.text.startswith(before.text[: top - 1])
    assert after.text.endswith(before.text[bottom:])


@MANY
@given(documents(), st.dictionaries(st.sampled_from([*KEYS, "new"]), NEW_VALUES, max_size=4), LINES)
def test_any_edit_can_be_done_twice_and_undone_to_the_byte(
    data: bytes, wishes: dict[str, Value], lines: tuple[LineEdit, ...]
) -> None:
    document = parse(data, "t.md")
    keys = []
    for key, value in wishes.items():
        try:
            keys.append(document.edit(key, value))
        except Unreadable:
            continue
    edit = FileEdit(path="t.md", keys=tuple(keys), lines=lines)
    after, conflicts = apply(data, edit)
    assert conflicts == []
    assert apply(after, edit) == (after, [])
    assert revert(after, edit) == (data, [])
    said = parse(after, "t.md").values
    for change in keys:
        wish = wishes[change.key]
        assert said.get(change.key) == wish
        assert (change.key in said) == (wish is not None)


@MANY
@given(st.text(st.characters(exclude_categories=["Cs"])), st.booleans())
def test_any_string_is_spelt_so_that_it_is_read_back(value: str, flow: bool) -> None:
    source = yaml_edit.spell(value, flow=flow)
    assert not set("\r\n") & set(source)
    line = f"k: [{source}] # c\n" if flow else f"k: {source} # c\n"
    assert parse(front(line).encode(), "t.md").values == {"k": [value] if flow else value}


@MANY
@given(st.binary(max_size=60), st.text("-:[]{}&*!|>'\"%#, \n\tab1", max_size=60))
def test_noise_is_read_or_refused_and_never_anything_else(noise: bytes, text: str) -> None:
    for data in (noise, b"---\n" + noise + b"\n---\n", front(text + "\n").encode()):
        try:
            document = parse(data, "t.md")
        except Unreadable:
            continue
        assert document.text.encode() == data
        for key in [*document.entries, "new"]:
            for value in ("x y", ["x"], None):
                try:
                    edit = FileEdit(path="t.md", keys=(document.edit(key, value),))
                except Unreadable:
                    continue
                after, _ = apply(data, edit)
                assert revert(after, edit) == (data, [])
