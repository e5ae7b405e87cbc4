"""Markdown files with frontmatter as hypothesis makes them: every layout that people and editors write."""

from __future__ import annotations

from hypothesis import strategies as st

from hypervisor.core.model import LineEdit
from hypervisor.documents.yaml_edit import spell

KEYS = ["id", "status", "assignee", "title", "Ümlaut", "a b", "x-y", "no"]
WORDS = st.sampled_from(
    ["a", "To Do", "007", "1.10", "no", "~", "2025-01-01", "é😀", "a#b", "x: y", "@nic", "it's", ""]
)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
COMMENT = st.sampled_from(["", "", " # c", "  #", "\t# 😀: [x"])
BETWEEN = st.lists(st.sampled_from(["# c", "", "   ", "  # status: x", "#"]), max_size=2)


def quoted(word: str) -> st.SearchStrategy[str]:
    single, double = "'" + word.replace("'", "''") + "'", '"' + word + '"'
    return st.sampled_from([spell(word, flow=True), single, double])


ITEM = WORDS.flatmap(quoted)
ITEMS = st.lists(ITEM, max_size=3)


@st.composite
def values(draw: st.DrawFn) -> str:
    kind = draw(st.integers(0, 7))
    comment = draw(COMMENT)
    if kind <= 1:
        return " " + draw(ITEM) + comment
    if kind == 2:
        return comment
    if kind == 3:
        return " [" + ", ".join(draw(ITEMS)) + "]" + comment
    if kind == 4:
        lead = draw(st.sampled_from(["- ", "  - ", "    -   "]))
        return comment + "".join(f"\n{lead}{item}{draw(COMMENT)}" for item in draw(ITEMS.filter(bool)))
    if kind == 5:
        return " " + draw(st.sampled_from(["|", ">-", "|+", ">"])) + "\n  one\n  # two\n\n   three"
    if kind == 6:
        return " one\n  two" + comment
    return "\n  k: v" + comment + "\n  l: [1, {m: 2}]"


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    lines = []
    indent = draw(st.sampled_from(["", "", "  "]))
    for key in draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=5)):
        lines += draw(BETWEEN)
        name = draw(st.sampled_from([spell(key), f"'{key}'", f'"{key}"']))
        lines.append(f"{indent}{name}:" + draw(values()).replace("\n", "\n" + indent))
    lines += draw(BETWEEN)
    closing = draw(st.sampled_from(["---", "...", "---  "]))
    body = draw(
        st.lists(st.sampled_from(["# T", "T", "===", "```", "", "text", "---", "<!-- c", "-->", "😀"]))
    )
    text = "\n".join(["---", *lines, closing, *body]) + draw(st.sampled_from(["", "\n", "\n\n"]))
    bom, newline = draw(st.sampled_from(["", "\ufeff"])), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return (bom + text.replace("\n", newline)).encode()


NEW_VALUES = st.one_of(ANY, WORDS, st.none(), st.lists(st.one_of(ANY, WORDS), max_size=3))
LINES = st.lists(
    st.tuples(
        st.sampled_from(["[[p]]\n", "\n## Completion\n\n- x: y\n", "[[q]]\r\n", "[[r]]"]),
        st.sampled_from([None, "", "# T", "===", "---", "text", "gone"]),
    ),
    max_size=3,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: tuple(LineEdit(text=text, after=after) for text, after in pairs))
