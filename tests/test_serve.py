"""`hypervisor serve`: the page live, for this machine's browsers alone, whoever else knocks."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from chromium import Browser, find_chromium
from commands import PATIENCE, Gate, Running, Shell, eventually, script, shell, tree
from hypervisor.queue.batches import open_folder
from hypervisor.report.report import Reporter
from hypervisor.report.serving import Server, Watched

#: The time within which a completion is to be seen, in seconds, as told by the page's own clock.
_SOON = 1.0


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def chromium() -> str:
    return find_chromium()


def batch_in(user: Shell, *items: str) -> Path:
    folder = user.cwd / "b"
    folder.mkdir()
    (folder / "queue.txt").write_text("".join(f"{item}\n" for item in items), "utf-8")
    return folder


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


def serve(user: Shell) -> tuple[Running, str]:
    """Start the command; return it, and its address."""
    running = user.start_hypervisor("serve", "--dir", "b")
    return running, running.line("http://").strip()


@pytest.fixture
def serving(user: Shell) -> Iterator[Callable[..., Knock]]:
    """Give a function that serves a batch of these items within this process."""
    with contextlib.ExitStack() as stack:

        def begin(*items: str) -> Knock:
            folder = batch_in(user, *items)
            server = stack.enter_context(Server(Reporter.of(open_folder(str(folder), cwd=str(folder)))))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            thread.start()
            return Knock(server.address)

        yield begin


def test_only_who_knows_the_address_gets_anything(serving: Callable[..., Knock]) -> None:
    knock = serving("a")
    assert knock.host == "127.0.0.1"
    assert len(knock.path) > 30
    assert knock(knock.path)[0] == 200
    for path in ("/", "/favicon.ico", "/wrong/", f"{knock.path[:-2]}/", "/../etc/passwd", "//[", "/%00/"):
        status, _, body = knock(path)
        assert (status, body) == (404, b"no such page\n"), path
    for path in ("nothing", "log", "log?row=x", "log?row=-1", "log?row=0", "../b", "state/"):
        assert knock(knock.path + path)[0] == 404, path


@pytest.mark.parametrize("name", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""])
def test_a_page_that_has_rebound_its_name_gets_nothing(serving: Callable[..., Knock], name: str) -> None:
    knock = serving("a")
    status, _, body = knock(knock.path, Host=name.format(port=knock.port))
    assert status == 403
    assert b"<" not in body


def test_the_answers_forbid_what_a_browser_could_be_talked_into(serving: Callable[..., Knock]) -> None:
    knock = serving("a")
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


def test_news_are_what_has_changed_and_no_more(user: Shell, serving: Callable[..., Knock]) -> None:
    knock = serving(*(f"item-{n}" for n in range(200)))
    first = knock.state()
    assert len(first["rows"]) == 200
    again = knock.state(first["instance"], first["version"])
    assert "rows" not in again
    user.worker("--dir", "b", "--batch", "3", "--exec", "true").passed()

    def news() -> dict[str, Any]:
        found = knock.state(first["instance"], first["version"])
        return found if found["census"]["success"] == 3 else {}

    found = eventually(news, "the news")
    assert [row[0] for row in found["rows"]] == [0, 1, 2]
    assert len(knock.state("another", found["version"])["rows"]) == 200
    _, headers, body = knock(f"{knock.path}state", **{"Accept-Encoding": "gzip"})
    assert headers["content-encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(body))["rows"]) == 200


def test_many_browsers_at_once_are_all_answered(serving: Callable[..., Knock]) -> None:
    knock = serving(*(f"item-{n}" for n in range(50)))
    # One that says nothing, and one that stops in the middle, hold up nobody.
    silent = [socket.create_connection((knock.host, knock.port)) for _ in range(20)]
    silent[0].sendall(b"GET /")
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda _: len(knock.state()["rows"]), range(120)))
    assert found == [50] * 120
    for one in silent:
        one.close()


def test_whatever_is_asked_for_the_batch_stays_as_it_was(user: Shell, serving: Callable[..., Knock]) -> None:
    knock = serving("a", "b")
    user.worker("--dir", "b", "--batch", "1", "--exec", "sh -c 'echo why >&2; exit 1'")
    before = tree(user.cwd / "b")
    for path in ("", "state", "state?cancel=1", "log?row=0", "cancel", "drain", "../queue.txt"):
        knock(knock.path + path)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        knock(f"{knock.path}state", method)
    instance = knock.state()["instance"]
    assert knock(f"{knock.path}log?row=0&instance={instance}")[0] == 200
    assert tree(user.cwd / "b") == before


def test_a_log_is_given_for_a_row_and_for_nothing_else(user: Shell, serving: Callable[..., Knock]) -> None:
    knock = serving("a")
    user.worker("--dir", "b", "--all", "--exec", "sh -c 'echo why >&2; exit 1'")
    instance = knock.state()["instance"]
    status, _, body = knock(f"{knock.path}log?row=0&instance={instance}")
    assert status == 200
    assert [log["text"] for log in json.loads(body)] == ["why"]
    for words in (f"row=1&instance={instance}", "row=0", f"row=../0&instance={instance}", "row=9" * 40):
        assert knock(f"{knock.path}log?{words}")[0] == 404


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_it_is_told_to(user: Shell, number: signal.Signals) -> None:
    batch_in(user, "a")
    running, address = serve(user)
    knock = Knock(address)
    knock.state()
    running.send(number)
    ended = running.end()
    assert (ended.code, ended.err) == (0, "")
    with pytest.raises(ConnectionRefusedError):
        knock.state()


def test_a_port_that_is_taken_is_said_in_one_line(user: Shell) -> None:
    batch_in(user, "a")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        user.hypervisor("serve", "--dir", "b", "--port", port).refused(2, port, "a free one")
    user.hypervisor("serve", "--dir", "b", "--port", "70000").refused(2, "70000")


def test_a_batch_that_goes_away_is_said_to_whoever_looks(user: Shell, serving: Callable[..., Knock]) -> None:
    knock, folder = serving("a"), user.cwd / "b"
    knock.state()
    os.rename(folder, user.cwd / "c")

    def gone() -> bytes:
        status, _, body = knock(f"{knock.path}state")
        return body if status == 503 else b""

    assert b"queue.txt" in eventually(gone, "an answer that says it")
    os.rename(user.cwd / "c", folder)
    eventually(lambda: knock(f"{knock.path}state")[0] == 200, "the batch to be back")


@pytest.mark.acceptance
@pytest.mark.timeout(300)
def test_a_completion_is_on_the_page_within_a_second(user: Shell, chromium: str) -> None:
    folder = batch_in(user, *(f"item-{n}" for n in range(6)))
    gate = Gate(user.home, "gate")
    command = script(user.home, "command", f"{gate.words}; echo did it")
    running, address = serve(user)
    with Browser(chromium) as browser:
        browser.open(address)
        browser.wait("document.querySelectorAll('#rows tr').length === 6")
        # Typed meanwhile, and kept: the page that changes takes nothing out of one's hands.
        browser.run("document.querySelector('#text').focus()")
        for letter in "item":
            browser.press(letter, text=letter)
        # The page itself notes when it showed what: looking from here would cost time.
        browser.run("""
            window.seen = {};
            new MutationObserver(() => {
              const n = document.querySelector('#tiles b').textContent;
              window.seen[n] ||= Date.now();
            }).observe(document.querySelector('#tiles'),
                       { subtree: true, childList: true, characterData: true })
        """)
        worker = user.start("--dir", "b", "--all", "--exec", f"{command} {{}}")
        late = []
        for number in range(1, 6):
            gate.wait()
            gate.open()
            browser.wait(f"window.seen['{number}']")
            results = [path.stat().st_mtime for path in (folder / "results").iterdir()]
            late.append(browser.run(f"window.seen['{number}']") / 1000 - sorted(results)[number - 1])
        # The quickest of them: how much a loaded machine adds says nothing of ours.
        assert min(late) < _SOON, late
        assert browser.run("document.activeElement.value") == "item"
        assert {urlsplit(one).netloc for one in browser.requests} == {urlsplit(address).netloc}
        gate.open()
        worker.end().passed()
        browser.wait("document.querySelector('#state').textContent.startsWith('finished; live')")
        running.send(signal.SIGINT)
        browser.wait("document.querySelector('#state').textContent.startsWith('Not connected')")
        assert [one for one in browser.complaints if "Failed to fetch" not in one and "ERR_" not in one] == []
    gate.close()


def test_the_first_look_delays_no_other_however_much_it_takes_in(
    user: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(Reporter.of(open_folder(str(batch_in(user, "a")), cwd=str(user.cwd), write=False)))
    looks: list[float] = []
    look = Reporter.look

    def dear_at_first(self: Reporter) -> None:
        while not looks and time.thread_time() - begun < 0.5:
            pass
        looks.append(time.monotonic())
        look(self)

    monkeypatch.setattr(Reporter, "look", dear_at_first)
    begun = time.thread_time()
    watched.state("", 0)
    first = looks[0]
    eventually(lambda: watched.state("", 0) is not None and len(looks) > 1, "another look")
    # By what the first look cost, the second would come after 4.5 s.
    assert looks[1] - first < 3.0
