"""`uv tool install` from a clean clone into an empty home: the `hypervisor` command, and a first batch."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from commands import ROOT, Ended, tree


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with uv, an empty home and the sample tasks."""

    home: Path
    environment: dict[str, str]

    def run(self, *words: str) -> Ended:
        done = subprocess.run(
            words, cwd=self.home, env=self.environment, capture_output=True, text=True, check=False
        )
        return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory, uv_environment: dict[str, str]) -> User:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("no uv on PATH; type: pip install uv")
    home = tmp_path_factory.mktemp("user")
    path = f"{home}/.local/bin:{os.path.dirname(uv)}:/usr/bin:/bin"
    made = User(home, {**uv_environment, "HOME": str(home), "PATH": path})
    made.run("git", "clone", "--quiet", "--no-local", str(ROOT), "clone").passed()
    made.run("uv", "tool", "install", "--quiet", "--python", ">=3.11", "./clone").passed()
    shutil.rmtree(home / "clone")  # nothing of it is needed from here on
    shutil.copytree(ROOT / "examples/tasks", home / "tasks")
    (home / "work").mkdir()
    tasks = sorted(path for path in (home / "tasks").rglob("*.md"))
    (home / "work/queue.txt").write_text("".join(f"{path.relative_to(home)}\n" for path in tasks), "utf-8")
    return made


def test_the_installed_command_triages_a_first_batch_with_several_workers(user: User) -> None:
    assert user.run("hypervisor", "--version").passed().out.startswith("hypervisor ")
    done = user.run("hypervisor", "batch", "--dir", "work", "--all", "--workers", "2")
    assert done.code == 1, done.err  # two of the samples cannot be read, by intention
    stats = user.run("hypervisor", "batch", "--dir", "work", "--stats", "--json").passed().json
    assert stats["queue_total"] == len(list((user.home / "tasks").rglob("*.md")))
    assert (stats["failed"], stats["running"], stats["waiting"]) == (2, 0, 0)
    user.run("hypervisor", "report", "--dir", "work", "--html", "report.html").passed()
    assert "<html" in (user.home / "report.html").read_text("utf-8")


def test_the_wheel_has_all_that_agents_are_started_with(user: User) -> None:
    (app,) = user.home.glob(".local/share/uv/tools/hypervisor/lib/python*/site-packages/hypervisor_app")
    installed = tree(app)
    folders = (
        ".claude-plugin", "agents", "bin", "hooks", "prompts", "pyproject.toml", "scripts",
        "skills", "uv.lock",
    )  # fmt: skip
    words = ["git", "-C", str(ROOT), "ls-tree", "-r", "-z", "--name-only", "HEAD", "--", *folders]
    names = [name for name in user.run(*words).passed().out.split("\0") if name]
    assert not [name for name in names if name not in installed]
    for name in ("bin/hypervisor", "scripts/launch", "scripts/hook.py"):
        assert os.access(app / name, os.X_OK), name
