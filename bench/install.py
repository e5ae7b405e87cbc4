"""What an install takes, in a home that is empty: the client's part, the downloads, the first answer.

The plugin comes from a git marketplace on loopback, with the real Claude Code client (which
`tests/acceptance/install` gets); uv and the packages come from the index that pip and uv are set to use.
Each step is timed once; the CPU time beside it is what other load on the machine changes little:

- with no uv on PATH, and all caches empty (*cold*);
- with uv on PATH, and uv's cache empty;
- with both there, as after an update (*warm*);
- the server, from its start to its answer to `initialize`: the first time, then again in a network namespace
  without any network, where that can be made.

    uv run --no-sync python bench/install.py
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

from acceptance.client import find_client  # noqa: E402
from acceptance.market import Market  # noqa: E402

HELLO = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"},
    },
}  # fmt: skip


def cpu() -> float:
    """Return the seconds of CPU that processes which have ended have used, all together."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(name: str, words: list[str], environ: Mapping[str, str], cwd: Path) -> str:
    """Run a command, and print how long it took; return what it said."""
    begun, used = time.monotonic(), cpu()
    done = subprocess.run(words, env=dict(environ), cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: exit {done.returncode}: {done.stderr or done.stdout}")
    print(f"{name}: {time.monotonic() - begun:.1f} s, CPU {cpu() - used:.1f} s", flush=True)
    return done.stdout


def first_answer(name: str, words: list[str], environ: Mapping[str, str], cwd: Path) -> None:
    """Start a server, and print how long it took to answer."""
    begun, used = time.monotonic(), cpu()
    with subprocess.Popen(
        words, env=dict(environ), cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(json.dumps(HELLO) + "\n")
        running.stdin.flush()
        answer = json.loads(running.stdout.readline())
        took = time.monotonic() - begun
        running.stdin.close()
    assert answer["result"]["serverInfo"]["name"] == "task_manager"
    print(f"{name}: {took:.2f} s, CPU to its end {cpu() - used:.2f} s", flush=True)


def without_uv(folder: Path) -> str:
    """Return a PATH with all that the system has but uv."""
    folder.mkdir()
    for place in ("/usr/bin", "/bin", "/usr/local/bin"):
        for name in os.listdir(place) if os.path.isdir(place) else ():
            if name not in ("uv", "uvx") and not os.path.lexists(folder / name):
                (folder / name).symlink_to(f"{place}/{name}")
    return str(folder)


def size(folder: Path) -> str:
    """Return how much lies in a folder, as people read it."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return f"{sum(path.stat().st_size for path in files) / 2**20:.0f} MiB in {len(files)} files"


def main() -> None:
    """Measure and print."""
    if (client := find_client()) is None:
        raise SystemExit("no Claude Code here; type: tests/acceptance/install")
    uv = subprocess.run(
        [str(ROOT / "scripts/ensure-uv")], check=True, capture_output=True, text=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as made, Market(Path(made) / "market") as market:
        folder = Path(made)
        home, project = folder / "home", folder / "project"
        home.mkdir()
        project.mkdir()
        certificates = {
            name: os.environ[name] for name in ("SSL_CERT_FILE", "PIP_CERT") if name in os.environ
        }
        base = {"HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / ".claude"), "DISABLE_TELEMETRY": "1",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", **certificates}  # fmt: skip
        bare = base | {"PATH": without_uv(folder / "bare")}
        (folder / "with").mkdir()
        (folder / "with/uv").symlink_to(os.path.realpath(uv))
        full = base | {"PATH": f"{folder / 'with'}:{bare['PATH']}"}

        timed(
            "claude plugin marketplace add",
            [client, "plugin", "marketplace", "add", market.url],
            bare,
            project,
        )
        timed("claude plugin install", [client, "plugin", "install", "hypervisor@hypervisor"], bare, project)
        (row,) = json.loads(subprocess.run(
            [client, "plugin", "list", "--json"], env=bare, cwd=project, check=True, capture_output=True,
        ).stdout)  # fmt: skip
        plugin = Path(row["installPath"])
        print(f"what the client has copied: {size(plugin)}")
        warm_up, server = (
            str(plugin / "scripts/prepare"),
            ["sh", str(plugin / "scripts/launch"), "mcp_server.py"],
        )
        timed("cold, uv and packages are fetched", [warm_up], bare, project)
        first_answer("server, the first time", server, bare, project)
        first_answer("server, again", server, bare, project)
        if os.geteuid() == 0 and shutil.which("unshare"):
            first_answer("server, without any network", ["unshare", "-n", *server], bare, project)
        print(f"what is in the home's cache then: {size(home / '.cache')}")
        shutil.rmtree(home / ".cache")
        timed("with uv on PATH, packages are fetched", [warm_up], full, project)
        shutil.rmtree(home / ".cache/hypervisor/ready")
        timed("warm, as after an update", [warm_up], full, project)


if __name__ == "__main__":
    main()
