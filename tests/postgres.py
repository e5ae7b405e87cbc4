"""A real PostgreSQL server of the tests' own: a fresh data directory, a loopback port, fsync as by default.

`start_server` runs this file as a process that owns the server, and stops it and deletes its data as soon
as its standard input ends: so no server outlives the tests, however they end. PostgreSQL does not run as
root; as root the server belongs to the user ``postgres``, or ``nobody``.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INSTALL = "apt-get install postgresql  (a server, 14 or later, with initdb and pg_ctl)"
_USER = "hypervisor_test"


def programs() -> str:
    """Return the folder of the newest server's programs, "" if none is installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if debian:
        return str(debian[-1].parent)
    found = shutil.which("initdb")
    return os.path.dirname(os.path.realpath(found)) if found else ""


@contextlib.contextmanager
def start_server() -> Iterator[str]:
    """Start a server; yield its URL; stop it."""
    command = [sys.executable, os.path.abspath(__file__), programs()]
    with subprocess.Popen(
        # A session of its own: what ends the tests' process group must not end the owner before its server.
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as owner:  # fmt: skip
        assert owner.stdout is not None
        url = owner.stdout.readline().strip()
        assert url, f"PostgreSQL did not start: exit {owner.wait()}"
        yield url
        owner.communicate("")  # the end of its input


def _own(binaries: str) -> None:
    """Own a server until standard input ends; print its URL once it is ready."""
    # Not below pytest's folders, which another user cannot enter.
    home = tempfile.mkdtemp(prefix="hypervisor-postgres-", dir="/tmp")
    password = secrets.token_urlsafe(12)  # the port is open to every user of the machine
    secret, data = os.path.join(home, "password"), os.path.join(home, "data")
    Path(secret).write_text(password + "\n", "ascii")
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = _unprivileged()
        account = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        for path in (home, secret):
            os.chown(path, user.pw_uid, user.pw_gid)

    def run(program: str, *words: str) -> None:
        command = [os.path.join(binaries, program), "-D", data, *words]
        done = subprocess.run(
            command,
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **account,
        )
        if done.returncode:
            log = Path(home, "log")
            sys.exit(done.stdout + done.stderr + (log.read_text() if log.exists() else ""))

    try:
        run(
            "initdb",
            "-U",
            _USER,
            f"--pwfile={secret}",
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        )
        port = _free_port()
        options = (
            f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=200"
        )
        # The log goes to a file: pg_ctl's output would stay open in the server.
        run("pg_ctl", "-w", "-l", os.path.join(home, "log"), "-o", options, "start")
        try:
            print(f"postgresql://{_USER}:{password}@127.0.0.1:{port}/postgres?connect_timeout=60", flush=True)
            sys.stdin.read()
        finally:
            run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    sys.exit("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    _own(sys.argv[1])
