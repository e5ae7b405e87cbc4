r"""Reads a markdown file with YAML frontmatter: python-frontmatter, with a handler of our own.

The handler is stricter than the library's where a task could be misread: a key that stands twice, an alias
bomb, a value with a tag. And it keeps what the library drops: where everything stands in the file, which
`yaml_edit` edits by, each value's own spelling (``007``, ``no``), the body to the byte, the line ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import frontmatter
from frontmatter.default_handlers import BaseHandler

from ..core.errors import Unreadable
from . import yaml_nodes
from .markdown import OPENING, decode, split
from .yaml_nodes import KeyPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedFile:
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
    entries: Mapping[str, KeyPlace] = field(repr=False)
    #: Where the frontmatter's first line begins, its closing line, and the body.
    top: int
    bottom: int
    body_start: int
    #: How far the keys are indented; -1 if they stand in ``{}``.
    indent: int


class TaskHandler(BaseHandler):
    """Splits one file and reads its frontmatter; keeps where things stand.

    Args:
        text: The file. The library hands over a text whose line ends and outer blanks it has changed, so that
            places in it are not places in the file.
        path: How errors name it.
    """

    FM_BOUNDARY = OPENING

    def __init__(self, text: str, path: str) -> None:
        super().__init__()
        self._text = text
        self._path = path
        self.newline = ""
        self.top = self.bottom = self.body_start = self.indent = 0
        self.entries: Mapping[str, KeyPlace] = {}

    def split(self, text: str) -> tuple[str, str]:
        """Return the frontmatter and the body, to the byte; the text that is given does not count.

        Raises:
            Unreadable: There is no frontmatter.
        """
        text = self._text
        opening = OPENING.match(text)
        if opening is None:
            raise Unreadable(self._path, "no frontmatter", "the first line is not ---")
        place = split(text)
        if place is None:
            raise Unreadable(self._path, "no frontmatter", "no line --- ends it")
        self.newline = opening["end"]
        self.top, self.bottom, self.body_start = place
        return text[self.top : self.bottom], text[self.body_start :]

    def load(self, fm: str) -> dict[str, Any]:
        """Return the values of the frontmatter by its keys.

        Raises:
            Unreadable: It is no mapping, or no YAML that is read here; the detail says where, as
                ``line:column`` of the file.
        """
        try:
            root, loader = yaml_nodes.load(fm)
            if root is None:
                return {}
            if root.id != "mapping":
                where = self._position(root.start_mark.index)
                raise Unreadable(self._path, "not a mapping", f"{root.id} at {where}")
            self.indent = -1 if root.flow_style else root.start_mark.column
            # Before merge keys are resolved, which moves nodes to where they do not stand.
            self.entries = yaml_nodes.read_entries(root, self._text, self.top)
            return yaml_nodes.construct(loader, root)
        except yaml_nodes.YamlFault as error:
            raise Unreadable(self._path, "bad yaml", f"{self._position(error.at)} {error}") from error

    def _position(self, at: int) -> str:
        at += self.top
        column = at - max(self._text.rfind("\n", 0, at), self._text.rfind("\r", 0, at))
        return f"{yaml_nodes.line_of(self._text, at)}:{column}"


def read(data: bytes, path: str) -> ParsedFile:
    """Read a markdown file.

    Args:
        data: The whole file.
        path: How errors name it.

    Raises:
        Unreadable: It is not UTF-8, has no frontmatter, or one that is no mapping or no YAML;
            the detail says where, as ``line:column`` of the file.
    """
    return read_text(decode(data, path), path)


# An edit is tried out when it is made, and carried out later: most of its texts are read twice.
@lru_cache(maxsize=128)
def read_text(text: str, path: str) -> ParsedFile:
    """Read the text of a markdown file; see `read`."""
    handler = TaskHandler(text, path)
    values, _ = frontmatter.parse(text, handler=handler)
    entries = handler.entries
    return ParsedFile(
        path=path,
        text=text,
        body=text[handler.body_start :],  # the library's has lost the blanks around it
        values=values,
        words={name: e.node.value for name, e in entries.items() if isinstance(e.node.value, str)},
        newline=handler.newline,
        entries=entries,
        top=handler.top,
        bottom=handler.bottom,
        body_start=handler.body_start,
        indent=handler.indent,
    )
