"""Each tool of an agent, and the command of the same operation, answer with the same JSON."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, write_task
from hypervisor.core.project import Project
from hypervisor.mcp.handler import ToolHandler
from hypervisor.mcp.schema import TOOLS
from inprocess import InProcess, in_process
from mcp_wire import spawned_is_over, spawning

#: Tool, arguments, and what a person types for the same; in an order in which each has something to do.
#: BATCH is the newest batch of each project.
OPERATIONS: list[tuple[str, dict[str, Any], str]] = [
    ("list_tasks", {"ready": True, "limit": 2}, "task list --ready --limit 2"),
    ("list_tasks", {"status": "done"}, "task list --status done"),
    ("get_task", {"id": "t-1"}, "task show t-1"),
    ("get_task", {"id": "t-2"}, "task show t-2"),
    ("get_index_stats", {"include_projects": True}, "status"),
    ("preflight", {}, "preflight --all"),
    ("preflight", {"ids": ["t-4"]}, "preflight t-4"),
    ("preflight", {"create_batch": True}, "preflight --all --batch"),
    ("claim_task", {"id": "t-1", "caller": "claude"}, "task claim t-1 --caller claude"),
    ("get_task", {"id": "t-1"}, "task show t-1"),
    ("batch_status", {"id": "BATCH"}, "status BATCH"),
    ("update_task", {"id": "t-1", "body": "A note.", "priority": "high"},
     "task update t-1 --body 'A note.' --priority high"),
    ("share_finding", {"text": "The index is read twice.", "task_id": "t-1"},
     "hive add 'The index is read twice.' --task t-1"),
    ("complete_task", {"id": "t-1", "outcome": "made it", "commit": "3f2c1ab"},
     "task complete t-1 --outcome 'made it' --commit 3f2c1ab --caller claude"),
    ("claim_next_task", {"caller": "claude", "batch": "BATCH"},
     "task claim --next --caller claude --batch BATCH"),
    ("release_task", {"id": "t-2", "reason": "later"}, "task release t-2 --reason later --caller claude"),
    ("update_task", {"id": "t-2", "status": "in_progress", "assignee": "claude"},
     "task update t-2 --status in_progress --caller claude"),
    ("update_task", {"id": "t-2", "status": "blocked", "reason": "no key", "next_step": "get one"},
     "task block t-2 --reason 'no key' --next 'get one' --caller claude"),
    ("update_task", {"id": "t-2", "status": "active"}, "task update t-2 --status active"),
    ("update_task", {"id": "t-2", "status": "cancelled", "body": "not wanted"},
     "task update t-2 --status cancelled --body 'not wanted'"),
    ("claim_task", {"id": "t-3", "caller": "claude"}, "task claim t-3 --caller claude"),
    ("ask_user", {"id": "t-3", "question": "Which?", "choices": ["this", "that"]},
     "task ask t-3 'Which?' --choice this --choice that --caller claude"),
    ("claim_next_task", {"caller": "claude"}, "task claim --next --caller claude"),
    ("batch_status", {"id": "BATCH"}, "status BATCH"),
    ("batch_summary", {}, "summary"),
    ("wait_for_events", {"since": "0", "timeout": 1}, "wait --any --since 0"),
    ("search_findings", {"query": "index"}, "hive search index"),
    ("search_findings", {"query": "flood"}, "hive search flood"),
    ("learn_parallelization",
     {"task_type": "audit", "parallel_benefit": 0.85, "resource_cost": {"cpu": 0.5, "ram": 0.25}},
     "learn add audit --benefit 0.85 --cpu 0.5 --ram 0.25 --caller claude"),
    ("learn_parallelization", {"task_type": "audit"}, "learn show audit"),
    ("get_task_stats", {}, "stats"),
    ("spawn_parallel_tasks", {"tasks": [{"description": "Look around."}], "strategy": "parallel"},
     "spawn 'Look around.' --strategy parallel"),
]  # fmt: skip

#: What a command answers besides, by its first word: `status` names batches and claims too, and `preflight`
#: what `hypervisor run` would execute.
MORE = {"status": {"batches", "claims"}, "preflight": {"sandbox", "commands"}}
#: The values of these keys are times, or figures of this moment.
OF_NOW = frozenset({
    "at", "asked", "claimed", "ended", "started", "finished", "seconds", "silent_seconds", "runtime_seconds",
    "output_seconds_ago", "resources", "coordinator_pid",
})  # fmt: skip
BATCH_ID = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}|(?<=-)[0-9a-f]{6}(?=-\d\d\b)")


def equal_part(answer: Any, root: Path) -> Any:
    """Return an answer without times, ids of batches and the project's place."""
    if isinstance(answer, dict):
        return {key: "now" if key in OF_NOW else equal_part(value, root) for key, value in answer.items()}
    if isinstance(answer, list):
        return [equal_part(one, root) for one in answer]
    return BATCH_ID.sub("BATCH", answer.replace(str(root), "ROOT")) if isinstance(answer, str) else answer


def project_in(folder: Path) -> Project:
    """Make a project with four tasks, whose spawned agents do nothing."""
    write_task(folder / "tasks/t-1.md", files="[src/a.py]", project="alpha")
    write_task(folder / "tasks/t-2.md", priority="low")
    write_task(folder / "tasks/t-3.md", priority="low", verify="true")
    write_task(folder / "tasks/t-4.md", assignee="zoe", depends_on="[t-9]")
    project = Project(folder, folder / ".hypervisor")
    spawning(project, "true {}")
    return project


@pytest.fixture
def user(tmp_path: Path) -> Iterator[InProcess]:
    with in_process(tmp_path) as made:
        made.extra["HYPERVISOR_CALLER"] = ""
        yield made


def newest(project: Project) -> str:
    found = sorted(path.name for path in project.batches.iterdir()) if project.batches.is_dir() else []
    return found[-1] if found else ""


@pytest.mark.slow
def test_each_tool_and_its_command_answer_with_the_same_json(tmp_path: Path, user: InProcess) -> None:
    ours, theirs = project_in(user.cwd), project_in(tmp_path / "tools")
    handler = ToolHandler({"CLAUDE_PROJECT_DIR": str(theirs.root), "PATH": user.environment["PATH"]})
    differences = []
    for tool, arguments, command in OPERATIONS:
        given = json.loads(json.dumps(arguments).replace("BATCH", newest(theirs)))
        by_tool = equal_part(json.loads(handler.call(tool, given)), theirs.root)
        said = user.hypervisor(*shlex.split(command.replace("BATCH", newest(ours))), "--json")
        assert said.out, f"{command}: {said.err}"
        answer = {
            key: value for key, value in said.json.items() if key not in MORE.get(command.split()[0], ())
        }
        if by_tool != (by_command := equal_part(answer, ours.root)):
            differences.append((tool, by_tool, command, by_command))
    handler.close()
    for project in (ours, theirs):
        spawned_is_over(project)
    text = "\n".join(str(part) for one in differences for part in (*one, ""))
    assert not differences, text


def test_each_tool_has_its_command_and_the_page_on_the_plugin_names_it() -> None:
    assert {tool for tool, _, _ in OPERATIONS} == {tool.name for tool in TOOLS}
    page = (ROOT / "docs/plugin.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (`hypervisor .*) \|$", page, re.MULTILINE))
    for tool, _, command in OPERATIONS:
        words = [word for word in command.split()[:2] if word.isalpha()]
        assert any(f"hypervisor {' '.join(words[:count])}" in rows.get(tool, "") for count in (2, 1)), tool
