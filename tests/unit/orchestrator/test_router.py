"""Who takes which task: the rules of [[agents.rules]], and what becomes of them when an agent cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from commands import script
from hypervisor.core.errors import ConfigError, UsageError
from hypervisor.core.model import TaskHead
from hypervisor.core.settings import default_settings
from hypervisor.orchestrator.options import RunOptions
from hypervisor.orchestrator.router import (
    AgentRouter,
    name_of,
    permissions_of,
    require_runnable,
    router_of,
    rules_in,
)
from hypervisor.runners.base import Agent
from hypervisor.runners.gemini import GeminiAgent
from hypervisor.store.batches import Spent
from hypervisor.tasks.files import read_task

NOW = 1_800_000_000.0


def task(tmp_path: Path, *lines: str) -> TaskHead:
    path = tmp_path / "t-1.md"
    path.write_text("\n".join(["---", "id: t-1", "title: One", "status: active", *lines, "---", "Do it."]))
    return read_task(path, default_settings())


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a PATH with both clients, which are never started here."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("claude", "gemini"):
        script(folder, name, "exit 9")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("GEMINI_SANDBOX", raising=False)
    return folder


def chosen(router: AgentRouter, head: TaskHead) -> str:
    found = router.choose(head, NOW)
    return found if isinstance(found, str) else found.name


@pytest.mark.parametrize(
    ("lines", "agent"),
    [
        (["complexity: mechanical"], "gemini"),
        (["complexity: mechanical", "needs: [mcp:outlook]"], "claude"),
        (["complexity: mechanical", "assignee: claude"], "claude"),
        (["complexity: multi-step"], "claude"),
        (["complexity: multi-step", "assignee: Gemini"], "gemini"),
        ([], "claude"),
    ],
)
def test_the_rules_that_ship_give_what_is_mechanical_to_gemini(
    tmp_path: Path, programs: Path, lines: list[str], agent: str
) -> None:
    router = router_of(RunOptions(agent="auto"), default_settings())
    assert chosen(router, task(tmp_path, *lines)) == agent


def rules(*made: dict[str, Any]) -> dict[str, Any]:
    return {"agents": {"rules": list(made)}}


@pytest.mark.parametrize(
    ("rule", "lines", "fits"),
    [
        ({"project": ["aops"]}, ["project: AOPS"], True),
        ({"project": ["aops"]}, ["project: other"], False),
        ({"type": ["docs"]}, ["type: docs"], True),
        ({"tags": ["a", "b"]}, ["tags: [b, c]"], True),
        ({"tags": ["a"]}, ["tags: [b]"], False),
        ({"needs": ["git", "net"]}, ["needs: [net]"], True),
        ({"needs": ["git"]}, ["needs: [net, git]"], False),
        ({"complexity": [""]}, [], True),
        ({"project": ["aops"], "type": ["docs"]}, ["project: aops", "type: code"], False),
    ],
)
def test_a_rule_holds_if_all_of_it_does(
    tmp_path: Path, programs: Path, rule: dict[str, Any], lines: list[str], fits: bool
) -> None:
    router = router_of(RunOptions(agent="auto"), rules({"agent": "gemini", **rule}))
    found = chosen(router, task(tmp_path, *lines))
    assert found == ("gemini" if fits else "no rule of [[agents.rules]] gives it to an agent")


def test_an_agent_that_cannot_work_is_passed_over_until_it_can(tmp_path: Path, programs: Path) -> None:
    router = router_of(RunOptions(agent="auto"), default_settings())
    head = task(tmp_path, "complexity: mechanical")
    assert router.rest("gemini", NOW + 60, "the day's requests")
    assert chosen(router, head) == "claude"
    assert router.waits(head, NOW)
    assert router.drop("claude", "not logged in")
    # Nobody now: it waits for the one that rests, and does not for one that is out for good.
    assert chosen(router, head) == "claude cannot work: not logged in"
    found = router.choose(head, NOW + 61)
    assert not isinstance(found, str)
    assert found.name == "gemini"
    assert not router.drop("gemini", "not logged in")
    assert not router.waits(head, NOW)


def test_a_rule_ends_with_what_its_agent_may_use_also_after_a_resume(tmp_path: Path, programs: Path) -> None:
    made = rules({"agent": "gemini", "tokens": 1000}, {"agent": "claude", "usd": 0.5, "model": "m-2"})
    router = router_of(RunOptions(agent="auto"), made)
    head = task(tmp_path)
    assert chosen(router, head) == "gemini"
    router.used("gemini", 600, None)
    assert chosen(router, head) == "gemini"
    router.used("gemini", 400, None)
    agent = router.choose(head, NOW)
    assert not isinstance(agent, str)
    assert (agent.name, getattr(agent, "model", "")) == ("claude", "m-2")
    router.used("claude", None, 0.5)
    assert "claude has used 0.5000 USD, and 0.5 may be" in chosen(router, head)
    spent = {"gemini": Spent(attempts=2, tokens=1000)}
    assert chosen(router_of(RunOptions(agent="auto"), made, spent), head) == "claude"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("gemini", "rule 1: agent must be one of claude, gemini"),
        ({"agent": "exec"}, "rule 1: agent must be one of claude, gemini"),
        ({"agent": "gemini", "colour": ["x"]}, "rule 1: there is no key `colour`"),
        ({"agent": "gemini", "needs": "git"}, "`needs` must be a list of texts"),
        ({"agent": "gemini", "tags": [1]}, "`tags` must be a list of texts"),
        ({"agent": "gemini", "tokens": -1}, "`tokens` must be a number of at least 0"),
        ({"agent": "gemini", "usd": True}, "`usd` must be a number of at least 0"),
        ({"agent": "gemini", "model": 3}, "`model` must be a text"),
        ({"agent": "gemini", "complexity": ["mechanicall"]}, "not mechanicall"),
    ],
)
def test_a_rule_that_cannot_be_understood_is_named(rule: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=r"agents\.rules, rule 1") as told:
        rules_in({"agents": {"rules": [rule]}})
    assert text in str(told.value)


@pytest.mark.parametrize(
    ("options", "gone", "text"),
    [
        ({"agent": "gemini"}, ["gemini"], "gemini: no such program"),
        ({"agent": "auto"}, ["gemini", "claude"], "gemini, claude: no such program"),
        ({"agent": "auto", "model": "m"}, [], "each rule of [[agents.rules]] names its own `model`"),
        ({"agent": "auto", "allowed": ("Bash(ls)",)}, [], "begin it with claude: or gemini:"),
        ({"agent": "gemini", "budget_usd": 1.0}, [], "gemini reports no cost; use --budget-tokens"),
        ({"agent": "gemini", "sandbox": "on"}, [], "or run without one: --sandbox off"),
        ({"agent": "exec", "command": ("nothing-of-the-kind",)}, [], "nothing-of-the-kind: no such program"),
    ],
)
def test_orders_that_cannot_be_carried_out_are_refused_before_the_start(
    programs: Path, options: dict[str, Any], gone: list[str], text: str
) -> None:
    for name in gone:
        (programs / name).unlink()
    with pytest.raises(UsageError) as told:
        require_runnable(RunOptions(**options), default_settings())
    assert text in str(told.value)
    assert "\n" not in str(told.value)


def test_with_auto_an_agent_that_is_not_there_is_named_and_the_other_works(programs: Path) -> None:
    (programs / "gemini").unlink()
    options = RunOptions(agent="auto", allowed=("claude:Bash(ls)", "gemini:glob"))
    require_runnable(options, default_settings())
    router = router_of(options, default_settings())
    assert name_of(router) == "hypervisor"
    assert "gemini no such program on PATH; claude may" in permissions_of(router)
    assert options.allowed_for("gemini") == ("glob",)
    assert name_of(router_of(RunOptions(agent="gemini"), default_settings())) == "gemini"


def test_everything_is_allowed_only_when_asked() -> None:
    def words(options: RunOptions) -> str:
        agents: list[Agent] = router_of(options, default_settings()).agents()
        assert isinstance(agents[0], GeminiAgent)
        return " ".join(agents[0].words())

    assert "--approval-mode auto_edit" in words(RunOptions(agent="gemini"))
    assert "--approval-mode yolo" in words(RunOptions(agent="gemini", skip_permissions=True))
