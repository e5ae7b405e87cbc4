"""The words that files use for statuses, priorities and keys. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..core.model import Priority, Task, TaskStatus


def folded(word: str) -> str:
    """Return *word* as words are compared: without case, "-" and "_" read as a blank."""
    return " ".join(word.replace("-", " ").replace("_", " ").casefold().split())


def status_of(word: str, settings: Mapping[str, Any]) -> TaskStatus | None:
    """Return the status that *word* stands for, None if no vocabulary knows it."""
    return _statuses(_frozen(settings["status"])).get(folded(word))


def status_word(task: Task, status: TaskStatus, settings: Mapping[str, Any]) -> str:
    """Return the word for *status* in the vocabulary that the task's file uses.

    That is the first whose word the file uses, to the letter if there is one; where the vocabulary
    has no word for the status, the first one's is taken.
    """
    vocabularies: list[Mapping[str, str]] = settings["status"]["vocabularies"]
    exact = [v for v in vocabularies if task.status_word in v.values()]
    near = [v for v in vocabularies if folded(task.status_word) in {folded(word) for word in v.values()}]
    for vocabulary in [*exact, *near, *vocabularies]:
        if status.value in vocabulary:
            return vocabulary[status.value]
    return status.value


def priority_of(word: str, settings: Mapping[str, Any]) -> Priority:
    """Return the priority that *word* stands for; medium where it is not known."""
    wanted = folded(word)
    for name, words in settings["priority"]["words"].items():
        if wanted == name or wanted in words:
            return Priority(name)
    return Priority.MEDIUM


def spelling(key: str, used: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return how a file with the keys *used* spells *key*; the key itself where it has none."""
    by_folded = _by_folded(tuple(used))
    for candidate in (key, *settings["tasks"]["aliases"].get(key, ())):
        if candidate in by_folded:
            return by_folded[candidate]
    return key


@lru_cache(maxsize=64)  # a project's files bear the same few sets of keys, and each is asked for all of ours
def _by_folded(names: tuple[str, ...]) -> Mapping[str, str]:
    return {name.lower().replace("-", "_"): name for name in names}


def _frozen(table: Mapping[str, Any]) -> str:
    return json.dumps(table, sort_keys=True)


@lru_cache(maxsize=16)
def _statuses(table: str) -> Mapping[str, TaskStatus]:
    data = json.loads(table)
    found: dict[str, TaskStatus] = {}
    for vocabulary in data["vocabularies"]:
        for status, word in vocabulary.items():
            found.setdefault(folded(word), TaskStatus(status))
    found.update({folded(word): TaskStatus(status) for word, status in data["words"].items()})
    return found
