"""What a sandbox is made of: its mounts, its variables, its profile on macOS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from commands import script
from hypervisor.runners import sandbox
from hypervisor.runners.sandbox import RELAYED, Sandbox, expanded, of_program


def home_with(home: Path, *names: str) -> str:
    for name in names:
        place = home / name
        place.mkdir(parents=True) if name.endswith("/") else place.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            place.write_text("x")
    return str(home)


def mounts(words: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return for each mounted place how it is mounted, and from where."""
    found = {}
    rest = list(words)
    while rest:
        how = rest.pop(0)
        if how in ("--ro-bind", "--bind", "--ro-bind-try"):
            source, place = rest.pop(0), rest.pop(0)
            found[place] = (how, source)
        elif how == "--tmpfs":
            found[rest.pop(0)] = (how, "")
        elif how == "--":
            break
    return found


@pytest.fixture(autouse=True)
def _linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "LINUX", True)


def test_of_a_home_only_plain_names_and_tools_are_there(tmp_path: Path) -> None:
    home = home_with(
        tmp_path / "home",
        ".ssh/id_rsa",
        ".aws/credentials",
        ".netrc",
        "code/a.py",
        ".cargo/bin/cargo",
        ".cargo/credentials.toml",
        ".gitconfig",
        ".git-credentials",
        ".claude.json",
    )
    made = mounts(Sandbox(scratch="/s", home=home).wrap(["true"], "/", 9))
    assert made[home] == ("--bind", "/s/home")
    shown = {place.removeprefix(f"{home}/") for place in made if place.startswith(f"{home}/")}
    assert shown == {"code", ".cargo/bin", ".gitconfig"}


def test_what_is_hidden_stays_hidden_but_for_what_is_named_below_it(tmp_path: Path) -> None:
    state = tmp_path / "project/.hypervisor"
    clone, other = state / "worktrees/b/t-1~1", state / "worktrees/b/t-2~1"
    for folder in (clone, other):
        folder.mkdir(parents=True)
    (tmp_path / "project/.env").write_text("KEY=1")
    box = Sandbox(
        scratch="/s",
        home=str(tmp_path / "home"),
        readable=(str(tmp_path / "project"),),
        writable=(str(clone),),
        hidden=(str(state), str(tmp_path / "project/.env"), str(tmp_path / "nothing")),
    )
    words = box.wrap(["true"], str(clone), 9)
    made = mounts(words)
    assert made[str(state)] == ("--tmpfs", "")
    assert made[str(clone)] == ("--bind", str(clone))
    assert str(other) not in made
    assert made[str(tmp_path / "project/.env")] == ("--ro-bind", "/dev/null")
    assert str(tmp_path / "nothing") not in made
    order = list(made)
    assert order.index(str(tmp_path / "project")) < order.index(str(state)) < order.index(str(clone))
    assert words[words.index("--remount-ro", words.index(str(clone))) + 1 :].count(str(state)) == 1


def test_a_link_in_place_of_the_clone_makes_nothing_else_writable(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "clone").symlink_to(tmp_path / "elsewhere")
    made = mounts(
        Sandbox(scratch="/s", home="/h", writable=(str(tmp_path / "clone"),)).wrap(["true"], "/", 9)
    )
    assert [place for place, (how, _) in made.items() if how == "--bind" and "clone" in place] == []


def test_the_kernels_own_settings_are_read_only_for_root_as_well() -> None:
    made = mounts(Sandbox(scratch="/s", home="/h").wrap(["true"], "/", 9))
    assert made["/proc/sys"] == ("--ro-bind-try", "/proc/sys")
    assert made["/proc/sysrq-trigger"] == ("--ro-bind-try", "/proc/sysrq-trigger")


def test_the_environment_has_nothing_that_is_not_named() -> None:
    box = Sandbox(scratch="/s", home="/h", environment=("ANTHROPIC_*", "DATABASE_URL"))
    told = box.variables(
        {
            "PATH": "/bin",
            "HOME": "/root",
            "LC_ALL": "C",
            "AWS_SECRET_ACCESS_KEY": "x",
            "GITHUB_TOKEN": "x",
            "SSH_AUTH_SOCK": "/run/a",
            "ANTHROPIC_API_KEY": "k",
            "DATABASE_URL": "d",
            "TMPDIR": "/mine",
            "CLAUDE_CODE_TMPDIR": "/mine",
            "HYPERVISOR_STORE": "postgresql://u:secret@h/d",
            "HYPERVISOR_TASK_ID": "t",
            "HYPERVISOR_REPORT": "/r",
            "DBUS_SESSION_BUS_ADDRESS": "x",
        }
    )
    assert told == {
        "PATH": "/bin",
        "HOME": "/h",
        "LC_ALL": "C",
        "ANTHROPIC_API_KEY": "k",
        "DATABASE_URL": "d",
        "TMPDIR": "/tmp",
        "HYPERVISOR_TASK_ID": "t",
    }


def test_the_socket_to_the_coordinator_is_there_alone_in_a_closed_folder() -> None:
    words = Sandbox(scratch="/s", home="/h", bound=(("/x/relay", RELAYED),)).wrap(["true"], "/", 9)
    assert mounts(words)[RELAYED] == ("--bind", "/x/relay")
    assert words[words.index("--remount-ro", words.index(RELAYED)) :].count("/run") == 1


def test_a_program_of_npm_is_found_with_its_packages(tmp_path: Path) -> None:
    place = tmp_path / "lib/node_modules/@x/client"
    place.mkdir(parents=True)
    script(place, "cli", "true")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/client").symlink_to(place / "cli")
    assert of_program("client", str(tmp_path / "bin")) == [
        str(tmp_path / "bin"),
        str(tmp_path / "lib/node_modules"),
    ]
    assert of_program("nothing", str(tmp_path)) == []


def test_patterns_of_the_settings_mean_the_home_and_the_project(tmp_path: Path) -> None:
    home = home_with(tmp_path / "home", ".tool/a", "x")
    root = home_with(tmp_path / "project", ".env", ".env.local", "src/.env")
    assert expanded([".env", ".env.*", "~/.tool", "no"], root, home) == (
        f"{root}/.env",
        f"{root}/.env.local",
        f"{home}/.tool",
    )


def test_on_macos_the_profile_denies_all_writes_but_to_what_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sandbox, "LINUX", False)
    home = home_with(tmp_path / "ho.me", ".ssh/id_rsa", "code/a.py", ".cargo/bin/cargo")
    box = Sandbox(
        scratch=str(tmp_path / "s"),
        home=home,
        writable=("/p/clone",),
        readable=("/p",),
        hidden=("/p/.hypervisor",),
    )
    words = box.wrap(["claude", "-p"], "/p/clone", -1)
    assert words[:2] == ["/usr/bin/sandbox-exec", "-p"]
    assert words[3:] == ["claude", "-p"]
    lines = words[2].splitlines()
    assert lines[:3] == ["(version 1)", "(allow default)", "(deny file-write*)"]
    hidden = next(line for line in lines if line.startswith("(deny file-read*"))
    assert '(subpath "/p/.hypervisor")' in hidden
    assert f'(regex #"^{str(tmp_path).replace(".", chr(92) + ".")}/ho\\.me/\\.")' in hidden
    written = next(line for line in lines if line.startswith("(allow file-read* file-write*"))
    assert '(subpath "/p/clone")' in written
    assert f'(subpath "{tmp_path}/s")' in written
    assert lines.index(written) > lines.index(hidden)
    box.make()
    assert (tmp_path / "s/home/code").readlink() == Path(home, "code")
    assert not (tmp_path / "s/home/.ssh").exists()
    assert box.variables({"PATH": "/bin"})["HOME"] == str(tmp_path / "s/home")
