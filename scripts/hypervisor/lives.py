"""Which life of an item is worked on: each result ends one, and what is opened again begins the next."""

from __future__ import annotations

from .claims.layout import Layout
from .core.keys import canonical, item_key, life_key
from .core.paths import Project


def task_key(home: Project, real: str) -> str:
    """Return the key of a task in its project's store, from its real path."""
    return item_key(canonical(real, str(home.root)))


def current_life(layout: Layout, key: str) -> str:
    """Return the life of *key* that is worked on: the one after a finished one only if opened."""
    life = 1
    while layout.finished(life_key(key, life)):
        following = life_key(key, life + 1)
        if not layout.finished(following) and not layout.highest(following):
            break
        life += 1
    return life_key(key, life)


def next_life(layout: Layout, key: str) -> str:
    """Return the first life of *key* that has no result: accepted results so far, plus one."""
    life = 1
    while layout.finished(life_key(key, life)):
        life += 1
    return life_key(key, life)
