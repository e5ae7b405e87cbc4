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
from hypervisor.core.bootstrap import STARTED_AGAIN, dependencies, require

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
COMMANDS = sorted(
    [
        *(path for path in (ROOT / "bin").iterdir() if path.is_file()),
        ROOT / "scripts/ensure-uv",
        ROOT / "scripts/with-uv",
        ROOT / "scripts/warm-up",
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


def _by_name(requirements: list[str]) -> dict[str, str]:
    return {re.split(r"[^\w.-]", line)[0].lower(): line for line in requirements}


def test_there_are_scripts_and_commands_to_look_at() -> None:
    assert len(SCRIPTS) >= 2
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("script", SCRIPTS, ids=_name)
def test_a_script_asks_for_what_the_project_asks_for(script: Path) -> None:
    header, project = _header(script), _project()
    ours = _by_name(project["dependencies"])
    for name, requirement in _by_name(header["dependencies"]).items():
        assert ours.get(name) == requirement
    assert header["requires-python"] == project["requires-python"]


@pytest.mark.parametrize("script", SCRIPTS, ids=_name)
def test_a_script_checks_for_each_dependency_of_its_header(script: Path) -> None:
    if "bootstrap" in script.read_text("utf-8"):
        assert dependencies(str(script)) == list(_by_name(_header(script)["dependencies"]))


@pytest.mark.parametrize("script", SCRIPTS, ids=_name)
def test_a_script_is_short_and_no_module_of_the_standard_library(script: Path) -> None:
    assert script.stem not in sys.stdlib_module_names
    assert len(script.read_text("utf-8").splitlines()) <= 25


@pytest.mark.parametrize("lock", ["uv.lock", *(f"{_name(script)}.lock" for script in SCRIPTS)])
def test_a_lock_is_there_and_names_no_place_but_the_public_index(lock: str) -> None:
    text = (ROOT / lock).read_text("utf-8")
    assert set(re.findall(r'registry = "([^"]*)"', text)) <= {"https://pypi.org/simple"}
    assert set(re.findall(r'url = "(https?://[^/]*)/', text)) <= {"https://files.pythonhosted.org"}
    assert not re.search(r"file://|(?<!\w)path = ", text)


@pytest.mark.acceptance
@pytest.mark.parametrize("script", [None, *SCRIPTS], ids=lambda path: _name(path) if path else "project")
def test_a_lock_is_fresh(script: Path | None) -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("no uv on PATH")
    # A lock that holds is checked without a registry.
    words = [uv, "lock", "--check", "--quiet", "--offline"] + (["--script", str(script)] if script else [])
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
@pytest.mark.parametrize("script", [s for s in SCRIPTS if "bootstrap" in s.read_text("utf-8")], ids=_name)
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
        f"{script.name}: needs {', '.join(sorted(dependencies(str(script))))}; "
        f"start it with: uv run scripts/{script.name} ...\n"
    )


@pytest.mark.acceptance
@pytest.mark.parametrize("script", [s for s in SCRIPTS if "bootstrap" in s.read_text("utf-8")], ids=_name)
def test_a_bare_python_starts_a_script_again_with_uv_and_what_was_typed(script: Path, tmp_path: Path) -> None:
    fake = tmp_path / "uv"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "${STARTED_AGAIN}" "$PWD" "$@"\n', "utf-8")
    fake.chmod(0o755)
    words = [os.path.realpath(sys.executable), "-S", "-E", str(script), "--exec", "a {} 'b c'"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    (tmp_path / f".cache/hypervisor/ready{script.parent}").parent.mkdir(parents=True)
    (tmp_path / f".cache/hypervisor/ready{script.parent}").touch()  # what a server waits for
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[:2] == ["1", str(tmp_path)]
    assert told[-3:] == [str(script), "--exec", "a {} 'b c'"]


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
    # A uv that only tells how it was started; the command is named by a link to a link.
    fake = tmp_path / "fake bin" / "uv"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', "utf-8")
    fake.chmod(0o755)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "inner").symlink_to(ROOT / "bin/hypervisor")
    (tmp_path / "outer").symlink_to("links/inner")
    done = subprocess.run(
        [str(tmp_path / "outer"), "task", "show", "a b"],
        cwd=tmp_path,
        env={"PATH": f"{fake.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[-4:] == [str(ROOT / "scripts/hypervisor_cli.py"), "task", "show", "a b"]


@pytest.mark.acceptance
def test_the_command_without_uv_says_what_to_type(tmp_path: Path) -> None:
    for name in ("sh", "dirname", "readlink"):
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
        "ensure-uv: no python3 on PATH; install Python 3.11 or later, or uv (https://docs.astral.sh/uv/)\n"
    )
