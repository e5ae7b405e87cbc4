"""What a session of the real client finds of the plugin: its parts, its tools at once, their texts."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from acceptance.api import ScriptedApi, calls, say, use
from acceptance.conftest import NewClient
from acceptance.product import RULES, Tasks, claim, done, plugged, tool, worker
from acceptance.toy import ECHO, write_toy
from commands import ROOT, script
from hypervisor.mcp.schema import PREFIX, TOOLS

#: Once with the tools' schemas in the first request, once with tool search, as most users have it.
pytestmark = pytest.mark.usefixtures("tool_search")

#: Told of a worker's end as it stops, if not before, the main thread says so once more.
OVER = [say("over")] * 3
OURS = {PREFIX + one.name for one in TOOLS}


@pytest.mark.parametrize("strict", [[], ["--strict"]])
@pytest.mark.parametrize("manifest", ["", ".claude-plugin/plugin.json"])
def test_the_manifests_are_valid(client: NewClient, strict: list[str], manifest: str) -> None:
    ended = client().command("plugin", "validate", *strict, str(ROOT / manifest))
    assert ended.code == 0, ended.out + ended.err
    assert "passed" in ended.out
    # It has no icon, which newer clients remark.
    allowed = 1 if "(ICON_MISSING)" in ended.out else 0
    assert sum(map(int, re.findall(r"Found (\d+) [\w ]*warning", ended.out))) == allowed, ended.out


def test_a_session_has_the_skills_the_agent_and_the_tools_and_no_fault(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    Tasks(git_project).add("t-1")
    api.main(lambda turn: say("has them" if set(turn.tools) >= OURS else f"has {turn.tools}"))
    session = plugged(client, git_project).run("Hello").passed()
    assert session.text == "has them"
    assert set(session.init["tools"]) >= OURS
    assert set(session.init["skills"]) >= {
        "hypervisor:hypervisor", "hypervisor:batch-processing", "hypervisor:pull",
    }  # fmt: skip
    assert "hypervisor:worker" in session.init["agents"]
    assert not session.init.get("plugin_errors")
    servers = {one["name"]: one["status"] for one in session.init["mcp_servers"]}
    assert servers == {"plugin:hypervisor:task_manager": "connected"}
    told = api.of("Hello").turns[0].text
    assert "hypervisor: task files of this project: 1; see `hypervisor preflight --all`." in told
    assert not (git_project / ".hypervisor").exists()  # looking leaves nothing behind


def test_a_session_does_not_begin_without_a_server_that_is_slow(
    api: ScriptedApi, client: NewClient, git_project: Path, tmp_path: Path
) -> None:
    """On a busy machine; the client itself waits for five seconds, and a worker without tools is none."""
    Tasks(git_project).add("t-1")
    real = shutil.which("uv")
    if real is None:
        pytest.skip("no uv on PATH; type: pip install uv")
    waits = 'case "$*" in *mcp_server.py*) sleep 9 ;; esac'
    (tmp_path / "slow").mkdir()
    script(tmp_path / "slow", "uv", f'{waits}\nexec {real} "$@"')
    made = plugged(client, git_project)
    made.extra = {**made.extra, "PATH": f"{tmp_path / 'slow'}:{made.environment['PATH']}"}
    api.main(calls(worker("t-1", run_in_background=False)), *OVER)
    api.agent("/pull t-1", calls(claim("t-1")), calls(done("t-1")), say("COMPLETED t-1: did it"))
    session = made.run("go", *RULES).passed()
    assert {one["status"] for one in session.init["mcp_servers"]} == {"connected"}
    assert set(api.of("go").turns[0].tools) >= OURS
    assert set(api.of("/pull t-1").turns[0].tools) >= OURS
    assert not list((made.home / ".cache/hypervisor/starting").iterdir())


def test_a_worker_uses_its_tools_in_its_first_turn(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-1")
    api.main(calls(worker("t-1", run_in_background=False)), *OVER)
    api.agent("/pull t-1", calls(claim("t-1")), calls(done("t-1")), say("COMPLETED t-1: did it"))
    session = plugged(client, git_project).run("go", *RULES).passed()
    talk = api.of("/pull t-1")
    assert set(talk.turns[0].tools) >= OURS
    assert "You process one task of a queue" in talk.turns[0].system
    answer = talk.tool_result(PREFIX + "claim_task").json
    assert answer["task"]["id"] == "t-1"
    assert answer["claim"]["attempt"] == 1
    assert talk.tool_result(PREFIX + "complete_task").json["result"] == "success"
    assert tasks.status("t-1") == "done"
    assert session.denials == []


def test_a_worker_keeps_the_other_tools_of_its_user(
    api: ScriptedApi, client: NewClient, git_project: Path, tmp_path: Path
) -> None:
    Tasks(git_project).add("t-1")
    toy = write_toy(tmp_path, tmp_path / "hook")
    api.main(calls(worker("t-1", run_in_background=False)), *OVER)
    api.agent("/pull t-1", calls(use(ECHO, word="hello")), lambda turn: say(turn.results[0].text))
    made = client(cwd=git_project, plugins=[ROOT, toy])
    made.run("go", *RULES, ECHO).passed()
    result = api.of("/pull t-1").tool_result(ECHO)
    assert not result.is_error
    assert "hello" in result.text


def test_what_the_schemas_cost(api: ScriptedApi, client: NewClient, git_project: Path) -> None:
    Tasks(git_project).add("t-1")
    api.main(say("ok"))
    plugged(client, git_project).run("Hello").passed()
    sent = [one for one in api.of("Hello").requests[0]["tools"] if one["name"] in OURS]
    assert len(sent) == len(OURS)
    # A token of JSON is seldom shorter than three characters: 2,500 of them at the very most.
    assert len(json.dumps(sent, separators=(",", ":"))) < 7500


def test_other_tools_of_the_session_are_not_allowed_by_our_hook(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    Tasks(git_project).add("t-1")
    api.main(
        calls(tool("list_tasks"), use("Write", file_path=str(git_project / "x"), content="x")), say("ok")
    )
    session = plugged(client, git_project).run("go").passed()
    assert [denial["tool_name"] for denial in session.denials] == ["Write"]
    assert not (git_project / "x").exists()
    assert api.of("go").tool_result(PREFIX + "list_tasks").json["total"] == 1


def test_an_installed_plugin_works_from_an_empty_home(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-1")
    made = client(cwd=git_project)
    for words in (["marketplace", "add", str(ROOT)], ["install", "hypervisor@hypervisor"]):
        ended = made.command("plugin", *words)
        assert ended.code == 0, ended.out + ended.err
    api.main(calls(claim("t-1")), calls(done("t-1")), say("COMPLETED"))
    session = made.run("/pull t-1", *RULES).passed()
    assert not session.init.get("plugin_errors")
    assert tasks.status("t-1") == "done"


def test_planning_claims_nothing(api: ScriptedApi, client: NewClient, git_project: Path) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-1")
    api.main(calls(tool("list_tasks"), claim("t-1")), say("a plan"))
    plugged(client, git_project).run("go", "--permission-mode", "plan")
    assert api.of("go").tool_result(PREFIX + "list_tasks").json["total"] == 1
    assert api.of("go").tool_result(PREFIX + "claim_task").is_error
    assert tasks.status("t-1") == "active"
