"""What the tools of one server act on: the project, its store, and whoever calls."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.assignment import AssignedTask
from ..core.files import file_identity
from ..core.process import Identity
from ..core.project import Project, session_project
from ..core.settings import settings_of
from ..store.shared import JOINED
from ..store.sqlite import FILE
from ..store.store import Store
from ..tasks.actor import Actor
from ..tasks.index_watch import LiveIndex
from ..tasks.service import TaskService
from .arguments import Arguments


@dataclass(slots=True)
class _OpenStore:
    """A store that stays open between calls, and what it was opened for."""

    store: Store
    #: Of the database's file, and of the one that says which server has it.
    files: tuple[tuple[int, int] | None, ...]
    settings: Mapping[str, Any]

    def is_for(
        self, project: Project, files: tuple[tuple[int, int] | None, ...], settings: Mapping[str, Any]
    ) -> bool:
        """Return whether it is still the project's, with the settings that hold now."""
        same_files = (self.files, self.store.folder) == (files, str(project.state))
        return same_files and self.settings is settings


@dataclass(slots=True)
class ToolContext:
    """The context of one server's calls, which may come from several threads.

    Args:
        environ: The server's environment.
        client: The client's process, if it is known.
        live: The index of a server that stays.
    """

    environ: Mapping[str, str]
    client: Identity | None = None
    live: LiveIndex | None = None
    #: The attempts that this server gave to callers of whom nothing else is known, by the path of the task.
    given: dict[str, int] = field(default_factory=dict)
    _open: _OpenStore | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def session(self) -> str:
        """The client's session that this server belongs to, "" if it does not say."""
        return self.environ.get("CLAUDE_CODE_SESSION_ID", "")

    @property
    def project(self) -> Project:
        """The project, as it is now."""
        return session_project(self.environ)

    @property
    def assigned(self) -> AssignedTask | None:
        """The task for which a coordinator has started this server's client, if one has."""
        return AssignedTask.of(self.environ)

    @contextlib.contextmanager
    def service(
        self, arguments: Arguments, name: str = "", batch: int | None = None
    ) -> Iterator[TaskService]:
        """Yield the project's tasks, to act on in the name of the caller.

        Args:
            arguments: Of the call: they say who calls.
            name: What the caller calls itself; "" acts for whoever holds a task.
            batch: The batch in whose name claims are made.
        """
        project = self.project
        settings = settings_of(project.state)
        actor = Actor(
            name=name,
            session=arguments.get("caller_session", self.session),
            agent=arguments.get("caller_agent", ""),
            client=self.client,
        )
        store = self._store(project, settings)
        with TaskService(project, settings, actor, store, live=self.live, batch=batch) as service:
            yield service

    def close(self) -> None:
        """Close the store and the index."""
        with self._lock:
            if self._open is not None:
                self._open.store.close()
                self._open = None
        if self.live is not None:
            self.live.close()

    def open_store(self) -> Store | None:
        """Return the project's store, kept open between calls; None while there is none."""
        project = self.project
        return self._store(project, settings_of(project.state))

    def _store(self, project: Project, settings: Mapping[str, Any]) -> Store | None:
        with self._lock:
            files = tuple(file_identity(str(Path(project.state, name))) for name in (FILE, JOINED))
            kept = self._open
            if kept is not None and kept.is_for(project, files, settings):
                return kept.store
            # The old one is left to those that use it: other threads' calls may still be at work with it.
            self._open = None
            try:
                store = Store.open(project.state, settings, create=False)
            except FileNotFoundError:
                return None
            self._open = _OpenStore(store, files, settings)
            return store
