"""A budget of tokens holds with the real client, whose agents spawn agents as fast as they can."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance import api as service
from acceptance import gemini_api, replies
from acceptance.api import Reply, ScriptedApi, calls, say, use
from acceptance.conftest import NewClient
from acceptance.gemini import MODEL, GeminiClient
from acceptance.gemini_api import GeminiApi
from acceptance.test_gemini_run import Runs as GeminiRuns
from acceptance.test_run import Runs
from hypervisor.core.settings import load_settings
from hypervisor.store.store import Store

BUDGET, ANSWER = 100_000, 5_000


@pytest.fixture
def runs(client: NewClient, git_project: Path, claude: str) -> Iterator[Runs]:
    made = Runs(client(cwd=git_project), git_project, claude)
    yield made
    made.close()


def spawn(count: int) -> Reply:
    """Begin so many subagents in one answer."""
    told: dict[str, Any] = {"subagent_type": "general-purpose", "description": "dig", "prompt": "dig on"}
    return calls(*(use("Agent", **told) for _ in range(count)))


def make_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each answer, of either API, cost `ANSWER` tokens."""
    for module in (service, replies):
        monkeypatch.setattr(module, "INPUT_TOKENS", ANSWER - 100)
        monkeypatch.setattr(module, "OUTPUT_TOKENS", 100)
    usage = {"promptTokenCount": ANSWER - 100, "candidatesTokenCount": 100, "totalTokenCount": ANSWER}
    monkeypatch.setitem(gemini_api.USAGE, "usageMetadata", usage)


def test_a_budget_of_100000_tokens_holds_under_adversarial_spawning(
    api: ScriptedApi, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dear(monkeypatch)
    runs.add("t-01", "t-02", "t-03", "t-04")
    config = runs.project / ".hypervisor/config.toml"
    config.write_text(config.read_text() + f"[budget]\nanswer_tokens = {ANSWER}\n")
    # Two spawn four at once, again and again; one spawns more at once than the whole budget pays for.
    for name in ("t-01", "t-02", "t-04"):
        api.main(*[spawn(4)] * 50, say("done"), when=f"Task {name}:")
    api.main(spawn(60), say("done"), when="Task t-03:")
    api.agent("dig on", *[calls(use("Bash", command="git add --dry-run ."))] * 100, say("dug"))
    code, out, err = runs.run(
        "--all", "-j", "3", "--budget-tokens", str(BUDGET), "--model", "claude-sonnet-4-5"
    )
    assert code == 1, out + err
    assert f"the budget of {BUDGET} tokens" in out, out + err
    assert "0 success" in out
    assert "4 waiting" in out  # nobody has failed for want of budget
    sent = api.served.input_tokens + api.served.output_tokens
    print(f"{sent} tokens at the stop")
    assert BUDGET / 4 < sent <= BUDGET  # sixty at once are stopped before they are paid for
    with Store.open(runs.project / ".hypervisor", load_settings(None), create=False) as store:
        stops = [event.data for event in store.events.since(0) if event.kind == "overseen"]
    assert stops
    assert all((data["act"], data["measure"]) == ("stop", "budget") for data in stops)
    assert any("no room for" in data["why"] for data in stops)
    api.take_surprises()  # a client that is killed leaves requests behind


def test_a_budget_of_100000_tokens_holds_with_gemini_agents_that_never_end(
    both_apis: GeminiApi, gemini_user: GeminiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dear(monkeypatch)
    runs = GeminiRuns(gemini_user, gemini=gemini_user.path)
    runs.configure(f"[budget]\nanswer_tokens = {ANSWER}\n")
    names = ["t-01", "t-02", "t-03"]
    runs.add(*names)
    # Never the same twice, which the client would take for a circle.
    looks = [calls(use("list_directory", dir_path=".", ignore=[f"*.{number}"])) for number in range(100)]
    for name in names:
        both_apis.main(*looks, say("done"), when=f"Task {name}:")
    words = ["run", "--all", "--agent", "gemini", "-j", "2", "--budget-tokens", str(BUDGET)]
    code, out, err = runs.hypervisor(*words, "--model", MODEL)
    assert code == 1, out + err
    assert f"the budget of {BUDGET} tokens" in out, out + err
    assert "0 success" in out
    assert "3 waiting" in out
    sent = both_apis.served.input_tokens + both_apis.served.output_tokens
    print(f"{sent} tokens at the stop")
    assert BUDGET / 2 < sent <= BUDGET
    both_apis.take_surprises()
