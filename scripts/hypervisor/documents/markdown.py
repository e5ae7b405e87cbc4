r"""Where a markdown file's body begins, and what it says outside code: headings, sections. Pure; no I/O.

A line ends with ``\n``, ``\r\n`` or a lone ``\r`` (CommonMark 0.31, section 2.1), and with
nothing else: ``str.splitlines`` would also split at U+2028 or a form feed. Only what the
product decides on is read: fences, code spans, comments and headings; not all of markdown.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..core.errors import Unreadable

#: The line that begins the frontmatter, with its end.
OPENING = re.compile(r"\ufeff?---[ \t]*(?P<end>\r\n|\r|\n)")
_CLOSING = re.compile(r"(?<=[\r\n])(?:---|\.\.\.)[ \t]*(?:\r\n|\r|\n|\Z)")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_BLANK_LINE = re.compile(r"(?:\r\n|\r|\n)[ \t]*(?=[\r\n]|\Z)")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#*)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
#: Lines that no paragraph begins with, so that an underline below them makes no heading:
#: lists, quotes, rules, tables, indented code.
_NO_PARAGRAPH = re.compile(r" {0,3}(?:[-+*](?:[ \t]|$)|\d{1,9}[.)][ \t]|>|\||(?:[-_*][ \t]*){3,100}$)")
_INDENTED = re.compile(r"\t| {4}")
#: A fence may stand in a list or a quote, also on the line of the marker itself.
_FENCE = re.compile(
    r"(?P<lead>(?:[ \t]*(?:>|(?:[-+*]|\d{1,9}[.)])(?=[ \t])))*[ \t]*)"
    r"(?P<mark>`{3,}(?=[^`\r\n]*(?:[\r\n]|\Z))|~{3,})"
)
_TOKEN = re.compile(r"\\[`<\\]|(?P<code>`+)|(?P<comment><!--)|(?P<end>\r\n|\r|\n)")
_TICKS = re.compile("`+")

SpanKind = Literal["fence", "code", "comment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of the body that is not prose."""

    start: int
    end: int
    kind: SpanKind
    #: False where its end mark is missing, so that it runs on to the end of the body.
    closed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """A heading line."""

    #: 1 to 6.
    level: int
    title: str
    #: Where its first line begins in the body.
    start: int
    #: Where the line after it begins.
    end: int
    #: Its last line without line end: the underline of a setext heading.
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and the text below it, down to the next heading of any level."""

    #: 1 to 6, or 0 for the text before the first heading.
    level: int
    title: str
    text: str


# ------------------------------------------------------------------- frontmatter


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


# -------------------------------------------------------------------------- body


def lines(body: str) -> list[str]:
    """Return the lines of *body* with their ends; joined they are *body* again."""
    return _LINE.findall(body)


def first_heading(body: str) -> str | None:
    """Return the first heading's line, exactly and without its end, or None.

    Of a setext heading it is the underline: the line after which text may be put in.
    """
    heading = next(headings(body), None)
    return heading.line if heading else None


def prose(body: str) -> str:
    """Return *body* with code (fenced and inline) and comments blanked by spaces.

    Length and lines stay, so that a place found in it is a place in *body*.
    """
    return _blank(body, spans(body))


def sections(body: str) -> list[Section]:
    """Return the sections of *body*; text before the first heading is one of level 0."""
    found = list(headings(body))
    first = found[0].start if found else len(body)
    result = [Section(level=0, title="", text=body[:first])] if body[:first].strip() else []
    for index, heading in enumerate(found):
        end = found[index + 1].start if index + 1 < len(found) else len(body)
        result.append(Section(level=heading.level, title=heading.title, text=body[heading.end : end]))
    return result


def headings(body: str) -> Iterator[Heading]:
    """Yield the headings that stand outside fences and comments, from the top."""
    # Inline code stays readable here: "# `x`" is a heading with a title.
    plain = _blank(body, [span for span in spans(body) if span.kind != "code"])
    above = ""  # the line before, if a paragraph may consist of it
    above_at = at = 0
    for line in lines(plain):
        text = line.rstrip("\r\n")
        raw = body[at : at + len(text)]
        end = at + len(line)
        if match := _ATX.match(text):
            title = (match[2] or "").strip()
            yield Heading(level=len(match[1]), title=title, start=at, end=end, line=raw)
            above = ""
        elif above and (match := _SETEXT.match(text)):
            level = 1 if match[1][0] == "=" else 2
            yield Heading(level=level, title=above.strip(), start=above_at, end=end, line=raw)
            above = ""
        elif text.strip() and not _NO_PARAGRAPH.match(text) and (above or not _INDENTED.match(text)):
            above, above_at = text, at
        else:
            above = ""
        at = end


def spans(body: str) -> list[Span]:
    """Return what is not prose in *body*, in order: fences, code spans, comments."""
    found: list[Span] = []
    at, paragraph_end, line_start = 0, -1, 0
    ticks: dict[int, list[int]] = {}
    while at < len(body):
        if at == line_start and (fence := _FENCE.match(body, at)):
            found.append(_fence_span(body, at, fence))
            at = line_start = found[-1].end
            continue
        token = _TOKEN.search(body, at)
        if token is None:
            break
        at = token.end()
        if token["end"]:
            line_start = at
            continue
        if token.start() >= paragraph_end:
            paragraph_end = _paragraph_end(body, token.start())
            ticks = _tick_runs(body, token.start(), paragraph_end)
        if token["code"]:
            end = _code_end(ticks, token)
            span = Span(start=token.start(), end=end, kind="code") if end else None
        elif token["comment"]:
            span = _comment_span(body, token, line_start, paragraph_end)
        else:
            span = None
        if span:
            found.append(span)
            at = span.end
            line_start = max(body.rfind("\n", 0, at), body.rfind("\r", 0, at)) + 1 if at > line_start else at
    return found


def _blank(body: str, holes: list[Span]) -> str:
    parts, at = [], 0
    for hole in holes:
        parts += [body[at : hole.start], re.sub(r"[^\r\n]", " ", body[hole.start : hole.end])]
        at = hole.end
    return "".join([*parts, body[at:]])


def _fence_span(body: str, start: int, fence: re.Match[str]) -> Span:
    mark, lead = fence["mark"], fence["lead"]
    quoted = ">" in lead
    closing = re.compile(rf"[ \t>]*{re.escape(mark[0])}{{{len(mark)},}}[ \t]*(?:\r\n|\r|\n|\Z)")
    # A fence inside a list or a quote ends with it, marked or not; up to three blanks are
    # no sign of a list.
    indent = max(len(lead.expandtabs(4)) - 3, 0)
    at = _next_line(body, start)
    while at < len(body):
        if match := closing.match(body, at):
            return Span(start=start, end=match.end(), kind="fence")
        end = _next_line(body, at)
        line = body[at:end].expandtabs(4)
        left_quote = quoted and not line.lstrip().startswith(">")
        left_list = not quoted and bool(line.strip()) and len(line) - len(line.lstrip(" ")) < indent
        if left_quote or left_list:
            return Span(start=start, end=at, kind="fence")
        at = end
    return Span(start=start, end=len(body), kind="fence", closed=False)


def _comment_span(body: str, token: re.Match[str], line_start: int, paragraph_end: int) -> Span | None:
    # One that begins a line is an HTML block and may hold blank lines; within a paragraph
    # it is a comment only if it ends there (CommonMark, sections 4.6 and 6.6).
    block = not body[line_start : token.start()].strip()
    end = body.find("-->", token.start() + 2, len(body) if block else paragraph_end)
    if end >= 0:
        return Span(start=token.start(), end=end + 3, kind="comment")
    if block:
        return Span(start=token.start(), end=len(body), kind="comment", closed=False)
    return None


def _tick_runs(body: str, start: int, end: int) -> dict[int, list[int]]:
    # All runs of a paragraph at once: searching for each one's partner is quadratic.
    runs: dict[int, list[int]] = {}
    for match in _TICKS.finditer(body, start, end):
        runs.setdefault(len(match[0]), []).append(match.start())
    return runs


def _code_end(ticks: dict[int, list[int]], token: re.Match[str]) -> int | None:
    size = len(token["code"])
    starts = ticks.get(size, [])
    index = bisect_right(starts, token.start())
    return starts[index] + size if index < len(starts) else None


def _paragraph_end(body: str, at: int) -> int:
    match = _BLANK_LINE.search(body, at)
    return match.start() if match else len(body)


def _next_line(body: str, at: int) -> int:
    match = _LINE.match(body, at)
    return match.end() if match else len(body)
