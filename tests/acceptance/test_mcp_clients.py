"""The MCP server as the plugin starts it, and as another client speaks to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from commands import ROOT, write_task
from hypervisor.core.project import Project
from hypervisor.mcp.handler import ToolHandler
from hypervisor.mcp.schema import TOOLS
from mcp_wire import CALLS, SERVER, Wire, spawned_is_over, spawning

pytestmark = pytest.mark.acceptance

INSPECTOR = "0.15.0"
_CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # before each test gets its own
_INSPECTOR_HOME = f"{_CACHE}/hypervisor/clients/inspector-{INSPECTOR}"
_INSPECTOR = os.environ.get("HYPERVISOR_INSPECTOR") or f"{_INSPECTOR_HOME}/node_modules/.bin/mcp-inspector"
A1 = {"caller_session": "s-1", "caller_agent": "a1"}

Start: TypeAlias = Callable[..., Wire]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    for name in ("t-1", "t-2", "t-3"):
        write_task(root / f"tasks/{name}.md")
    return Project(root, root / ".hypervisor")


@pytest.fixture
def environment(project: Project, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    return {
        "PATH": os.defpath, "HOME": str(tmp_path / "home"), "CLAUDE_PROJECT_DIR": str(project.root),
        "CLAUDE_CODE_SESSION_ID": "s-1",
    }  # fmt: skip


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    started: list[Wire] = []

    def new(*words: str, **more: str) -> Wire:
        started.append(Wire(words or SERVER, {**environment, **more}))
        return started[-1]

    yield new
    for wire in started:
        wire.close()


@pytest.fixture
def client() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(scope="session")
def uv_cache() -> str:
    """Return where uv keeps what it has downloaded, before each test gets a HOME of its own."""
    asked = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


@pytest.mark.timeout(300)
def test_the_server_starts_as_the_plugin_starts_it(start: Start, uv_cache: str) -> None:
    uv = shutil.which("uv")
    assert uv is not None
    folders = [str(Path(uv).parent), str(Path(sys.executable).resolve().parent), os.defpath]
    kept = {name: os.environ[name] for name in ("UV_SYSTEM_CERTS", "SSL_CERT_FILE") if name in os.environ}
    path = os.pathsep.join(folders)
    wire = start(
        "sh", str(ROOT / "scripts/launch"), "mcp_server.py", PATH=path, UV_CACHE_DIR=uv_cache, **kept
    )
    wire.initialize()
    claim = wire.call("claim_task", id="t-1", caller="claude", **A1)["claim"]
    assert claim["attempt"] == 1
    assert wire.end() == 0
    assert wire.noise == []
    # Whoever started `launch` is the client, and lives: what its agents hold stays theirs.
    other = start(CLAUDE_CODE_SESSION_ID="s-2")
    other.initialize()
    assert "held by claude" in other.call("claim_task", id="t-1", caller="gemini")


@pytest.mark.timeout(300)
def test_the_inspector_lists_every_tool_and_calls_it(
    project: Project, environment: dict[str, str], tmp_path: Path
) -> None:
    if not os.access(_INSPECTOR, os.X_OK):
        package = f"@modelcontextprotocol/inspector@{INSPECTOR}"
        why = f"no MCP Inspector here; type: npm install --prefix {_INSPECTOR_HOME} {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    write_task(project.root / "tasks/n-1.md", project="next")
    box = ToolHandler(environment)
    for name in ("t-1", "t-2"):
        box.call("claim_task", {"id": name, "caller": "claude"})
    box.call("claim_task", {"id": "t-3", "caller": "claude"})
    write_task(project.root / "tasks/t-4.md")
    write_task(project.root / "tasks/t-5.md")
    box.call("preflight", {"ids": ["t-4"], "create_batch": True})
    spawning(project, "true")
    # Each call has a server of its own: none depends on what another one has done.
    free = iter(("t-4", "t-5"))
    own: dict[str, dict[str, Any]] = {
        "claim_next_task": {"project": "next"}, "ask_user": {"attempt": 1},
        "complete_task": {"attempt": 1}, "release_task": {"attempt": 1},
        "preflight": {"create_batch": False},
    }  # fmt: skip
    node = os.path.dirname(shutil.which("node") or "")
    settings = [f"-e{key}={value}" for key, value in environment.items()]

    def inspect(method: str, *words: str) -> Any:
        done = subprocess.run(
            [_INSPECTOR, "--cli", *settings, *SERVER, "--method", method, *words],
            env={"PATH": f"{node}{os.pathsep}{os.defpath}", "HOME": str(tmp_path)},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def call(name: str, arguments: dict[str, Any]) -> Any:
        given = {**arguments, **own.get(name, {}), **({"id": next(free)} if name == "claim_task" else {})}
        words = [f"{key}={json.dumps(v) if not isinstance(v, str) else v}" for key, v in given.items()]
        options = [part for word in words for part in ("--tool-arg", word)]
        return inspect("tools/call", "--tool-name", name, *options)

    assert [tool["name"] for tool in inspect("tools/list")["tools"]] == [tool.name for tool in TOOLS]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda one: call(*one), CALLS))
    spawned_is_over(project)
    for (name, _), answer in zip(CALLS, answers, strict=True):
        assert not answer.get("isError"), (name, answer)
        assert isinstance(json.loads(answer["content"][0]["text"]), dict)
