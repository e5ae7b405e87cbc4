"""What skills and agents tell a model to call, type and read exists, in just that spelling."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import ROOT
from hypervisor.cli import batch_worker, cli
from hypervisor.mcp.schema import BY_NAME, IDENTITY, PREFIX, SERVER

SKILLS = sorted((ROOT / "skills").glob("*/SKILL.md"))
AGENTS = sorted((ROOT / "agents").glob("*.md"))
REFERENCES = sorted((ROOT / "skills").glob("*/references/*.md"))
TEXTS = [*SKILLS, *AGENTS, *REFERENCES]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: How many lines a model pays for when a skill is loaded.
MOST_LINES = {"hypervisor": 150, "batch-processing": 150, "pull": 30, "worker": 60}
#: Tools of the client itself that the texts name with arguments.
OF_THE_CLIENT = {"Agent", "Bash", "TaskOutput"}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _front(path: Path) -> dict[str, Any]:
    text = path.read_text("utf-8")
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert found, f"{_name(path)} has no frontmatter"
    front = yaml.safe_load(found[1])
    assert isinstance(front, dict)
    return front


def _code(path: Path) -> Iterator[str]:
    """Yield each code span, and each line of a code block."""
    text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text("utf-8"), flags=re.DOTALL)
    for block in re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|<[^>]*>|\.\.\.")


def _calls(code: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each call in a piece of code, as the tool's name and those of its arguments."""
    for name, inner in re.findall(r"\b([A-Za-z_]\w*)\(([^()]*)\)", _QUOTED.sub("X", code)):
        yield name, [part.partition("=")[0].strip() for part in inner.split(",") if part.strip()]


# ------------------------------------------------------------------ frontmatter


def test_there_are_skills_and_an_agent_to_look_at() -> None:
    assert {path.parent.name for path in SKILLS} == {"hypervisor", "batch-processing", "pull"}
    assert [path.name for path in AGENTS] == ["worker.md"]


@pytest.mark.parametrize("path", [*SKILLS, *AGENTS], ids=_name)
def test_a_skill_and_an_agent_say_what_they_are_and_when_to_use_them(path: Path) -> None:
    front = _front(path)
    assert front["name"] == (path.parent.name if path.name == "SKILL.md" else path.stem)
    description = front["description"]
    assert re.search(r"(?:^|\. )Use (?:when|for) ", description)
    assert len(description) <= 420
    assert "\n" not in description.strip()
    for name in BY_NAME:
        assert name not in description or name == "preflight", f"{name} is how, not when"
    assert "mcp__" not in description
    for phrase in front.get("triggers", []):
        assert f'"{phrase}"' in description, "most clients read the description only"


@pytest.mark.parametrize("path", [*SKILLS, *AGENTS], ids=_name)
def test_a_text_that_a_model_pays_for_is_short(path: Path) -> None:
    name = _front(path)["name"]
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES[name]


def test_a_worker_keeps_the_users_tools_and_starts_no_workers() -> None:
    front = _front(ROOT / "agents/worker.md")
    assert "tools" not in front, "a list of tools would take the user's own MCP tools from it"
    assert front["model"] == "haiku"
    assert front["disallowedTools"] == "Agent"
    # The client passes over these in the agent of a plugin; who reads them would be misled.
    assert not {"permissionMode", "hooks", "mcpServers"} & set(front)


# ------------------------------------------------------------------------ tools


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_every_call_of_a_tool_has_the_arguments_that_it_takes(path: Path) -> None:
    for code in _code(path):
        for name, arguments in _calls(code):
            if name in OF_THE_CLIENT:
                continue
            assert name in BY_NAME, f"{code!r}: no tool {name}"
            tool = BY_NAME[name]
            assert set(arguments) <= set(tool.takes), f"{code!r}: {name} takes {', '.join(tool.takes)}"
            assert len(set(arguments)) == len(arguments)
            missing = set(tool.required) - set(arguments) if arguments else set()
            # A call that is cut to the one argument that matters there stands beside its whole form.
            short = name == "update_task" and arguments == ["status"]
            assert short or not missing, f"{code!r}: {name} needs {', '.join(missing)}"


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_every_word_that_looks_like_a_tool_of_ours_is_one(path: Path) -> None:
    text = path.read_text("utf-8")
    for name in re.findall(rf"{PREFIX}(\w+)", text):
        assert name in BY_NAME
    for name in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text):
        known = {argument for tool in BY_NAME.values() for argument in tool.takes} | {SERVER, "subagent_type"}
        answers = {"needs_attention", "not_ready", "next_step", "depends_on", "receipts_to", "from_others"}
        assert name in set(BY_NAME) | known | answers, f"{name} is neither a tool nor an argument"


@pytest.mark.parametrize("name", BY_NAME)
def test_every_tool_is_told_of(name: str) -> None:
    told = [path for path in (*TEXTS, *DOCS) if re.search(rf"\b{name}\b", path.read_text("utf-8"))]
    assert told, f"no skill, agent or document names {name}"


def test_nobody_is_told_to_say_who_calls() -> None:
    for path in TEXTS:
        for name in IDENTITY:
            assert name not in path.read_text("utf-8")


@pytest.mark.parametrize("path", [ROOT / "skills/pull/SKILL.md", ROOT / "agents/worker.md"], ids=_name)
def test_who_does_a_task_is_told_the_same_steps_in_the_same_order(path: Path) -> None:
    text = path.read_text("utf-8")
    steps = ["claim_task(", "`verify`", "complete_task(", 'status="blocked"', "release_task("]
    places = [text.find(step) for step in steps]
    assert -1 not in places, dict(zip(steps, places, strict=True))
    assert places == sorted(places)
    calls = [call for code in _code(path) for call in _calls(code)]
    assert ("claim_next_task", ["caller"]) in calls
    for name, needed in {
        "claim_task": {"id", "caller"},
        "complete_task": {"id", "outcome", "commit", "evidence"},
        "update_task": {"id", "status", "reason", "evidence", "next_step"},
        "release_task": {"id", "reason"},
    }.items():
        assert any(called == name and set(arguments) == needed for called, arguments in calls), name


# --------------------------------------------------------------------- commands


def _commands(path: Path, command: str) -> Iterator[list[str]]:
    """Yield the words after *command* in each piece of code that begins with it, or runs it by its path."""
    for code in _code(path):
        found = re.match(rf"(?:uv run )?[\"']?(?:\S*/)?{re.escape(command)}[\"']?(?:\s+(.*))?$", code)
        if found:
            yield shlex.split(found[1] or "")


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_every_command_line_parses(
    path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in _commands(path, "hypervisor"):
        if words:
            options = cli.parser().parse_args(words)
            assert callable(options.action), words
    flags = {flag for action in batch_worker.parser()._actions for flag in action.option_strings}
    for words in _commands(path, "batch_worker.py"):
        for word in words:
            if re.match(r"--?[a-z0]", word):
                assert word in flags, f"no option {word}"
        if "--help" not in words and words:
            assert isinstance(batch_worker.parser().parse_args(words), argparse.Namespace)
    assert capsys.readouterr().err == ""


def test_commands_are_found_to_look_at() -> None:
    lines = [words for path in TEXTS for words in _commands(path, "hypervisor") if words]
    assert ["reap"] in lines
    assert ["task", "show", "ID"] in lines
    workers = [words for path in TEXTS for words in _commands(path, "batch_worker.py") if words]
    assert len(workers) >= 2


# ------------------------------------------------------------------------ files


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_every_file_that_a_text_points_to_is_there(path: Path) -> None:
    text = path.read_text("utf-8")
    for name in re.findall(r"\$\{CLAUDE_PLUGIN_ROOT\}/([\w./-]+)", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"(?<![\w/])(references/[\w.-]*\w)", text):
        assert (path.parent / name).is_file(), name
    for name in re.findall(r"\]\(([^)\s:]+)\)", text):
        assert (path.parent / name).exists(), name


@pytest.mark.parametrize("path", REFERENCES, ids=_name)
def test_every_page_beside_a_skill_is_pointed_to(path: Path) -> None:
    assert f"references/{path.name}" in (path.parent.parent / "SKILL.md").read_text("utf-8")


def test_skills_and_agents_name_only_those_that_there_are() -> None:
    names = {path.parent.name for path in SKILLS}
    for path in TEXTS:
        text = path.read_text("utf-8")
        assert set(re.findall(r"skill `([\w-]+)`", text)) <= names
        assert set(re.findall(r"`hypervisor:([\w-]+)`", text)) <= names | {agent.stem for agent in AGENTS}


# ------------------------------------------------------------------- manifests


def _json(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / name).read_text("utf-8"))
    return found


def test_the_manifests_and_the_project_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    plugin, market = _json(".claude-plugin/plugin.json"), _json(".claude-plugin/marketplace.json")
    assert (plugin["name"], plugin["version"]) == (project["name"], project["version"])
    assert plugin["license"] == project["license"]["text"]
    (entry,) = market["plugins"]
    assert (market["name"], entry["name"]) == (plugin["name"], plugin["name"])
    assert entry["description"] == plugin["description"]
    assert entry.get("version", plugin["version"]) == plugin["version"]
    assert (ROOT / entry["source"] / ".claude-plugin/plugin.json").samefile(
        ROOT / ".claude-plugin/plugin.json"
    )
    # The client finds the parts by their places; naming them would replace the places, or load them twice.
    assert not {"hooks", "agents", "skills", "commands"} & set(plugin)


def test_the_server_is_called_as_the_tools_say_and_is_there_from_the_first_request_on() -> None:
    # In the manifest: a root .mcp.json is also read as the settings of whoever opens this repository.
    servers = _json(".claude-plugin/plugin.json")["mcpServers"]
    assert list(servers) == [SERVER]
    assert not (ROOT / ".mcp.json").exists()
    server = servers[SERVER]
    assert server["alwaysLoad"] is True
    assert server["command"] == "sh"
    starter, script = server["args"]
    assert Path(starter.replace("${CLAUDE_PLUGIN_ROOT}", str(ROOT))).is_file()
    assert starter.startswith("${CLAUDE_PLUGIN_ROOT}/")
    assert (ROOT / "scripts" / script).is_file()
    assert f"mcp__plugin_{_json('.claude-plugin/plugin.json')['name']}_{SERVER}__" == PREFIX
