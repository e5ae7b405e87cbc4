"""The plugin as users get it: from a git marketplace, into an empty home, and read-only there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from acceptance.api import Reply, ScriptedApi, Turn, calls, say, use, wait_for
from acceptance.client import Client, Session
from acceptance.conftest import NewClient
from acceptance.market import Market
from acceptance.product import Tasks, claim, done, tool
from commands import HYPERVISOR, ROOT, eventually, script, tree
from hypervisor.mcp.schema import PREFIX, TOOLS

OURS = {PREFIX + one.name for one in TOOLS}
#: What no machine without a network reaches; the scripted API is on loopback.
NO_NETWORK = {
    "HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull,
}  # fmt: skip
SKILLS = {"hypervisor:hypervisor", "hypervisor:batch-processing", "hypervisor:pull"}
#: The client waits for servers: what is tested here is not how fast the machine is.
PATIENT = {"MCP_CONNECT_TIMEOUT_MS": "240000", "MCP_TIMEOUT": "240000"}
#: In seconds, and reached only when a test fails.
LONG = 300.0
#: Makes a folder read-only for the command that follows, for root too.
READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with Market(tmp_path_factory.mktemp("market")) as made:
        yield made


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """Return a PATH with all that the system has, and python3 with pip, but no uv."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for place in ("/usr/bin", "/bin", "/usr/local/bin"):
        for name in os.listdir(place) if os.path.isdir(place) else ():
            if name not in ("uv", "uvx") and not os.path.lexists(folder / name):
                (folder / name).symlink_to(f"{place}/{name}")
    asked = [str(folder / "python3"), "-m", "pip", "--version"]
    if subprocess.run(asked, capture_output=True, check=False).returncode:
        # The system's own python3 has no pip: the one that runs the tests is tried.
        (folder / "python3").unlink(missing_ok=True)
        (folder / "python3").symlink_to(os.path.realpath(sys.executable))
    return str(folder)


def install(client: Client, market: Market) -> Path:
    """Install the plugin as a user does; return the folder that it runs from."""
    for words in (["marketplace", "add", market.url], ["install", "hypervisor@hypervisor"]):
        ended = client.command("plugin", *words)
        assert ended.code == 0, ended.out + ended.err
    return installed(client)


def installed(client: Client) -> Path:
    (row,) = plugins(client)
    return Path(row["installPath"])


def plugins(client: Client) -> list[dict[str, Any]]:
    """Return what the client says of our plugin; newer clients have some of their own."""
    rows = json.loads(client.command("plugin", "list", "--json").out)
    return [row for row in rows if row["id"].startswith("hypervisor@")]


def files(folder: Path) -> dict[str, str]:
    """Return what stands in a folder of the client's, but for the client's own marks."""
    found = tree(folder)
    return {name: what for name, what in found.items() if name not in (".", ".in_use", ".orphaned_at")}


def locked_up(client: Client, folder: Path) -> None:
    """Let the client find *folder* as one that it cannot write to."""
    if os.geteuid() == 0 and shutil.which("unshare"):
        text = f"exec unshare -m sh -c '{READ_ONLY}' sh {folder} {client.path} \"$@\""
        client.path = script(client.home, "client", text)
    else:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222)


def works(session: Session, api: ScriptedApi, prompt: str) -> None:
    """Hold that the session had every part of the plugin from its first request on, and that all worked."""
    assert not session.init.get("plugin_errors")
    assert {one["name"]: one["status"] for one in session.init["mcp_servers"]} == {
        "plugin:hypervisor:task_manager": "connected"
    }
    assert set(session.init["skills"]) >= SKILLS
    assert "hypervisor:worker" in session.init["agents"]
    talk = api.of(prompt)
    assert set(talk.turns[0].tools) >= OURS
    for result in talk.results:
        assert not result.is_error, result.text


def the_server_alone(folder: Path, environment: dict[str, str], project: Path) -> dict[str, Any]:
    """Start the server where there is no network at all; return what it says of itself."""
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}}
    running = subprocess.Popen(
        ["unshare", "-n", "sh", folder / "scripts/launch", "mcp_server.py"],
        cwd=project, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdin is not None
    assert running.stdout is not None
    with running:
        running.stdin.write(
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}) + "\n"
        )
        running.stdin.flush()
        answer: dict[str, Any] = json.loads(running.stdout.readline())
        running.stdin.close()
    found: dict[str, Any] = answer["result"]
    return found


def test_into_an_empty_home_without_uv_and_then_without_a_network(
    api: ScriptedApi, client: NewClient, market: Market, git_project: Path, bare: str
) -> None:
    tasks = Tasks(git_project)
    for name in ("t-1", "t-2"):
        tasks.add(name)
    made = client(new=True, cwd=git_project, extra={"PATH": bare, **PATIENT})
    # A home as on a new machine: no cache of ours, of uv's or of Python's is there.
    made.extra = {name: value for name, value in made.extra.items() if "CACHE" not in name}
    folder = install(made, market)
    assert folder.is_relative_to(made.home / ".claude/plugins/cache")
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    assert {name for name in there if not name.startswith((".git/", ".in_use"))} <= market.files
    before = files(folder)
    locked_up(made, folder)

    api.main(calls(claim("t-1")), calls(done("t-1")), say("did it"), when="first")
    works(made.run("the first session", timeout=LONG).passed(), api, "first")
    assert tasks.status("t-1") == "done"
    assert [path.name for path in (made.home / ".cache/hypervisor/uv/bin").glob("uv")] == ["uv"]

    made.extra = {**made.extra, **NO_NETWORK}
    shell = use("Bash", command="hypervisor status")
    api.main(calls(claim("t-2"), shell), calls(done("t-2")), say("did it too"), when="second")
    session = made.run("the second session", "--allowedTools", "Bash(hypervisor *)", timeout=LONG)
    works(session.passed(), api, "second")
    assert tasks.status("t-2") == "done"
    assert "hypervisor: tasks of this project: 1 " in api.of("second").turns[0].text
    assert "1 done, 1 in_progress" in api.of("second").tool_result("Bash").text
    if os.geteuid() == 0 and shutil.which("unshare"):
        said = the_server_alone(folder, made.environment, git_project)
        assert said["serverInfo"]["name"] == "task_manager"
    assert files(folder) == before  # nobody has written to it, nor tried to compile beside the source


def test_where_uv_cannot_be_had_the_session_goes_on_and_is_told_what_to_type(
    api: ScriptedApi, client: NewClient, git_project: Path, bare: str
) -> None:
    Tasks(git_project).add("t-1")
    (Path(bare) / "python3").unlink()
    made = client(new=True, cwd=git_project, plugins=[ROOT], extra={"PATH": bare, **NO_NETWORK})
    made.extra = {name: value for name, value in made.extra.items() if "CACHE" not in name}
    for number in range(3):  # a machine that is very busy needs more than the hook's seconds to find out
        api.main(
            calls(use("Write", file_path=str(git_project / "x"), content="x")), say("ok"), when=f"no {number}"
        )
        session = made.run(f"no {number}", "--permission-mode", "acceptEdits").passed()
        if "is being fetched" not in (told := api.of(f"no {number}").turns[0].text):
            break
    assert (
        "its tools and hooks cannot start. ensure-uv: no python3 on PATH; install Python 3.11 or later"
        in told
    )
    assert session.init["mcp_servers"][0]["status"] != "connected"
    assert not OURS & set(session.init["tools"])
    assert (git_project / "x").read_text() == "x"  # no hook of ours was in the way


def test_an_update_keeps_what_was_begun_and_an_uninstall_what_is_the_users(
    api: ScriptedApi, client: NewClient, market: Market, git_project: Path
) -> None:
    tasks = Tasks(git_project)
    for name in ("t-1", "t-2", "t-3"):
        tasks.add(name)
    made = client(new=True, cwd=git_project, extra=PATIENT)
    old = install(made, market)
    before = files(old)
    updated = threading.Event()
    api.main(
        calls(tool("preflight", all=True, create_batch=True), claim("t-1")),
        wait_for(updated, calls(done("t-1")), seconds=LONG),
        say("did it"),
        when="old version",
    )
    running = made.start("a session of the old version")
    eventually(lambda: tasks.status("t-1") == "in_progress", "the claim", seconds=LONG)
    index = apsw.Connection(str(git_project / ".hypervisor/index.db"))
    index.execute("PRAGMA user_version = 999")  # as another version would leave it
    index.close()

    manifest = market.repository / ".claude-plugin/plugin.json"
    said = json.loads(manifest.read_text("utf-8"))
    manifest.write_text(json.dumps(said | {"version": "99.0.0"}), "utf-8")
    market.commit("The next version")
    for words in (["marketplace", "update", "hypervisor"], ["update", "hypervisor@hypervisor"]):
        ended = made.command("plugin", *words)
        assert ended.code == 0, ended.out + ended.err
    new = installed(made)
    assert new.name == "99.0.0"
    assert new != old
    locked_up(made, new)
    fresh = files(new)

    api.main(
        calls(tool("claim_task", id="t-1", caller="claude"), claim("t-2")),
        calls(done("t-2"), tool("batch_status")),
        say("did the second"),
        when="new version",
    )
    session = made.run("a session of the new version", timeout=LONG).passed()
    assert not session.init.get("plugin_errors")
    refused, taken, completed, batch = api.of("new version").results
    assert refused.is_error  # the old version's session has it
    assert [taken.is_error, completed.is_error] == [False, False]
    assert batch.json["census"] == {
        "queued": 3, "success": 1, "blocked": 0, "failed": 0, "skipped": 0, "running": 1, "waiting": 1,
    }  # fmt: skip
    updated.set()
    running.wait(LONG).passed()
    assert [tasks.status(name) for name in ("t-1", "t-2", "t-3")] == ["done", "done", "active"]
    assert files(old) == before
    assert files(new) == fresh

    mine = tree(git_project)
    ended = made.command("plugin", "uninstall", "hypervisor@hypervisor")
    assert ended.code == 0, ended.out + ended.err
    assert plugins(made) == []
    assert tree(git_project) == mine
    assert (git_project / ".hypervisor/batches").is_dir()
    api.main(say("alone"), when="without")
    session = made.run("a session without").passed()
    assert not [name for name in session.init["tools"] if name in OURS]
    assert not SKILLS & set(session.init["skills"])


def test_doctor_asks_the_client_whether_it_is_logged_in(api: ScriptedApi, client: NewClient) -> None:
    made = client()
    (made.home / "bin").mkdir()
    (made.home / "bin/claude").symlink_to(os.path.realpath(made.path))
    environment = {**made.environment, "PATH": f"{made.home}/bin:{made.environment['PATH']}"}
    for keys, level in (({}, "ok"), ({"ANTHROPIC_API_KEY": ""}, "warning")):
        words = [*HYPERVISOR, "doctor", "--json"]
        done = subprocess.run(
            words, cwd=made.cwd, env={**environment, **keys}, capture_output=True, check=False
        )
        (login,) = [one for one in json.loads(done.stdout) if one["check"] == "claude login"]
        assert login["level"] == level
        assert login["do"] == ("" if level == "ok" else "claude auth login")
    assert api.served.answers == 0


def test_a_first_session_on_a_slow_line_has_its_tools_and_they_work_once_the_packages_are_there(
    api: ScriptedApi, client: NewClient, git_project: Path, tmp_path: Path
) -> None:
    """The client gives a server some seconds: it is told the tools by whatever Python there is."""
    tasks = Tasks(git_project)
    tasks.add("t-1")
    real, gate = shutil.which("uv"), tmp_path / "gate"
    if real is None:
        pytest.skip("no uv on PATH")
    (tmp_path / "slow").mkdir()
    waits = f"case $1 in sync) until [ -e {gate} ]; do sleep 0.1; done ;; esac"
    script(tmp_path / "slow", "uv", f'{waits}\nexec {real} "$@"')
    made = client(new=True, cwd=git_project, plugins=[ROOT])
    made.extra = {**made.extra, "PATH": f"{tmp_path / 'slow'}:{made.environment['PATH']}"}

    def go_on(_: Turn) -> Reply:
        gate.touch()
        ready = made.home / f".cache/hypervisor/environments{ROOT}/.venv/hypervisor-ready"
        return wait_for(ready.exists, calls(claim("t-1")), seconds=LONG)

    api.main(calls(claim("t-1")), go_on, calls(done("t-1")), say("did it"), when="first")
    session = made.run("the first session", timeout=LONG).passed()
    assert {one["status"] for one in session.init["mcp_servers"]} == {"connected"}
    talk = api.of("first")
    assert "is being fetched, once" in talk.turns[0].text
    assert set(talk.turns[0].tools) >= OURS
    early, taken, completed = talk.results
    assert early.is_error
    assert "is being fetched" in early.text
    assert [taken.is_error, completed.is_error] == [False, False]
    assert tasks.status("t-1") == "done"
