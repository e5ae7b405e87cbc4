"""What acts on many items at once, tried by the real client: denied with the reason, until approved."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from acceptance.api import ScriptedApi, Turn, calls, say, use
from acceptance.conftest import NewClient
from acceptance.product import RULES, Tasks, claim, done, worker
from acceptance.replies import Reply
from acceptance.toy import ECHO, told, write_toy
from commands import HYPERVISOR, ROOT
from hypervisor.hooks.decisions import WORKER

#: Once with the tools' schemas in the first request, once with tool search, as most users have it.
pytestmark = pytest.mark.usefixtures("tool_search")

ACT = use(ECHO, word="archive m-1")


def hypervisor(folder: Path, *words: str) -> str:
    """Run the command in *folder*; return what it printed."""
    ended = subprocess.run([*HYPERVISOR, *words], cwd=folder, capture_output=True, text=True, check=True)
    return ended.stdout


def test_a_bulk_action_is_denied_until_its_dry_run_is_approved(
    api: ScriptedApi, client: NewClient, git_project: Path, tmp_path: Path
) -> None:
    tasks = Tasks(git_project)
    tasks.add("t-10")
    toy = write_toy(tmp_path, tmp_path / "hook", always_load=True)
    (tmp_path / "r.jsonl").write_text('{"id": "m-1"}\n{"id": "m-2"}\n', "utf-8")
    hypervisor(git_project, "chunk", "--records", str(tmp_path / "r.jsonl"), "--task", "t-10",
               "--bulk", "mcp__plugin_toy_srv__*", "--bulk", "Bash(archive *)")  # fmt: skip
    folder = next((git_project / ".hypervisor/batches").iterdir())
    approve = f"hypervisor checkpoint approve --dir {folder}"

    def once_the_user_said_yes(_: Turn) -> Reply:
        hypervisor(git_project, "checkpoint", "approve", "--task", "t-10")
        return calls(ACT)

    api.main(
        calls(ACT, use("Bash", command="cd . && archive m-1")),
        calls(worker("t-10", run_in_background=False)),
        calls(use("Agent", description="x", prompt="Try it.", subagent_type=WORKER, run_in_background=False)),
        once_the_user_said_yes,
        calls(worker("t-10", run_in_background=False)),
        *[say("over")] * 3,
    )
    api.agent("Try it.", calls(ACT, use("Bash", command=approve)), say("BLOCKED"))
    api.agent("/pull t-10", calls(claim("t-10")), calls(ACT), calls(done("t-10")), say("COMPLETED t-10"))
    session = client(cwd=git_project, plugins=[ROOT, toy]).run(
        "go", *RULES, "mcp__plugin_toy_srv", "Bash(archive *)", "Bash(hypervisor *)", timeout=280
    )
    session.passed()
    main = api.of("go").results
    for result, pattern in ((main[0], "mcp__plugin_toy_srv__*"), (main[1], "Bash(archive *)")):
        assert result.is_error
        assert (
            f"Denied: `{pattern}` is a bulk action of {folder.name}, and nobody has approved it"
            in result.text
        )
        assert approve in result.text
    assert "t-10: its bulk action waits: nobody has approved it yet" in main[2].text, "no worker is begun"
    tried = api.of("Try it.").results
    assert all(one.is_error for one in tried)
    assert "nobody has approved it" in tried[0].text
    assert "waits for the user's decision, and a worker cannot ask" in tried[1].text
    assert not main[4].is_error, main[4].text
    assert main[4].json["word"] == "archive m-1"
    worked = api.of("/pull t-10").results
    assert [one.is_error for one in worked] == [False, False, False]
    assert tasks.status("t-10") == "done"
    ran = [one for one in told(tmp_path / "hook") if one.get("tool_name") == ECHO]
    assert len(ran) == 2, "the tool ran twice in all: after the approval"
