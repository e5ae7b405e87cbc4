"""Programs in a real sandbox: what they can write, see and leave behind."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from commands import needs_sandbox, resident
from hypervisor.runners.base import Assignment
from hypervisor.runners.child import ChildEnd, run_child
from hypervisor.runners.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("_sandbox")


@pytest.fixture(scope="module")
def _sandbox() -> None:
    needs_sandbox()


class Place:
    """A user's machine: a home, a project with state, a clone for one agent."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.project = folder, folder / "home", folder / "project"
        self.state = self.project / ".hypervisor"
        self.clone, self.other = self.state / "worktrees/b/t-1~1", self.state / "worktrees/b/t-2~1"
        for made in (self.home / ".ssh", self.home / "code", self.clone, self.other, self.folder / "logs"):
            made.mkdir(parents=True)
        (self.home / ".ssh/id_rsa").write_text("secret")
        (self.state / "hypervisor.db").write_text("rows")
        (self.project / ".env").write_text("KEY=secret")
        (self.project / "README").write_text("read me")
        self.usage = 0.0

    def box(self) -> Sandbox:
        return Sandbox(
            scratch=str(self.folder / "scratch"),
            home=str(self.home),
            writable=(str(self.clone),),
            readable=(str(self.project),),
            hidden=(str(self.state), str(self.project / ".env")),
        )

    def run(
        self, text: str, *, stopped: threading.Event | None = None, timeout: float | None = 60
    ) -> ChildEnd:
        assignment = Assignment(
            task_id="t-1",
            prompt="",
            cwd=str(self.clone),
            log=str(self.folder / "logs/log"),
            environment={**os.environ, "GITHUB_TOKEN": "secret"},
            mark=("HYPERVISOR_RUN", f"{self.folder}/t-1~1"),
            timeout=timeout,
            stopped=stopped or threading.Event(),
            sandbox=self.box(),
        )
        end = run_child(["sh", "-c", text], assignment)
        self.usage = assignment.usage.cpu_seconds or 0.0
        return end

    @property
    def said(self) -> str:
        path = self.folder / "logs/log.out"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_an_agent_writes_to_its_clone_its_home_and_its_tmp_and_nowhere_else(place: Place) -> None:
    targets = [
        place.project / "a",
        place.project / "tasks.md",
        place.other / "a",
        place.state / "a",
        Path("/etc/a"),
        place.home / "code/a",
        Path("/dev/a"),
        Path("/sys/a"),
        Path("/run/a"),
        Path("/usr/a"),
    ]
    tried = "".join(f"(echo x > {path}) 2>/dev/null && echo WROTE {path}\n" for path in targets)
    end = place.run(
        f"{tried}echo x > mine; echo x > ~/mine; echo x > /tmp/mine; cat /tmp/mine ~/mine mine; true"
    )
    assert end.code == 0, end
    assert place.said == "x\nx\nx\n"
    assert (place.clone / "mine").read_text() == "x\n"
    assert not (place.home / "mine").exists()
    assert not Path("/tmp/mine").exists()
    assert not any(path.exists() for path in targets)


def test_an_agent_sees_no_credentials_no_state_and_no_other_attempt(place: Place) -> None:
    end = place.run(
        f"ls -A ~ {place.state} {place.state}/worktrees/b; cat ~/.ssh/id_rsa; cat {place.project}/.env; "
        f"cat {place.state}/hypervisor.db; env; cat {place.project}/README"
    )
    assert "secret" not in place.said
    assert "rows" not in place.said
    assert "t-2~1" not in place.said
    assert place.said.endswith("read me")
    assert "GITHUB_TOKEN" not in place.said
    assert end.code == 0


def test_an_agent_does_not_reach_the_sockets_of_other_programs(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        (place.home / ".docker").mkdir()
        at = place.home / ".docker/sock"
        folder = os.open(at.parent, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{folder}/sock")
        finally:
            os.close(folder)
        assert at.is_socket()
        place.run(f"test -S {at} && echo THERE; ls -A /run; true")
    assert "THERE" not in place.said
    assert "docker" not in place.said


def test_an_agent_of_root_writes_to_no_setting_of_the_kernel(place: Place) -> None:
    look = (
        "import os\nfor at, folders, names in os.walk('/proc'):\n"
        "    if at == '/proc': folders[:] = [x for x in folders if not x.isdigit() and 'self' not in x]\n"
        "    for name in names:\n        try:\n"
        "            os.close(os.open(f'{at}/{name}', os.O_WRONLY | os.O_NONBLOCK)); print(at, name)\n"
        "        except OSError: pass\n"
    )
    (place.clone / "look.py").write_text(look)
    end = place.run("python3 look.py")
    assert (end.code, place.said) == (0, ""), end


def test_nothing_that_an_agent_started_outlives_it(place: Place) -> None:
    sleep = "sleep 31.4159"
    end = place.run(f"setsid {sleep} & env -i setsid nohup {sleep} & (({sleep} &) &); exit 3")
    assert end.code == 3
    assert resident(sleep) == []


def test_an_agent_that_is_ended_may_first_tidy_up(place: Place) -> None:
    end = place.run("trap 'echo bye > bye; exit 0' TERM; sleep 100 & wait", timeout=0.5)
    assert end.ended_by == "timed out"
    assert (place.clone / "bye").exists()


@pytest.mark.slow
def test_an_agent_that_ignores_its_end_is_killed(place: Place) -> None:
    stopped = threading.Event()
    threading.Timer(0.3, stopped.set).start()
    sleep = "sleep 31.4158"
    end = place.run(f"trap '' TERM; {sleep}; {sleep}", stopped=stopped, timeout=None)
    assert end.ended_by == "stopped"
    assert resident(sleep) == []


def test_a_signal_and_an_exit_code_are_told_as_they_were(place: Place) -> None:
    assert place.run("exit 75").code == 75
    assert place.run("kill -9 $$").code == -9


def test_what_it_used_of_the_machine_is_told(place: Place) -> None:
    place.run("i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done")
    assert place.usage > 0.1


def test_an_agent_cannot_pass_for_a_program_that_is_missing(place: Place) -> None:
    end = place.run("echo 'bwrap: execvp claude: No such file or directory' >&2; exit 1")
    assert (end.code, end.not_started) == (1, None)


def test_a_program_that_is_missing_in_there_is_said_to_be(place: Place) -> None:
    assignment = Assignment(
        task_id="t",
        prompt="",
        cwd=str(place.clone),
        log=str(place.folder / "logs/log"),
        environment=dict(os.environ),
        mark=("HYPERVISOR_RUN", "x"),
        sandbox=place.box(),
    )
    end = run_child(["no-such-program"], assignment)
    assert isinstance(end.not_started, FileNotFoundError)
