"""What the Gemini CLI's hooks answer."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, write_task
from hookclient import DONE, service
from hypervisor.core.project import Project
from hypervisor.hooks import gemini
from hypervisor.runners.gemini_events import PREFIX


@dataclass(frozen=True, slots=True)
class Cli:
    """A session of the client in a project: says what happens, and gives what it is answered."""

    project: Project
    capsys: pytest.CaptureFixture[str]
    environ: dict[str, str] = field(default_factory=dict)
    session: str = "g-1"

    def call(self, event: str, **fields: Any) -> Any:
        """Return the answer, None where there is none; hold that nothing failed."""
        out, err = self.raw(json.dumps(self.payload(event, **fields)).encode())
        assert err == ""
        return json.loads(out) if out else None

    def raw(self, data: bytes) -> tuple[str, str]:
        environ = {"CLAUDE_PROJECT_DIR": str(self.project.root), **self.environ}
        assert gemini.main(io.BytesIO(data), environ) == 0
        said = self.capsys.readouterr()
        return said.out, said.err

    def payload(self, event: str, **fields: Any) -> dict[str, Any]:
        where = {"cwd": str(self.project.root), "transcript_path": "/home/u/.gemini/tmp/x.jsonl"}
        return {"session_id": self.session, **where, "hook_event_name": event, **fields}

    def before(self, tool: str, **given: Any) -> str:
        """Say that a tool is about to run; return why it is denied, "" if it is not."""
        answer = self.call("BeforeTool", tool_name=tool, tool_input=given) or {}
        assert answer.get("decision") in (None, "deny")
        return str(answer.get("reason", ""))

    def claim(self, task: str) -> None:
        """Claim a task as the server does for this session."""
        with service(self.project, gemini.AGENT, self.session, "gemini") as mine:
            mine.claim(task)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "outer/project"
    (root / "tasks").mkdir(parents=True)
    (root / ".git").mkdir()
    made = Project(root, root / ".hypervisor")
    for name in ("t-1", "t-2"):
        write_task(
            root / f"tasks/{name}.md", files=f"[src/{name}.txt]", verify=f"grep -q {name} src/{name}.txt"
        )
    return made


@pytest.fixture
def cli(project: Project, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(project, capsys)


def test_our_tools_are_told_who_calls_in_the_clients_own_way(cli: Cli) -> None:
    answer = cli.call("BeforeTool", tool_name=f"{PREFIX}claim_task", tool_input={"id": "t-1"})
    told = {"id": "t-1", "caller_session": "g-1", "caller_agent": "gemini"}
    assert answer == {"hookSpecificOutput": {"hookEventName": "BeforeTool", "tool_input": told}}
    # Another server's tool of the same name is none of ours.
    assert cli.call("BeforeTool", tool_name="mcp_other_claim_task", tool_input={"id": "t-1"}) is None


def test_who_holds_no_task_is_held_to_nothing(cli: Cli) -> None:
    for tool, given in (
        ("write_file", {"file_path": "README.md"}),
        ("run_shell_command", {"command": "git push"}),
        ("read_file", {"file_path": ".env"}),
    ):
        assert cli.before(tool, **given) == ""


def test_whoever_holds_a_task_is_held_to_its_files(cli: Cli) -> None:
    cli.claim("t-1")
    assert cli.before("write_file", file_path=str(cli.project.root / "src/t-1.txt"), content="t-1") == ""
    outside = cli.before("replace", file_path="README.md", old_string="a", new_string="b")
    assert outside == "Denied: README.md is outside of what t-1 may change (src/t-1.txt)."
    assert "no git" in cli.before("run_shell_command", command="cd src && git push origin HEAD")
    assert "may hold secrets (.ssh)" in cli.before("run_shell_command", command="cat ~/.ssh/id_rsa")
    assert "may hold secrets (.env)" in cli.before("read_file", file_path=".env")
    assert "may hold secrets" in cli.before("read_many_files", include=["src/*", ".aws/credentials"])
    assert cli.before("read_file", file_path="README.md") == ""


def test_an_agent_that_a_coordinator_started_is_held_to_its_task_in_its_worktree(
    project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "src").mkdir(parents=True)
    (tree / ".git").write_text("gitdir: elsewhere\n")
    told = {
        "HYPERVISOR_TASK_ID": "t-1", "HYPERVISOR_ATTEMPT": "1", "HYPERVISOR_REPORT": str(tmp_path / "r"),
        "HYPERVISOR_TASK_FILE": str(project.root / "tasks/t-1.md"), "HYPERVISOR_HOME": str(project.state),
    }  # fmt: skip
    cli = Cli(project, capsys, told)

    def write(path: Path) -> str:
        call = {"tool_name": "write_file", "tool_input": {"file_path": str(path)}, "cwd": str(tree / "src")}
        return str((cli.call("BeforeTool", **call) or {}).get("reason", ""))

    assert write(tree / "src/t-1.txt") == ""
    assert "outside" in write(tree / "src/t-2.txt")
    assert "outside" in write(project.root / "src/t-1.txt")  # the user's own checkout
    assert "outside" in write(tree / ".git")
    # What it says is verified when it has ended, and not twice.
    assert cli.before(f"{PREFIX}complete_task", id="t-1") == ""


def test_a_task_whose_verification_fails_is_not_completed(cli: Cli) -> None:
    cli.claim("t-1")
    told = cli.before(f"{PREFIX}complete_task", id="T-1", outcome="did it")
    assert told == (
        "Denied, the claim is still yours: its verification fails, `grep -q t-1 src/t-1.txt` with exit 2"
        ": grep: src/t-1.txt: No such file or directory"
    )
    (cli.project.root / "src").mkdir()
    (cli.project.root / "src/t-1.txt").write_text("t-1\n")
    assert cli.before(f"{PREFIX}complete_task", id="t-1", outcome="did it") == ""


def test_a_task_that_may_not_be_claimed_costs_no_request(cli: Cli) -> None:
    with service(cli.project, name="zoe") as person:
        _, hold = person.claim("t-1")
        person.finish("t-1", DONE, hold.attempt)
    context = "<hook_context>something that another hook said</hook_context>\n\n"
    for prompt in ("/pull t-1", f"{context}/pull t-1\n\n# You are a worker"):
        answer = cli.call("BeforeAgent", prompt=prompt)
        assert answer == {"decision": "deny", "reason": "Denied, nothing was started: t-1: already complete"}
    assert cli.call("BeforeAgent", prompt="/pull t-2") is None
    assert cli.call("BeforeAgent", prompt="what does /pull t-1 do?") is None


def test_the_prompt_is_given_where_the_client_could_not_read_it(cli: Cli) -> None:
    text = (ROOT / "prompts/gemini-task-worker.md").read_text("utf-8")
    typed = "@prompts/gemini-task-worker.md Claim and complete one mechanical task from aops project"
    answer = cli.call("BeforeAgent", prompt=typed)
    assert answer["hookSpecificOutput"] == {"hookEventName": "BeforeAgent", "additionalContext": text.strip()}
    read = f"{typed}\n--- Content from referenced files ---\n{text}"
    assert cli.call("BeforeAgent", prompt=read) is None
    assert cli.call("BeforeAgent", prompt="Claim one task") is None


def test_an_open_claim_is_asked_for_once_and_let_go_at_the_end(cli: Cli) -> None:
    cli.call("SessionStart", source="startup")
    cli.claim("t-1")
    asked = cli.call("AfterAgent", prompt="x", prompt_response="done", stop_hook_active=False)
    assert asked["decision"] == "deny"
    assert "t-1" in asked["reason"]
    assert cli.call("AfterAgent", prompt="x", prompt_response="done", stop_hook_active=True) is None
    cli.call("SessionEnd", reason="exit")
    assert "status: active" in (cli.project.root / "tasks/t-1.md").read_text()


def test_a_tool_that_a_task_names_leaves_a_receipt_also_when_it_fails(cli: Cli) -> None:
    path = write_task(cli.project.root / "tasks/t-3.md", receipts="[mcp_mail_archive]")
    cli.claim("t-3")
    ran = {"tool_name": "mcp_mail_archive", "tool_input": {"id": "m-7"}}
    cli.call("AfterTool", **ran, tool_response={"llmContent": [{"text": "ok"}]})
    cli.call("AfterTool", **ran, tool_response={"error": {"message": "no such mail"}})
    lines = [line for line in path.read_text().splitlines() if line.startswith("- ")]
    assert len(lines) == 2
    assert "m-7" in lines[0]
    assert "no such mail" in lines[1]


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"[" * 100_000, b'{"hook_event_name": "BeforeModel"}', b'{"hook_event_name": 3}'],
)
def test_what_is_no_call_of_ours_is_passed_over(cli: Cli, data: bytes) -> None:
    assert cli.raw(data) == ("", "")


def test_a_fault_of_ours_lets_the_tool_pass_and_says_so(cli: Cli) -> None:
    cli.project.state.mkdir()
    (cli.project.state / "config.toml").write_text("[agents\n")
    out, err = cli.raw(json.dumps(cli.payload("BeforeTool", tool_name="write_file", tool_input={})).encode())
    assert out == ""
    assert "a hook failed at PreToolUse and let it pass" in err
