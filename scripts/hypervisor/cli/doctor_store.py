"""Whether the project's store is whole, and what crashed workers and other programs have left around it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import ConfigError, StoreDamaged, StoreUnusable
from ..core.files import network_file_system
from ..core.project import Project
from ..core.settings import settings_of
from ..store.directories import LockDirectories
from ..store.shared import ServerInfo, inspect, leases, store_url
from ..store.sqlite import FILE, SCHEMA, SqliteEngine
from ..store.store import Store
from .checkup import CheckFinding, failure, found, warning

if TYPE_CHECKING:
    from ..store.postgres import PostgresEngine

#: Beyond this the write-ahead log is worth a warning, in bytes: four times what it is cut back to.
_LARGE_LOG = 256 << 20
#: Results that are looked at for those that are not written to files yet.
_RESULTS = 1000
#: What version 0.4 kept in a state folder, and 1.0 does not.
_OLD = ("events.jsonl", "trash", "cursor", "manifest.json", "hive.jsonl")
#: What it kept there too: to 1.0 a folder of this name is the user's, and turns a feature on.
_OLD_OR_USERS = ("locks", "results")


def examine(project: Project) -> Iterator[CheckFinding]:
    """Yield what is found of state of an older version, the database, claims, results and locks."""
    yield from _old_state(project.state)
    try:
        shared = bool(store_url(project.state, _settings(project)))
    except StoreUnusable as error:
        yield failure("server", str(error), "hypervisor store init")
        return
    if shared:
        yield from _server(project)
        return
    if not (project.state / FILE).is_file():
        return
    if network_file_system(str(project.state)):
        return  # said by the check of the file system; no store opens there
    try:
        store = Store.open(project.state, _settings(project), create=False)
    except StoreDamaged as error:
        yield failure("database", str(error), f"mv {project.state / FILE}* somewhere else")
        return
    except StoreUnusable as error:
        yield failure("database", str(error), "see docs/store.md")
        return
    except OSError as error:
        yield failure("database", str(error), f"ls -l {project.state}")
        return
    with store:
        try:
            yield _database(store)
            yield _claims(store)
            yield _results(store)
            yield from _lock_directories(project, store)
        except StoreDamaged as error:
            yield failure("database", str(error), f"mv {project.state / FILE}* somewhere else")


def _server(project: Project) -> Iterator[CheckFinding]:
    """Yield what is found of the server that holds the project's state."""
    from ..store.postgres import PostgresEngine  # noqa: PLC0415 - only where a URL is set
    from .store import faults_of, line_of  # noqa: PLC0415

    try:
        store = Store.open(project.state, _settings(project), create=False)
    except (StoreUnusable, OSError) as error:
        yield failure("server", str(error), "see docs/scale-out.md; then: hypervisor store check")
        return
    with store:
        engine = store.engine
        assert isinstance(engine, PostgresEngine)  # noqa: S101 - what a URL opens
        try:
            info = inspect(engine)
            yield found("server", line_of(info))
            yield _tables(engine, info)
            for line in faults_of(info):
                grave = info.read_only or bool(info.missing_rights)
                yield (failure if grave else warning)("server", line, "see docs/scale-out.md")
            held = [
                f"{one.name} by {one.holder} on {one.host} for {one.left:.0f} s" for one in leases(engine)
            ]
            yield found("leases", "; ".join(held) or "nobody merges")
            yield _claims(store)
            yield _results(store)
            yield from _lock_directories(project, store)
        except (StoreUnusable, OSError) as error:  # it went down meanwhile
            yield failure("server", str(error), "hypervisor store check")


def _held(engine: PostgresEngine) -> str:
    return "; ".join(
        f"{one.name} by {one.holder} on {one.host} for {one.left:.0f} s" for one in leases(engine)
    )


def _tables(engine: PostgresEngine, info: ServerInfo) -> CheckFinding:
    if engine.schema > SCHEMA:
        text = (
            f"{info.schema} was changed by a newer version (schema {engine.schema}, this one knows {SCHEMA})"
        )
        return failure("tables", text, "update hypervisor; until then they can be read, not changed")
    return found(
        "tables", f"schema {info.schema}, version {engine.schema}, {info.size_bytes / 2**20:.1f} MiB"
    )


def _settings(project: Project) -> dict[str, object]:
    try:
        return settings_of(project.state)
    except (ConfigError, OSError):  # said by the check of the settings
        return settings_of(None)


def _old_state(state: Path) -> Iterator[CheckFinding]:
    """Name what version 0.4 has left; version 1.0 neither reads nor changes it."""
    left = [state / name for name in _OLD if os.path.lexists(state / name)]
    left += sorted(state.glob("batches/*/manifest.json"))[:1]
    if not left:
        return
    begun = (state / FILE).exists()
    what = sorted(
        name for name in (*_OLD, *(() if begun else _OLD_OR_USERS)) if os.path.lexists(state / name)
    )
    text = (
        f"{state} holds state of version 0.4 (such as {left[0].relative_to(state)}); version 1.0 "
        "starts fresh and leaves it alone"
    )
    if not begun and set(what) & set(_OLD_OR_USERS):
        text += ", but takes its folders locks and results for yours, and uses them"
    do = (
        f"remove it when you like: rm -r {' '.join(str(state / name) for name in what)}"
        if what
        else (f"remove it when you like: rm -r {left[0].parent}")
    )
    yield warning("old state", text, do)


def _database(store: Store) -> CheckFinding:
    engine = store.engine
    assert isinstance(engine, SqliteEngine)  # noqa: S101 - the only one that `Store.open` opens
    if engine.schema > SCHEMA:
        text = (
            f"{engine.path} was changed by a newer version (schema {engine.schema}, this one knows {SCHEMA})"
        )
        return failure("database", text, "update hypervisor; until then it can be read, not changed")
    if damage := engine.damage():
        return failure("database", f"{engine.path} is damaged: {damage}", f"mv {engine.path}* somewhere else")
    size, log = _size(engine.path), _size(engine.path + "-wal")
    text = f"{size / 2**20:.1f} MiB, whole"
    if log > _LARGE_LOG:
        text += f"; its write-ahead log has {log / 2**20:.0f} MiB: some process has been reading for long"
        return warning("database", text, f"end the oldest of the processes that lsof {engine.path} names")
    return found("database", text)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # not opened: that would drop SQLite's locks
    except OSError:
        return 0


def _claims(store: Store) -> CheckFinding:
    held = store.progress.held()
    dead = {worker.id for worker in store.claims.holders() if store.rescuer.checker.death(worker) is not None}
    lost = [one for one in held if one.worker in dead or one.expires_in < 0]
    if lost:
        text = f"{len(held) - len(lost)}; {len(lost)} more of dead or silent workers, such as {lost[0].text}"
        return warning("claims held", text, "hypervisor reap")
    return found("claims held", str(len(held)))


def _results(store: Store) -> CheckFinding:
    late = store.claims.unpublished(_RESULTS)
    if late:
        many = f"{len(late)} or more" if len(late) == _RESULTS else str(len(late))
        text = f"{many} are not written to files yet, such as that of {late[0][0].text}"
        return warning("results", text, "hypervisor status, which writes them")
    return found("results", "all are written to files")


def _lock_directories(project: Project, store: Store) -> Iterator[CheckFinding]:
    """Name the lock directories and files that somebody else has made: they hold items."""
    folders = [str(project.state)]
    folders += [os.path.join(project.root, record.folder) for record in store.batches.all()]
    used = [locks for locks in map(LockDirectories, dict.fromkeys(folders)) if locks.used]
    if not used:
        return
    foreign = []
    for locks in used:
        names = sorted(os.listdir(locks.path))
        ours = store.claims.recorded_locks(names)
        foreign += [os.path.join(locks.path, name) for name in names if name not in ours]
    if foreign:
        text = f"{len(foreign)} of other programs hold items, such as {foreign[0]}"
        yield warning("lock directories", text, f"once its maker is gone: rm -d {foreign[0]}")
    else:
        yield found("lock directories", "none but our own")
