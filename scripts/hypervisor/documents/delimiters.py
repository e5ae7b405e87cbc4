"""Where the frontmatter of a markdown file is: between its opening and its closing line, YAML or not."""

from __future__ import annotations

import re

from ..core.errors import Unreadable

#: The line that begins the frontmatter, with its end.
OPENING = re.compile(r"\ufeff?---[ \t]*(?P<end>\r\n|\r|\n)")
_CLOSING = re.compile(r"(?<=[\r\n])(?:---|\.\.\.)[ \t]*(?:\r\n|\r|\n|\Z)")


def body_start(data: bytes, path: str) -> int:
    """Return the index of the first character (of the decoded text) after the frontmatter.

    0 where there is none; the frontmatter need not be YAML.

    Raises:
        Unreadable: The file is not UTF-8.
    """
    place = split(decode(data, path))
    return place[2] if place else 0


def decode(data: bytes, path: str) -> str:
    """Return a file's text.

    Raises:
        Unreadable: It is not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(path, "not utf-8", f"byte {error.start}") from error


def split(text: str) -> tuple[int, int, int] | None:
    """Return where the frontmatter begins, its closing line and the body; None if there is none."""
    opening = OPENING.match(text)
    closing = _CLOSING.search(text, opening.end()) if opening else None
    return (opening.end(), closing.start(), closing.end()) if opening and closing else None
