"""Real agents under supervision: no process hides, others are left alone, and budgets stop at no cost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import alive, eventually, gone
from hypervisor.monitor.budget import SCOPES, BudgetTracker, Caps
from hypervisor.monitor.metrics import Reading, Sampler
from hypervisor.monitor.monitor import ResourceMonitor
from hypervisor.monitor.overseer import Limits, Overseer
from hypervisor.monitor.processes import Process, processes, send
from hypervisor.monitor.zones import ZoneBounds, ZoneTracker
from hypervisor.orchestrator.supervisor import AgentSupervisor
from hypervisor.runners.base import AgentEnd, Assignment, How
from hypervisor.runners.exec import CommandAgent
from hypervisor.store.events import RunEvent
from hypervisor.store.spend import Spend


def test_a_signal_meets_this_very_process_or_nobody() -> None:
    running = subprocess.Popen(["sleep", "60"])
    try:
        mine = processes()[running.pid]
        other = Process(pid=mine.pid, parent=mine.parent, session=mine.session, start="1", order=1.0)
        assert not send(other, signal.SIGKILL)
        assert running.poll() is None
        assert send(mine, signal.SIGKILL)
        assert running.wait(20) == -signal.SIGKILL
        assert not send(mine, signal.SIGKILL)
    finally:
        running.kill()
        running.wait()


#: Leaves children in every way there is; their pids are printed by themselves.
HIDES = """
import os, signal, sys, time
def sleep():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
    time.sleep(3600)
def wiped():
    # A fresh program, as a fork keeps the environment of its parent in /proc.
    code = "import os,signal,sys,time; signal.signal(15, signal.SIG_IGN);"
    code += "open(os.path.join(sys.argv[1], str(os.getpid())), 'w').close(); time.sleep(3600)"
    os.execve(sys.executable, [sys.executable, "-S", "-c", code, sys.argv[1]], dict())
for act in (sleep, wiped):
    for twice in (False, True):
        if os.fork() == 0:
            os.setsid()
            if twice and os.fork():
                os._exit(0)
            act()
while len(os.listdir(sys.argv[1])) < 4:
    time.sleep(0.01)
"""


class Alone:
    """No other run spends anything."""

    def put(self, spend: Spend) -> None:
        pass

    def others(self) -> dict[str, Spend]:
        return {scope: Spend() for scope in SCOPES}


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[AgentSupervisor]:
    """Give the real thing, which must be opened in a process of its own: it adopts orphans."""
    caps = {scope: Caps() for scope in SCOPES}
    watch = ResourceMonitor(
        Sampler(str(tmp_path)), ZoneTracker(ZoneBounds(cpu=False)),
        Overseer(Limits(processes=30.0, grace_seconds=0.5)), 0.2, lambda *_, **__: None,
    )  # fmt: skip
    made = AgentSupervisor(monitor=watch, budgets=BudgetTracker(caps, Alone(), 1000, counts=False))  # type: ignore[arg-type]
    yield made
    made.monitor.close()


def assignment(folder: Path, name: str = "a") -> Assignment:
    (folder / "logs").mkdir(exist_ok=True)
    return Assignment(
        task_id=name, prompt="", cwd=str(folder), log=str(folder / f"logs/{name}"),
        environment={"PATH": os.defpath}, mark=("HYPERVISOR_RUN", f"b/{name}~1"), timeout=60.0,
    )  # fmt: skip


def run_in_child(act: Any) -> None:
    """Run *act* in a process of its own, which may become another's heir without a trace here."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException:  # noqa: BLE001
            import traceback  # noqa: PLC0415

            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def hidden(folder: Path) -> list[int]:
    return [int(name) for name in os.listdir(folder)]


def test_setsid_double_forks_term_and_a_wiped_environment_hide_nothing(
    supervisor: AgentSupervisor, tmp_path: Path
) -> None:
    told = tmp_path / "pids"
    told.mkdir()

    def act() -> None:
        supervisor.open()
        agent = CommandAgent(command=[sys.executable, "-c", HIDES, str(told)])
        end = supervisor.run(agent, assignment(tmp_path), 2)
        assert end.how is How.ENDED, end
        assert len(hidden(told)) == 4
        assert [pid for pid in hidden(told) if alive(pid)] == []
        supervisor.close()

    run_in_child(act)
    gone(*hidden(told))


def test_nothing_of_others_is_ended_with_an_agent(supervisor: AgentSupervisor, tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    ready = tmp_path / "ready"

    def act() -> None:
        supervisor.open()
        # Ours, but no agent's: what a check leaves behind is the user's business.
        subprocess.run(["sh", "-c", f"(setsid sleep 601 & echo $! > {ready})"], check=True)
        supervisor.run(CommandAgent(command=["sleep", "0.5"]), assignment(tmp_path), 2)
        assert alive(int(ready.read_text()))
        os.kill(int(ready.read_text()), signal.SIGKILL)
        supervisor.close()

    try:
        run_in_child(act)
        assert alive(stranger.pid)
    finally:
        stranger.kill()
        stranger.wait()


def test_a_fork_bomb_that_ignores_term_fails_with_its_figure_and_leaves_nothing(
    supervisor: AgentSupervisor, tmp_path: Path
) -> None:
    told = tmp_path / "pids"
    told.mkdir()
    bomb = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        os.setsid()
        open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
        time.sleep(600)
    time.sleep(0.02)
"""
    events: list[dict[str, Any]] = []
    supervisor.monitor.tell = lambda what, task, **more: events.append({"event": what, "task": task, **more})

    def act() -> None:
        supervisor.open()
        end = supervisor.run(
            CommandAgent(command=[sys.executable, "-c", bomb, str(told)]), assignment(tmp_path), 2
        )
        assert end.how is How.LIMIT, end
        assert "processes used, and 30 may be" in end.text
        acts = [event for event in events if event["event"] == RunEvent.OVERSEEN]  # the others are readings
        assert [event["act"] for event in acts] in (["alert", "term", "kill"], ["term", "kill"])
        assert all(event["measure"] == "processes" and event["task"] == "a" for event in acts)
        supervisor.close()

    run_in_child(act)
    gone(*hidden(told))


def test_a_look_that_fails_is_not_the_last(
    supervisor: AgentSupervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = threading.Event()
    real = supervisor.monitor.sampler.read
    fails = [OSError("no /proc today")]

    def read() -> Reading:
        if fails:
            raise fails.pop()
        looks.set()
        return real()

    supervisor.monitor._thread = threading.Thread(target=supervisor.monitor._run, daemon=True)
    supervisor.monitor.sampler.read = read  # type: ignore[method-assign]
    supervisor.monitor._thread.start()
    assert looks.wait(20)
    assert "no /proc today" in capsys.readouterr().err


def test_an_agent_that_spends_beyond_its_budget_is_stopped_at_no_cost(
    supervisor: AgentSupervisor, tmp_path: Path
) -> None:
    supervisor.budgets.caps = {**supervisor.budgets.caps, "batch": Caps(tokens=1000)}

    class Spender:
        name = "spender"
        permissions = ""

        def run(self, given: Assignment) -> AgentEnd:
            given.used(600, 1, True)
            assert given.stopped.wait(20)
            return AgentEnd(how=How.KILLED, text="killed", exit=-9)

    end = supervisor.run(Spender(), assignment(tmp_path), 2)  # type: ignore[arg-type]
    assert end.how is How.STOPPED
    assert end.how.costs_no_attempt
    assert "the budget of 1000 tokens has no room for 1 more answer of up to 1000 (600 spent)" in end.text
    assert end.tokens == 600
    assert eventually(lambda: not supervisor.monitor._watched, "its leave")
