"""`hypervisor store` and `hypervisor machines`: a PostgreSQL server instead of SQLite, and who uses it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ..core.errors import StoreUnusable, UsageError
from ..core.project import Project, find_project
from ..core.settings import CONFIG_FILE, STORE_URL, settings_of
from ..git.git import Git
from ..store.shared import ServerInfo, driver_folder, inspect, join, load_driver, machines, store_url
from ..store.sqlite import FILE
from ..store.store import Store
from .console import EXIT_DONE, EXIT_REFUSED, Parser, counted, print_json, shown, time_span

_ROOT = Path(__file__).resolve().parents[3]
#: Of all connections of the server, this share in use is worth a word.
_MANY = 0.8
_DAY = 86400.0
#: Clocks that differ by more than this are worth a word, in seconds.
_CLOCK_SECONDS = 5.0


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``store`` and ``machines`` what they take."""
    verbs = commands["store"].add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    texts = {
        "init": (
            f"use the server that {STORE_URL} or store.url names for this clone; make the tables if needed",
            _init,
        ),
        "check": ("check the server: version, TLS, rights, connections, delay", _check),
        "show": ("print which database holds the project's state", _show),
    }
    for name, (text, action) in texts.items():
        verb = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        verb.add_argument("--json", action="store_true", help="print one JSON document")
        verb.set_defaults(action=action)
    listed = commands["machines"]
    listed.add_argument(
        "--within", type=time_span, default=_DAY, metavar="TIME", help="heard since (default: 24h)"
    )
    listed.add_argument("--json", action="store_true", help="print one JSON document")
    listed.set_defaults(action=_machines)


def _init(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    settings = settings_of(project.state)
    url = store_url(project.state, settings)
    if not url:
        raise UsageError(
            f"name the database in {STORE_URL}, or as url in [store] of {project.state / CONFIG_FILE}; "
            "not in the command line, which every user of the machine can read"
        )
    _fetch_driver()
    project.prepare()
    info, made = join(project.state, settings, url, _origin(project))
    begun = (project.state / FILE).exists()
    if options.json:
        print_json({**asdict(info), "created": made, "project": str(project.root)})
        return EXIT_DONE
    print(f"{'made' if made else 'joined'} schema {info.schema} on {info.where} (PostgreSQL {info.version})")
    if begun:
        print(f"{project.state / FILE} stays as it is; while this clone uses the server it does not count")
    for line in faults_of(info):
        print(f"warning: {line}")
    print("then, on each machine: hypervisor store init; hypervisor run --all")
    return EXIT_DONE


def _check(options: Namespace) -> int:
    info = _inspected(find_project(Path.cwd(), os.environ))
    faults = [] if info is None else faults_of(info)
    if options.json:
        print_json({"server": asdict(info) if info else None, "faults": faults})
    elif info is None:
        print("SQLite, on this machine; `hypervisor doctor` checks it")
    else:
        print(line_of(info))
        for line in faults:
            print(f"warning: {line}")
    return EXIT_REFUSED if info is not None and (info.read_only or info.missing_rights) else EXIT_DONE


def _show(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    info = _inspected(project)
    if options.json:
        print_json({"engine": "postgres" if info else "sqlite", "server": asdict(info) if info else None,
                    "file": None if info else str(project.state / FILE)})  # fmt: skip
    elif info is None:
        print(f"SQLite: {project.state / FILE}{'' if (project.state / FILE).exists() else ' (not made yet)'}")
    else:
        print(f"PostgreSQL: schema {info.schema} on {info.where}, {info.size_bytes / 2**20:.1f} MiB")
    return EXIT_DONE


def _machines(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    settings = settings_of(project.state)
    try:
        with Store.open(project.state, settings, create=False) as store:
            store.rescuer.rescue_now_and_then()
            found = machines(store.engine, settings["claims"]["lease_seconds"], options.within)
    except FileNotFoundError:
        found = []
    if options.json:
        print_json([asdict(one) for one in found])
        return EXIT_DONE
    for one in found:
        zone = f"{one.zone}, " if one.zone else ""
        work = counted(len(one.items), "item")
        print(f"{shown(one.host, 80)}: {zone}heard {one.heard:.0f} s ago, {work} at work")
        for text, number, name, since in one.items:
            print(f"  {shown(text, 80)}: attempt {number}, {shown(name, 40)}, for {since:.0f} s")
    if not found:
        print("no machine was heard")
    return EXIT_DONE


def _inspected(project: Project) -> ServerInfo | None:
    settings = settings_of(project.state)
    if not store_url(project.state, settings):
        return None
    from ..store.postgres import PostgresEngine  # noqa: PLC0415 - only where a URL is set

    with Store.open(project.state, settings, create=False) as store:
        assert isinstance(store.engine, PostgresEngine)  # noqa: S101 - what a URL opens
        return inspect(store.engine)


def line_of(info: ServerInfo) -> str:
    """Return what a server is, in one line."""
    return (
        f"{info.where}: PostgreSQL {info.version}, user {info.user}, {'TLS' if info.tls else 'no TLS'}, "
        f"{info.connections} of {info.max_connections} connections, "
        f"{info.round_trip * 1000:.1f} ms a question"
    )


def faults_of(info: ServerInfo) -> list[str]:
    """Return what is wrong with a server, or with what we may do there; the gravest first."""
    found = []
    local = any(name in info.where for name in ("127.0.0.1", "localhost", "[::1]", "/"))
    if info.read_only:
        found.append("the server accepts no changes: name the primary one")
    if info.missing_rights:
        found.append(
            f"{info.user} may not read and change {', '.join(info.missing_rights)}; see docs/scale-out.md"
        )
    if not info.tls and not local:
        found.append("the connection is not encrypted: add ?sslmode=verify-full to the URL")
    if info.connections > _MANY * info.max_connections:
        found.append(
            f"{info.connections} of {info.max_connections} connections are in use; see docs/scale-out.md"
        )
    if abs(info.clock_ahead) > _CLOCK_SECONDS:
        way = "ahead of" if info.clock_ahead > 0 else "behind"
        found.append(
            f"the server's clock is {abs(info.clock_ahead):.0f} s {way} this machine's: leases go by the "
            "server's, but ages are shown wrongly here; let both follow NTP"
        )
    return found


def _origin(project: Project) -> str:
    """Return the first commit of the project's repository; "" if there is none, or it is not here."""
    git = Git(project.root)
    code, out, _ = git.answer("rev-list", "--max-parents=0", "HEAD")
    if code != 0 or not out or git.answer("rev-parse", "--is-shallow-repository")[1].strip() == "true":
        return ""
    return min(out.split())


def _fetch_driver() -> None:
    """Fetch psycopg, of the version that the lock names, where this Python has none."""
    try:
        load_driver()
        return
    except StoreUnusable:
        print("hypervisor: fetching the PostgreSQL driver, once", file=sys.stderr)
    target = driver_folder()
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".postgres-", dir=os.path.dirname(target)) as scratch:
        uv = _run(str(_ROOT / "scripts" / "ensure-uv")).strip()
        wanted, new = os.path.join(scratch, "requirements.txt"), os.path.join(scratch, "new")
        _run(uv, "export", "--quiet", "--frozen", "--only-group", "postgres", "--no-emit-project",
             "--project", str(_ROOT), "--output-file", wanted)  # fmt: skip
        _run(uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", new, "--require-hashes",
             "--requirements", wanted)  # fmt: skip
        if os.path.isdir(target):
            shutil.rmtree(target)
        os.rename(new, target)
    load_driver()


def _run(*words: str) -> str:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        line = next((line for line in done.stderr.splitlines() if line.strip()), f"exit {done.returncode}")
        raise StoreUnusable(
            f"the PostgreSQL driver could not be fetched: {line.strip()[:200]}; is there a network?"
        )
    return done.stdout
