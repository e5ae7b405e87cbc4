"""YAML as text: nodes with their places, values, and how a value is spelt. Pure; no I/O.

Under the frontmatter editor. The C loader is used where PyYAML has it; it needs a guard,
as it recurses in C and a few kilobytes of ``[`` would end the whole process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
