"""Runs that a client's session has begun (`hypervisor run` in its shell): it is to be told their end.

The note is written before the run and removed after its end was told. A note whose process is dead means
that nobody told: whoever looks does.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .core import durable
from .core.machine import Identity, life_of, this_process
from .core.paths import Project
from .events import Happening, tell
from .inbox import Inbox
from .sessions import Session

FOLDER = ".runs"


@dataclass(slots=True)
class Errand:
    """One run, for a session or for nobody.

    Args:
        project: The project.
        session: The client's id of the session; "" for none.
        path: The note; None where there is no session.
        batch: Id of the batch.
    """

    project: Project
    session: str
    path: Path | None
    batch: str
    #: How it ended.
    came_to: str = "it ended by an error"

    @property
    def also(self) -> dict[str, str]:
        """What the events of its tasks say beside the rest."""
        return {"session": self.session, "batch": self.batch} if self.session else {}

    def over(self) -> None:
        """Tell that the run is over."""
        if self.path is not None:
            tell(self.project, Happening.RUN_OVER, self.batch, session=self.session, run=self.path.stem,
                 batch=self.batch, why=self.came_to)  # fmt: skip
            self.path.unlink(missing_ok=True)


@contextmanager
def told(project: Project, session: str, batch: str) -> Iterator[Errand]:
    """Note that this process runs *batch* for a session, and tell it when that is over, however it ends."""
    if not session:
        yield Errand(project, "", None, batch)
        return
    Inbox(project.state, session).begin()
    folder = Session(project.state, session).folder / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.json"
    durable.write_once(path, json.dumps({"batch": batch, "process": this_process().to_json()}).encode())
    errand = Errand(project, session, path, batch)
    try:
        yield errand
    finally:
        errand.over()


def look(project: Project, session: str) -> int:
    """Tell of the session's runs that died untold; return how many go on."""
    living = 0
    for errand, process in _noted(project, session):
        if life_of(process, this_process()) == "dead":
            errand.came_to = f"its coordinator died; `hypervisor run --resume {errand.batch}` goes on with it"
            errand.over()
        else:
            living += 1
    return living


def _noted(project: Project, session: str) -> Iterator[tuple[Errand, Identity]]:
    folder = Session(project.state, session).folder / FOLDER
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    for name in names:
        if not name.startswith("."):
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
                note = json.loads((folder / name).read_bytes())
                yield Errand(project, session, folder / name, note["batch"]), Identity(**note["process"])
