"""Markdown files with YAML frontmatter: read, and edited without touching what stays.

Bytes in, bytes out: no I/O, no clock. An edit replaces the source text of a value and
nothing else; what it made is parsed again, and refused if it says anything but what was
asked. So a layout that this module does not foresee costs an error, never a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from ..core.errors import Unreadable
from ..core.model import FileEdit, KeyEdit
from . import bodytext, yamltext
from .delimiters import OPENING, decode, split
from .entries import CannotEdit, Entry, read_entries, respell, spell_new

#: Parts the three texts in the `old` of a removal: no YAML can hold it.
_PART = "\x1e"

Value = str | Sequence[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file as read; `text` is all of it."""

    path: str
    text: str
    #: All after the frontmatter.
    body: str
    #: Every key as the file spells it, with its plain value, merged keys too.
    values: Mapping[str, Any]
    #: The text of each value that is one word or phrase, without quotes: ``007``, ``no``.
    words: Mapping[str, str]
    #: The line end in use.
    newline: str
    entries: Mapping[str, Entry] = field(repr=False)
    #: Where the frontmatter's first line begins, its closing line, and the body.
    top: int
    bottom: int
    body_start: int
    #: How far the keys are indented; -1 if they stand in ``{}``.
    indent: int

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

    def _entry_source(self, key: str, entry: Entry) -> str:
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
    return _parse_text(decode(data, path), path)


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
        text = bodytext.insert(document.text, document.body_start, line, document.newline)
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
        text = bodytext.remove(document.text, document.body_start, line, document.newline)
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
    after = _parse_text(text, document.path)
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
        own_lines = own_lines or f"{' ' * document.indent}{yamltext.spell(edit.key)}: {old}{document.newline}"
        if _lines(document, edit.key) != own_lines:
            return text, f"{document.path}: `{edit.key}` was changed since; left as it is"
        document._refuse_fixed(edit.key)
        return text[: entry.top] + text[entry.bottom :], ""
    if now != old:
        return text, f"{document.path}: `{edit.key}` was changed since; left as it is"
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
    line = f"{' ' * document.indent}{yamltext.spell(key)}: {new}{document.newline}"
    return text[:at] + line + text[at:]


# An edit is tried out when it is made, and carried out later: most of its texts are read twice.
@lru_cache(maxsize=8)
def _parse_text(text: str, path: str) -> Document:
    opening = OPENING.match(text)
    if opening is None:
        raise Unreadable(path, "no frontmatter", "the first line is not ---")
    place = split(text)
    if place is None:
        raise Unreadable(path, "no frontmatter", "no line --- ends it")
    top, bottom, start = place
    try:
        root, loader = yamltext.load(text[top:bottom])
        if root is not None and root.id != "mapping":
            raise Unreadable(
                path, "not a mapping", f"{root.id} at {_position(text, top + root.start_mark.index)}"
            )
        entries = read_entries(root, text, top) if root is not None else {}
        words = {name: e.node.value for name, e in entries.items() if isinstance(e.node.value, str)}
        values = yamltext.construct(loader, root) if root is not None else {}
    except yamltext.YamlFault as error:
        raise Unreadable(path, "bad yaml", f"{_position(text, top + error.at)} {error}") from error
    indent = 0 if root is None else -1 if root.flow_style else root.start_mark.column
    return Document(
        path=path, text=text, body=text[start:], values=values, words=words, newline=opening["end"],
        entries=entries, top=top, bottom=bottom, body_start=start, indent=indent,
    )  # fmt: skip


def _position(text: str, at: int) -> str:
    column = at - max(text.rfind("\n", 0, at), text.rfind("\r", 0, at))
    return f"{yamltext.line_of(text, at)}:{column}"


def _refusal(document: Document, key: str, why: str) -> Unreadable:
    what = f"`{key}` cannot be edited" if key else "cannot be edited"
    return Unreadable(document.path, "bad yaml", f"{what}: {why}; edit it by hand")
