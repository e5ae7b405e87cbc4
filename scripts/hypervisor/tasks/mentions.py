"""Which paths a task's text says will be changed. Pure: markdown in, paths out.

A guess, made only of a task that has no `files:`. Code blocks, comments, links and asides (notes,
references, what was left out) count for nothing, as does what a sentence says is not to be touched, or
only to be looked at, and what a command in a code span is run with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..documents import markdown

#: Sections that do not say what is to be changed, beside those of `triage.aside_headings`.
_ASIDES = frozenset(
    {
        "references", "related", "see also", "links", "non-goals", "out of scope", "reproduction",
        "steps to reproduce", "final summary", "implementation notes", "notes", "comments",
    }
)  # fmt: skip
#: How files of text and code end; `example.com` and `1.2` are none.
_ENDINGS = (
    "c|cc|cfg|cjs|conf|cpp|cs|css|csv|dart|ex|exs|go|gradle|h|hpp|html|ini|java|js|json|jsonc|jsonl|jsx|kt|"
    "lock|lua|md|mdx|mjs|php|pl|proto|ps1|py|pyi|rb|rs|rst|sass|scala|scss|sh|sql|svelte|swift|tf|toml|ts|"
    "tsx|txt|vue|xml|yaml|yml|zig"
)
_FILE = rf"(?:[\w.@\-]{{1,80}}/){{0,12}}(?:[\w.\-]{{1,80}}\.(?:{_ENDINGS})|Makefile|Dockerfile)"
_FOLDER = r"(?:[\w.\-]{1,80}/){1,12}(?:\*\*?|\*\.\w{1,5})?"  # or a glob in it
_PATH = re.compile(rf"(?<![\w/@:.\-])(?:\./)?({_FILE}|{_FOLDER})(?![\w/@*\-])(?!\.\w)")
#: Bounded, so that no text makes each of its letters the beginning of a search through all of it.
_URL = re.compile(r"\b[a-z][a-z0-9+.\-]{0,30}://\S+|\]\([^)\s]{0,2000}\)")
_NOT = re.compile(
    r"\b(?:without (?:touching|changing|editing)"
    r"|(?:do not|don't|never|must not) (?:touch|change|edit|modify)"
    r"|(?:as|like|same as) in|grep(?:s|ped|ping)?"
    r"|see|compare|unlike|similar to|mirror(?:s|ing)?|such as|e\.g\."
    r"|out of scope|unchanged|unaffected|remains? as)\b",
    re.IGNORECASE,
)
#: What is typed in a code span: `bun src/cli.ts edit` runs that file, and does not change it.
_SPAN = re.compile(r"`([^`\n]*)`")
_SENTENCE = re.compile(r"(?<=[.;!?])\s+|\n\s*\n|\n(?=\s*(?:[-*+]|\d+[.)])\s)")


def paths_in(title: str, body: str, asides: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the paths that a task's text names as its work, each once and in order.

    Args:
        title: The task's title.
        body: Its body.
        asides: Further headings of what is no part of the work, without case.
    """
    found: dict[str, None] = {}
    for text in [title, *_working_texts(body, _ASIDES | {name.casefold() for name in asides})]:
        for sentence in _SENTENCE.split(_SPAN.sub(_without_commands, _URL.sub(" ", text))):
            first_not = _NOT.search(sentence)
            heard = sentence[: first_not.start()] if first_not else sentence
            ticks = at = 0
            for match in _PATH.finditer(heard):
                ticks += heard.count("`", at, match.start(1))
                at = match.start(1)
                if _is_one(match[1], in_code=ticks % 2 == 1):
                    found[match[1].removeprefix("./")] = None
    return tuple(found)


def _without_commands(span: re.Match[str]) -> str:
    first, _, more = span[1].strip().partition(" ")
    return " " if more and not _PATH.match(first) else span[0]


def _is_one(path: str, *, in_code: bool) -> bool:
    """A bare name counts where it is marked as code: `Backlog.md` may as well be a product's name."""
    if path.startswith("../"):  # what an import says; from where is not known
        return False
    if "/" in path.strip("/"):
        return not path.replace("/", "").replace(".", "").isdecimal()
    return in_code and not path.endswith("/")


def _working_texts(body: str, asides: frozenset[str]) -> Iterator[str]:
    plain = _without_blocks(body)
    below: int | None = None  # the level of the aside that we are in
    for section in markdown.sections(plain):
        if below is not None and section.level > below:
            continue
        below = section.level if _bare(section.title) in asides else None
        if below is None:
            yield f"{section.title}\n\n{section.text}"


def _without_blocks(body: str) -> str:
    """Return *body* without fenced code and comments; a path in a code span stays."""
    parts, at = [], 0
    for span in markdown.spans(body):
        if span.kind != "code":
            parts.append(body[at : span.start])
            at = span.end
    return "".join([*parts, body[at:]])


def _bare(title: str) -> str:
    return re.split(r"\s*[(:]", title.strip().casefold(), maxsplit=1)[0].strip(" #*_")
