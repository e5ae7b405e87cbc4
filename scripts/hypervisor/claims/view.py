"""Looking at a directory store: who holds what, and what came of it. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..core.keys import generation_name
from ..core.machine import Identity, this_process
from .files import Files
from .judge import Judge
from .layout import Layout
from .port import Attempt, ClaimStore, Held, ItemState
from .workers import intending


class DirectoryView(ClaimStore):
    """The reading half of `DirectoryStore`.

    Args:
        root: The store's folder.
        lease_seconds: How long a claim that nobody has signed may stay so.
        patient: Whether this process stays; see `Judge`.
        files: The system calls.
        here: The identity of this process.
    """

    def __init__(
        self, root: str, *, lease_seconds: float, patient: bool, files: Files | None, here: Identity | None
    ) -> None:
        self._files = files or Files()
        self._here = here or this_process()
        self.layout = Layout(root, self._files)
        self._judge = Judge(self.layout, self._here, lease_seconds=lease_seconds, patient=patient)

    def result(self, key: str) -> Mapping[str, Any] | None:
        """See `ClaimStore.result`."""
        return self.layout.result(key)

    def attempts(self, key: str) -> list[Attempt]:
        """See `ClaimStore.attempts`."""
        return self.layout.attempts(key)

    def held(self, key: str) -> Held | None:
        """See `ClaimStore.held`."""
        generation = self.layout.highest(key)
        try:
            if generation == 0 or self.layout.end(key, generation) is not None or self.layout.finished(key):
                return None
            silent = self._judge.silent_seconds(key, generation)
        except FileNotFoundError:
            return None
        owner = self.layout.owner(key, generation)
        if owner is None:
            return None
        note = self.layout.note(key, generation)
        return Held(
            key=key,
            generation=generation,
            token=owner.token,
            holder=owner.holder,
            note=note,
            silent_seconds=silent,
        )

    def snapshot(self, keys: Iterable[str]) -> dict[str, ItemState]:
        """See `ClaimStore.snapshot`."""
        finished = {name.removesuffix(".json") for name in self._files.names(self.layout.results)}
        begun = set(self.layout.unfinished())
        states = {}
        for key in keys:
            if key in finished:
                states[key] = ItemState.FINISHED
            else:
                held = key in begun and self.is_held(key)
                states[key] = ItemState.HELD if held else ItemState.WAITING
        return states

    def is_held(self, key: str) -> bool:
        """Tell whether somebody who lives holds *key*."""
        generation = self.layout.highest(key)
        try:
            if generation == 0 or self.layout.end(key, generation) is not None:
                return False
            return not self._judge.verdict(key, generation).gone
        except FileNotFoundError:
            return False

    def forsaken(self) -> list[tuple[str, str]]:
        """Return key and item of what is unfinished and in nobody's hands, as far as it is known."""
        return [
            (key, item)
            for key in self.layout.unfinished()
            if (item := self._item(key)) and not self.is_held(key)
        ]

    def _item(self, key: str) -> str:
        """Return what the claims of *key* are for: the latest may not be signed yet, or never."""
        for generation in range(self.layout.highest(key), 0, -1):
            owner = self.layout.owner(key, generation)
            if owner is not None and owner.item:
                return owner.item
        intents = intending(self.layout.workers, generation_name(key, self.layout.highest(key)))
        return next((item for _, item in intents if item), "")
