"""A session asks its user at a checkpoint, in the client's own way; the answer decides what is done next."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from acceptance.api import ScriptedApi, Turn, calls, say, use
from acceptance.conftest import NewClient
from acceptance.product import plugged
from acceptance.replies import Reply
from acceptance.terminal import Terminal, options
from commands import HYPERVISOR, script
from hypervisor.review.plan import open_chunked

#: Notes what the criteria say of each mail.
_SORT = """
hypervisor chunk items --left | while read -r item; do
    hypervisor chunk note "$HYPERVISOR_CHUNK_ID" "$item" --category "$HYPERVISOR_CRITERIA"
done
"""


def decisions(folder: Path) -> list[tuple[str, str, str]]:
    """Return what was decided at the first wave of a chunked batch."""
    made = open_chunked(folder)
    try:
        waves = made.review.waves(made.number)
        return [(one.verdict, one.criteria, one.by) for one in waves[0].decisions]
    finally:
        made.batch.close()


def test_the_users_answer_in_the_client_is_what_the_checkpoint_is_told(
    api: ScriptedApi, client: NewClient, git_project: Path
) -> None:
    rows = [json.dumps({"id": f"m-{n}", "date": f"2025-0{n % 2 + 1}-03"}) for n in range(4)]
    (git_project / "mail.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    words = ("chunk", "--records", "mail.jsonl", "--by", "month:date", "--dir", "work")
    subprocess.run([*HYPERVISOR, *words], cwd=git_project, check=True, capture_output=True)
    sort = script(git_project, "sort.sh", _SORT)
    run = f"hypervisor chunk run --dir work --json --criteria drop --exec {sort}"

    def ask(turn: Turn) -> Reply:
        text = turn.results[0].text
        found = json.loads(text[text.index("{") :])
        assert found["standing"] == "open"
        counts = {name: one["count"] for name, one in found["checkpoint"]["categories"].items()}
        question = f"Checkpoint {found['checkpoint']['checkpoint']}: {counts}. Go on?"
        choice = {"question": question, "header": "Checkpoint", "multiSelect": False}
        return calls(
            use("AskUserQuestion", questions=[{**choice, "options": options("Go on", "Archive", "Stop")}])
        )

    def pass_on(turn: Turn) -> Reply:
        answer = turn.results[0].text.partition('Go on?"="')[2].partition('"')[0]
        revise = f"hypervisor checkpoint revise --dir work --by user --criteria {answer}"
        return calls(use("Bash", command=revise))

    again = use("Bash", command="hypervisor chunk run --dir work --json")
    api.main(calls(use("Bash", command=run)), ask, pass_on, calls(again), say("ALL SAID"))
    user = plugged(client, git_project)
    with Terminal(user, "--allowedTools", "Bash(hypervisor *)") as terminal:
        terminal.say("Batch these mails.")
        asked = terminal.until("Checkpoint 1: {'drop': 2}. Go on?", seconds=240)
        assert "1. Go on" in asked
        assert decisions(git_project / "work") == []
        terminal.choose("2. Archive")
        terminal.until("ALL SAID", seconds=240)
    assert decisions(git_project / "work")[:1] == [("revise", "Archive", "user")]
    summary = json.loads((git_project / "work/chunk-01-summary.json").read_text("utf-8"))
    assert (summary["categories"], summary["revision"]) == ({"Archive": 2}, 2)
