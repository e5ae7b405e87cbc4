"""What a client's session has under way: workers that run, claims that they hold, runs that it has begun."""

from __future__ import annotations

from . import errands
from .claims.directory import DirectoryStore, Policy
from .claims.port import MAIN
from .core.config import settings_of
from .core.paths import Project
from .crowd import Crowd
from .sessions import Session, fate_of


def crowd_of(project: Project, session: str) -> Crowd:
    """Return the workers of a session."""
    return Crowd(Session(project.state, session), settings_of(project.state)["claims"]["lease_seconds"])


def under_way(project: Project, session: str) -> int:
    """Return how many workers and runs of a session have not ended, as far as it is known; 0 for none."""
    running = crowd_of(project, session).running() + errands.look(project, session)
    return running or _held_by_workers(project, session)


def _held_by_workers(project: Project, session: str) -> int:
    notes = Session(project.state, session)
    store = DirectoryStore(str(project.state), policy=Policy(patient=False))
    return sum(
        fate_of(store, note).how == "open"
        for agent in notes.agents()
        if agent != MAIN
        for note in notes.notes(agent)
    )
