"""The house: headers, locks, scripts and the files that a newcomer starts with agree."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import hypervisor
from commands import own_environment
from hypervisor.core.bootstrap import PACKAGES, STARTED_AGAIN, require

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted([*(ROOT / "scripts").glob("*.py"), *(ROOT / "hooks").glob("*.py")])
COMMANDS = sorted(
    [
        *(path for path in (ROOT / "bin").iterdir() if path.is_file()),
        ROOT / "scripts/ensure-uv",
        ROOT / "scripts/launch",
        ROOT / "scripts/prepare",
        ROOT / "examples/try",
        ROOT / "tests/run",
        ROOT / "tests/acceptance/install",
        ROOT / "hooks/if-used",
        ROOT / "hooks/start",
        ROOT / ".ci/run",
    ]
)
_HEADER = re.compile(r"^# /// script\n((?:#.*\n)+?)# ///$", re.MULTILINE)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return project


def _header(script: Path) -> dict[str, Any]:
    found = _HEADER.search(script.read_text("utf-8"))
    assert found, f"{_name(script)} has no header of dependencies (PEP 723)"
    return tomllib.loads(re.sub(r"^# ?", "", found[1], flags=re.MULTILINE))


def test_there_are_scripts_and_commands_to_look_at() -> None:
    assert len(SCRIPTS) >= 2
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("script", SCRIPTS, ids=_name)
def test_a_script_leaves_the_packages_to_the_one_environment(script: Path) -> None:
    """The header keeps `uv run` out of the project in whose folder it is typed."""
    assert _header(script) == {"requires-python": _project()["requires-python"], "dependencies": []}
    assert "require(__file__)" in script.read_text("utf-8")


def test_a_script_checks_for_each_dependency_of_the_project() -> None:
    assert list(PACKAGES) == [re.split(r"[^\w.-]", line)[0].lower() for line in _project()["dependencies"]]


@pytest.mark.parametrize("script", SCRIPTS, ids=_name)
def test_a_script_is_short_and_no_module_of_the_standard_library(script: Path) -> None:
    assert script.stem not in sys.stdlib_module_names
    assert len(script.read_text("utf-8").splitlines()) <= 25


def test_the_lock_names_no_place_but_the_public_index() -> None:
    text = (ROOT / "uv.lock").read_text("utf-8")
    assert set(re.findall(r'registry = "([^"]*)"', text)) <= {"https://pypi.org/simple"}
    assert set(re.findall(r'url = "(https?://[^/]*)/', text)) <= {"https://files.pythonhosted.org"}
    assert not re.search(r"file://|(?<!\w)path = ", text)


@pytest.mark.acceptance
def test_the_lock_is_fresh() -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("no uv on PATH")
    # A lock that holds is checked without a registry.
    words = [uv, "lock", "--check", "--quiet", "--offline"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=_name)
def test_a_command_is_executable_and_parses(command: Path) -> None:
    assert command.stat().st_mode & stat.S_IXUSR
    shell = command.read_text("utf-8").partition("\n")[0].rpartition("/")[2].split()[-1]
    assert shell in ("sh", "bash")
    done = subprocess.run([shell, "-n", str(command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_one_and_stands_in_the_changelog() -> None:
    version = _project()["version"]
    assert hypervisor.__version__ == version
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)


def test_the_licence_is_there() -> None:
    assert _project()["license"]["text"] in (ROOT / "LICENSE").read_text("utf-8")


@pytest.mark.acceptance
@pytest.mark.parametrize("script", SCRIPTS, ids=_name)
def test_a_script_started_again_in_vain_says_in_one_line_what_to_type(
    script: Path,
) -> None:
    # -S leaves out site-packages, -E and the bare environment all that could bring them back.
    words = [os.path.realpath(sys.executable), "-S", "-E", str(script), "--stats"]
    done = subprocess.run(
        words, cwd=ROOT, env={STARTED_AGAIN: "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"{script.name}: needs {', '.join(sorted(PACKAGES))}; start it with: uv run {_name(script)} ...\n"
    )


@pytest.mark.acceptance
@pytest.mark.parametrize("script", SCRIPTS, ids=_name)
def test_a_bare_python_starts_a_script_again_in_the_one_environment(script: Path, tmp_path: Path) -> None:
    own_environment(tmp_path, f'printf "%s\\n" "${STARTED_AGAIN}" "$PWD" "$@"')
    words = [os.path.realpath(sys.executable), "-S", "-E", str(script), "--exec", "a {} 'b c'"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[:2] == ["1", str(tmp_path)]
    assert os.path.samefile(told[2], script)
    assert told[3:] == ["--exec", "a {} 'b c'"]


def test_an_old_python_is_told_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    monkeypatch.setenv(STARTED_AGAIN, "1")
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        require(str(ROOT / "scripts/batch_worker.py"))
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "batch_worker.py: needs Python 3.11 or later, this is 3.9; "
        "start it with: uv run scripts/batch_worker.py ...\n"
    )


@pytest.mark.acceptance
def test_the_command_finds_its_folder_through_links(tmp_path: Path) -> None:
    # A python that only tells how it was started; the command is named by a link to a link.
    own_environment(tmp_path, 'printf "%s\\n" "$@"')
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "inner").symlink_to(ROOT / "bin/hypervisor")
    (tmp_path / "outer").symlink_to("links/inner")
    done = subprocess.run(
        [str(tmp_path / "outer"), "task", "show", "a b"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[-4:] == [str(ROOT / "scripts/hypervisor_cli.py"), "task", "show", "a b"]


@pytest.mark.acceptance
def test_the_command_without_uv_says_what_to_type(tmp_path: Path) -> None:
    for name in ("sh", "dirname", "find", "grep", "head", "mkdir", "mv", "nohup", "readlink", "rm", "setsid"):
        program = shutil.which(name)
        assert program
        (tmp_path / name).symlink_to(program)
    done = subprocess.run(
        [str(ROOT / "bin/hypervisor")],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "hypervisor: preparing its environment in the cache folder, once\n"
        "ensure-uv: no python3 on PATH; install Python 3.11 or later, or uv (https://docs.astral.sh/uv/)\n"
    )


def test_no_two_test_modules_have_one_name() -> None:
    # Those in folders without an __init__.py are imported by their file's name alone.
    folders = (ROOT / "tests/unit", ROOT / "tests/integration")
    names = [path.name for folder in folders for path in folder.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
