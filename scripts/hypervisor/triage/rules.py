"""The rules of triage, from the settings: checked, and compiled once. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import ConfigError
from ..core.model import Complexity
from .facts import FIGURES, TEXTS, Facts

_RULE_KEYS = frozenset({"complexity", "where", "weight", "patterns", "at_least", "at_most"})
#: Lists of patterns beside the rules.
_PATTERN_LISTS = ("cancelled_reasons", "placeholders", "answered", "parked_leads", "destructive")
#: Lists of plain words; compared without case.
_WORD_LISTS = (
    "agent_tags", "person_complexities", "agent_complexities", "close_headings", "reopen_headings",
    "step_headings", "aside_headings", "lead_headings", "status_headings", "question_headings",
    "close_keys", "reopen_keys", "done_words", "cancelled_words", "parked_words",
)  # fmt: skip
#: How deep an entry of `[triage.words]` may build on others; a circle ends here too.
_WORD_DEPTH = 5

Compile = Callable[[Any, str], tuple[re.Pattern[str], ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One kind of evidence for (or, with a negative weight, against) one kind of task."""

    name: str
    complexity: Complexity
    #: One of `TEXTS` or `FIGURES`.
    where: str
    weight: float
    #: For a text: one of them has to match from its beginning.
    patterns: tuple[re.Pattern[str], ...]
    #: For a figure: the range, both ends included; with neither end the rule is off.
    at_least: float | None
    at_most: float | None

    def evidence(self, facts: Facts) -> str | None:
        """Return what in *facts* the rule goes by, with its place, or None."""
        if self.where in FIGURES:
            count, words = facts.figures[self.where]
            return words if self._in_range(count) else None
        for place, text in facts.texts[self.where]:
            for pattern in self.patterns:
                if match := pattern.match(text):
                    return f'{place} "{shorten(match[0] or text)}" ({self.name})'
        return None

    def _in_range(self, count: int) -> bool:
        if self.at_least is None and self.at_most is None:
            return False
        return (self.at_least is None or count >= self.at_least) and (
            self.at_most is None or count <= self.at_most
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings of ``[triage]``, checked and compiled."""

    #: The plain settings, words case-folded.
    table: Mapping[str, Any]
    rules: tuple[Rule, ...]
    #: The least sum of weights of each kind, in the order in which they are tried.
    thresholds: tuple[tuple[Complexity, float], ...]
    #: The lists of patterns beside the rules, by their setting.
    patterns: Mapping[str, tuple[re.Pattern[str], ...]]
    #: Project, case-folded, to the other names of its page, case-folded.
    aliases: Mapping[str, frozenset[str]]


def compile_rules(settings: Mapping[str, Any]) -> Rules:
    """Check and compile the ``[triage]`` table of *settings*; do it once for many tasks.

    Raises:
        ConfigError: A rule names a kind or place that does not exist, a pattern does not
            compile, or a value is of the wrong sort; the message names the setting.
    """
    table = dict(settings["triage"])
    for name in _WORD_LISTS:
        table[name] = tuple(word.casefold() for word in _strings(table[name], f"triage.{name}"))
    words = {key: f"(?:{_string(value, f'triage.words.{key}')})" for key, value in table["words"].items()}

    def compile_list(sources: Any, where: str) -> tuple[re.Pattern[str], ...]:
        return tuple(_pattern(source, words, where) for source in _strings(sources, where))

    return Rules(
        table=table,
        rules=tuple(_rule(name, rule, compile_list) for name, rule in table["rules"].items()),
        thresholds=tuple(
            (_kind(kind, "triage.thresholds"), _number(least, f"triage.thresholds.{kind}"))
            for kind, least in table["thresholds"].items()
        ),
        patterns={name: compile_list(table[name], f"triage.{name}") for name in _PATTERN_LISTS},
        aliases={
            project.casefold(): frozenset(
                name.casefold().strip() for name in _strings(names, f"triage.aliases.{project}")
            )
            for project, names in table["aliases"].items()
        },
    )


def shorten(text: str, most: int = 60) -> str:
    """Return *text* on one line and no longer than *most* characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def _rule(name: str, rule: Any, compile_list: Compile) -> Rule:
    where = f"triage.rules.{name}"
    if not isinstance(rule, Mapping):
        raise ConfigError(f"`{where}` must be a table")
    if unknown := sorted(set(rule) - _RULE_KEYS):
        raise ConfigError(
            f"`{where}` has no setting `{unknown[0]}`; known here: {', '.join(sorted(_RULE_KEYS))}"
        )
    place = rule.get("where")
    if place not in TEXTS + FIGURES:
        raise ConfigError(f"`{where}.where` must be one of {', '.join(TEXTS + FIGURES)}")
    low, high = (
        _number(rule[key], f"{where}.{key}") if key in rule else None for key in ("at_least", "at_most")
    )
    return Rule(
        name=name,
        complexity=_kind(rule.get("complexity"), f"{where}.complexity"),
        where=place,
        weight=_number(rule.get("weight"), f"{where}.weight"),
        patterns=compile_list(rule.get("patterns", []), f"{where}.patterns"),
        at_least=low,
        at_most=high,
    )


def _pattern(source: str, words: Mapping[str, str], where: str) -> re.Pattern[str]:
    text = source
    for _ in range(_WORD_DEPTH):
        text = re.sub(r"%(\w+)%", lambda found: words.get(found[1], found[0]), text)
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise ConfigError(f"`{where}`: {source!r} is no regular expression: {error}") from error


def _kind(value: Any, where: str) -> Complexity:
    try:
        return Complexity(value)
    except ValueError:
        raise ConfigError(f"`{where}`: {value!r} is none of {', '.join(Complexity)}") from None


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"`{where}` must be a number, not {value!r}")
    return value


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"`{where}` must be a string, not {value!r}")
    return value


def _strings(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"`{where}` must be a list of strings, not {value!r}")
    return tuple(_string(entry, where) for entry in value)
