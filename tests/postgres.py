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


class Server(str):
    """The URL of a running server."""

    owner: subprocess.Popen[str]

    def restart(self) -> None:
        """Restart it as after a crash: every connection breaks, and what was not on disk is gone."""
        assert self.owner.stdin is not None
        assert self.owner.stdout is not None
        self.owner.stdin.write("restart\n")
        self.owner.stdin.flush()
        assert self.owner.stdout.readline() == "restarted\n"


@contextlib.contextmanager
def start_server(address: str = "127.0.0.1", network: str = "", connections: int = 200) -> Iterator[Server]:
    """Start a server; yield its URL; stop it.

    Args:
        address: Where it listens.
        network: From where else than this machine it is used (``10.0.0.0/24``), "" for nowhere.
        connections: How many it allows.
    """
    command = [sys.executable, os.path.abspath(__file__), programs(), address, network, str(connections)]
    with subprocess.Popen(
        # A session of its own: what ends the tests' process group must not end the owner before its server.
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as owner:  # fmt: skip
        assert owner.stdout is not None
        url = Server(owner.stdout.readline().strip())
        url.owner = owner
        assert url, f"PostgreSQL did not start: exit {owner.wait()}"
        yield url
        owner.communicate("")  # the end of its input


def _own(binaries: str, address: str, network: str, connections: str) -> None:
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
        if network:
            with open(os.path.join(data, "pg_hba.conf"), "a", encoding="ascii") as rules:
                rules.write(f"host all all {network} scram-sha-256\n")
        port = _free_port()
        options = (
            f"-p {port} -c listen_addresses={address} -c unix_socket_directories='' "
            f"-c max_connections={connections}"
        )
        # The log goes to a file: pg_ctl's output would stay open in the server.
        start = ("-w", "-l", os.path.join(home, "log"), "-o", options)
        run("pg_ctl", *start, "start")
        try:
            print(f"postgresql://{_USER}:{password}@{address}:{port}/postgres?connect_timeout=60", flush=True)
            while sys.stdin.readline():
                run("pg_ctl", "-m", "immediate", *start, "restart")
                print("restarted", flush=True)
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
    _own(*sys.argv[1:])
