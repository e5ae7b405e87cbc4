"""`hypervisor log`: the whole output of an attempt, wherever it is kept, and while it grows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from commands import Gate, Shell, script, write_task
from hypervisor.core.process import host_name
from hypervisor.core.settings import settings_of
from hypervisor.report.attempt_output import StreamReader, event_text
from hypervisor.store.shared import join
from hypervisor.store.tails import LogTail
from inprocess import in_process
from stores import Database


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with in_process(tmp_path) as made:
        yield made


def begun(user: Shell, *items: str) -> Path:
    folder = user.cwd / "work"
    folder.mkdir()
    (folder / "queue.txt").write_text("".join(f"{item}\n" for item in items))
    return folder


def run(user: Shell, command: str) -> None:
    user.hypervisor("batch", "--dir", "work", "--all", "--exec", command)


def test_both_streams_of_the_latest_attempt_are_printed_where_they_belong(user: Shell) -> None:
    begun(user, "a", "b")
    run(user, "sh -c 'echo out of {}; echo err of {} >&2; exit 1'")
    told = user.hypervisor("log", "a", "--dir", "work").passed()
    assert told.out == "out of a\n"
    assert told.err.splitlines() == ["a: attempt 1, failed", "err of a"]
    found = user.hypervisor("log", "b", "--dir", "work", "--json").passed().json
    assert (found["attempt"], found["stdout"], found["stderr"]) == (1, "out of b\n", "err of b\n")


def test_an_earlier_attempt_is_there_under_its_number(user: Shell) -> None:
    folder = begun(user, "a")
    run(user, script(user.home, "once", 'echo "$1"; echo "$HYPERVISOR_ATTEMPT"; exit 1'))
    user.hypervisor("retry", "--dir", "work", "--failed").passed()
    run(user, "sh -c 'echo better'")
    assert user.hypervisor("log", "a", "--dir", "work").passed().out == "better\n"
    assert user.hypervisor("log", "a", cwd=folder).passed().out == "better\n"
    assert user.hypervisor("log", "a", "--dir", "work", "--attempt", "1").passed().lines[0] == "a"
    user.hypervisor("log", "a", "--dir", "work", "--attempt", "9").refused(2, "no attempt 9", "1, 2")


def test_compressed_outputs_are_read_like_others(user: Shell) -> None:
    folder = begun(user, "a")
    run(user, "sh -c 'seq 1 5000'")
    assert [path.suffix for path in (folder / "logs").iterdir()] == [".gz"]
    assert user.hypervisor("log", "a", "--dir", "work").passed().lines == [str(n) for n in range(1, 5001)]


def test_a_task_is_named_by_its_id(user: Shell) -> None:
    write_task(user.cwd / "tasks/t-1.md")
    user.hypervisor("batch", "--tasks", "tasks/*.md", "--all", "--exec", "sh -c 'echo done {}'").passed()
    assert user.hypervisor("log", "t-1").passed().out == "done tasks/t-1.md\n"
    assert user.hypervisor("log", "tasks/t-1.md").passed().out == "done tasks/t-1.md\n"


def test_what_has_no_output_says_so(user: Shell) -> None:
    begun(user, "a", "b")
    user.hypervisor("log", "a").refused(2, "no batch")
    user.hypervisor("batch", "--dir", "work", "--batch", "1", "--exec", "true").passed()
    assert user.hypervisor("log", "a", "--dir", "work").code == 3
    user.hypervisor("log", "b", "--dir", "work").refused(3, "not started")
    user.hypervisor("log", "c", "--dir", "work").refused(2, "no such item")


def test_following_ends_with_the_attempt_and_loses_nothing(tmp_path: Path, user: Shell) -> None:
    real = Shell(user.home, user.cwd)
    folder = tmp_path / "gates"
    folder.mkdir()
    gate = Gate(folder, "item")
    begun(user, "a")
    with real:
        worker = real.start(
            "--dir", "work", "--all", "--exec", f"sh -c 'echo first; {gate.words}; echo last; : {{}}'"
        )
        gate.wait()
        follower = real.start_hypervisor("log", "a", "-f", "--dir", "work")
        follower.line("first")
        gate.open()
        ended = follower.end()
        assert worker.end().code == 0
    gate.close()
    assert ended.passed().out == "first\nlast\n"


def test_parts_are_read_in_their_order_and_as_they_appear(tmp_path: Path) -> None:
    stem = str(tmp_path / "x")
    reader = StreamReader(stem, "out")
    assert list(reader.read()) == []
    Path(f"{stem}.out").write_bytes(b"one ")
    assert b"".join(reader.read()) == b"one "
    with open(f"{stem}.out", "ab") as file:
        file.write(b"two ")
    Path(f"{stem}.out.2").write_bytes(b"four")
    Path(f"{stem}.out.1.gz").write_bytes(gzip.compress(b"three "))
    assert b"".join(reader.read()) == b"two three four"
    reader.close()


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"type": "system", "subtype": "init"}, None),
        ({"type": "assistant", "message": {"content": [{"type": "text", "text": "Hello"}]}}, "Hello"),
        (
            {
                "type": "assistant",
                "message": {"content": [{"type": "tool_use", "name": "Bash", "input": {"c": 1}}]},
            },
            '[Bash] {"c": 1}',
        ),
        ({"type": "assistant", "message": "odd"}, None),
        ({"type": "result", "subtype": "success", "result": "Done."}, "[ended: success] Done."),
        ({"type": "message", "role": "assistant", "content": "Hi"}, "Hi"),
        ({"type": "tool_use", "tool_name": "shell", "parameters": {}}, "[shell]"),
        ({"type": "error", "message": "no key"}, "error: no key"),
    ],
)
def test_events_of_agents_are_shown_as_text(event: object, text: str | None) -> None:
    assert event_text(json.dumps(event).encode()) == text


def test_what_is_no_event_is_shown_as_it_is() -> None:
    assert event_text(b"plain \xff words") == "plain \ufffd words"
    assert event_text(b"  ") is None


def clone(root: Path, db: Database) -> Path:
    """Return a project that uses the tables of *db*."""
    write_task(root / "tasks/t-1.md")
    state = root / ".hypervisor"
    state.mkdir(mode=0o700)
    (state / "config.toml").write_text(f'[store]\nschema = "{db.schema}"\ntail_kib = 1\n')
    join(state, settings_of(state), db.url, "")
    return root


def test_on_another_machine_the_end_of_a_log_is_printed_and_where_the_whole_is(
    postgres_db: Database, tmp_path: Path
) -> None:
    postgres_db.open()  # removes the tables at the end
    one, two = clone(tmp_path / "one", postgres_db), clone(tmp_path / "two", postgres_db)
    with in_process(one) as here:
        here.hypervisor("log", "t-1", cwd=two).refused(3, "not started yet")
        command = "sh -c 'seq 1 5000; echo oops >&2; exit 1'"
        here.hypervisor("batch", "--tasks", "tasks/*.md", "--all", "--exec", command, cwd=one)
        whole = here.hypervisor("log", "t-1", cwd=one).passed()
        assert whole.lines == [str(number) for number in range(1, 5001)]
        told = here.hypervisor("log", "t-1", cwd=two).passed()
        assert len(told.out) <= 512
        assert told.lines == whole.lines[-len(told.lines) :]
        head, *rest = told.err.splitlines()
        assert rest == ["oops"]
        assert head.startswith(
            f"t-1: attempt 1, failed; this is its end; the whole log is on {host_name()}: {one}"
        )
        found = here.hypervisor("log", "t-1", "--json", cwd=two).passed().json
        assert (found["host"], found["cut"], found["stderr"]) == (host_name(), True, "oops\n")
        assert Path(f"{found['log']}.out").exists() or Path(f"{found['log']}.out.gz").exists()
        here.hypervisor("clean", "--outputs", "--older-than", "30d", cwd=two)
        here.hypervisor("log", "t-1", cwd=two).passed()
        postgres_db.open().engine.write(
            lambda tx: tx.run("UPDATE attempt SET ended_at = ended_at - CAST(2678400000 AS bigint)")
        )
        here.hypervisor("clean", "--outputs", "--older-than", "30d", cwd=two)
        assert here.hypervisor("log", "t-1", cwd=two).code == 3
        store = postgres_db.open()
        store.engine.write(lambda tx: tx.run("UPDATE worker SET host = 'ant/1'"))
        here.hypervisor("log", "t-1", cwd=two).refused(3, "its log is on ant/1")
        store.engine.write(lambda tx: tx.run("UPDATE attempt SET ended_at = NULL, outcome = NULL"))
        here.hypervisor("log", "t-1", cwd=two).refused(3, "running; its log is on ant/1; its end can be read")
        (held,) = store.claims.held_all()

        def end() -> None:
            tail = LogTail(attempt=held.attempt, path="/ant/log", out=b"late\n", err=b"", cut=False)
            store.tails.keep([tail])
            store.engine.write(lambda tx: tx.run("UPDATE attempt SET ended_at = 1, outcome = 'failed'"))

        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(end)
            assert here.hypervisor("log", "t-1", "-f", cwd=two).passed().out == "late\n"
            ended.result()
