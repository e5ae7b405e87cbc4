"""The page live, for this machine's browsers alone, whoever else knocks."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from commands import PATIENCE, eventually
from handwork import Hands, batch_in
from hypervisor.queue.batch import Batch
from hypervisor.queue.batches import open_folder
from hypervisor.report.report import ReportBuilder
from hypervisor.report.web import ReportServer, WatchedBatch


class Knock:
    """Asks a server, with whatever headers."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.host, self.port, self.path = str(parts.hostname), int(parts.port or 0), parts.path

    def __call__(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def state(self, instance: str = "", since: int = 0) -> dict[str, Any]:
        status, _, body = self(f"{self.path}state?instance={instance}&since={since}")
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found


@pytest.fixture
def batch(tmp_path: Path) -> Iterator[Batch]:
    """A batch of 50 items."""
    with batch_in(tmp_path / "b", *(f"item-{n}" for n in range(50))) as made:
        yield made


@pytest.fixture
def knock(batch: Batch) -> Iterator[Knock]:
    """Serve the batch within this process."""
    with contextlib.ExitStack() as stack:
        builder = stack.enter_context(ReportBuilder(open_folder(batch.folder, cwd=batch.folder, write=False)))
        server = stack.enter_context(ReportServer(builder))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        thread.start()
        yield Knock(server.address)


def test_only_who_knows_the_address_gets_anything(knock: Knock) -> None:
    assert knock.host == "127.0.0.1"
    assert len(knock.path) > 30
    assert knock(knock.path)[0] == 200
    for path in ("/", "/favicon.ico", "/wrong/", f"{knock.path[:-2]}/", "/../etc/passwd", "//[", "/%00/"):
        status, _, body = knock(path)
        assert (status, body) == (404, b"no such page\n"), path
    for path in ("nothing", "log", "log?row=x", "log?row=-1", "log?row=0", "../b", "state/"):
        assert knock(knock.path + path)[0] == 404, path


@pytest.mark.parametrize("name", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""])
def test_a_page_that_has_rebound_its_name_gets_nothing(knock: Knock, name: str) -> None:
    status, _, body = knock(knock.path, Host=name.format(port=knock.port))
    assert status == 403
    assert b"<" not in body


def test_the_answers_forbid_what_a_browser_could_be_talked_into(knock: Knock) -> None:
    _, headers, _ = knock(knock.path)
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert knock(knock.path, method)[0] == 501
    assert knock(knock.path, "HEAD")[2] == b""


def test_news_are_what_has_changed_and_no_more(batch: Batch, knock: Knock) -> None:
    first = knock.state()
    assert len(first["rows"]) == 50
    again = knock.state(first["instance"], first["version"])
    assert "rows" not in again
    for number in range(3):
        Hands(batch).do(f"item-{number}")

    def news() -> dict[str, Any]:
        found = knock.state(first["instance"], first["version"])
        return found if found["census"]["success"] == 3 else {}

    found = eventually(news, "the news")
    assert [row[0] for row in found["rows"]] == [0, 1, 2]
    assert len(knock.state("another", found["version"])["rows"]) == 50
    _, headers, body = knock(f"{knock.path}state", **{"Accept-Encoding": "gzip"})
    assert headers["content-encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(body))["rows"]) == 50


def test_many_browsers_at_once_are_all_answered(knock: Knock) -> None:
    # One that says nothing, and one that stops in the middle, hold up nobody.
    silent = [socket.create_connection((knock.host, knock.port)) for _ in range(20)]
    silent[0].sendall(b"GET /")
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda _: len(knock.state()["rows"]), range(120)))
    assert found == [50] * 120
    for one in silent:
        one.close()


def state_of(batch: Batch) -> list[Any]:
    """Return all that a look could change in a batch."""
    store = batch.store
    return [
        list(store.progress.items(batch.number, store.progress.changed(batch.number))), store.events.last(),
        batch.refresh(), sorted(os.listdir(batch.folder)), Path(batch.source.path).read_bytes(),
    ]  # fmt: skip


def test_whatever_is_asked_for_the_batch_stays_as_it_was(batch: Batch, knock: Knock) -> None:
    Path(batch.logs).mkdir()
    Path(batch.logs, "one.err").write_text("why\n", "utf-8")
    hands = Hands(batch)
    hands.end(hands.begin("item-0", "logs/one"), "failed", log="logs/one")
    before = state_of(batch)
    for path in ("", "state", "state?cancel=1", "log?row=0", "cancel", "drain", "../queue.txt"):
        knock(knock.path + path)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        knock(f"{knock.path}state", method)
    instance = knock.state()["instance"]
    assert knock(f"{knock.path}log?row=0&instance={instance}")[0] == 200
    assert state_of(batch) == before


def test_a_log_is_given_for_a_row_and_for_nothing_else(batch: Batch, knock: Knock) -> None:
    Path(batch.logs).mkdir()
    Path(batch.logs, "one.err").write_text("why\n", "utf-8")
    hands = Hands(batch)
    hands.end(hands.begin("item-0", "logs/one"), "failed", log="logs/one")
    instance = knock.state()["instance"]
    status, _, body = knock(f"{knock.path}log?row=0&instance={instance}")
    assert status == 200
    assert [log["text"] for log in json.loads(body)] == ["why"]
    for words in (f"row=50&instance={instance}", "row=0", f"row=../0&instance={instance}", "row=9" * 40):
        assert knock(f"{knock.path}log?{words}")[0] == 404


def test_a_queue_that_goes_away_is_said_to_whoever_looks(batch: Batch, knock: Knock) -> None:
    knock.state()
    queue = batch.source.path
    os.rename(queue, f"{queue}.away")

    def gone() -> bytes:
        status, _, body = knock(f"{knock.path}state")
        return body if status == 503 else b""

    assert b"queue.txt" in eventually(gone, "an answer that says it")
    os.rename(f"{queue}.away", queue)
    eventually(lambda: knock(f"{knock.path}state")[0] == 200, "the queue to be back")


def test_the_first_look_delays_no_other_however_much_it_takes_in(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = WatchedBatch(ReportBuilder(batch))
    looks: list[float] = []
    look = ReportBuilder.look

    def dear_at_first(self: ReportBuilder) -> bool:
        while not looks and time.thread_time() - begun < 0.5:
            pass
        looks.append(time.monotonic())
        return look(self)

    monkeypatch.setattr(ReportBuilder, "look", dear_at_first)
    begun = time.thread_time()
    watched.state("", 0)
    first = looks[0]
    eventually(lambda: watched.state("", 0) is not None and len(looks) > 1, "another look")
    # By what the first look cost, the second would come after 4.5 s.
    assert looks[1] - first < 3.0
