"""How completions reach a session of the real client that loses its own notices; how fast `wait` wakes.

Without --wait: for each rate sessions (Claude Code, headless, the plugin of this checkout, a scripted model
on loopback) run workers in the background until each task is done. Of the client's own notices that share
is dropped, by the id of the worker: the prompt that carries it is blocked by another plugin's hook, with
all that hooks said there; what the client puts into a turn that goes on no hook can block, but the scripted
model pays no heed to it. What the model was told is read from its requests. "At once" is: in the first
request after the completion was written down. Needs the client: tests/acceptance/install.

With --wait N: N times a task is completed while `hypervisor wait` waits for it, in each of its forms; the
seconds from the line in the log to the end of the command.

    uv run bench/notices.py [--completions 200] [--rates 0,20,67,100] [--tasks 20] [--folder D]
    uv run bench/notices.py --wait 100 [--folder D]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from acceptance.api import Reply, ScriptedApi, Turn, calls, say, use, wait_for  # noqa: E402
from acceptance.client import Client, find_client  # noqa: E402
from acceptance.product import RULES, Tasks, claim, done, worker  # noqa: E402
from commands import Running, eventually, shell, write_task  # noqa: E402
from hypervisor.core.model import Outcome, TaskStatus  # noqa: E402
from hypervisor.core.project import Project  # noqa: E402
from hypervisor.core.settings import load_settings  # noqa: E402
from hypervisor.tasks.actor import Actor  # noqa: E402
from hypervisor.tasks.completion import TaskCompletion  # noqa: E402
from hypervisor.tasks.service import TaskService  # noqa: E402

_OURS = re.compile(r"^- (t-\d+) success", re.MULTILINE)
_THEIRS = re.compile(r"<task-id>\s*([^<\s]+)\s*</task-id>")
#: Workers of one session at once.
_AT_ONCE = 8
#: Seconds that a session may take.
_PATIENCE = 1200.0

#: The other plugin: blocks the prompt of a notice by the id of its worker, and writes down which it blocked.
_BLOCKER = """
import json, re, sys, zlib
prompt = json.load(sys.stdin).get("prompt", "")
found = re.findall(r"<task-id>\\s*([^<\\s]+)\\s*</task-id>", prompt)
if found and all(zlib.crc32(one.encode()) % 100 < {rate} for one in found):
    open({log!r}, "a").write("".join(one + "\\n" for one in found))
    print("not today", file=sys.stderr)
    sys.exit(2)
"""


def blocker(folder: Path, rate: int) -> Path:
    """Write the plugin that drops *rate* percent of the client's notices."""
    plugin = folder / "blocker"
    files = {
        ".claude-plugin/plugin.json": json.dumps({"name": "blocker", "version": "1.0.0"}),
        "block.py": _BLOCKER.format(rate=rate, log=str(folder / "blocked")),
        "hooks/hooks.json": json.dumps({"hooks": {"UserPromptSubmit": [{"hooks": [
            {"type": "command", "command": sys.executable, "args": ["${CLAUDE_PLUGIN_ROOT}/block.py"]}
        ]}]}}),
    }  # fmt: skip
    for name, text in files.items():
        (plugin / name).parent.mkdir(parents=True, exist_ok=True)
        (plugin / name).write_text(text)
    return plugin


@dataclass(slots=True)
class Lead:
    """The main thread of one session: it keeps workers at work until it was told of each task."""

    names: list[str]
    #: When each request came, and what was told in it that had not been before.
    asked: list[tuple[float, set[str]]] = field(default_factory=list)
    begun: set[str] = field(default_factory=set)
    last: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, turn: Turn) -> Reply:
        """Start a worker for each that has ended; say something where there is nothing to start."""
        with self._lock:
            told = set(_OURS.findall(turn.text))
            self.asked.append((time.time(), told - self.told))
            self.last = turn.text
            # With memory short a spawn is denied.
            denied = {one.arguments.get("description") for one in turn.results if one.is_error}
            self.begun -= denied
            room = _AT_ONCE - len(self.begun - told)
            fresh = [name for name in self.names if name not in self.begun][: max(0, room)]
            self.begun |= set(fresh)
        if denied:
            time.sleep(2)
        if fresh:
            return calls(*(worker(name) for name in fresh))
        return say("all is told" if len(told) == len(self.names) else "they work")

    @property
    def told(self) -> set[str]:
        """The tasks of which it has been told."""
        return set().union(*(names for _, names in self.asked))


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How one completion came to the model."""

    #: Requests in which it could have been told, but was not; None: it never was.
    late: int | None
    seconds: float
    times: int


@dataclass(slots=True)
class Came:
    """What one session, or several, came to."""

    told: list[Told] = field(default_factory=list)
    #: The client's own notices: blocked as a prompt; put before the model as one, or within a turn.
    blocked: int = 0
    arrived: int = 0
    messages: int = 0


def session(folder: Path, rate: int, count: int, path: str) -> Came:
    """Run one session on *count* tasks."""
    project = folder / "project"
    (project / "tasks").mkdir(parents=True)
    tasks = Tasks(project)
    names = [f"t-{number}" for number in range(1, count + 1)]
    for name in names:
        tasks.add(name)
    lead, home = Lead(names), folder.parent / "home"
    with ScriptedApi() as api:
        begin = wait_for(lambda: _connected(home, project), calls(use("Bash", command="true")), seconds=180)
        api.main(begin, *[lead.answer] * (4 * count + 20))
        for name in names:
            api.agent(f"/pull {name}", calls(claim(name)), calls(done(name)), say(f"COMPLETED {name}"))
        plugins = [ROOT, blocker(folder, rate)]
        with Client(path, api, home, project, plugins=plugins, extra=_cache(home)) as client:
            client.run("go", *RULES, timeout=_PATIENCE)
    came = Came()
    ends = {e["task"]: _seconds(e["at"]) for e in tasks.events if e["event"] == "completed"}
    if set(ends) != set(names):
        raise RuntimeError(f"{len(ends)} of {count} tasks were completed: that measures nothing")
    for name in names:
        came.told.append(_told(name, ends[name], lead))
    log = folder / "blocked"
    blocked = set(log.read_text().split()) if log.exists() else set()
    came.blocked, came.arrived = len(blocked), len(set(_THEIRS.findall(lead.last)) - blocked)
    came.messages = len(re.findall(r"hypervisor: \d+ ended", lead.last))
    return came


def _cache(home: Path) -> dict[str, str]:
    """Return what lets uv find the packages that its user has, in a new *home* as well; make that ready."""
    asked = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True)
    found = {"UV_CACHE_DIR": asked.stdout.strip(), "PYTHONPYCACHEPREFIX": str(home / "compiled")}
    home.mkdir(exist_ok=True)
    environment = {**os.environ, **found, "HOME": str(home)}
    for words in (["scripts/prepare"], ["scripts/launch", "mcp_server.py"]):  # the latter compiles as well
        subprocess.run([ROOT / words[0], *words[1:]], env=environment, stdin=subprocess.DEVNULL, check=True)
    return {**found, "MCP_TIMEOUT": "120000"}


def _connected(home: Path, project: Path) -> bool:
    """Tell whether the client has our server: on a busy machine it would begin without."""
    logs = home.glob(f".cache/claude-cli-nodejs/*{project.parent.name}-{project.name}/mcp-logs-*/*")
    return any("Successfully connected" in log.read_text("utf-8", "replace") for log in logs)


def _told(name: str, end: float, lead: Lead) -> Told:
    after = [(at, names) for at, names in lead.asked if at >= end]
    place = next((n for n, (_, names) in enumerate(after) if name in names), None)
    seconds = after[place][0] - end if place is not None else float("nan")
    return Told(late=place, seconds=seconds, times=len(re.findall(rf"^- {name} success", lead.last, re.M)))


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def dropped(options: argparse.Namespace, folder: Path) -> int:
    """Measure each rate; print a row for each."""
    path = find_client()
    if path is None:
        print("no Claude Code here; type: tests/acceptance/install", file=sys.stderr)
        return 2
    titles = (
        "dropped", "completions", "own notices: blocked, arrived", "told", "at once", "one request later",
        "later", "told twice", "messages", "seconds to told: median, most",
    )  # fmt: skip
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    missing = 0
    for rate in map(int, options.rates.split(",")):
        whole = Came()
        for number in range(-(-options.completions // options.tasks)):
            count = min(options.tasks, options.completions - number * options.tasks)
            came = session(folder / f"{rate}-{number}", rate, count, path)
            whole.told += came.told
            whole.blocked, whole.arrived = whole.blocked + came.blocked, whole.arrived + came.arrived
            whole.messages += came.messages
        missing += sum(one.late is None for one in whole.told)
        print(_row(rate, whole), flush=True)
    return 1 if missing else 0


def _row(rate: int, came: Came) -> str:
    told = [one for one in came.told if one.late is not None]
    late = [one.late or 0 for one in told]
    seconds = sorted(one.seconds for one in told)
    twice = sum(one.times > 1 for one in told)
    cells = (
        f"{rate} %", len(came.told), f"{came.blocked}, {came.arrived}", len(told), late.count(0),
        late.count(1), sum(one > 1 for one in late), twice, came.messages,
        f"{statistics.median(seconds):.1f}, {seconds[-1]:.1f}" if seconds else "-",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


# ------------------------------------------------------------------------- wait


def woken(count: int, folder: Path) -> int:
    """Measure how fast `wait` wakes; print a row for each form."""
    print("| form | waits | p50 | p99 | most, in seconds |")
    print("|---|---|---|---|---|")
    for form in ("--any in a session", "--all in a session", "--any", "--all", "--task"):
        took = sorted(_one_wait(folder / f"{form.replace(' ', '')}{n}", form) for n in range(count))
        name = f"`{form}`".replace(" in a session`", "` in a session")
        cells = (name, count, *(f"{x:.3f}" for x in _points(took)))
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return 0


def _points(took: Sequence[float]) -> Iterable[float]:
    return took[len(took) // 2], took[min(len(took) - 1, len(took) * 99 // 100)], took[-1]


def _one_wait(folder: Path, form: str) -> float:
    root = folder / "project"
    write_task(root / "tasks/t-1.md")
    project = Project(root, root / ".hypervisor")
    name = "s-1" if "session" in form else ""
    actor = Actor(name="claude", session=name, agent="a1" if name else "")
    service = TaskService(project, load_settings(project.state), actor)
    service.claim("t-1")
    with shell(folder) as user:
        user.cwd = root
        if name:
            user.extra["CLAUDE_CODE_SESSION_ID"] = name
        words = ["--task", "t-1"] if form == "--task" else [form.split(maxsplit=1)[0]]
        waiting = user.start_hypervisor("wait", *words)
        eventually(lambda: _sleeps(waiting), "the wait", seconds=120)
        completion = TaskCompletion(outcome=Outcome.SUCCESS, status=TaskStatus.DONE, text="made it")
        service.finish("t-1", completion)
        end = next(e for e in Tasks(root).events if e["event"] == "completed")
        waiting.process.wait(60)
        return time.time() - _seconds(end["at"])


def _sleeps(running: Running) -> bool:
    wchan = Path(f"/proc/{running.pid}/wchan").read_text()
    return "nanosleep" in wchan or "sleep" in wchan


def main() -> int:
    """Measure what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--completions", type=int, default=200)
    parser.add_argument("--rates", default="0,20,67,100")
    parser.add_argument("--tasks", type=int, default=20, help="of one session")
    parser.add_argument("--wait", type=int, default=0)
    parser.add_argument("--folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        return woken(options.wait, Path(folder)) if options.wait else dropped(options, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
