"""YAML as nodes with their places, and their values: PyYAML's C loader, with a guard. Pure; no I/O.

The guard is needed: the loader recurses in C, and a few kilobytes of ``[`` would end the whole process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

#: Deeper than any frontmatter that a person wrote, and far from every recursion limit.
MAX_DEPTH = 64
#: A few aliases are a habit, many are a bomb: n levels of k aliases unfold to k**n values.
MAX_ALIASES = 16

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# YAML 1.1, which PyYAML reads, breaks lines at these; YAML 1.2 and every editor do not.
# While parsing, three noncharacters stand for them, so that places stay what they are.
_BREAKS = {0x85: "\ufdd0", 0x2028: "\ufdd1", 0x2029: "\ufdd2"}
_UNBREAKS = {ord(stand_in): chr(char) for char, stand_in in _BREAKS.items()}
_HAS_BREAK = re.compile("[\x85\u2028\u2029]")

_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_COLON = re.compile(r"[ \t]*:(?=[ \t\r\n]|\Z)[ \t]*")
_ALIAS = re.compile(r"\*[^\s,\[\]{}]+")
_REST = re.compile(r"[ \t]*(?:(?<=[ \t])#[^\r\n]*)?(?:\r\n|\r|\n|\Z)")
_NO_CONTENT = re.compile(r"[ \t]*(?:#.*)?")
#: The end of a line, or of the text.
LINE_END = re.compile(r"\r\n|\r|\n|\Z")


class YamlFault(Exception):
    """Raised when text is no YAML that the product reads."""

    def __init__(self, at: int, what: str) -> None:
        super().__init__(what)
        #: Index of the character it is about.
        self.at = at


class _Loader(_Base):  # type: ignore[misc]  # its base is chosen at run time
    """The safe loader, which reads a value that only looks like a date or number as its word."""


def _lenient(tag: str) -> Any:
    strict = _Base.yaml_constructors.get(tag)

    def lenient(loader: Any, node: Any) -> Any:
        try:
            return strict(loader, node) if strict else loader.construct_scalar(node)
        except (ValueError, OverflowError, AttributeError, LookupError, TypeError):
            return node.value

    return lenient


# "2025-02-30" is no date, but no reason to refuse a task either.
for _tag in ("timestamp", "int", "float", "bool", "value", "merge"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _lenient(f"tag:yaml.org,2002:{_tag}"))


def load(text: str) -> tuple[Any, Any]:
    """Return the root node of *text* (None if it holds no value) and its loader.

    Raises:
        YamlFault: It is not one YAML document, or one that bears a trap: absurd nesting,
            an alias bomb, a key twice in one mapping.
    """
    if forbidden := _FORBIDDEN.search(text):
        raise YamlFault(forbidden.start(), f"control character U+{ord(forbidden[0]):04X}")
    # Both loaders swallow it at the start, but only one of them counts it.
    if text.startswith("\ufeff"):
        raise YamlFault(0, "byte order mark inside the text")
    has_breaks = _HAS_BREAK.search(text) is not None
    source = text.translate(_BREAKS) if has_breaks else text
    try:
        _refuse_nesting(source)
        loader = _Loader(source)
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        raise fault(error) from error
    except RecursionError as error:
        raise YamlFault(0, "nested too deeply") from error
    if root is not None:
        _inspect(root, text, restore=has_breaks)
    return root, loader


def construct(loader: Any, root: Any) -> dict[str, Any]:
    """Return the plain values of the mapping *root* by their keys' words, merge keys resolved.

    Raises:
        YamlFault: A value has a tag that is not plain data, or a key that cannot be one.
    """
    try:
        loader.flatten_mapping(root)
        return {key.value: loader.construct_object(value, deep=True) for key, value in root.value}
    except yaml.YAMLError as error:
        raise fault(error) from error
    except (RecursionError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise YamlFault(root.start_mark.index, f"value that cannot be read: {error}") from error


def fault(error: yaml.YAMLError) -> YamlFault:
    """Return PyYAML's error as ours: one line, and the place as an index."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    context = getattr(error, "context", None)
    if context and "expected a single document" not in context:
        what = f"{context}: {what}"
    return YamlFault(mark.index if mark else 0, what)


def _refuse_nesting(text: str) -> None:
    # Reading events does not recurse, composing does. Nesting needs one of these characters
    # per level, so that the usual frontmatter is spared the second pass.
    if sum(map(text.count, "[{-?:")) < 1000:
        return
    depth = 0
    loader = _Loader(text)
    while loader.check_event():
        event = loader.get_event()
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise YamlFault(event.start_mark.index, "nested too deeply")


def _inspect(root: Any, text: str, *, restore: bool) -> None:
    """Refuse traps in the tree below *root*; put back the characters that were stood in for."""
    seen: set[int] = set()
    aliases = 0
    stack = [(root, 1)]
    while stack:
        node, depth = stack.pop()
        if id(node) in seen:
            aliases += 1
            if aliases > MAX_ALIASES:
                raise YamlFault(node.start_mark.index, f"more than {MAX_ALIASES} aliases")
            continue
        seen.add(id(node))
        if depth > MAX_DEPTH:
            raise YamlFault(node.start_mark.index, "nested too deeply")
        if isinstance(node, yaml.ScalarNode):
            if restore:
                node.value = node.value.translate(_UNBREAKS)
            continue
        if isinstance(node, yaml.MappingNode):
            _refuse_twins(node, text)
        for child in _children(node):
            if not isinstance(child, yaml.ScalarNode) and _holds(child, node):
                raise YamlFault(node.start_mark.index, "alias to a value that it is part of")
            stack.append((child, depth + 1))


def _holds(outer: Any, inner: Any) -> bool:
    starts: bool = outer.start_mark.index <= inner.start_mark.index
    return starts and outer.end_mark.index >= inner.end_mark.index


def _children(node: Any) -> Iterator[Any]:
    for child in node.value:
        if isinstance(child, tuple):
            yield from child
        else:
            yield child


def _refuse_twins(node: Any, text: str) -> None:
    places: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        at = key.start_mark.index
        first = places.setdefault((key.tag, key.value), at)
        if first != at:
            # The frontmatter's first line stands above the text.
            one, two = (line_of(text, place) + 1 for place in (first, at))
            raise YamlFault(at, f"key `{key.value}` stands twice, in lines {one} and {two}")


def line_of(text: str, at: int) -> int:
    """Return the number (from 1) of the line in which index *at* stands."""
    above = text[:at]
    return 1 + above.count("\n") + above.count("\r") - above.count("\r\n")


# ------------------------------------------------------------------ places


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPlace:
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


def read_entries(root: Any, text: str, shift: int) -> dict[str, KeyPlace]:
    """Return the entries of the mapping *root*, by their keys' words.

    Args:
        root: A mapping node, before merge keys are resolved.
        text: The whole file.
        shift: Where in *text* the YAML begins.

    Raises:
        YamlFault: A key is no plain word, or two keys have the same one.
    """
    entries: dict[str, KeyPlace] = {}
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


def _entry(key: Any, value: Any, text: str, shift: int) -> KeyPlace:
    key_start, key_end = shift + key.start_mark.index, shift + key.end_mark.index
    top = line_start(text, key_start)
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
        line = line_start(text, start)
        fixed = fixed or ("it begins on a line with others" if text[line:start].strip() else "")
        start = line - (2 if text[:line].endswith("\r\n") else 1)
    rest = _REST.match(text, end)
    fixed = fixed or ("" if rest else "more stands on its line")
    return KeyPlace(
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
        line = line_start(text, end)
        if line <= start or not _NO_CONTENT.fullmatch(text[line:end]):
            break
        end = line - (2 if text[:line].endswith("\r\n") else 1)
    match = LINE_END.search(text, max(end, floor))
    return match.start() if match else end


def line_start(text: str, at: int) -> int:
    """Return where the line begins in which index *at* stands."""
    return max(text.rfind("\n", 0, at), text.rfind("\r", 0, at)) + 1
