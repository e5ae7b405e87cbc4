"""Which tasks must not run at once, and which may. Pure: tasks in; edges with reasons, waves, advice out.

It looks at what tasks say before anything runs: their `files`, the paths that their texts name, their
parents and dependencies. A task that says nothing is not known to be independent; it is only not known
to conflict.

The paths of a text are a guess, made only of a task that has no `files:`. Code blocks, comments, links and
asides (notes, references, what was left out) count for nothing, as does what a sentence says is not to be
touched, or only to be looked at, and what a command in a code span is run with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..documents import markdown
from .scopes import literal, overlap

#: So many edges are told with their reasons; the waves keep to all.
MOST_TOLD = 20_000
#: Below this a batch is more trouble than its tasks.
FEW = 5

Kind = Literal["files", "text", "parent", "part", "dependency"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is known of one task."""

    id: str
    #: Its own word on what it may touch; taken at its word.
    files: tuple[str, ...] = ()
    #: Paths in its text; looked at where it has no `files`.
    named: tuple[str, ...] = ()
    parent: str = ""
    depends_on: tuple[str, ...] = ()

    @property
    def scope(self) -> tuple[str, ...]:
        """What it may touch, as far as it says."""
        return self.files or self.named


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """Two tasks that must not run at once."""

    a: str
    b: str
    kind: Kind
    reason: str
    #: Which of the two comes first; "" where any may.
    first: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Independence:
    """What was found."""

    edges: tuple[Edge, ...]
    #: How many edges there are, told or not.
    conflicts: int
    #: Tasks that may run at once, wave after wave.
    waves: tuple[tuple[str, ...], ...]
    #: Those that say nothing about what they touch.
    silent: tuple[str, ...]
    #: ``none``: nothing to do; ``one``: no batch; ``direct``: a worker each, without a batch; ``hypervisor``;
    #: ``sequential``: no two may run at once.
    way: Literal["none", "one", "direct", "hypervisor", "sequential"]

    @property
    def advice(self) -> str:
        """The way in words."""
        count, most = sum(map(len, self.waves)), max(map(len, self.waves), default=0)
        if self.way == "none":
            return "no task would run"
        if self.way == "one":
            return "1 task: not a batch; do it"
        if self.way == "sequential":
            return f"{count} tasks, and no two may run at once: process sequentially"
        waves = f"{len(self.waves)} wave{'s' if len(self.waves) > 1 else ''}"
        how = "directly, one worker each" if self.way == "direct" else "use hypervisor"
        return f"{count} tasks in {waves}, at most {most} at once: {how}"


@dataclass(slots=True)
class _Found:
    """Edges while they are found; each pair once, by the first reason."""

    parts: Sequence[Part]
    told: list[Edge] = field(default_factory=list)
    near: list[set[int]] = field(default_factory=list)
    #: What must come before a part.
    before: list[set[int]] = field(default_factory=list)

    def add(self, a: int, b: int, kind: Kind, reason: str, *, first: int | None = None) -> None:
        if b in self.near[a]:
            return
        self.near[a].add(b)
        self.near[b].add(a)
        if first is not None:
            self.before[b if first == a else a].add(first)
        if len(self.told) < MOST_TOLD:
            name = "" if first is None else self.parts[first].id
            self.told.append(
                Edge(a=self.parts[a].id, b=self.parts[b].id, kind=kind, reason=reason, first=name)
            )


def examine(parts: Sequence[Part]) -> Independence:
    """Return what may run at once.

    Args:
        parts: The tasks that would run, the most urgent first.
    """
    found = _Found(parts, near=[set() for _ in parts], before=[set() for _ in parts])
    _dependencies(parts, found)
    for a, b, reason, kind in _scopes(parts):
        found.add(a, b, kind, reason)
    _siblings(parts, found)
    waves = _waves(found)
    count, most = len(parts), max(map(len, waves), default=0)
    few: Literal["direct", "hypervisor"] = "direct" if count < FEW else "hypervisor"
    return Independence(
        edges=tuple(found.told),
        conflicts=sum(map(len, found.near)) // 2,
        waves=tuple(tuple(parts[at].id for at in wave) for wave in waves),
        silent=tuple(part.id for part in parts if not part.scope),
        way="none" if not count else "one" if count == 1 else "sequential" if most == 1 else few,
    )


def _dependencies(parts: Sequence[Part], found: _Found) -> None:
    number = {part.id.casefold(): at for at, part in enumerate(parts)}
    needs = [
        [number[name.casefold()] for name in part.depends_on if name.casefold() in number] for part in parts
    ]
    for at, part in enumerate(parts):
        for other in needs[at]:
            if other != at:
                found.add(other, at, "dependency", f"{part.id} depends on {parts[other].id}", first=other)
    for at, part in enumerate(parts):
        above = number.get(part.parent.casefold()) if part.parent else None
        # A part that waits for its whole says itself which comes first.
        if above is not None and above != at and not _leads(needs, at, above):
            found.add(at, above, "part", f"{part.id} is a part of {parts[above].id}", first=at)


def _leads(needs: Sequence[Sequence[int]], start: int, end: int) -> bool:
    todo, seen = [start], set()
    while todo:
        at = todo.pop()
        if at == end:
            return True
        if at not in seen:
            seen.add(at)
            todo += needs[at]
    return False


def _scopes(parts: Sequence[Part]) -> Iterator[tuple[int, int, str, Kind]]:
    """Yield the pairs whose scopes overlap, a pair perhaps more than once; only what is near is compared."""
    ends: dict[tuple[str, ...], list[int]] = {}
    tails: dict[str, list[int]] = {}
    wild: list[int] = []  # a glob may meet anything: it is compared with all
    for at, part in enumerate(parts):
        for text in part.scope:
            names = literal(text)
            if names is None:
                wild.append(at)
                continue
            ends.setdefault(names, []).append(at)
            tails.setdefault(names[-1], []).append(at)
    speaking = [at for at, part in enumerate(parts) if part.scope]
    globs = set(wild)
    for at, part in enumerate(parts):
        near: set[int] = set(speaking) if at in globs else set()
        for text in part.scope:
            names = literal(text)
            if names is None:
                continue
            for length in range(1, len(names) + 1):
                near.update(ends.get(names[:length], ()))
            near.update(tails.get(names[-1], ()))
        near.update(globs if part.scope else ())
        for other in sorted(near):
            if other != at:
                a, b = min(at, other), max(at, other)
                place = _meet(parts[a], parts[b])
                if place:
                    declared = bool(parts[a].files) and bool(parts[b].files)
                    yield a, b, _told(parts[a], parts[b], place), "files" if declared else "text"


def _meet(a: Part, b: Part) -> str | None:
    if place := overlap(a.scope, b.scope):
        return place
    # A text may name a file by the end of its path: `board.ts` for src/ui/board.ts.
    for mine in a.scope:
        for other in b.scope:
            short, long, guessed = (
                (mine, other, not a.files) if len(mine) < len(other) else (other, mine, not b.files)
            )
            if guessed and not short.endswith("/") and long.endswith(f"/{short}"):
                return f"{mine} and {other}"
    return None


def _told(a: Part, b: Part, place: str) -> str:
    def source(part: Part) -> str:
        return f"{part.id} {'`files`' if part.files else 'its text'}"

    return f"both may change {place} ({source(a)}, {source(b)})"


def _siblings(parts: Sequence[Part], found: _Found) -> None:
    families: dict[str, list[int]] = {}
    for at, part in enumerate(parts):
        if part.parent:
            families.setdefault(part.parent.casefold(), []).append(at)
    for family in families.values():
        for place, a in enumerate(family):
            for b in family[place + 1 :]:
                silent = next((parts[at].id for at in (a, b) if not parts[at].scope), "")
                if silent:
                    found.add(
                        a, b, "parent",
                        f"both are parts of {parts[a].parent}, and {silent} does not say what it touches",
                    )  # fmt: skip


def _waves(found: _Found) -> list[list[int]]:
    """Put each part into the first wave that is behind all that it waits for, and free of conflicts."""
    wave_of: dict[int, int] = {}
    waves: list[set[int]] = []
    left = list(range(len(found.parts)))
    while left:
        free = [at for at in left if all(other in wave_of for other in found.before[at])]
        # Without any they wait for each other in a circle, which preflight tells: the first one begins.
        for at in free or left[:1]:
            least = max((wave_of[other] + 1 for other in found.before[at] if other in wave_of), default=0)
            place = next(
                (n for n in range(least, len(waves)) if not waves[n] & found.near[at]), max(least, len(waves))
            )
            while place >= len(waves):
                waves.append(set())
            waves[place].add(at)
            wave_of[at] = place
        left = [at for at in left if at not in wave_of]
    return [sorted(wave) for wave in waves if wave]


def to_json(found: Independence) -> Mapping[str, object]:
    """Return it as plain data."""
    return {
        "way": found.way,
        "advice": found.advice,
        "waves": [list(wave) for wave in found.waves],
        "conflicts": [
            {"a": edge.a, "b": edge.b, "kind": edge.kind, "reason": edge.reason,
             **({"first": edge.first} if edge.first else {})}
            for edge in found.edges
        ],
        "conflicts_total": found.conflicts,
        "silent": list(found.silent),
    }  # fmt: skip


# ----------------------------------------------------------------- paths in a text

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
