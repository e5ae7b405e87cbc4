"""A run tells its user, by a command or a URL, of questions, failures and its end; that delays nothing."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import ROOT, Shell, script, shell, write_task
from hypervisor.orchestrator.notifying import Notifier

AGENT = f"""
case $HYPERVISOR_TASK_ID in
t-1) mkdir -p src; echo x > src/t-1.txt; git add src; git commit -qm x ;;
t-2) {ROOT}/bin/hypervisor task ask t-2 'Red; $(touch no) or blue?' --choice red ;;
t-3) exit 3 ;;
esac
"""
HEARS = 'if [ -n "$HYPERVISOR_STORE" ]; then exit 9; fi; cat >> TOLD; echo " $HYPERVISOR_EVENT" >> TOLD'


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        for words in (["init", "--quiet", "--initial-branch=main"], ["config", "user.name", "A User"],
                      ["config", "user.email", "user@example.invalid"]):  # fmt: skip
            subprocess.run(["git", *words], cwd=made.cwd, check=True)
        yield made


def run(user: Shell, command: str) -> Any:
    (user.cwd / ".hypervisor").mkdir()
    text = f"[notify]\ncommand = '''{command}'''\nseconds = 0.5\n"
    (user.cwd / ".hypervisor/config.toml").write_text(text)
    for number in range(1, 4):
        write_task(user.cwd / f"tasks/t-{number}.md", files=f"[src/t-{number}.txt]")
    subprocess.run(["git", "add", "tasks"], cwd=user.cwd, check=True)
    subprocess.run(["git", "commit", "--quiet", "-m", "Tasks"], cwd=user.cwd, check=True)
    agent = script(user.home, "agent", AGENT)
    return user.hypervisor("run", "--all", "--agent", "exec", "--exec", agent, "-j", "1")


@pytest.mark.acceptance
def test_a_command_is_told_of_a_question_a_failure_and_the_end(user: Shell) -> None:
    told = user.home / "told"
    ended = run(user, HEARS.replace("TOLD", str(told)))
    assert "notify" not in ended.err
    lines = [line.rpartition(" ") for line in told.read_text().splitlines()]
    found = {event: json.loads(data) for data, _, event in lines}
    assert [event for _, _, event in lines] == ["question", "failure", "end"]
    assert found["question"]["task"] == "t-2"
    assert found["question"]["text"] == "t-2 asks: Red; $(touch no) or blue?"
    assert found["question"]["choices"] == ["red"]
    assert found["question"]["type"] == 'hypervisor answer 1 "..."'
    assert found["failure"]["text"].startswith("t-3 failed: failed: exit 3")
    assert "3 queued = 1 success" in found["end"]["text"]
    assert {need["task_id"] for need in found["end"]["needs_attention"]} == {"t-2", "t-3"}
    assert found["end"]["project"] == str(user.cwd)
    assert {found[event]["event"] for event in found} == set(found)


@pytest.mark.acceptance
def test_a_command_that_fails_is_one_line_however_often(user: Shell) -> None:
    ended = run(user, "echo no way >&2; exit 4")
    assert "3 queued = 1 success" in ended.out
    assert ended.err.count("notify.command: exited 4: no way") == 1


class Said(list[str]):
    """What was said."""

    def __call__(self, line: str) -> None:
        self.append(line)


def notifier(said: Said, **settings: Any) -> Notifier:
    return Notifier({"command": "", "url": "", "seconds": 5.0, **settings}, {"batch": "b"}, said)


def test_a_command_that_hangs_is_ended_and_delays_only_the_end(tmp_path: Path) -> None:
    said, began = Said(), time.monotonic()
    one = notifier(said, command=f"echo $$ >> {tmp_path}/pids; sleep 60 & wait", seconds=0.3)
    for number in range(20):
        one.send("failure", f"t-{number} failed")
    assert time.monotonic() - began < 0.25
    one.close("the end")
    assert time.monotonic() - began < 5
    assert said[0] == "notify.command: did not end within 0.3 s"
    assert "notification(s) were not sent in time" in said[-1]
    assert len((tmp_path / "pids").read_text().split()) <= 3


def test_nothing_is_started_where_nobody_is_to_be_told() -> None:
    said, before = Said(), threading.active_count()
    one = notifier(said)
    one.send("failure", "t-1 failed")
    one.close("the end")
    assert (said, threading.active_count()) == ([], before)


@pytest.mark.parametrize("status", [200, 500])
def test_a_url_gets_the_same_document_and_is_not_named_where_it_fails(status: int) -> None:
    got: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        said = Said()
        one = notifier(said, url=f"http://127.0.0.1:{server.server_address[1]}/secret-token")
        one.close("3 queued", census={"queued": 3})
        server.shutdown()
        thread.join()
    (document,) = got
    assert (document["event"], document["text"], document["census"]) == ("end", "3 queued", {"queued": 3})
    assert said == ([] if status == 200 else ["notify.url: 127.0.0.1 answered 500"])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("file:///etc/passwd", "is no http:// or https:// URL"),
        ("http://127.0.0.1:9/secret", "127.0.0.1 cannot be reached"),
    ],
)
def test_a_url_that_is_no_good_is_one_line(url: str, why: str) -> None:
    said = Said()
    notifier(said, url=url).close("the end")
    (line,) = said
    assert why in line
    assert "secret" not in line
