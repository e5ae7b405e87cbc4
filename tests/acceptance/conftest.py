"""What an acceptance test asks for: the scripted API, clients that talk to it, a project."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from acceptance.api import ScriptedApi
from acceptance.client import Client, find_client
from acceptance.gemini import GeminiClient
from acceptance.gemini_api import GeminiApi
from commands import ROOT

NewClient: TypeAlias = Callable[..., Client]

HERE = Path(__file__).resolve().parent
#: Within a home.
CACHE = ".cache/hypervisor"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder; each starts a client, often several."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.acceptance)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def claude() -> str:
    """Return the path of the client; where there is none, the test is skipped, but never in CI."""
    path = find_client()
    if path is None:
        why = "no Claude Code here; type: tests/acceptance/install"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return path


@pytest.fixture(scope="session")
def older_claude() -> str:
    """Return the path of an older Claude Code; where there is none, the test is skipped, but never in CI."""
    path = find_client("claude-code-older")
    if path is None:
        why = "no older Claude Code here; type: tests/acceptance/install"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return path


@pytest.fixture(scope="session")
def uv_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what makes uv use the cache and the certificates that the test's caller uses.

    Python's cache is one for all tests, as a user has it: each of them has a home of its own.

    This is for the whole session, and so looks before each test gets a HOME of its own.
    """
    kept = {name: os.environ[name] for name in ("UV_SYSTEM_CERTS", "SSL_CERT_FILE") if name in os.environ}
    if uv := shutil.which("uv"):
        asked = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=True)
        kept["UV_CACHE_DIR"] = asked.stdout.strip()
    return {**kept, "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("compiled"))}


@pytest.fixture(scope="session")
def warmed_up(uv_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home in which a first session of this checkout has been: what the scripts need is there."""
    home = tmp_path_factory.mktemp("warmed-up")
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), **uv_environment}
    subprocess.run([ROOT / "scripts/prepare"], env=environment, check=True)
    return home


def move_in(home: Path, warmed_up: Path) -> Path:
    """Make *home* one in which a first session has been; return it."""
    shutil.copytree(warmed_up / CACHE, home / CACHE, dirs_exist_ok=True)
    return home


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    """Give the scripted API, and hold that nothing happened that no script foresaw."""
    with ScriptedApi() as made:
        yield made
    assert made.surprises == []


@pytest.fixture
def client(
    claude: str,
    uv_environment: dict[str, str],
    api: ScriptedApi,
    tmp_path: Path,
    warmed_up: Path,
    request: pytest.FixtureRequest,
) -> Iterator[NewClient]:
    """Give a function that makes clients; they share a home unless a test says otherwise.

    The plugin has been used before, unless a client is `new`. A test that uses the fixture `tool_search`
    runs with schemas loaded, and again with them deferred.
    """
    home, cwd = tmp_path / "home", tmp_path / "here"
    deferred = "tool_search" in request.fixturenames and bool(request.getfixturevalue("tool_search"))
    with contextlib.ExitStack() as stack:

        def make(*, new: bool = False, **options: Any) -> Client:
            options = {"home": home, "cwd": cwd, "tool_search": deferred, **options}
            options["extra"] = {**uv_environment, **options.get("extra", {})}
            for folder in ("home", "cwd"):
                options[folder].mkdir(parents=True, exist_ok=True)
            if not new:
                move_in(options["home"], warmed_up)
            return stack.enter_context(Client(claude, api, **options))

        yield make


@pytest.fixture(params=[False, True], ids=["tools-loaded", "tool-search"])
def tool_search(request: pytest.FixtureRequest) -> bool:
    """Tell whether the client defers the schemas of tools, as it does for most users."""
    return bool(request.param)


@pytest.fixture
def git_project(tmp_path: Path) -> Path:
    """Return a git repository with one commit."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "README.md").write_text("# A project\n", "utf-8")
    nothing = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    for words in (
        ["init", "--quiet", "--initial-branch=main"],
        ["config", "user.name", "A User"],
        ["config", "user.email", "user@example.invalid"],
        ["add", "--all"],
        ["commit", "--quiet", "--message", "Begin"],
    ):
        subprocess.run(["git", *words], cwd=folder, env=nothing, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def gemini() -> str:
    """Return the path of the Gemini CLI; where there is none, the test is skipped, but never in CI."""
    path = find_client("gemini")
    if path is None:
        why = "no Gemini CLI here; type: tests/acceptance/install"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return path


@pytest.fixture
def both_apis() -> Iterator[GeminiApi]:
    """Give the scripted APIs of both clients, and hold that nothing happened that no script foresaw."""
    with GeminiApi() as made:
        yield made
    assert made.surprises == []


@pytest.fixture
def gemini_user(
    gemini: str,
    uv_environment: dict[str, str],
    both_apis: GeminiApi,
    tmp_path: Path,
    git_project: Path,
    warmed_up: Path,
) -> GeminiClient:
    """Return a user of the Gemini CLI who stands in a git project."""
    return GeminiClient(gemini, both_apis, move_in(tmp_path / "home", warmed_up), git_project, uv_environment)
