"""Which server's database holds a project's store, and whether this folder has joined it.

`hypervisor store init` joins: it keeps the URL and the id of the project's tables in ``store.json``, for the
owner's eyes only. From then on a folder never falls back to SQLite in silence, and never takes the tables of
another project for its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import StoreNewer, StoreUnusable
from ..core.files import write_new
from ..core.project import cache_folder, foreign
from ..core.settings import named_url
from .sqlite import FILE, SCHEMA
from .statements import load

if TYPE_CHECKING:
    from .base import Engine
    from .postgres import PostgresEngine

#: In the state folder of a project that has joined.
JOINED = "store.json"
_INIT = "run `hypervisor store init`"
_SQL = load("server")


def store_url(state: str | os.PathLike[str], settings: Mapping[str, Any]) -> str:
    """Return the URL of the database that holds a project's store; "" for SQLite.

    Args:
        state: The state folder.
        settings: The project's settings.
    """
    return named_url(settings) or str(joined(state).get("url", ""))


def joined(state: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what `hypervisor store init` kept: ``url`` and ``project``; empty if it was not run.

    Raises:
        StoreUnusable: It cannot be understood.
    """
    path = Path(state, JOINED)
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError:
        raise StoreUnusable(f"{path} is damaged; {_INIT} again") from None
    return found


def join(
    state: str | os.PathLike[str], settings: Mapping[str, Any], url: str, origin: str
) -> tuple[ServerInfo, bool]:
    """Let a project use a server's database; make its tables there unless another machine has.

    Args:
        state: The state folder, which is there.
        settings: The project's settings.
        url: The URL.
        origin: What all clones of the project have in common, and no other project: its first commit; ""
            where that is not known.

    Returns:
        What the server says, and whether the tables were made now.

    Raises:
        StoreUnusable: The tables are another project's; the server refuses us.
        OSError: The server cannot be reached.
    """
    from .postgres import PostgresEngine  # noqa: PLC0415 - only where a URL is set

    engine = PostgresEngine(url, schema_of(settings))
    try:
        if engine.schema > SCHEMA:
            raise StoreNewer(
                f"{engine.where} has schema {engine.schema}, this version knows {SCHEMA}: update hypervisor"
            )
        if origin:
            engine.write(lambda tx: tx.run(_SQL.keep_origin, {"origin": origin}), durable=True)
        kept = engine.read(_SQL.origin)
        if origin and kept and kept[0][0] != origin:
            raise StoreUnusable(
                f"schema {engine.name} of {engine.where} holds another project, whose first commit is "
                f"{kept[0][0][:10]} and not {origin[:10]}; name another one: "
                "hypervisor config set store.schema NAME"
            )
        found = inspect(engine)
        # The config file keeps what it says itself; children need no variable with this.
        kept_url = "" if settings["store"]["url"] == url else url
        text = json.dumps({"url": kept_url, "project": engine.project})
        path = Path(state, JOINED)
        path.unlink(missing_ok=True)
        write_new(path, text.encode(), 0o600)
        return found, engine.made
    finally:
        engine.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What a server says of itself and of the project's tables."""

    where: str
    version: str
    user: str
    schema: str
    tls: bool
    read_only: bool
    #: Of the project's tables and their indexes.
    size_bytes: int
    connections: int
    max_connections: int
    #: Tables that the user may not read and change.
    missing_rights: tuple[str, ...]
    #: Of one question, in seconds.
    round_trip: float
    #: By how many seconds its clock is ahead of this machine's.
    clock_ahead: float


def inspect(engine: PostgresEngine) -> ServerInfo:
    """Ask a server about itself."""
    name = {"schema": '"' + engine.name.replace('"', '""') + '"'}
    row = engine.read(_SQL.server, name)[0]
    rights = tuple(one[0] for one in engine.read(_SQL.missing_rights, name))
    begun, here = time.monotonic(), time.time()
    there = engine.read(_SQL.clock)[0][0] / 1000
    round_trip = time.monotonic() - begun
    return ServerInfo(
        where=engine.where, version=row[0], user=row[1], schema=engine.name, tls=bool(row[2]),
        read_only=row[3], size_bytes=row[4], connections=row[5], max_connections=row[6],
        missing_rights=rights, round_trip=round_trip, clock_ahead=there - here - round_trip / 2,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine that has used the store."""

    host: str
    #: Seconds since it was last heard: a worker began or renewed a lease, a coordinator a sign of life.
    heard: float
    #: As its coordinator saw it last: ``safe``, ``warning``, ``danger`` or ``emergency``; "" where none was
    #: heard within a lease.
    zone: str
    #: What it works on: item, attempt, worker, and for how many seconds.
    items: tuple[tuple[str, int, str, float], ...]


def machines(engine: Engine, lease_seconds: float, within_seconds: float) -> list[Machine]:
    """Return the machines that have open claims, or of which a worker began within so many seconds."""
    milliseconds = 1000
    rows = engine.read(_SQL.machines, {"within": int(within_seconds * milliseconds)})
    heard: dict[str, float] = {host: ago / milliseconds for host, ago in rows}
    zones: dict[str, str] = {}
    for host, ago, zone in engine.read(_SQL.coordinators, {"within": int(within_seconds * milliseconds)}):
        if ago <= lease_seconds * milliseconds:
            zones[host] = zone  # the latest comes last
        heard[host] = min(heard.get(host, ago / milliseconds), ago / milliseconds)
    items: dict[str, list[tuple[str, int, str, float]]] = {}
    for host, text, number, name, since, ago in engine.read(
        _SQL.at_work, {"lease": int(lease_seconds * milliseconds)}
    ):
        items.setdefault(host, []).append((text, number, name, since / milliseconds))
        heard[host] = min(heard.get(host, ago / milliseconds), ago / milliseconds)
    return [
        Machine(
            host=host, heard=max(0.0, heard[host]), zone=zones.get(host, ""), items=tuple(items.get(host, ()))
        )
        for host in sorted(heard)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLease:
    """A right that a worker has now, such as merging to a branch of the remote."""

    name: str
    holder: str
    host: str
    #: Seconds that are left of it.
    left: float


def leases(engine: Engine) -> list[HeldLease]:
    """Return the leases that are held now."""
    return [
        HeldLease(name=name, holder=holder, host=host, left=left / 1000)
        for name, holder, host, left in engine.read(_SQL.leases)
    ]


#: A worker beats every ``claims.beat_seconds``, a coordinator every second: so many beats may be missed.
_BEATS = 3


def silent_after(settings: Mapping[str, Any]) -> float:
    """Return after how many seconds without a sign of life a process of another machine counts as gone."""
    claims = settings["claims"]
    return float(min(claims["lease_seconds"], _BEATS * claims["beat_seconds"]))


def coordinator_heard(engine: Engine, run: str) -> float | None:
    """Return how many seconds ago the coordinator *run* gave a sign of life; None if it never did."""
    rows = engine.read(_SQL.coordinator, {"run": run})
    return float(rows[0][0]) / 1000 if rows else None


def idle_elsewhere(engine: Engine, host: str, seconds: float) -> list[str]:
    """Return the ids of worker processes of other machines than *host* that hold nothing, heard of late."""
    return [row[0] for row in engine.read(_SQL.idle_elsewhere, {"host": host, "within": int(seconds * 1000)})]


def is_begun(state: str | os.PathLike[str]) -> bool:
    """Return whether a project has a store, on this machine or on a server."""
    return any(os.path.exists(os.path.join(state, name)) for name in (FILE, JOINED))


def connect(state: str | os.PathLike[str], settings: Mapping[str, Any], url: str) -> PostgresEngine:
    """Return the engine of a project that has joined a server's database.

    Raises:
        StoreUnusable: It has not; the tables are another project's; the server refuses us.
        OSError: The server cannot be reached.
    """
    known = joined(state)
    if not known:
        raise StoreUnusable(f"{os.path.dirname(state)} does not use this database yet; {_INIT}")
    load_driver()
    from .postgres import PostgresEngine  # noqa: PLC0415 - only where a URL is set

    patience = settings["claims"]["lease_seconds"]
    engine = PostgresEngine(url, schema_of(settings), create=False, patience=patience)
    try:
        if engine.project != known["project"]:
            raise StoreUnusable(
                f"schema {engine.name} of the database holds another project, or was made anew; name another "
                f"one with `hypervisor config set store.schema NAME`, or {_INIT}"
            )
    except BaseException:
        engine.close()
        raise
    return engine


def schema_of(settings: Mapping[str, Any]) -> str:
    """Return the name of the PostgreSQL schema that holds the project's tables."""
    return str(settings["store"]["schema"])


# ------------------------------------------------------------------- the driver


def driver_folder() -> str:
    """Return where `hypervisor store init` puts psycopg if this Python has none."""
    return str(cache_folder(os.environ) / "hypervisor" / f"postgres-{sys.implementation.cache_tag}")


def load_driver() -> str:
    """Let psycopg be imported from here on; return its version.

    Raises:
        StoreUnusable: It is not there.
    """
    if find_spec("psycopg") is None and (folder := driver_folder()) not in sys.path:
        with contextlib.suppress(FileNotFoundError):
            if why := foreign(Path(folder).parent):
                raise StoreUnusable(f"{os.path.dirname(folder)}: {why}; the driver there is not used")
        sys.path.append(folder)  # last: it shadows nothing
    try:
        return version("psycopg")
    except PackageNotFoundError:
        raise StoreUnusable(
            f"the PostgreSQL driver is not installed yet; {_INIT}, which fetches it"
        ) from None
