"""What a task says of itself: texts with their places, and figures. Pure; read for `triage`.

Structure decides what counts. Code, comments and quotes say nothing; a step list says what the
work is, not who must do it; and of a paragraph only its beginning is heard.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..core.model import Task
from ..documents import markdown

#: Where a rule may look for words, and for numbers.
TEXTS = ("title", "tags", "type", "status", "keys", "lead", "blockers", "questions")
FIGURES = ("steps", "words", "named_files", "subsystems", "guidance", "destructive")

#: As much of a title or paragraph as the patterns see: bounds what a bad one can cost.
_SEEN = 300
_ITEM = re.compile(
    r"(?P<indent>[ \t]*)(?:[-*+]|\d{1,9}[.)])[ \t]+(?:\[(?P<box>[ xX-])\](?:[ \t]+|$))?(?P<text>.*)"
)
_LABEL = re.compile(r"\W{0,3}[\w/ .-]{1,30}?(?:\]:?|\*{0,2}:\*{0,2}) +(?=\S)")
_FILE = re.compile(
    r"(?<![\w/@:.-])(?:[\w.-]{1,80}/){0,12}"
    r"(?:[\w-][\w.-]{0,80}\.[a-z][a-z0-9]{0,4}|README|CHANGELOG|LICENSE|Makefile|Dockerfile|\.\w{1,20})(?![\w/])"
)
_REMARK = re.compile(r"\s*[(:]|\s[-\N{EN DASH}\N{EM DASH}]\s")
_EDGES = re.compile(r"^[\W\d_]+|[\W_]+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBlock:
    """A paragraph or a list item."""

    #: The headings it stands under, from the outermost, without the body's own title.
    trail: tuple[str, ...]
    #: Line of the body, from 1.
    line: int
    #: Its text outside code and comments, on one line.
    text: str
    #: The blanks before an item's mark, or None for a paragraph.
    indent: int | None = None
    #: What stands in an item's checkbox, or None where it has none.
    box: str | None = None

    def under(self, names: Sequence[str]) -> bool:
        """Whether one of its headings is one of *names*."""
        return any(is_named(heading, names) for heading in self.trail)

    def directly_under(self, names: Sequence[str]) -> bool:
        """Whether its nearest heading is one of *names*."""
        return bool(self.trail) and is_named(self.trail[-1], names)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlineHeading:
    """A heading, with the line of the body that it stands on."""

    level: int
    title: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A body as headings and blocks, read once."""

    prose: str
    headings: tuple[OutlineHeading, ...]
    blocks: tuple[TextBlock, ...]

    @classmethod
    def of(cls, body: str) -> Outline:
        """Read *body*."""
        prose = markdown.prose(body)
        headings: list[OutlineHeading] = []
        blocks: list[TextBlock] = []
        trail: list[tuple[int, str]] = []
        at, line = 0, 1
        for found in markdown.headings(body):
            names = tuple(name for _, name in trail)
            blocks += _blocks(body[at : found.start], prose[at : found.start], names, line)
            line += len(markdown.lines(body[at : found.start]))
            headings.append(OutlineHeading(level=found.level, title=found.title, line=line))
            trail = [entry for entry in trail if entry[0] < found.level]
            # A level 1 heading at the top is the task's title: what follows is its introduction.
            if found.level > 1 or len(headings) > 1:
                trail.append((found.level, found.title))
            line += len(markdown.lines(body[found.start : found.end]))
            at = found.end
        blocks += _blocks(body[at:], prose[at:], tuple(name for _, name in trail), line)
        return cls(prose=prose, headings=tuple(headings), blocks=tuple(blocks))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the rules are weighed against."""

    #: Per place a rule may name: where exactly, and the text.
    texts: Mapping[str, Sequence[tuple[str, str]]]
    #: Per figure: the number, and what it counts in words.
    figures: Mapping[str, tuple[int, str]]


def is_named(title: str, names: Sequence[str]) -> bool:
    """Whether a heading says one of *names*, apart from case, numbering and a remark after it."""
    return _bare(title) in names


@lru_cache(maxsize=1024)  # a backlog uses the same few headings everywhere
def _bare(title: str) -> str:
    return _EDGES.sub("", _REMARK.split(title, maxsplit=1)[0]).casefold()


def gather(
    task: Task,
    outline: Outline,
    table: Mapping[str, Any],
    patterns: Mapping[str, Sequence[re.Pattern[str]]],
) -> Facts:
    """Return the facts of *task*; *table* has the headings of each kind, *patterns* the lists."""
    keys = [(f"frontmatter key `{k}`", str(k)) for k, v in task.front.items() if v]
    title = task.title.strip()[:_SEEN]
    blocks = outline.blocks
    texts: dict[str, Sequence[tuple[str, str]]] = {
        "title": [("title says", text) for text in _openings(title)],
        "tags": [("tag", tag.lstrip("#").strip()) for tag in task.tags],
        "type": [("type", task.type.strip())] if task.type.strip() else [],
        "status": [("status", task.status_word.strip())] if task.status_word.strip() else [],
        "keys": keys,
        "lead": _at([b for b in blocks if _leads(b, table)]),
        "blockers": _at([b for b in blocks if b.directly_under(table["status_headings"])]),
        "questions": _at(
            _open_questions(blocks, table["question_headings"], patterns["answered"]), whole=True
        ),
    }
    figures = _figures(task, outline, table)
    destroys = not figures["guidance"][0] and any(p.match(title) for p in patterns["destructive"])
    figures["destructive"] = (
        int(destroys),
        "the title asks for what cannot be undone, and no steps are given",
    )
    return Facts(texts=texts, figures=figures)


def _figures(task: Task, outline: Outline, table: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    words = len(outline.prose.split())
    # In a long body file names are mentions, not what the task is about; the opening tells.
    mentioned = _FILE.findall(f"{task.title[:_SEEN]} {task.body[: 5 * _SEEN]}")
    files = set(task.files) or set(mentioned)
    tops = {path.lstrip("./").split("/", 1)[0] for path in files if "/" in path}
    steps = _steps(outline.blocks, table)
    guided = steps[0] + len(files) + bool(task.verify)
    return {
        "steps": steps,
        "words": (words, f"{words} words"),
        "named_files": (len(files), f"names {', '.join(sorted(files)[:3])}" if files else "names no file"),
        "subsystems": (len(tops), f"{len(tops)} top folders ({', '.join(sorted(tops)[:5])})"),
        "guidance": (guided, "no steps, files or verify command" if not guided else f"{guided} directions"),
    }


def _steps(blocks: Sequence[TextBlock], table: Mapping[str, Any]) -> tuple[int, str]:
    # Criteria and plan tell of the same work twice, so the longest list counts, not the sum.
    lists: dict[str, list[TextBlock]] = {}
    for block in blocks:
        if block.indent is None or block.under(table["aside_headings"]):
            continue
        name = next((h for h in block.trail if is_named(h, table["step_headings"])), "")
        if name or block.box is not None:
            lists.setdefault(name, []).append(block)
    longest: list[TextBlock] = []
    heading = ""
    for name, items in lists.items():
        boxes = [b for b in items if b.box is not None]
        steps = [b for b in boxes if b.box == " "] if boxes else [b for b in items if b.indent == 0]
        if len(steps) > len(longest):
            longest, heading = steps, name
    if not longest:
        return 0, "no open steps are listed"
    noun = "step" if len(longest) == 1 else "steps"
    where = f' under "{heading}"' if heading else ""
    first, last = longest[0].line, longest[-1].line
    span = f"body line {first}" if first == last else f"body lines {first}-{last}"
    return len(longest), f"{len(longest)} open {noun}{where} ({span})"


def _leads(block: TextBlock, table: Mapping[str, Any]) -> bool:
    # List items are left out: "- decide whether the file is stale" is what the code shall do.
    return block.indent is None and (not block.trail or block.directly_under(table["lead_headings"]))


def _open_questions(
    blocks: Sequence[TextBlock], names: Sequence[str], answered: Sequence[re.Pattern[str]]
) -> Iterator[TextBlock]:
    held = [block for block in blocks if block.under(names)]
    for index, block in enumerate(held):
        if block.box in ("x", "X") or block.indent:
            continue
        # Its answer may stand in a deeper item or in the paragraph after it.
        below = held[index + 1 :]
        nested = next((i for i, other in enumerate(below) if not other.indent), len(below))
        replied = block.indent is None and bool(below) and below[0].indent is None
        text = " ".join([block.text, *(other.text for other in below[:nested])])
        if not replied and not any(pattern.search(text) for pattern in answered):
            yield block


def _at(blocks: Sequence[TextBlock] | Iterator[TextBlock], *, whole: bool = False) -> list[tuple[str, str]]:
    return [
        (f"body line {block.line} says", text)
        for block in blocks
        for text in ([block.text[-_SEEN:]] if whole else _openings(block.text[:_SEEN]))
    ]


def _openings(text: str) -> list[str]:
    # "**Blocked:** waiting for ..." and "[Web] Decide ..." are heard with and without their label.
    bare = text.lstrip("*_ ")
    label = _LABEL.match(text)
    return [bare, text[label.end() :].lstrip("*_ ")] if label else [bare]


def _blocks(body: str, prose: str, trail: tuple[str, ...], line: int) -> Iterator[TextBlock]:
    open_block: TextBlock | None = None
    texts: list[str] = []
    for number, (raw, text) in enumerate(zip(markdown.lines(body), markdown.lines(prose), strict=True), line):
        item = _ITEM.match(text.rstrip("\r\n"))
        # A line that holds nothing but inline code does not end its paragraph.
        gap = not text.strip() and (not raw.strip() or raw.lstrip()[:3] in ("<!-", "```", "~~~"))
        if open_block and (item or gap):
            yield _close(open_block, texts)
            open_block = None
        if item:
            indent = len(item["indent"].expandtabs(4))
            texts = [item["text"].strip()]
            open_block = TextBlock(trail=trail, line=number, text="", indent=indent, box=item["box"])
        elif open_block:
            texts.append(text.strip())
        elif text.strip():
            texts = [text.strip()]
            open_block = TextBlock(trail=trail, line=number, text="")
    if open_block:
        yield _close(open_block, texts)


def _close(block: TextBlock, texts: Sequence[str]) -> TextBlock:
    text = " ".join(texts)
    return TextBlock(trail=block.trail, line=block.line, text=text, indent=block.indent, box=block.box)
