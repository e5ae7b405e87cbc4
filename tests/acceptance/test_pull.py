"""`/pull` at the real client: bare, with the plugin's name, without an id; and what it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from acceptance.api import ScriptedApi, calls, say
from acceptance.conftest import NewClient
from acceptance.product import RULES, Tasks, claim, done, plugged, tool, worker
from hypervisor.mcp.schema import PREFIX

#: Once with the tools' schemas in the first request, once with tool search, as most users have it.
pytestmark = pytest.mark.usefixtures("tool_search")


@pytest.mark.parametrize("typed", ["/pull t-2", "/hypervisor:pull t-2"])
def test_pull_brings_the_procedure_with_the_id_in_it(
    api: ScriptedApi, client: NewClient, git_project: Path, typed: str
) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-1")
    tasks.add("t-2")
    api.main(calls(claim("t-2")), calls(done("t-2")), say("COMPLETED t-2"))
    session = plugged(client, git_project).run(typed, *RULES).passed()
    assert session.text == "COMPLETED t-2"
    (talk,) = api.mains
    assert "Task: `t-2` (empty: the next ready one)" in talk.turns[0].text
    assert (tasks.status("t-1"), tasks.status("t-2")) == ("active", "done")


def test_pull_without_an_id_takes_the_most_urgent_one(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-1")
    tasks.add("t-2", priority="high")
    api.main(
        calls(tool("claim_next_task", caller="claude")),
        lambda turn: calls(done(turn.results[0].json["task"]["id"])),
        say("COMPLETED"),
    )
    plugged(client, git_project).run("/pull", *RULES).passed()
    (talk,) = api.mains
    assert "Task: `` (empty: the next ready one)" in talk.turns[0].text
    assert (tasks.status("t-1"), tasks.status("t-2")) == ("active", "done")


REFUSALS = {
    "t-done": "t-done: already complete",
    "t-cancelled": "t-cancelled: cancelled",
    "t-held": "t-held is held by gemini (attempt 1)",
    "t-person": "t-person: assigned to maria, a person",
    "t-waits": "t-waits: waits for t-held",
    "t-circle": "t-circle: waits for t-round (in a circle: t-circle -> t-round -> t-circle)",
    "t-blocked": "t-blocked: its status is blocked; set it to active to run it",
    "t-none": "t-none: no such task in",
}


def test_what_may_not_be_pulled_is_refused_with_the_reason(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-done", status="done")
    tasks.add("t-cancelled", status="cancelled")
    tasks.add("t-held")
    tasks.add("t-person", assignee="maria")
    tasks.add("t-waits", depends_on="[t-held]")
    tasks.add("t-circle", depends_on="[t-round]")
    tasks.add("t-round", depends_on="[t-circle]")
    tasks.add("t-blocked", status="blocked")
    with tasks.service("gemini") as service:
        service.claim("t-held")
    before = {path: path.read_bytes() for path in (git_project / "tasks").iterdir()}
    api.main(
        calls(*[claim(name) for name in REFUSALS], *[worker(name) for name in REFUSALS]),
        say("ok"),
    )
    plugged(client, git_project).run("go", *RULES).passed()
    results = api.of("go").results
    claimed = [one for one in results if one.name == PREFIX + "claim_task"]
    spawned = [one for one in results if one.name == "Agent"]
    assert len(claimed) == len(spawned) == len(REFUSALS)
    for name, one, agent in zip(REFUSALS, claimed, spawned, strict=True):
        assert one.is_error
        assert agent.is_error
        assert one.text.startswith(REFUSALS[name]), one.text
        said = "t-held: held by gemini" if name == "t-held" else REFUSALS[name]
        assert agent.text.startswith(f"Denied, nothing was started: {said}"), agent.text
    assert api.agents == []
    assert {path: path.read_bytes() for path in (git_project / "tasks").iterdir()} == before
