"""However a worker of the real client ends, its task is free again and as it was, and the log says why."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from acceptance.api import Reply, ScriptedApi, Turn, calls, fail, hang, say, use
from acceptance.client import RunningSession, marked
from acceptance.conftest import NewClient
from acceptance.product import RULES, Tasks, claim, done, plugged, tool, worker
from commands import ROOT, eventually
from hypervisor.mcp.schema import PREFIX

#: Once with the tools' schemas in the first request, once with tool search, as most users have it.
pytestmark = pytest.mark.usefixtures("tool_search")


#: No longer than a test may take: what looks must not outlive a test that has failed.
WATCH_SECONDS = 120.0


class Watch:
    """Looks when a task is free: its file as before, and nobody's."""

    def __init__(self, tasks: Tasks, name: str, before: str) -> None:
        self.tasks, self.name, self.before = tasks, name, before
        self.freed: list[float] = []
        self._thread = threading.Thread(target=self._look, daemon=True)

    def begin(self, after: Callable[[], bool]) -> None:
        """Begin to look when *after* is true."""
        self._after = after
        self._thread.start()

    def _look(self) -> None:
        deadline = time.monotonic() + WATCH_SECONDS
        if not _comes_true(self._after, deadline):
            return
        begun = time.monotonic()
        if _comes_true(lambda: self.tasks.text(self.name) == self.before, deadline):
            self.freed.append(time.monotonic() - begun)

    def seconds(self) -> float:
        """Return how long it took."""
        self._thread.join(60)
        assert self.freed, f"{self.name} is not as before: {self.tasks.text(self.name)}"
        return self.freed[0]


def _comes_true(look: Callable[[], bool], deadline: float) -> bool:
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def tasks(git_project: Path) -> Tasks:
    made = Tasks(git_project)
    made.add("t-1", assignee="bot")
    return made


@pytest.fixture
def report(
    record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> Callable[[str], None]:
    def tell(text: str) -> None:
        record_property("measured", text)
        with capsys.disabled():
            print(f"\n    {text}")

    return tell


def at_work(api: ScriptedApi, client: NewClient, tasks: Tasks) -> RunningSession:
    """Start a session whose worker holds its claim, and then hangs."""
    api.main(calls(worker("t-1")), hang(), hang())
    api.agent("/pull t-1", calls(claim("t-1")), hang())
    running = plugged(client, tasks.root).start("go", *RULES)
    eventually(lambda: any(len(one.turns) >= 2 for one in api.agents), "the worker to hold its claim")
    assert tasks.status("t-1") == "in_progress"
    return running


def claimable(tasks: Tasks, name: str) -> bool:
    with tasks.service("gemini") as service:
        service.claim(name)
        service.release(name, "looked")
    return True


@pytest.mark.parametrize("background", [True, False], ids=["background", "foreground"])
def test_a_worker_that_forgets_is_asked_once_and_then_let_go(
    api: ScriptedApi, client: NewClient, tasks: Tasks, background: bool
) -> None:
    before = tasks.text("t-1")
    api.main(calls(worker("t-1", run_in_background=background)), *[say("ok")] * 3)
    api.agent("/pull t-1", calls(claim("t-1")), say("all done"), say("really done"))
    plugged(client, tasks.root).run("go", *RULES).passed()
    talk = api.of("/pull t-1")
    assert "You still hold t-1 (attempt 1). Before you end: complete_task(id='t-1'" in talk.turns[2].last_text
    assert tasks.text("t-1") == before
    assert tasks.told("t-1") == [
        ("claimed", ""), ("released", "its worker ended its turn without ending its claim"),
    ]  # fmt: skip
    assert claimable(tasks, "t-1")


def test_a_worker_that_is_reminded_ends_its_claim(api: ScriptedApi, client: NewClient, tasks: Tasks) -> None:
    api.main(calls(worker("t-1")), *[say("ok")] * 3)
    api.agent("/pull t-1", calls(claim("t-1")), say("all done"), calls(done("t-1")), say("COMPLETED"))
    plugged(client, tasks.root).run("go", *RULES).passed()
    assert tasks.status("t-1") == "done"
    assert [what for what, _ in tasks.told("t-1")] == ["claimed", "completed"]


@pytest.mark.parametrize("background", [True, False], ids=["background", "foreground"])
def test_a_worker_at_the_end_of_its_turns_loses_its_claim(
    api: ScriptedApi,
    client: NewClient,
    tasks: Tasks,
    tmp_path: Path,
    background: bool,
    report: Callable[[str], None],
) -> None:
    # After two turns, where the worker of the plugin has 200.
    plugin = tmp_path / "plugin"
    plugin.mkdir()
    for part in ("agents", ".claude-plugin"):
        shutil.copytree(ROOT / part, plugin / part)
    for part in ("hooks", "scripts", "skills"):
        (plugin / part).symlink_to(ROOT / part)
    agent = plugin / "agents/worker.md"
    agent.write_text(agent.read_text("utf-8").replace("maxTurns: 200", "maxTurns: 2", 1))
    before = tasks.text("t-1")
    api.main(calls(worker("t-1", run_in_background=background)), *[say("ok")] * 4)
    api.agent("/pull t-1", calls(claim("t-1")), *[calls(use("Bash", command="true"))] * 4)
    watch = Watch(tasks, "t-1", before)
    watch.begin(lambda: any(len(one.turns) >= 2 for one in api.agents))
    client(cwd=tasks.root, plugins=[plugin]).run("go", *RULES).passed()
    report(f"maxTurns, {'background' if background else 'foreground'}: free after {watch.seconds():.2f} s")
    assert tasks.told("t-1")[-1][0] == "released"
    assert claimable(tasks, "t-1")


@pytest.mark.parametrize("background", [True, False], ids=["background", "foreground"])
def test_a_worker_whose_api_fails_loses_its_claim_at_once(
    api: ScriptedApi, client: NewClient, tasks: Tasks, background: bool, report: Callable[[str], None]
) -> None:
    before = tasks.text("t-1")
    failed = threading.Event()

    def broken(_turn: Turn) -> Reply:
        failed.set()
        return fail(400, "invalid_request_error", "BADREQ")

    api.main(calls(worker("t-1", run_in_background=background)), *[say("ok")] * 4)
    # Newer clients call that the end of its turn: it is asked to end its claim, and fails once more.
    api.agent("/pull t-1", calls(claim("t-1")), broken, broken)
    watch = Watch(tasks, "t-1", before)
    watch.begin(failed.is_set)
    plugged(client, tasks.root).run("go", *RULES)
    report(f"API error, {'background' if background else 'foreground'}: free after {watch.seconds():.2f} s")
    what, why = tasks.told("t-1")[-1]
    assert what == "released"
    # Two hooks tell of it, and either may be first: the failure, and the end of the call that spawned it.
    told = (
        "its worker ended by an error",
        "its worker ended its turn",
        *(() if background else ("its worker was over",)),
    )
    assert any(one in why for one in told), why
    assert claimable(tasks, "t-1")


def test_a_killed_client_frees_its_tasks_at_once(
    api: ScriptedApi, client: NewClient, tasks: Tasks, report: Callable[[str], None]
) -> None:
    before = tasks.text("t-1")
    running = at_work(api, client, tasks)
    begun = time.monotonic()
    running.kill()
    seconds = tasks.free_after(lambda: tasks.text("t-1") == before, begun)
    report(f"SIGKILL of the client: free after {seconds:.2f} s")
    # The file is put back first, the claim ends then, and the line is written last.
    eventually(lambda: tasks.told("t-1")[-1][0] == "released", "the event")
    assert tasks.told("t-1")[-1] == ("released", "the client of its session was killed")
    assert claimable(tasks, "t-1")


def test_a_client_killed_with_its_servers_leaves_nothing_that_is_held(
    api: ScriptedApi, client: NewClient, tasks: Tasks, report: Callable[[str], None]
) -> None:
    before = tasks.text("t-1")
    running = at_work(api, client, tasks)
    family = marked(running.mark)
    begun = time.monotonic()
    for process in sorted(family, key=lambda one: one.pid != running.pid, reverse=True):
        process.kill()  # the servers first: none of them can release anything
    running.process.wait()
    assert tasks.status("t-1") == "in_progress"
    assert claimable(tasks, "t-1")
    report(f"SIGKILL of client and servers: claimable after {time.monotonic() - begun:.2f} s")
    assert tasks.text("t-1") == before
    assert ("revoked", "the client of claude (") in [
        (what, why[: len("the client of claude (")]) for what, why in tasks.told("t-1")
    ]


def test_a_session_that_is_told_to_end_releases_its_tasks(
    api: ScriptedApi, client: NewClient, tasks: Tasks, report: Callable[[str], None]
) -> None:
    before = tasks.text("t-1")
    running = at_work(api, client, tasks)
    begun = time.monotonic()
    running.send(signal.SIGTERM)
    seconds = tasks.free_after(lambda: tasks.text("t-1") == before, begun)
    report(f"SIGTERM of the client: free after {seconds:.2f} s")
    running.wait()
    what, why = tasks.told("t-1")[-1]
    assert (what, why.split(" (")[0]) == ("released", "its session ended")


def test_a_crashed_server_costs_nobody_a_claim(api: ScriptedApi, client: NewClient, tasks: Tasks) -> None:
    def server() -> psutil.Process:
        (found,) = [
            process for process in marked(running[0].mark)
            if "mcp_server.py" in " ".join(process.cmdline()) and "python" in process.name()
        ]  # fmt: skip
        return found

    def crash(_turn: Turn) -> Reply:
        servers.add(server().pid)
        dying = server()
        dying.kill()
        psutil.wait_procs([dying], timeout=10)
        return calls(tool("update_task", id="t-1", body="- a line"))

    def end(_turn: Turn) -> Reply:
        servers.add(server().pid)
        return calls(done("t-1"))

    running: list[RunningSession] = []  # filled once the client runs
    servers: set[int] = set()
    api.main(calls(worker("t-1")), *[say("ok")] * 3)
    api.agent(
        "/pull t-1",
        calls(claim("t-1")),
        crash,
        calls(tool("update_task", id="t-1", body="- a line")),
        end,
        say("COMPLETED"),
    )
    running.append(plugged(client, tasks.root).start("go", *RULES))
    running[0].wait().passed()
    results = api.of("/pull t-1").results
    # The client starts another server; the call that finds the old one gone may fail, the next does not.
    refused = ("Connection closed" in results[1].text, "Permission to use" in results[1].text)
    assert results[1].is_error is any(refused)  # nor is there a server that the hook could ask
    assert not any(one.is_error for one in (results[0], *results[2:]))
    assert len(servers) == 2
    assert tasks.status("t-1") == "done"
    assert [what for what, _ in tasks.told("t-1")] == ["claimed", "completed"]


def test_a_worker_whose_task_is_cancelled_is_stopped_at_its_next_edit(
    api: ScriptedApi, client: NewClient, tasks: Tasks, report: Callable[[str], None]
) -> None:
    folder = tasks.root

    def cancel(_turn: Turn) -> Reply:
        with tasks.service("maria") as service:
            service.cancel("t-1", "no longer wanted")
        return calls(use("Write", file_path=str(folder / "two.txt"), content="2"))

    api.main(calls(worker("t-1")), *[say("ok")] * 3)
    api.agent(
        "/pull t-1",
        calls(claim("t-1")),
        calls(use("Write", file_path=str(folder / "one.txt"), content="1")),
        cancel,
        calls(use("Bash", command="git add one.txt"), done("t-1")),
        say("stopped: the task was cancelled"),
    )
    plugged(client, folder).run("go", *RULES).passed()
    talk = api.of("/pull t-1")
    denial = talk.results[2].text
    report(f"the denial: {denial}")
    assert denial == (
        "Denied: Your claim of t-1 (attempt 1) is lost: cancelled by maria: no longer wanted. "
        "Change nothing more for it; report that you stopped, and why."
    )
    assert talk.results[2].is_error
    assert talk.results[3].text == denial
    assert talk.tool_result(PREFIX + "complete_task").is_error
    assert (folder / "one.txt").exists()
    assert not (folder / "two.txt").exists()
    assert tasks.status("t-1") == "cancelled"


def test_a_worker_that_the_client_gives_up_waiting_for_is_let_go(
    api: ScriptedApi, client: NewClient, tasks: Tasks
) -> None:
    before = tasks.text("t-1")
    state = tasks.root / ".hypervisor"
    state.mkdir(exist_ok=True)
    # After so much silence a worker counts as gone; until then our hook has the client wait for it.
    (state / "config.toml").write_text("[claims]\nlease_seconds = 10\n")
    api.main(calls(worker("t-1")), *[say("ok")] * 4)
    api.agent("/pull t-1", calls(claim("t-1")), hang())
    # How long a headless client waits for workers in the background; 600 s if nobody says otherwise.
    plugged(client, tasks.root).run("go", *RULES, env={"CLAUDE_CODE_PRINT_BG_WAIT_CEILING_MS": "3000"})
    assert tasks.text("t-1") == before
    what, why = tasks.told("t-1")[-1]
    assert what in ("released", "revoked")  # as the session ended, or after its silence
    assert any(one in why for one in ("ended", "over", "silent")), why
