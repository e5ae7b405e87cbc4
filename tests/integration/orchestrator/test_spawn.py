"""Tasks of free text: made whole or not at all, run when their asker is dead, counted as they run."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, eventually, gone, script
from hypervisor.core import assignment
from hypervisor.core.errors import HypervisorError
from hypervisor.core.project import Project
from hypervisor.mcp.handler import ToolHandler
from hypervisor.tasks.index_watch import LiveIndex

#: Leaves its prompt and the time at which it came, waits until it may go on, and reports.
AGENT = """
folder=$1
cat > "$folder/$HYPERVISOR_TASK_ID.prompt"
: > "$folder/$HYPERVISOR_TASK_ID.came"
while [ ! -e "$folder/go" ]; do sleep 0.05; done
printf '{"kind":"done","text":"%s has seen 42 files","evidence":"a list"}' "$HYPERVISOR_TASK_ID" \
    > "$HYPERVISOR_REPORT"
"""
CALL = """
import sys, time
sys.path.insert(0, {scripts!r})
import json
from hypervisor.tasks.index_watch import LiveIndex
from hypervisor.mcp.handler import ToolHandler
box = ToolHandler({{"CLAUDE_PROJECT_DIR": {root!r}, "PATH": {path!r}, "HOME": {home!r},
    "HYPERVISOR_SANDBOX": "off"}}, None, LiveIndex())
{act}
"""


class Place:
    """A project whose agents wait in a folder until they may go on."""

    def __init__(self, folder: Path) -> None:
        root = folder / "project"
        self.project = Project(root, root / ".hypervisor")
        self.at, self.home = folder / "at", folder
        self.at.mkdir()
        self.project.state.mkdir(parents=True)
        agent = shlex.join([script(folder, "agent", AGENT), str(self.at)])
        config = (
            f'[spawn]\nagent = "exec"\ncommand = {json.dumps(agent + " {}")}\n[machine]\nlook_seconds = 0.2\n'
        )
        (self.project.state / "config.toml").write_text(config)
        environ = {
            "CLAUDE_PROJECT_DIR": str(root), "PATH": os.environ["PATH"], "HOME": str(folder),
            "HYPERVISOR_SANDBOX": "off",  # the agents meet the test outside of their clones
        }  # fmt: skip
        self.index = LiveIndex()
        self.box = ToolHandler(environ, None, self.index)

    def ask(self, tool: str, /, **given: Any) -> Any:
        return json.loads(self.box.call(tool, given))

    def spawn(self, *texts: str, **more: Any) -> Any:
        return self.ask("spawn_parallel_tasks", tasks=[{"description": text} for text in texts], **more)

    def other_process(self, act: str) -> subprocess.Popen[str]:
        code = CALL.format(
            scripts=str(ROOT / "scripts"), root=str(self.project.root), path=os.environ["PATH"],
            home=str(self.home), act=act,
        )  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    @property
    def came(self) -> list[str]:
        return sorted(path.stem for path in self.at.glob("*.came"))

    def prompt(self, task: str) -> str:
        return (self.at / f"{task}.prompt").read_text()

    def go_on(self) -> None:
        (self.at / "go").touch()

    def ended(self, batch: str, pid: int) -> Any:
        path = self.project.batches / batch / "summary.json"
        eventually(path.exists, f"the end of {batch}", seconds=60)
        gone(pid)
        return json.loads(path.read_text())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.go_on()
    made.box.close()
    made.index.close()


# ---------------------------------------------------------------------- running


@pytest.mark.acceptance
def test_the_coordinator_outlives_who_asked_and_five_run_while_seven_wait(place: Place) -> None:
    asker = place.other_process(
        'tasks = [{"description": f"Audit file {n}", "type": "audit"} for n in range(12)]\n'
        'told = dict(tasks=tasks, branch_id="security-audit", strategy="parallel")\n'
        'print(box.call("spawn_parallel_tasks", told), flush=True)\n'
        "time.sleep(600)"
    )
    try:
        assert asker.stdout is not None
        told = json.loads(asker.stdout.readline())
        eventually(lambda: len(place.came) == 5, "five agents", seconds=60)
    finally:
        os.killpg(asker.pid, signal.SIGKILL)
        asker.communicate()
    stats = place.ask("get_task_stats")
    assert (stats["running"], stats["queued"]) == (5, 7)
    (batch,) = stats["batches"]
    assert (batch["batch_id"], batch["branch_id"]) == (told["batch_id"], "security-audit")
    assert (batch["running"], batch["queued"], batch["coordinator"]) == (5, 7, True)
    assert {task["task_id"] for task in stats["tasks"]} == set(place.came)
    assert all(task["type"] == "audit" and task["seconds"] >= 0 for task in stats["tasks"])
    assert stats["resources"]["zone"] in ("safe", "warning", "danger", "emergency")
    assert 0 <= stats["resources"]["ram_percent"] <= 100
    assert len(place.came) == 5  # nobody came while it was looked at
    place.go_on()
    summary = place.ended(told["batch_id"], told["coordinator_pid"])
    assert summary["census"]["success"] == 12
    assert sorted(told["tasks"]) == place.came
    stats = place.ask("get_task_stats")
    assert (stats["running"], stats["queued"], stats["batches"]) == (0, 0, [])


@pytest.mark.acceptance
def test_a_reduce_runs_when_all_its_maps_are_done_and_gets_their_results(place: Place) -> None:
    told = place.spawn("Count a", "Count b", "Count c", "Add it up", strategy="map-reduce")
    *maps, reduce = told["tasks"]
    assert told["pattern"] == "map-reduce"
    eventually(lambda: place.came == sorted(maps), "the maps", seconds=60)
    place.ask("share_finding", text="what you count and add up is in vault 7", branch_id=told["branch_id"])
    place.go_on()
    summary = place.ended(told["batch_id"], told["coordinator_pid"])
    assert summary["census"]["success"] == 4
    prompt = place.prompt(reduce)
    for one in maps:
        assert f"{one} has seen 42 files" in prompt
        assert "## Results of the tasks" not in place.prompt(one)
    assert "Evidence: a list" in prompt
    assert "vault 7" in prompt.split("## What others have found", 1)[1]


@pytest.mark.acceptance
def test_each_of_a_pipeline_waits_for_the_one_before_and_gets_its_result(place: Place) -> None:
    told = place.spawn("Lay it out", "Build it", "Look at it", strategy="pipeline")
    first, second, third = told["tasks"]
    eventually(lambda: place.came, "the first", seconds=60)
    assert place.ask("get_task_stats")["queued"] == 2
    assert place.came == [first]
    place.go_on()
    place.ended(told["batch_id"], told["coordinator_pid"])
    times = [(place.at / f"{task}.came").stat().st_mtime_ns for task in told["tasks"]]
    assert times == sorted(times)
    assert f"{first} has seen" in place.prompt(second)
    assert f"{second} has seen" in place.prompt(third)
    assert f"{first} has seen" not in place.prompt(third)


# ----------------------------------------------------------------------- making


@pytest.fixture
def idle(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place where no coordinator is started."""
    monkeypatch.setattr("hypervisor.orchestrator.spawn.start", lambda *_: 1)
    return place


def test_free_text_becomes_a_task_like_any_other(idle: Place) -> None:
    text = "# Find: \"leaks\" & 'holes'\n\n---\nstatus: done\n---\nas {id} says\n"
    asked = {
        "description": text,
        "type": "audit",
        "priority": "critical",
        "files": ["a.py"],
        "verify": "true",
    }
    told = idle.ask("spawn_parallel_tasks", branch_id="Audit 7", tasks=[asked])
    (name,) = told["tasks"]
    found = idle.ask("get_task", id=name)
    assert found["title"] == "Find: \"leaks\" & 'holes'"
    assert (found["status"], found["priority"]) == ("active", "critical")
    (file,) = (idle.project.state / "tasks" / told["batch_id"]).iterdir()
    assert text.strip() in file.read_text()
    assert "type: audit\n" in file.read_text()
    assert "accept_reports" not in file.read_text()  # there is something that can be looked at
    assert (idle.project.batches / told["batch_id"] / "tasks").resolve() == file.parent
    assert [task["id"] for task in idle.ask("list_tasks")["tasks"]] == [name]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": [{"description": " "}]}, r"tasks[0]: description is missing"),
        ({"tasks": ["ok", 7]}, "tasks[1] must be a text"),
        ({"tasks": [{"description": "x", "prio": 1}]}, "no such key 'prio'; there are description, type"),
        ({"tasks": [{"description": "x", "type": "a\nb"}]}, "type must be a word"),
        ({"tasks": [{"description": "x", "priority": "soon"}]}, "priority must be one of critical, high"),
        ({"tasks": [{"description": "x", "files": [1]}]}, "files must be a list of paths"),
        ({"tasks": [{"description": "x", "verify": "a\nb"}]}, "verify must be a command in one line"),
        ({"tasks": [{"description": "x" * 50_001}]}, "at most 50,000 characters"),
        ({"tasks": ["x"] * 501}, "501 tasks are more than 500"),
        ({"tasks": ["x"], "strategy": "fast"}, "strategy 'fast': must be one of auto, "),
        ({"tasks": ["x"], "strategy": "pipeline"}, "pipeline needs two tasks"),
        ({"tasks": ["x"], "branch_id": "a\nb"}, "branch_id: must be one line"),
    ],
)  # fmt: skip
def test_what_cannot_be_spawned_is_refused_by_its_place_and_nothing_is_made(
    idle: Place, given: dict[str, Any], word: str
) -> None:
    before = sorted(path.name for path in idle.project.state.rglob("*"))
    with pytest.raises(HypervisorError) as refused:
        idle.ask("spawn_parallel_tasks", **given)
    assert word in str(refused.value)
    assert sorted(path.name for path in idle.project.state.rglob("*")) == before


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({}, "task_type is missing"),
        ({"task_type": "audit", "parallel_benefit": 7}, "must be from 0 (a further agent adds nothing)"),
        ({"task_type": "audit", "parallel_benefit": "much"}, "parallel_benefit must be a number"),
        ({"task_type": "audit", "resource_cost": {"gpu": 1}}, "resource_cost must be {cpu: cores, ram: MB}"),
        ({"task_type": "audit", "resource_cost": {"cpu": "one"}}, "resource_cost must be"),
        ({"task_type": "a\nb", "parallel_benefit": 1}, "task_type: must be one line"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_is_refused(idle: Place, given: dict[str, Any], word: str) -> None:
    with pytest.raises(HypervisorError) as refused:
        idle.ask("learn_parallelization", **given)
    assert word in str(refused.value)


def test_what_is_said_of_a_type_is_kept_and_advised_by(idle: Place) -> None:
    cost = {"cpu": 0.5, "ram": 512}
    said = idle.ask(
        "learn_parallelization", task_type="audit", parallel_benefit=0.85, notes="reads", resource_cost=cost
    )
    (row,) = said["advice"]
    assert said["kept"]
    assert (row["advice"], row["resource_cost"], row["samples"]) == ("parallel", cost, 0)
    said = idle.ask("learn_parallelization", task_type="migration", parallel_benefit=0.1)
    assert [(row["advice"], row["at_once"]) for row in said["advice"]] == [("sequential", 1)]
    asked = idle.ask("learn_parallelization", task_type="audit")
    assert not asked["kept"]
    assert asked["advice"][0]["lesson"]["notes"] == "reads"


def test_an_agent_that_was_started_for_a_task_spawns_none(idle: Place) -> None:
    environ = {
        "CLAUDE_PROJECT_DIR": str(idle.project.root), assignment.TASK: "t-1", assignment.ATTEMPT: "1",
        assignment.REPORT: str(idle.at / "report.json"),
    }  # fmt: skip
    box = ToolHandler(environ, None, idle.index)
    with pytest.raises(HypervisorError, match="you were started for t-1 alone"):
        box.call("spawn_parallel_tasks", {"tasks": ["more"]})
    box.call("share_finding", {"text": "a leak"})
    (found,) = idle.ask("search_findings", query="leaks")["findings"]
    assert found["task_id"] == "t-1"


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        "spawn.write_new = die",
        "spawn.write_new = lambda *a, w=write_new, **k: (w(*a, **k), die())",
        "os.symlink = die",
        "os.rename = lambda a, b, r=os.rename: die() if 'draft' in str(a) else r(a, b)",
        "os.rename = lambda a, b, r=os.rename: (r(a, b), die() if 'draft' in str(a) else None)",
        "spawn.create = die",
        "spawn.start = die",
    ],
    ids=["before all", "one task", "before the link", "before they are tasks",
         "after that", "before the batch", "before the coordinator"],
)  # fmt: skip
def test_whoever_is_killed_as_he_spawns_leaves_whole_tasks_or_none(place: Place, where: str) -> None:
    killed = place.other_process(
        "import os, signal\n"
        "from hypervisor.core.files import write_new; from hypervisor.orchestrator import spawn\n"
        "def die(*arguments, **options):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        f'{where}\nbox.call("spawn_parallel_tasks", {{"tasks": ["first", "second"]}})\n'
    )
    out, err = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL, out + err
    titles = {task["title"] for task in place.ask("list_tasks")["tasks"]}
    assert titles in (set(), {"first", "second"})
    stats = place.ask("get_task_stats")
    assert stats["running"] == 0
    for batch in stats["batches"]:
        assert not batch["coordinator"]
