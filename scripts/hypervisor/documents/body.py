r"""Lines put into a markdown body and taken out again, to the byte. Pure; no I/O.

Where the text has no line end before the place (the end of a file without a last newline),
the lines go in as line end plus lines *without* their own last one. So the file keeps its
habit, and `remove` can tell from it what the file was.
"""

from __future__ import annotations

from ..core.model import LineEdit
from . import markdown


def insert(text: str, offset: int, edit: LineEdit, newline: str) -> str:
    """Return *text* with the lines of *edit* put in, unless they stand there already.

    Args:
        text: The whole file.
        offset: Where its body begins.
        edit: The lines; they count as standing there if all that are not blank follow each
            other anywhere in the body, outside fenced code. A missing anchor means the
            start of the body.
        newline: The line end in use.
    """
    put = _whole(edit.text, newline)
    at = offset + _place(text[offset:], edit.after)
    if not put.strip() or _stands_at(text, offset, at, put, edit) or _stands(text[offset:], put):
        return text
    if at and text[at - 1] not in "\r\n":
        put = newline + _cut(put)
    return text[:at] + put + text[at:]


def remove(text: str, offset: int, edit: LineEdit, newline: str) -> str | None:
    """Return *text* without the lines that `insert` put in, or None if they are not there."""
    put = _whole(edit.text, newline)
    if not put.strip():
        return text
    at = offset + _place(text[offset:], edit.after)
    if edit.after is None and text.endswith(put) and _begins_line(text, len(text) - len(put), offset):
        return text[: -len(put)]
    if edit.after is not None and text.startswith(put, at) and _begins_line(text, at, offset):
        return text[:at] + text[at + len(put) :]
    last = newline + _cut(put)
    if text.endswith(last) and len(text) - len(_cut(put)) >= offset:
        return text[: -len(last)]
    places = [place for place in _occurrences(text, offset, put) if _begins_line(text, place, offset)]
    hidden = _hidden(text[offset:])
    places = [place for place in places if not _inside(hidden, place - offset)]
    if not places:
        return None
    place = places[-1] if edit.after is None else places[0]
    return text[:place] + text[place + len(put) :]


def _whole(text: str, newline: str) -> str:
    # In the file's own line ends: a lone CR before a foreign LF would make one line end of two.
    return "".join(_cut(line) + newline for line in markdown.lines(text))


def _cut(text: str) -> str:
    for end in ("\r\n", "\n", "\r"):
        if text.endswith(end):
            return text[: -len(end)]
    return text


def _place(body: str, after: str | None) -> int:
    if after is None:
        return len(body)
    if after == "":
        return 0
    heading = next(markdown.headings(body), None)
    if heading and heading.line == after:
        return heading.end
    hidden, at = _hidden(body), 0
    for line in markdown.lines(body):
        if line.rstrip("\r\n") == after and not _inside(hidden, at):
            return at + len(line)
        at += len(line)
    return 0


def _stands_at(text: str, offset: int, at: int, put: str, edit: LineEdit) -> bool:
    # Also where a fence that was never closed hides the place: else each call would add more.
    if edit.after is not None:
        return text.startswith(put, at)
    starts = [len(text) - len(form) for form in (put, _cut(put)) if text.endswith(form)]
    return any(_begins_line(text, start, offset) for start in starts)


def _stands(body: str, put: str) -> bool:
    wanted = [line.rstrip("\r\n") for line in markdown.lines(put) if line.strip()]
    there, at = [], 0
    for line in markdown.lines(body):
        if line.strip():
            there.append((line.rstrip("\r\n"), at))
        at += len(line)
    words = [line for line, _ in there]
    if wanted[0] not in words:
        return False
    hidden = _hidden(body)
    return any(
        words[index : index + len(wanted)] == wanted and not _inside(hidden, place)
        for index, (line, place) in enumerate(there)
        if line == wanted[0]
    )


def _hidden(body: str) -> list[markdown.Span]:
    # What is not closed hides nothing here: most of the file may be "inside" it by mistake.
    return [span for span in markdown.spans(body) if span.kind != "code" and span.closed]


def _inside(hidden: list[markdown.Span], at: int) -> bool:
    # A line that begins with a comment is not inside it.
    return any(span.start + (span.kind == "comment") <= at < span.end for span in hidden)


def _begins_line(text: str, at: int, offset: int) -> bool:
    return at >= offset and (at == 0 or text[at - 1] in "\r\n")


def _occurrences(text: str, offset: int, put: str) -> list[int]:
    found, at = [], text.find(put, offset)
    while at >= 0:
        found.append(at)
        at = text.find(put, at + 1)
    return found
