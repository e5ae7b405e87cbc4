"""Edits of frontmatter that change the bytes of what they have to, and no byte more.

Bytes in, bytes out: no I/O, no clock. An edit replaces the source text of a value and
nothing else; what it made is read again, and refused if it says anything but what was
asked. So a layout that this module does not foresee costs an error, never a file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import yaml

from ..core.errors import Unreadable
from ..core.model import FileEdit, KeyEdit
from . import body
from .markdown import decode, split
from .reader import ParsedFile, read_text
from .yaml_nodes import LINE_END, KeyPlace, line_start

#: Parts the three texts in the `old` of a removal: no YAML can hold it.
_PART = "\x1e"

Value = str | Sequence[str] | None

_ESCAPED = re.compile('[\x00-\x1f\x7f-\xa0\u2028\u2029\ufeff\ufdd0-\ufdd2\ufffe\uffff"\\\\]')
_SHORT_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
_RESOLVER: Any = yaml.resolver.Resolver()
_NOT_FIRST = frozenset("-?:,[]{}#&*!|>'\"%@`=<")
#: Words that some YAML reader or other takes for something else than a string: booleans and
#: nulls of YAML 1.1, numbers of YAML 1.2 that PyYAML does not know.
_LOADED_WORD = re.compile(
    r"(?i:y|n|yes|no|on|off|true|false|null|~)|\.(?:inf|nan)"
    r"|[-+]?(?:0o[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+|[0-9][0-9_,.:]*(?:[eE][-+]?[0-9]+)?)"
)


class CannotEdit(Exception):
    """Raised when a value cannot be respelt without loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(ParsedFile):
    """A file as read, to be edited."""

    def source(self, key: str) -> str | None:
        """Return the source text of the value of *key*, or None if the key is absent."""
        entry = self.entries.get(key)
        return None if entry is None else self.text[entry.start : entry.end]

    def edit(self, key: str, value: Value) -> KeyEdit:
        """Return the edit that gives *key* the *value*, in the shape that its value has now.

        Args:
            key: The key as the file spells it, or a new one.
            value: A string, a list of strings, or None to take the key away.

        Raises:
            Unreadable: The value is written in a way that cannot be edited without loss.
        """
        entry, old = self.entries.get(key), self.source(key)
        if entry is None or old is None:
            new = None if value is None else spell_new(value)
            edit = KeyEdit(key=key, old=None, new=new)
        elif value is None:
            edit = KeyEdit(key=key, old=self._entry_source(key, entry), new=None)
        elif self._says(key, value):
            return KeyEdit(key=key, old=old, new=old)
        else:
            self._refuse_fixed(key)
            try:
                edit = KeyEdit(key=key, old=old, new=respell(self.text, entry, value))
            except CannotEdit as error:
                raise _refusal(self, key, str(error)) from error
        if edit.old != edit.new:
            after = _step(self, edit, [])
            if key in after.values if value is None else not after._says(key, value):
                raise _refusal(self, key, "the edit would not say what was asked")
        return edit

    def after(self, edit: KeyEdit) -> Document:
        """Return the document with *edit*, which `edit` has made of it, applied.

        Raises:
            Unreadable: It cannot be applied without loss.
        """
        return _step(self, edit, [])

    def _says(self, key: str, value: str | Sequence[str]) -> bool:
        now = self.values.get(key)
        return now == value if isinstance(value, str) else isinstance(now, list) and now == list(value)

    def _refuse_fixed(self, key: str) -> None:
        entry = self.entries.get(key)
        if self.indent < 0:
            raise _refusal(self, key, "the frontmatter is written in `{}`")
        if entry and entry.fixed:
            raise _refusal(self, key, entry.fixed)

    def _entry_source(self, key: str, entry: KeyPlace) -> str:
        # A removed entry must come back to the byte and to its place: after which entry it
        # stood, the comments between the two, and its lines.
        names = list(self.entries)
        index = names.index(key)
        above = self.entries[names[index - 1]].bottom if index else self.top
        gap, own = self.text[above : entry.top], self.text[entry.top : entry.bottom]
        return _PART.join([names[index - 1] if index else "", gap, own])


def parse(data: bytes, path: str) -> Document:
    """Read a markdown file.

    Args:
        data: The whole file.
        path: How errors name it.

    Raises:
        Unreadable: It is not UTF-8, has no frontmatter, or one that is no mapping or no YAML;
            the detail says where, as ``line:column`` of the file.
    """
    return _parsed(decode(data, path), path)


def apply(data: bytes, edit: FileEdit) -> tuple[bytes, list[str]]:
    """Apply *edit* to a file's content.

    A key that says neither the old nor the new source, and only that one, is left; so the
    edit may be applied again after a crash, and beside a person's own edits. Lines that
    stand in the body already are not put in twice.

    Returns:
        The new content, and one line for each part that was left out.

    Raises:
        Unreadable: The content, or what it would become, cannot be read.
    """
    document = parse(data, edit.path)
    conflicts: list[str] = []
    for key in edit.keys:
        document = _step(document, key, conflicts)
    for line in edit.lines:
        text = body.insert(document.text, document.body_start, line, document.newline)
        document = _with_body(document, text)
    return document.text.encode(), conflicts


def revert(data: bytes, edit: FileEdit) -> tuple[bytes, list[str]]:
    """Take *edit* back: the inverse of `apply`, to the byte.

    What has been changed since is left. (A line that stood in the file before `apply` is
    taken for ours.)

    Returns:
        The content, and one line for each part that was left.

    Raises:
        Unreadable: The content, or what it would become, cannot be read.
    """
    document = parse(data, edit.path)
    conflicts: list[str] = []
    for line in reversed(edit.lines):
        text = body.remove(document.text, document.body_start, line, document.newline)
        if text is None:
            conflicts.append(f"{edit.path}: the lines put in are no longer there as they were")
        else:
            document = _with_body(document, text)
    waiting = [KeyEdit(key=e.key, old=e.new, new=e.old) for e in reversed(edit.keys)]
    # An entry comes back below the one that it stood below, which may have to come back first.
    while waiting:
        ready = [e for e in waiting if not _waits(document, e)] or waiting[:1]
        for key in ready:
            document = _step(document, key, conflicts)
            waiting.remove(key)
    return document.text.encode(), conflicts


def is_reverted(data: bytes, edits: Sequence[FileEdit]) -> bool:
    """Return whether a file is as it was before *edits*, in their order, as far as they changed it.

    Raises:
        Unreadable: The content cannot be read.
    """
    document = parse(data, edits[-1].path)
    first: dict[str, str | None] = {}
    for edit in edits:
        for key in edit.keys:
            first.setdefault(key.key, key.old)
        for line in edit.lines:
            without = body.remove(document.text, document.body_start, line, document.newline)
            if line.text.strip() and without is not None:
                return False
    return all(_says_source(document, key, old) for key, old in first.items())


def _says_source(document: Document, key: str, source: str | None) -> bool:
    """Return whether *key* has this value; a source of several parts is that of an entry that was removed."""
    if source is not None and _PART in source:
        return key in document.entries and _lines(document, key) == source.split(_PART)[2]
    return document.source(key) == source


def _with_body(document: Document, text: str) -> Document:
    # The closing line may gain or lose a line end, so its place is looked up again.
    place = split(text)
    if place is None or text[: place[1]] != document.text[: document.bottom]:
        raise _refusal(document, "", "the edit would change the frontmatter")
    return replace(document, text=text, body=text[place[2] :], body_start=place[2])


def _waits(document: Document, edit: KeyEdit) -> bool:
    above = edit.new.split(_PART)[0] if edit.new and _PART in edit.new else ""
    return bool(above) and above not in document.entries


def _step(document: Document, edit: KeyEdit, conflicts: list[str]) -> Document:
    text, conflict = _apply_key(document, edit)
    if conflict:
        conflicts.append(conflict)
    if text == document.text:
        return document
    after = _parsed(text, document.path)
    if _others(document, edit.key) != _others(after, edit.key):
        raise _refusal(document, edit.key, "the edit would change other keys")
    source = after.source(edit.key)
    if _PART not in (edit.new or "") and source != edit.new:
        raise _refusal(document, edit.key, "the edit would not say what was asked")
    return after


def _others(document: Document, key: str) -> list[tuple[str, str]]:
    # repr, as a NaN does not equal itself.
    values = [(name, repr(value)) for name, value in document.values.items() if name != key]
    return [*sorted(values), ("", document.body)]


def _apply_key(document: Document, edit: KeyEdit) -> tuple[str, str]:
    """Return the text with *edit* applied, and "" or why it was not."""
    text, entry, now = document.text, document.entries.get(edit.key), document.source(edit.key)
    old, new = edit.old, edit.new
    own_lines = old.split(_PART)[2] if old and _PART in old else None
    if now == new or (
        now is not None and new is not None and new.endswith(_PART + _lines(document, edit.key))
    ):
        return text, ""
    if entry is None or now is None:
        if old is None and new is not None:
            return _put_in(document, edit.key, new), ""
        return text, f"{document.path}: `{edit.key}` was removed since; left out"
    if new is None:
        own_lines = own_lines or f"{' ' * document.indent}{spell(edit.key)}: {old}{document.newline}"
        if _lines(document, edit.key) != own_lines:
            return text, f"{document.path}: `{edit.key}` was changed since"
        document._refuse_fixed(edit.key)
        return text[: entry.top] + text[entry.bottom :], ""
    if now != old:
        return text, f"{document.path}: `{edit.key}` was changed since"
    document._refuse_fixed(edit.key)
    start = entry.start
    # A value on the key's line has a blank before it; an empty or a block value has none.
    if new[:1] not in ("", "\r", "\n") and now[:1] in ("", "\r", "\n"):
        new = " " + new
    elif new[:1] in ("", "\r", "\n") and text[start - 1] == " ":
        start -= 1
    return text[:start] + new + text[entry.end :], ""


def _lines(document: Document, key: str) -> str:
    entry = document.entries[key]
    return document.text[entry.top : entry.bottom]


def _put_in(document: Document, key: str, new: str) -> str:
    text, at = document.text, document.bottom
    if _PART in new:
        above, gap, lines = new.split(_PART)
        if above in document.entries or not above:
            at = document.entries[above].bottom if above else document.top
            at += len(gap) if text.startswith(gap, at) else 0
        return text[:at] + lines + text[at:]
    document._refuse_fixed(key)
    line = f"{' ' * document.indent}{spell(key)}: {new}{document.newline}"
    return text[:at] + line + text[at:]


def _parsed(text: str, path: str) -> Document:
    parsed = read_text(text, path)
    return Document(**{one.name: getattr(parsed, one.name) for one in fields(ParsedFile)})


def _refusal(document: Document, key: str, why: str) -> Unreadable:
    what = f"`{key}` cannot be edited" if key else "cannot be edited"
    return Unreadable(document.path, "bad yaml", f"{what}: {why}; edit it by hand")


# ---------------------------------------------------------------- spelling


def respell(text: str, entry: KeyPlace, value: str | Sequence[str]) -> str:
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


def spell_new(value: str | Sequence[str]) -> str:
    """Return the source of a *value* that no shape is given for."""
    if isinstance(value, str):
        return spell(value)
    return "[" + ", ".join(spell(item, flow=True) for item in value) + "]"


def _respell_list(text: str, entry: KeyPlace, items: list[str], nodes: list[Any]) -> str:
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
        line_end = LINE_END.search(text, at)
        return "".join([*pieces, text[at : line_end.start() if line_end else at]])
    style, more = _quote(text[spans[0][0] : spans[0][1]]), items[len(nodes) :]
    if block:
        lead = _bullet(text, spans[0][0], entry)
        return "".join([*pieces, text[at : entry.end], *(lead + spell(item, style) for item in more)])
    return "".join([*pieces, *(", " + spell(m, style, flow=True) for m in more), text[at : entry.end]])


def _bullet(text: str, first: int, entry: KeyPlace) -> str:
    line = line_start(text, first)
    newline = "\r\n" if text.startswith("\r\n", entry.start) else text[entry.start]
    return newline + text[line:first]


def _item_span(text: str, entry: KeyPlace, node: Any) -> tuple[int, int]:
    start, end = entry.shift + node.start_mark.index, entry.shift + node.end_mark.index
    plain = isinstance(node, yaml.ScalarNode) and entry.start <= start
    if not plain or text[start:end][:1] in ("", "&", "!", "|", ">"):
        raise CannotEdit("the list holds more than words")
    return start, end


def _quote(source: str) -> str:
    return source[0] if source[:1] in ("'", '"') else ""


def spell(value: str, style: str = "", *, flow: bool = False) -> str:
    """Return *value* as YAML on one line, which every reader takes for that string.

    Args:
        value: Any string.
        style: ``'`` or ``"`` to quote so, if it can be; else plain, if it can be.
        flow: Whether it is to stand inside a flow list.
    """
    if style == '"' or _ESCAPED.search(value.replace('"', "").replace("\\", "")):
        return '"' + _ESCAPED.sub(_escape, value) + '"'
    if style == "'" or not _plain(value, flow=flow):
        return "'" + value.replace("'", "''") + "'"
    return value


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    return _SHORT_ESCAPES.get(char) or (f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}")


def _plain(value: str, *, flow: bool) -> bool:
    if not value or value != value.strip() or value[0] in _NOT_FIRST or value.startswith("..."):
        return False
    if ": " in value or " #" in value or value.endswith(":") or _LOADED_WORD.fullmatch(value):
        return False
    if flow and re.search(r"[,\[\]{}:]", value):
        return False
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, value, (True, False))
    return tag == "tag:yaml.org,2002:str"
