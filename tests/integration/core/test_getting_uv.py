"""A machine without uv: how it is got, with the real pip; or one line that says what to type."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, Shell, eventually, script, shell, write_task

ENSURE, PREPARE = str(ROOT / "scripts/ensure-uv"), str(ROOT / "scripts/prepare")
START = str(ROOT / "hooks/start")
#: What the scripts use, beside the shell's own.
PROGRAMS = ("cat", "dirname", "find", "grep", "head", "mkdir", "mktemp", "mv", "nohup", "rm", "setsid", "sh",
            "sleep", "tail", "tr")  # fmt: skip
UV = 'case "$*" in *--version*) echo "uv 9.9.9" ;; lock*) echo "  --script  of a script" ;; *) exit 7 ;; esac'


def _python_with_pip() -> str:
    for path in (shutil.which("python3", path="/usr/bin:/usr/local/bin"), os.path.realpath(sys.executable)):
        if path is None:
            continue
        asked = [path, "-m", "pip", "--version"]
        if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
            return path
    pytest.skip("no python3 here has pip")


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    """Give a user whose PATH has no uv; pip finds one, a small one, in a folder, and no network."""
    with shell(tmp_path) as made:
        bins, wheels = made.home / "bin", made.home / "wheels"
        for folder in (bins, wheels):
            folder.mkdir()
        for name in PROGRAMS:
            (bins / name).symlink_to(str(shutil.which(name)))
        (bins / "python3").symlink_to(_python_with_pip())
        made.extra |= {
            "PATH": str(bins), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels),
            "PIP_CONFIG_FILE": os.devnull, "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        wheel(wheels)
        yield made


def wheel(folder: Path, text: str = f"#!/bin/sh\n{UV}\n") -> Path:
    """Write a package `uv` as pip takes it, whose program is *text*."""
    path = folder / "uv-9.9.9-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        program = zipfile.ZipInfo("uv-9.9.9.data/scripts/uv")
        program.external_attr = 0o100755 << 16
        packed.writestr(program, text)
        packed.writestr("uv-9.9.9.dist-info/METADATA", "Metadata-Version: 2.1\nName: uv\nVersion: 9.9.9\n")
        tag = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        packed.writestr("uv-9.9.9.dist-info/WHEEL", tag)
        packed.writestr("uv-9.9.9.dist-info/RECORD", "")
    return path


def own(user: Shell) -> Path:
    return user.home / ".cache/hypervisor/uv/bin/uv"


def refused(user: Shell, *parts: str) -> None:
    """Hold that there is none, that one line says why and what to type, and that nothing is left behind."""
    ended = user.run([ENSURE])
    assert (ended.code, ended.out) == (1, "")
    told = [line for line in ended.err.splitlines() if "no uv here; installing" not in line]
    assert len(told) == 1, ended.err
    for part in ("ensure-uv: ", *parts):
        assert part in told[0]
    assert not list(user.home.glob(".cache/hypervisor/uv*"))


def test_it_is_installed_once_and_into_the_cache_folder_only(user: Shell) -> None:
    ended = user.run([ENSURE]).passed()
    assert ended.out == f"{own(user)}\n"
    assert ended.err == f"ensure-uv: no uv here; installing it into {own(user).parent.parent} (once)\n"
    assert {path.name for path in user.home.iterdir()} == {"bin", "wheels", ".cache"}
    assert os.listdir(user.home / ".cache/hypervisor") == ["uv"]
    again = user.run([ENSURE]).passed()
    assert (again.out, again.err) == (ended.out, "")


def test_the_users_own_counts_unless_it_is_too_old(user: Shell) -> None:
    mine = script(user.home / "bin", "uv", UV)
    assert user.run([ENSURE]).passed().out == f"{mine}\n"
    script(user.home / "bin", "uv", "exit 2")
    assert user.run([ENSURE]).passed().out == f"{own(user)}\n"


def test_without_a_network(user: Shell) -> None:
    user.extra["PIP_FIND_LINKS"] = ""
    refused(user, "No matching distribution found for uv", "is there a network?", "python3 -m pip install uv")


def test_without_pip(user: Shell) -> None:
    (user.home / "bin/python3").unlink()
    script(user.home / "bin", "python3", "exit 1")
    refused(user, "this Python has no pip", "apt install python3-pip", "https://docs.astral.sh/uv/")


def test_without_a_home(user: Shell) -> None:
    user.home = Path("")
    user.extra["HOME"] = ""
    ended = user.run([ENSURE])
    assert ended.code == 1
    assert ended.err.startswith("ensure-uv: HOME is not set; set it, or put uv on PATH")


def test_where_the_cache_cannot_be_written_to(user: Shell) -> None:
    (user.home / ".cache").write_text("no folder")
    refused(user, f"cannot write to {user.home}/.cache/hypervisor; set XDG_CACHE_HOME")


def test_one_that_does_not_run_here(user: Shell) -> None:
    wheel(user.home / "wheels", "#!/bin/sh\nexit 126\n")
    refused(user, "pip installed a uv that does not run here; see https://docs.astral.sh/uv/")


def test_two_at_once_get_the_same(user: Shell) -> None:
    both = [
        subprocess.Popen([ENSURE], cwd=user.cwd, env=user.environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [one.communicate(timeout=120)[0] for one in both] == [f"{own(user)}\n"] * 2
    assert [one.returncode for one in both] == [0, 0]
    assert os.listdir(user.home / ".cache/hypervisor") == ["uv"]


def test_killed_while_it_installs_it_is_in_nobodys_way(user: Shell) -> None:
    real = os.readlink(user.home / "bin/python3")
    (user.home / "bin/python3").unlink()
    waits = f"case $3 in install) : >{user.home}/mark; sleep 600 ;; esac"
    script(user.home / "bin", "python3", f'{waits}\nexec {real} "$@"')
    running = subprocess.Popen([ENSURE], cwd=user.cwd, env=user.environment, start_new_session=True)
    eventually((user.home / "mark").exists, "the installation")
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    script(user.home / "bin", "python3", f'exec {real} "$@"')
    left = [path for path in (user.home / ".cache/hypervisor").iterdir() if path.is_dir()]
    for path in left:
        os.utime(path, (0, 0))
    assert left
    assert user.run([ENSURE]).passed().out == f"{own(user)}\n"
    assert [path.name for path in (user.home / ".cache/hypervisor").iterdir() if path.is_dir()] == ["uv"]


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        ("no uv", ["ensure-uv: no python3 on PATH; install Python 3.11 or later, or uv (https://"]),
        ("no packages", ["prepare: error: Failed to fetch x; is there a network? Then: ", PREPARE]),
    ],
)
def test_a_session_that_cannot_have_it_is_told_in_one_line(user: Shell, fault: str, parts: list[str]) -> None:
    if fault == "no uv":
        (user.home / "bin/python3").unlink()
    else:
        script(user.home / "bin", "uv", UV.replace("exit 7", 'echo "error: Failed to fetch x" >&2; exit 7'))
    ended = user.run([PREPARE])
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    write_task(user.cwd / "tasks/t-1.md")

    def said() -> Any:
        found = user.run(["sh", START]).passed().json
        return None if "is being fetched" in found["systemMessage"] else found

    told = eventually(said, "the reason, for which it waits some seconds at a time")
    text = told["hookSpecificOutput"]["additionalContext"]
    assert told["systemMessage"] == text
    for part in parts:
        assert part in ended.err
        assert part in text
    assert text.startswith("hypervisor: its tools and hooks cannot start. ")
    assert text.isprintable()
    kept = sorted(path.name for path in (user.home / ".cache/hypervisor").glob("prepare*"))
    assert kept == ["prepare.log"]


def test_the_command_says_it_too(user: Shell) -> None:
    user.extra["PIP_FIND_LINKS"] = ""
    ended = user.run([str(ROOT / "bin/hypervisor"), "doctor"])
    assert ended.code == 2
    assert ended.err.splitlines()[-1].endswith("is there a network? Then: python3 -m pip install uv")
