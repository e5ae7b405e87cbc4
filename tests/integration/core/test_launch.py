"""How the scripts are started: by uv once, then by the Python that it chose; and what their children find."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from commands import ROOT, script, write_task

WITH_UV, GUARD = str(ROOT / "scripts/with-uv"), str(ROOT / "hooks/guard")
#: Where the tests' own packages are.
PACKAGES = sysconfig.get_path("purelib")
UV = shutil.which("uv")
#: Of whoever runs the tests, before each test gets a home of its own.
REAL = {name: os.environ[name] for name in ("HOME", "UV_CACHE_DIR", "XDG_CACHE_HOME") if name in os.environ}


@dataclass(frozen=True, slots=True)
class User:
    """A user in front of a uv that makes a script's environment of what packages there are here."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": f"{self.home}/bin:{os.defpath}",
            "CLAUDE_PROJECT_DIR": str(self.home),
        }

    @property
    def packages(self) -> Path:
        """What makes the packages known to the environment."""
        (folder,) = self.home.glob("environments-v2/x/lib/python*/site-packages")
        return folder / "all.pth"

    def kept(self, name: str) -> Path:
        """Where the Python of a script is kept."""
        return self.home / f".cache/hypervisor/python{ROOT}/scripts/{name}"

    def starts(self) -> int:
        """Return how often uv has started something, and forget it."""
        log = self.home / "log"
        count = len(log.read_text().splitlines()) if log.exists() else 0
        log.unlink(missing_ok=True)
        return count

    def run(self, *words: str, stdin: str = "") -> str:
        """Run a command that must go well; return what it said."""
        done = subprocess.run(
            words,
            cwd=self.home,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def help(self) -> None:
        """Run the command line, which needs all packages of its header."""
        assert "COMMAND" in self.run(WITH_UV, "hypervisor_cli.py", "--help")


@pytest.fixture
def user(tmp_path: Path) -> User:
    made = User(tmp_path / "home")
    (made.home / "bin").mkdir(parents=True)
    environment = made.home / "environments-v2/x"
    venv.create(environment, symlinks=True, with_pip=False)
    made.packages.write_text(f"{PACKAGES}\n")
    script(
        made.home / "bin", "uv",
        f'echo "$*" >>{made.home}/log\n'
        f"echo {PACKAGES} >{made.packages}\n"
        'while [ "$1" != --script ]; do shift; done\nshift\n'
        f"export VIRTUAL_ENV={environment} PATH={environment}/bin:$PATH UV=x UV_RUN_RECURSION_DEPTH=1\n"
        f'exec {environment}/bin/python "$@"',
    )  # fmt: skip
    return made


def test_uv_starts_a_script_once(user: User) -> None:
    for count in (1, 0, 0):
        user.help()
        assert user.starts() == count
    assert user.kept("hypervisor_cli.py").read_text() == f"{user.home}/environments-v2/x/bin/python\n"
    assert [path.name for path in user.kept("").iterdir()] == ["hypervisor_cli.py"]  # and no draft


def test_uv_starts_it_again_where_its_packages_have_changed_or_its_python_has_gone(user: User) -> None:
    user.help()
    os.utime(user.kept("hypervisor_cli.py"), (0, 0))  # the lock is newer
    assert user.starts() == 1
    for count in (1, 0):
        user.help()
        assert user.starts() == count
    user.kept("hypervisor_cli.py").write_text(f"{user.home}/gone/bin/python\n")
    for count in (1, 0):
        user.help()
        assert user.starts() == count


def test_uv_starts_it_again_where_packages_have_gone_from_its_python(user: User) -> None:
    user.help()
    assert user.starts() == 1
    user.packages.unlink()
    for count in (1, 0):
        user.help()
        assert user.starts() == count


def test_a_hook_is_started_by_the_kept_python_and_its_call_is_not_lost_with_it(user: User) -> None:
    write_task(user.home / "tasks/t-1.md")
    call = json.dumps({"hook_event_name": "SessionStart", "session_id": "s-1", "cwd": str(user.home)})
    # By another name it is another one: nobody needs to find out where names lead.
    for name, count in ((GUARD, 1), (GUARD, 0), (os.path.relpath(GUARD, user.home), 1)):
        said = user.run("sh", name, "project", stdin=call)
        assert "task files of this project: 1" in said
        assert user.starts() == count
    user.packages.unlink()
    assert user.run("sh", GUARD, "project", stdin=call) == said
    assert user.starts() == 1


def test_a_cache_folder_that_cannot_be_written_to_costs_nothing_but_time(user: User) -> None:
    (user.home / ".cache").write_text("no folder")
    for _ in range(2):
        user.help()
        assert user.starts() == 1


def test_what_cannot_be_kept_leaves_nothing(user: User) -> None:
    (user.kept("hypervisor_cli.py") / "in the way").mkdir(parents=True)
    user.help()
    assert [path.name for path in user.kept("").iterdir()] == ["hypervisor_cli.py"]


def test_a_python_that_misses_packages_without_a_way_to_get_them_is_told_of_once(user: User) -> None:
    """No start leads to another one for ever."""
    user.help()
    user.packages.unlink()
    script(user.home / "bin", "uv", f'shift 5; exec {user.home}/environments-v2/x/bin/python "$@"')
    begun = time.monotonic()
    done = subprocess.run(
        [WITH_UV, "hypervisor_cli.py", "--help"], env=user.environment, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert time.monotonic() - begun < 30
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "hypervisor_cli.py: needs apsw, filelock, psutil, python-frontmatter, pyyaml, rich; start it with: uv run " in done.stderr


@pytest.mark.acceptance
@pytest.mark.skipif(UV is None, reason="no uv on PATH; type: pip install uv")
def test_what_is_run_on_an_item_finds_the_users_own_python_and_not_ours(tmp_path: Path) -> None:
    assert UV is not None
    (tmp_path / "work").mkdir()
    (tmp_path / "work/queue.txt").write_text("one\n")
    words = [UV, "run", "--quiet", "--script", str(ROOT / "scripts/batch_worker.py")]
    words += ["--dir", "work", "--all", "--exec", "sh -c env"]
    environment = {**REAL, "PATH": "/usr/bin:/bin"}
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, capture_output=True)
    (log,) = (tmp_path / "work/logs").iterdir()
    found = dict(line.split("=", 1) for line in log.read_text().splitlines() if "=" in line)
    assert found["PATH"] == "/usr/bin:/bin"
    assert not {"VIRTUAL_ENV", "UV", "UV_RUN_RECURSION_DEPTH"} & found.keys()


def test_an_environment_that_the_user_works_in_stays(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/queue.txt").write_text("one\n")
    mine = {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "VIRTUAL_ENV": sys.prefix, "HOME": str(tmp_path)}
    words = [
        sys.executable,
        str(ROOT / "scripts/batch_worker.py"),
        "--dir",
        "work",
        "--all",
        "--exec",
        "sh -c env",
    ]
    subprocess.run(words, cwd=tmp_path, env=mine, check=True, capture_output=True)
    (log,) = (tmp_path / "work/logs").iterdir()
    assert {f"{name}={mine[name]}" for name in ("PATH", "VIRTUAL_ENV")} <= set(log.read_text().splitlines())
