"""Where the keys of a frontmatter stand in its text, and how a value is respelt. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from .yamltext import YamlFault, spell

Value = str | Sequence[str]

_LINE_END = re.compile(r"\r\n|\r|\n|\Z")
_COLON = re.compile(r"[ \t]*:(?=[ \t\r\n]|\Z)[ \t]*")
_ALIAS = re.compile(r"\*[^\s,\[\]{}]+")
_REST = re.compile(r"[ \t]*(?:(?<=[ \t])#[^\r\n]*)?(?:\r\n|\r|\n|\Z)")
_NO_CONTENT = re.compile(r"[ \t]*(?:#.*)?")


class CannotEdit(Exception):
    """Raised when a value cannot be respelt without loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where one key of the frontmatter stands; places are indexes into the file's text."""

    #: Where its first line begins, and where the line below its last one does.
    top: int
    bottom: int
    #: The span of the value's source: of a block value from the line end above its first
    #: line to the end of its last; else the value itself, which may be empty.
    start: int
    end: int
    node: Any
    #: How far `node`'s own marks are from indexes into the text.
    shift: int
    #: Why it cannot be edited, or "".
    fixed: str


def read_entries(root: Any, text: str, shift: int) -> dict[str, Entry]:
    """Return the entries of the mapping *root*, by their keys' words.

    Args:
        root: A mapping node, before merge keys are resolved.
        text: The whole file.
        shift: Where in *text* the YAML begins.

    Raises:
        YamlFault: A key is no plain word, or two keys have the same one.
    """
    entries: dict[str, Entry] = {}
    reached = shift
    for key, value in root.value:
        start = shift + key.start_mark.index
        if not isinstance(key, yaml.ScalarNode) or start < reached:
            raise YamlFault(key.start_mark.index, "key that is not a word")
        if key.value in entries:
            raise YamlFault(key.start_mark.index, f"key `{key.value}` stands twice")
        entry = _entry(key, value, text, shift)
        entries[key.value] = entry
        reached = entry.end
    return entries


def _entry(key: Any, value: Any, text: str, shift: int) -> Entry:
    key_start, key_end = shift + key.start_mark.index, shift + key.end_mark.index
    top = _line_start(text, key_start)
    start, end = shift + value.start_mark.index, shift + value.end_mark.index
    colon = _COLON.match(text, key_end)
    fixed = "" if colon and not text[top:key_start].strip() else "it does not begin a line of its own"
    if start < key_end:
        # An alias is the very node that it points to, with that one's place.
        alias = _ALIAS.match(text, colon.end()) if colon else None
        start, end = alias.span() if alias else (key_end, key_end)
        fixed = fixed or "it is an alias"
    elif text[start : start + 1] in ("&", "!") and end > start:
        fixed = fixed or "it has an anchor or a tag"
        end = start + len(text[start:end].rstrip())
    elif isinstance(value, yaml.ScalarNode):
        if value.style in ("|", ">"):
            end = start + len(text[start:end].rstrip())
    elif not value.flow_style:
        end = _block_end(value, text, shift)
        line = _line_start(text, start)
        fixed = fixed or ("it begins on a line with others" if text[line:start].strip() else "")
        start = line - (2 if text[:line].endswith("\r\n") else 1)
    rest = _REST.match(text, end)
    fixed = fixed or ("" if rest else "more stands on its line")
    return Entry(
        top=top,
        bottom=rest.end() if rest else end,
        start=start,
        end=end,
        node=value,
        shift=shift,
        fixed=fixed,
    )


def _block_end(node: Any, text: str, shift: int) -> int:
    """Return where the last line of a block value ends, a comment on it included.

    The loaders' mark is the next key, below blank lines and comments that are not its own.
    """
    start, end = shift + node.start_mark.index, shift + node.end_mark.index
    last = node
    while isinstance(last, yaml.CollectionNode) and last.value and not last.flow_style:
        child = last.value[-1]
        last = child[1] if isinstance(child, tuple) else child
    # Of a block scalar, lines that look like comments are content.
    leaf = shift + last.end_mark.index
    floor = (
        start + len(text[start:leaf].rstrip()) if isinstance(last, yaml.ScalarNode) and leaf <= end else start
    )
    while end > floor:
        line = _line_start(text, end)
        if line <= start or not _NO_CONTENT.fullmatch(text[line:end]):
            break
        end = line - (2 if text[:line].endswith("\r\n") else 1)
    match = _LINE_END.search(text, max(end, floor))
    return match.start() if match else end


def _line_start(text: str, at: int) -> int:
    return max(text.rfind("\n", 0, at), text.rfind("\r", 0, at)) + 1


def respell(text: str, entry: Entry, value: Value) -> str:
    """Return the source of *value* in the shape of the value that *entry* has now.

    Raises:
        CannotEdit: A comment or something else that is not the value's would be lost.
    """
    old = text[entry.start : entry.end]
    items = [] if isinstance(value, str) else list(value)
    nodes = entry.node.value if isinstance(entry.node, yaml.SequenceNode) else []
    if items and nodes:
        return _respell_list(text, entry, items, nodes)
    # Below the first line of a block scalar, what looks like a comment is its text.
    first = old.splitlines()[:1] if old[:1] in ("|", ">") else [old]
    if old[:1] in tuple("|>[{\r\n") and "#" in "".join(first):
        raise CannotEdit("a comment may stand inside the value")
    if isinstance(value, str):
        return spell(value, _quote(old))
    return spell_new(value)


def spell_new(value: Value) -> str:
    """Return the source of a *value* that no shape is given for."""
    if isinstance(value, str):
        return spell(value)
    return "[" + ", ".join(spell(item, flow=True) for item in value) + "]"


def _respell_list(text: str, entry: Entry, items: list[str], nodes: list[Any]) -> str:
    # Item by item, so that what stands between them stays: comments, blanks, indents.
    spans = [_item_span(text, entry, node) for node in nodes]
    block = text[entry.start] in "\r\n"
    pieces, at = [], entry.start
    for (start, end), node, item in zip(spans, nodes, items, strict=False):
        now = text[start:end]
        same = node.tag.endswith(":str") and node.value == item
        pieces += [text[at:start], now if same else spell(item, _quote(now), flow=not block)]
        at = end
    if len(items) < len(nodes):
        if not block:
            if "#" in text[at : entry.end]:
                raise CannotEdit("a comment may stand inside the value")
            return "".join([*pieces, text[spans[-1][1] : entry.end]])
        # A comment on the line of the last item that stays is that item's.
        line_end = _LINE_END.search(text, at)
        return "".join([*pieces, text[at : line_end.start() if line_end else at]])
    style, more = _quote(text[spans[0][0] : spans[0][1]]), items[len(nodes) :]
    if block:
        lead = _bullet(text, spans[0][0], entry)
        return "".join([*pieces, text[at : entry.end], *(lead + spell(item, style) for item in more)])
    return "".join([*pieces, *(", " + spell(m, style, flow=True) for m in more), text[at : entry.end]])


def _bullet(text: str, first: int, entry: Entry) -> str:
    line = _line_start(text, first)
    newline = "\r\n" if text.startswith("\r\n", entry.start) else text[entry.start]
    return newline + text[line:first]


def _item_span(text: str, entry: Entry, node: Any) -> tuple[int, int]:
    start, end = entry.shift + node.start_mark.index, entry.shift + node.end_mark.index
    plain = isinstance(node, yaml.ScalarNode) and entry.start <= start
    if not plain or text[start:end][:1] in ("", "&", "!", "|", ">"):
        raise CannotEdit("the list holds more than words")
    return start, end


def _quote(source: str) -> str:
    return source[0] if source[:1] in ("'", '"') else ""
