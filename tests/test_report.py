"""What is gathered of a batch for people: complete, the same as the census, and safe to show."""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chromium import Browser, find_chromium
from commands import Gate, Shell, script, shell, tree, write_task
from hypervisor import drain
from hypervisor.claims.directory import DirectoryStore, Policy
from hypervisor.claims.port import Claim, Holder, HolderKind
from hypervisor.claims.workers import new_worker_id
from hypervisor.core import clock, printable
from hypervisor.core.model import Outcome, Report
from hypervisor.drain import Drain
from hypervisor.queue import operations
from hypervisor.queue.batch import Batch
from hypervisor.queue.batches import open_folder
from hypervisor.queue.heart import Stop
from hypervisor.queue.summary import take_census
from hypervisor.queue.worker import Orders, Worker
from hypervisor.report import logtail
from hypervisor.report.follow import Follower
from hypervisor.report.needs import Case, needs_of
from hypervisor.report.pace import RECENT, duration, pace_of
from hypervisor.report.page import embedded, page, policy
from hypervisor.report.report import Reporter
from hypervisor.report.story import Story
from hypervisor.runners.port import Work

sys.path.append(str(Path(__file__).resolve().parent.parent))
from bench import seeing

#: What a task's title, a command's output or an agent may say.
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'`${1}&amp;&lt;",
    "\u2028\u2029 line ends",
    "\u202egnp.exe \u2066turned\u2069",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J\x9b1m \x08\x7f",
    "<!-- <script>",
    "half \udcff of a name",
    "x" * 1_000_000,
]


# ------------------------------------------------------------------- text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_line_of_a_stranger_is_one_short_printable_line(text: str) -> None:
    shown = printable.line(text, 100)
    assert shown.isprintable()
    assert len(shown) <= 100
    block = printable.block(text.encode("utf-8", "surrogateescape"), 60)
    assert all(line.isprintable() for line in block.split("\n"))
    assert max(map(len, block.split("\n"))) <= 2000


def test_colours_go_and_what_was_meant_stays() -> None:
    assert printable.line("\x1b[1;31mred\x1b[0m and\tblue\n") == "red and blue"
    assert printable.line("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\") == "link"
    assert printable.block(b"10 %\r50 %\r100 %\r\ndone\r\n", 5) == "100 %\ndone"
    assert printable.block(b"a\nb\nc\n", 2) == "b\nc"
    assert printable.line("שלום עולם") == "שלום עולם"  # letters that read from right to left are no attack


# ------------------------------------------------------------------- logs


def test_the_end_of_a_log_is_found_packed_cut_or_in_parts(tmp_path: Path) -> None:
    stem = str(tmp_path / "one")
    (tmp_path / "one.err").write_text("".join(f"line {n}\n" for n in range(100)), "utf-8")
    (tmp_path / "one.out").write_text("part 0\n", "utf-8")
    (tmp_path / "one.out.1.gz").write_bytes(gzip.compress(b"part 1\n"))
    error, out = logtail.tails(stem)
    assert error.text.split("\n") == [f"line {n}" for n in range(40, 100)]
    assert error.cut
    assert (out.name, out.text, out.cut) == ("one.out.1.gz", "part 1", False)


def test_a_log_is_never_more_than_its_share(tmp_path: Path) -> None:
    (tmp_path / "one.out").write_bytes(b"y" * 5_000_000)
    (tmp_path / "one.err.gz").write_bytes(gzip.compress(b"z" * 5_000_000))
    for tail in logtail.tails(str(tmp_path / "one"), 1000):
        assert len(tail.text) <= 500
        assert tail.cut


def test_what_is_no_plain_file_is_no_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "one.out")
    (tmp_path / "secret").write_text("secret", "utf-8")
    (tmp_path / "one.err").symlink_to(tmp_path / "secret")
    (tmp_path / "two.out.gz").write_bytes(b"not packed")
    assert logtail.tails(str(tmp_path / "one")) == []
    assert logtail.tails(str(tmp_path / "two")) == []
    assert logtail.tails(str(tmp_path / "none")) == []


# ------------------------------------------------------------------- pace


def test_nothing_is_known_of_the_pace_before_the_first_completion() -> None:
    assert pace_of([], [], 10, 100.0).eta is None
    assert pace_of([], [], 10, 100.0).per_minute is None


def test_what_is_left_is_judged_from_the_last_completions() -> None:
    ends = [float(10 * n) for n in range(1, 101)]
    found = pace_of([0.0], ends, 12, 1000.0)
    assert found.eta == pytest.approx(120.0)
    assert found.standing_on == RECENT
    assert found.per_minute == pytest.approx(6.0)


def test_workers_that_end_at_the_same_moment_are_not_taken_for_endless_speed() -> None:
    ends = [float(10 * (n // 8)) for n in range(80)]  # eight at once, each ten seconds
    assert pace_of([0.0], ends, 80, 100.0).eta == pytest.approx(100.0)


def test_a_nights_pause_does_not_count() -> None:
    ends = [float(n) for n in range(30)] + [30_000.0 + n for n in range(30)]
    assert pace_of([0.0], ends, 10, 30_030.0).eta == pytest.approx(10.0)


def test_the_first_completions_count_from_the_first_start() -> None:
    found = pace_of([100.0, 100.0], [160.0, 160.0], 4, 160.0)
    assert (found.eta, found.standing_on) == (120.0, 2)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.3, "0.3 s"), (45, "45 s"), (720, "12 min"), (12000, "3 h 20 min"), (190000, "2 d 4 h")],
)
def test_a_duration_is_told_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ------------------------------------------------------------------ needs


def case(number: int, reason: str, **more: Any) -> Case:
    name = f"n{number}"
    known: dict[str, Any] = {"name": name, "item": name, "state": "failed", "next": "mend it", "task": False}
    return Case(number=number, reason=reason, **(known | more))


def test_failures_that_differ_in_figures_are_one_need() -> None:
    cases = [case(n, f"exit 1: found {n} rows at 0x{n:08x}f") for n in range(1, 30)]
    asked = case(99, "which account?", state="blocked")
    first, second = needs_of([*cases, asked], "--dir D")
    assert (first.state, first.items, first.type) == ("blocked", [99], "hypervisor retry --dir D --item n99")
    assert len(second.items) == 29
    assert second.type == "hypervisor retry --dir D --failed"


def test_a_name_that_cannot_be_typed_is_not_offered_for_typing() -> None:
    (quoted,) = needs_of([case(1, "x", item="it's; rm -rf ~")], "B")
    assert quoted.type == "hypervisor retry B --item 'it'\"'\"'s; rm -rf ~'"
    (plain,) = needs_of([case(1, "x", item="a\x1b[2Jb")], "B")
    assert plain.type == "hypervisor retry B --failed"


# ----------------------------------------------------------------- follow


def batch_in(folder: Path, *items: str) -> Batch:
    folder.mkdir(exist_ok=True)
    (folder / "queue.txt").write_text("".join(f"{item}\n" for item in items), "utf-8", "surrogateescape")
    return open_folder(str(folder), cwd=str(folder))


class Hands:
    """A worker process's hands in a batch of its own store."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        holder = Holder(
            id=new_worker_id("worker", os.getpid()),
            kind=HolderKind.PROCESS,
            name="batch-worker",
            lease_seconds=900,
        )
        self.store = DirectoryStore(batch.folder, holder, policy=Policy(patient=False))

    def begin(self, item: str) -> Claim:
        claim = self.store.claim(self.batch.place(item).key, item)
        assert isinstance(claim, Claim)
        return claim

    def end(self, claim: Claim, item: str, status: str = "success", **more: Any) -> None:
        now = clock.now_text()
        told = {"started": now, "finished": now, "seconds": 0.1, "worker": self.store.holder.id}  # type: ignore[union-attr]
        self.store.complete(claim, {"item": item, "status": status, "outcome": status, **told, **more})

    def do(self, item: str, status: str = "success", **more: Any) -> None:
        self.end(self.begin(item), item, status, **more)


def agrees(follower: Follower) -> dict[str, int]:
    """Hold that a follower that has looked before says what the census says; return that."""
    follower.look()
    states: dict[str, int] = {}
    for row in follower.rows:
        states[row.state] = states.get(row.state, 0) + 1
    assert states == take_census(follower.batch).states
    assert follower.duplicates == take_census(follower.batch).duplicates
    fresh = Follower(follower.batch)
    fresh.look()
    assert [(row.place, row.state) for row in fresh.rows] == [(row.place, row.state) for row in follower.rows]
    return states


def test_a_batch_that_is_followed_stands_where_the_census_says(tmp_path: Path) -> None:
    batch = batch_in(tmp_path / "b", "a", "b", "c", "./a")
    follower, hands = Follower(batch), Hands(batch)
    assert agrees(follower) == {"waiting": 3}
    claim = hands.begin("a")
    assert agrees(follower) == {"running": 1, "waiting": 2}
    hands.end(claim, "a")
    assert agrees(follower) == {"success": 1, "waiting": 2}
    hands.do("b", "failed")
    assert agrees(follower) == {"success": 1, "failed": 1, "waiting": 1}
    operations.retry(batch, ["b"], {"failed"})
    assert agrees(follower) == {"success": 1, "waiting": 2}
    hands.do("b", "blocked")
    assert agrees(follower) == {"success": 1, "blocked": 1, "waiting": 1}
    with open(batch.queue.path, "a", encoding="utf-8") as queue:
        queue.write("d\ne\na\n")
    assert agrees(follower) == {"success": 1, "blocked": 1, "waiting": 3}
    operations.cancel(batch, [])
    assert agrees(follower) == {"success": 1, "blocked": 1, "skipped": 3}
    operations.retry(batch, ["b"], {"blocked"})
    operations.retry(batch, ["d"], {"skipped"})
    assert agrees(follower) == {"success": 1, "waiting": 2, "skipped": 2}


def test_a_look_that_finds_nothing_new_changes_nothing(tmp_path: Path) -> None:
    batch = batch_in(tmp_path / "b", "a", "b")
    follower = Follower(batch)
    assert follower.look()
    version = follower.version
    assert not follower.look()
    assert follower.version == version
    Hands(batch).do("a")
    assert follower.look()
    assert [row.version > version for row in follower.rows] == [True, False]


def test_a_damaged_result_and_a_queue_that_was_replaced_are_seen(tmp_path: Path) -> None:
    batch = batch_in(tmp_path / "b", "a", "b")
    follower = Follower(batch)
    follower.look()
    before = follower.instance
    Path(batch.layout(batch.folder).result_path(batch.place("a").key)).write_text("{half", "utf-8")
    assert agrees(follower) == {"damaged": 1, "waiting": 1}
    Path(batch.folder, "new").write_text("z\n", "utf-8")
    os.replace(Path(batch.folder, "new"), batch.queue.path)
    assert agrees(follower) == {"waiting": 1}
    assert follower.instance != before


def test_tasks_of_a_project_are_followed_through_their_views(tmp_path: Path) -> None:
    root = tmp_path / "project"
    for name in ("t-1", "t-2", "t-3"):
        (root / "tasks").mkdir(parents=True, exist_ok=True)
        (root / f"tasks/{name}.md").write_text(f"---\nid: {name}\nstatus: active\n---\n# {name}\n", "utf-8")
    (root / ".hypervisor").mkdir()
    batch = batch_in(root / "work", "../tasks/t-1.md", "../tasks/t-2.md", "../tasks/t-3.md")
    follower = Follower(batch)
    assert agrees(follower) == {"waiting": 3}
    place = batch.place("../tasks/t-1.md")  # pins it, as a worker does
    assert place.task
    with operations.stores("test") as stores:
        store = stores.of(place.root)
        claim = store.claim(place.key, place.item)
        assert isinstance(claim, Claim)
        assert agrees(follower) == {"running": 1, "waiting": 2}
        store.complete(claim, {"item": place.item, "status": "success", "outcome": "", "task_id": "t-1"})
        assert agrees(follower) == {"success": 1, "waiting": 2}
        # What somebody else did with a task before this batch has looked at it is not this batch's.
        other = batch.place("../tasks/t-2.md", pin=False)
        claim = store.claim(other.key, other.item)
        assert isinstance(claim, Claim)
        store.complete(claim, {"item": other.item, "status": "failed", "outcome": ""})
    assert agrees(follower) == {"success": 1, "waiting": 2}
    operations.retry(batch, [], {"success"})
    assert agrees(follower) == {"waiting": 3}


def test_a_line_of_the_log_that_is_not_whole_waits_for_its_end(tmp_path: Path) -> None:
    batch = batch_in(tmp_path / "b", "a")
    follower = Follower(batch)
    log = Path(batch.folder, "events.jsonl")
    log.write_bytes(b'{"at":"2026-01-01T00:00:00.000Z","event":"started"}\nnonsense\n[]\n{"at":"2026-')
    follower.look()
    assert [event["event"] for event in follower.events] == ["started"]
    with open(log, "ab") as file:
        file.write(b'01-01T00:00:01.000Z","event":"finished"}\n')
    follower.look()
    assert [event["event"] for event in follower.events] == ["started", "finished"]


# ----------------------------------------------------------------- report


def report_of(batch: Batch) -> dict[str, Any]:
    reporter = Reporter.of(batch)
    reporter.look()
    return reporter.report()


def row_of(report: dict[str, Any], name: str) -> dict[str, Any]:
    rows = [dict(zip(report["columns"], row[1:], strict=True)) for row in report["rows"]]
    return next(row for row in rows if row["name"] == name)


def test_what_is_not_known_is_null_and_never_zero(tmp_path: Path) -> None:
    batch = batch_in(tmp_path / "b", "a", "b")
    before = report_of(batch)
    assert before["spent"]["tokens"] is None
    assert before["pace"]["per_minute"] is None
    assert (before["readings"], before["zone"]["word"]) == ([], "")
    Hands(batch).do("a")
    report = report_of(batch)
    row = row_of(report, "a")
    assert (row["tokens"], row["cost_usd"], row["commit"], row["evidence"]) == (None, None, None, None)
    assert report["spent"] == {"tokens": None, "cost_usd": None, "of": 1, "tokens_known": 0, "cost_known": 0}
    waiting = row_of(report, "b")
    assert (waiting["seconds"], waiting["attempts"], waiting["worker"]) == (None, None, None)


def test_the_events_tell_of_attempts_spending_and_the_machine(tmp_path: Path) -> None:
    batch = batch_in(tmp_path / "b", "a")
    lines: list[dict[str, Any]] = [
        {"at": "2026-01-01T10:00:00.000Z", "event": "started", "limit": 4},
        {"at": "2026-01-01T10:00:01.000Z", "event": "begun", "task": "a", "generation": 1, "log": "logs/a~1"},
        {"at": "2026-01-01T10:00:05.000Z", "event": "ended", "task": "a", "generation": 1, "how": "killed",
         "tokens": 100},
        {"at": "2026-01-01T10:00:06.000Z", "event": "begun", "task": "a", "generation": 2, "log": "logs/a~2"},
        {"at": "2026-01-01T10:00:09.000Z", "event": "ended", "task": "a", "generation": 2, "how": "ended",
         "tokens": 50, "cost_usd": 0.5},
        {"at": "2026-01-01T10:00:07.000Z", "event": "level", "level": "constrained", "why": "CPU 90 %",
         "cpu_percent": 90.5, "ram_percent": 40},
        {"at": "2026-01-01T10:00:08.000Z", "event": "paused", "until": "3am", "why": "limit \x1b[31m"},
        {"at": "nonsense", "event": "ended", "tokens": 9},
        {"at": "2026-01-01T10:00:08.000Z", "event": "anything else", "tokens": "many"},
    ]  # fmt: skip
    Path(batch.folder, "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    Hands(batch).do("a", "failed", started="2026-01-01T10:00:05.900Z", finished="2026-01-01T10:00:09.100Z")
    Path(batch.folder, "logs").mkdir()
    Path(batch.folder, "logs/a~2.out").write_text("the last words\n", "utf-8")
    report = report_of(batch)
    row = row_of(report, "a")
    assert (row["attempts"], row["tokens"], row["cost_usd"]) == (2, 150, 0.5)
    assert report["spent"] == {
        "tokens": 150, "cost_usd": 0.5, "of": 2, "tokens_known": 2, "cost_known": 1
    }  # fmt: skip
    assert [(number, generation, how) for number, generation, *_, how in report["tries"]] == [
        (0, 1, "killed")
    ]
    assert report["readings"] == [[clock.seconds_of("2026-01-01T10:00:07Z"), 90.5, 40, None, "constrained"]]
    assert report["zone"]["word"] == "constrained"
    assert [mark[1:] for mark in report["marks"]][-1] == ("paused", "until 3am: limit")
    assert report["logs"]["0"][0]["text"] == "the last words"


def test_a_log_is_looked_for_below_the_batch_only(tmp_path: Path) -> None:
    batch = batch_in(tmp_path / "b", "a")
    (tmp_path / "secret.out").write_text("secret\n", "utf-8")
    for told in ("../secret", str(tmp_path / "secret")):
        line = {"at": "2026-01-01T10:00:00Z", "event": "begun", "task": "a", "log": told}
        Path(batch.folder, "events.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
        reporter = Reporter.of(batch)
        reporter.look()
        assert reporter.logs(0) == []


def test_many_readings_are_thinned_to_the_worst(tmp_path: Path) -> None:
    story = Story(str(tmp_path))
    story.hear([
        {"at": clock.text_of(1e9 + n), "event": "reading", "cpu_percent": n % 97, "zone": "safe"}
        for n in range(5000)
    ])  # fmt: skip
    thinned = story.thinned()
    assert len(thinned) <= 600
    assert max(one[1] for one in thinned) == 96


def test_every_failure_keeps_the_end_of_its_log_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hypervisor.report.report.LOG_BUDGET", 8000)
    batch = batch_in(tmp_path / "b", *(f"i{n}" for n in range(40)))
    hands = Hands(batch)
    Path(batch.logs).mkdir()
    for n in range(40):
        claim = hands.begin(f"i{n}")
        Path(batch.logs, f"{claim.key}.err").write_text("e" * 5000 + f"\nlast words of {n}\n", "utf-8")
        hands.end(claim, f"i{n}", "failed")
    report = report_of(batch)
    assert len(report["logs"]) == 40
    for n in range(40):
        (log,) = report["logs"][str(n)]
        assert log["text"].endswith(f"last words of {n}")
        assert len(log["text"]) <= 512


@pytest.mark.acceptance
def test_a_run_writes_down_how_the_machine_did(user: Shell) -> None:
    (user.cwd / ".hypervisor").mkdir()
    write_task(user.cwd / "tasks/t-1.md")
    command = script(user.home, "agent", "sleep 1")
    user.hypervisor("run", "--all", "--agent", "exec", "--isolation", "none", "--exec", command)
    report = user.hypervisor("report", "--json").passed().json
    (_, cpu, ram, _, zone), *_ = report["readings"]
    assert 0 <= cpu <= 100
    assert 0 < ram <= 100
    assert zone in ("safe", "warning", "danger", "emergency")
    assert report["zone"]["word"]


def test_a_zone_that_is_read_takes_the_place_of_a_level(tmp_path: Path) -> None:
    story, at = Story(str(tmp_path)), clock.text_of(1e9)
    level = {"at": at, "event": "level", "level": "starved", "cpu_percent": 90}
    story.hear([level])
    assert (story.zone, story.zone_holds(1e9 + 3600)) == ("starved", True)
    story.hear([level, {"at": at, "event": "reading", "zone": "danger", "cpu_percent": 91}, level])
    assert [zone for *_, zone in story.readings] == ["starved", "danger", ""]
    assert (story.zone, story.zone_holds(1e9 + 5), story.zone_holds(1e9 + 3600)) == ("danger", True, False)


# ------------------------------------------------------------------- page


def test_no_text_ends_the_element_that_holds_the_data() -> None:
    made = embedded({"texts": HOSTILE[:-1]})
    assert made.isascii()
    assert not set(made) & set("<>&")
    assert json.loads(made) == {"texts": HOSTILE[:-1]}


def test_the_page_holds_one_script_that_its_policy_names(tmp_path: Path) -> None:
    batch = batch_in(tmp_path / "b", *(f"i {text}" for text in HOSTILE[:3]))
    document = page(report_of(batch))
    assert document.count("<script") == document.count("</script>") == 2
    assert policy(live=False).replace("'", "&#x27;") in document
    assert "connect-src 'none'" in policy(live=False)
    assert not re.search(r"(?:src|href|action)=[\"']?(?:https?:)?//", document)
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(|\.outerHTML", document)


# ------------------------------------------------------------ real browser


@pytest.fixture(scope="module")
def chromium() -> str:
    return find_chromium()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """Return a batch of 10,000 items, all of whose claims and results the store has made."""
    return seeing.lay_out(tmp_path_factory.mktemp("large") / "b", 10_000, 8)


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        yield made


@pytest.mark.acceptance
@pytest.mark.timeout(300)
def test_the_page_of_ten_thousand_items_is_usable_and_asks_nobody_for_anything(
    user: Shell, large: Batch, chromium: str, tmp_path: Path
) -> None:
    user.hypervisor("report", "--dir", large.folder, "--html", "r.html", timeout=120).passed()
    census = take_census(large).to_json()
    with Browser(chromium) as browser:
        browser.scheme("dark")
        address = (user.cwd / "r.html").as_uri()
        browser.open(address)
        browser.wait("document.querySelectorAll('#rows tr').length === 100")
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 22)"
        assert f"{census['success']:,} success" in browser.run("document.querySelector('#sum').textContent")
        assert browser.run("document.querySelectorAll('#charts svg[role=img][aria-label]').length") == 5
        assert browser.run("document.querySelectorAll('.lanes rect').length") > 8
        # By keyboard alone: to the heading that sorts by time, and pressed twice.
        browser.run("document.querySelector('[data-sort=seconds]').focus()")
        for order in ("ascending", "descending"):
            browser.press("Enter", 13, "\r")
            browser.wait(f"document.querySelector('th[aria-sort={order}] [data-sort=seconds]')")
            assert browser.run("document.activeElement.dataset.sort") == "seconds"
        # The filters, and the details of a failure with the end of its log.
        browser.run("document.querySelectorAll('#tiles button')[2].click()")
        browser.wait(f"document.querySelector('#caption').textContent.includes('of {census['failed']} ')")
        browser.run("document.querySelector('#rows button').focus()")
        browser.press("Enter", 13, "\r")
        log = browser.wait("document.querySelector('tr.detail pre[aria-label^=Log]')?.textContent")
        assert "Traceback" not in log  # its beginning
        assert browser.run("document.querySelector('#rows button').getAttribute('aria-expanded')") == "true"
        # A link to one item, from another page of the table.
        browser.run("location.hash = '#item=' + encodeURIComponent('notes/2026/01/entry-05400.md')")
        browser.wait("document.activeElement.textContent === 'notes/2026/01/entry-05400.md'")
        browser.run("document.querySelector('#theme').click()")
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"
        browser.picture(tmp_path / "page.png")
        assert browser.requests == [address]
        assert browser.complaints == []


@pytest.mark.acceptance
def test_the_page_is_used_with_the_keyboard_alone_and_all_in_it_has_a_name(
    user: Shell, chromium: str
) -> None:
    batch = batch_in(user.cwd / "b", "a", "b", "c")
    hands = Hands(batch)
    hands.do("a")
    hands.do("b", "failed", outcome="mend `it`")
    user.hypervisor("report", "--dir", "b", "--html", "r.html").passed()
    with Browser(chromium) as browser:
        browser.open((user.cwd / "r.html").as_uri())
        browser.press("Tab", 9)
        assert browser.run("document.activeElement.className") == "skip"
        browser.press("Enter", 13, "\r")
        browser.wait("document.activeElement.id === 'items'")
        reached: list[str] = []
        while browser.run("document.activeElement.tagName") != "BODY" and len(reached) < 60:
            browser.press("Tab", 9)
            reached.append(browser.run("document.activeElement.id || document.activeElement.textContent"))
        assert reached[:5] == ["text", "only", "by", "clear", "open"]
        assert {"a", "b", "c"} <= set(reached)
        # What a screen reader is told: nothing that can be worked is without a name.
        browser.call("Accessibility.enable")
        nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
        kinds = {
            "button",
            "link",
            "searchbox",
            "combobox",
            "image",
            "table",
            "region",
            "navigation",
            "search",
        }
        found = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"] and node["role"]["value"] in kinds
        ]
        assert {kind for kind, _ in found} == kinds
        assert [kind for kind, told in found if not told.strip()] == []
        assert ("button", "1 failed: show them") in found


@pytest.mark.acceptance
def test_what_strangers_wrote_is_shown_and_never_run(user: Shell, chromium: str) -> None:
    items = [f"i{n} {text[:200]}".replace("\n", " ") for n, text in enumerate(HOSTILE)]
    batch = batch_in(user.cwd / "b", *items)
    hands = Hands(batch)
    Path(batch.logs).mkdir()
    for item, text in zip(items, HOSTILE, strict=True):
        claim = hands.begin(item)
        Path(batch.logs, f"{claim.key}.err").write_bytes(text.encode("utf-8", "surrogateescape"))
        hands.end(claim, item, "failed", outcome=text, worker=text[:50], evidence={text[:99]: [text[:99]]})
    user.hypervisor("report", "--dir", "b", "--html", "r.html").passed()
    with Browser(chromium) as browser:
        browser.open((user.cwd / "r.html").as_uri())
        browser.run("window.alert = () => { window.ran = true; }")
        browser.run("document.querySelector('#open').click()")
        browser.wait(f"document.querySelectorAll('tr.detail pre[aria-label^=Log]').length === {len(items)}")
        assert browser.run("document.body.textContent").count("alert(1)") >= 6
        assert browser.run("window.ran === undefined && document.images.length === 0")
        assert browser.run("document.scripts.length") == 2
        assert browser.complaints == []
        assert len(browser.requests) == 1
    told = user.hypervisor("status", "--dir", "b").passed().out
    assert all(line.isprintable() for line in told.splitlines())


# --------------------------------------------------------------- commands


def test_a_report_needs_a_place_that_is_there(user: Shell) -> None:
    batch_in(user.cwd / "b", "a")
    user.hypervisor("report", "--dir", "b").refused(2, "--html FILE")
    user.hypervisor("report", "--dir", "b", "--html", "none/r.html").refused(2, "none/r.html", "a folder")
    user.hypervisor("report", "--dir", "b", "--html", "b").refused(2, "name a file")
    user.hypervisor("report", "--dir", "none", "--html", "r.html").refused(2, "none")


def test_a_look_leaves_the_batch_as_it_was(user: Shell) -> None:
    batch = batch_in(user.cwd / "b", "a", "b")
    Hands(batch).do("a", "failed")
    before = tree(Path(batch.folder))
    user.hypervisor("report", "--dir", "b", "--html", "-").passed()
    user.hypervisor("report", "--dir", "b", "--json").passed()
    user.hypervisor("status", "--dir", "b").passed()
    assert tree(Path(batch.folder)) == before


def test_status_is_one_screen(user: Shell) -> None:
    batch = batch_in(user.cwd / "b", *(f"item-{n}" for n in range(300)))
    hands = Hands(batch)
    for n in range(60):
        hands.do(f"item-{n}", "failed", outcome="no\nsuch " + "file " * 100)
    lines = user.hypervisor("status", "--dir", "b").passed().lines
    assert len(lines) <= 24
    assert max(map(len, lines[:-1])) <= 80
    assert "60 of 300 (20 %)" in lines[1]
    assert lines[-1] == f"60 need you: hypervisor summary --dir {batch.folder}"


# ------------------------------------------------------------------ drain


def test_a_sweep_asks_for_a_drain_now_and_then_and_a_claim_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_in(tmp_path / "b", *(f"i{n}" for n in range(500)))
    holder = Hands(batch).store.holder
    assert holder is not None
    monkeypatch.setattr("hypervisor.drain.time.monotonic", lambda: 1e6)  # no moment passes
    looks: list[Drain] = []
    look = Drain._stamp

    def counted(one: Drain) -> tuple[int, int] | None:
        looks.append(one)
        return look(one)

    monkeypatch.setattr(Drain, "_stamp", counted)
    done: list[str] = []

    class Runner:
        name = "test"

        def run(self, work: Work) -> Report:
            done.append(work.item)
            if len(done) == 3:
                drain.ask(batch.folder)
            return Report(status=Outcome.SUCCESS, outcome="")

    def worker() -> Worker:
        return Worker(
            batch, Runner(), holder, policy=Policy(patient=False), orders=Orders(), tell=lambda _: None,
            stop=Stop(),
        )  # fmt: skip

    worker().run()
    assert len(done) == 3  # the word counts for the very next item
    looks.clear()
    monkeypatch.setattr(Batch, "glance", lambda _: lambda _: True)
    assert worker()._sweep_lines() == []  # five hundred lines that have their results
    assert len(looks) <= 2


@pytest.mark.acceptance
def test_a_drain_finishes_what_is_in_hand_and_a_later_worker_goes_on(user: Shell) -> None:
    gate = Gate(user.home, "gate")
    batch_in(user.cwd / "b", "a", "b", "c")
    command = script(user.home, "command", gate.words)
    running = user.start("--dir", "b", "--all", "--exec", f"{command} {{}}")
    gate.wait()
    drained = user.hypervisor("drain", "--dir", "b", "--json").passed().json
    assert drained["at_work"] == ["a"]
    gate.open(3)
    running.end().passed()
    census = user.worker("--dir", "b", "--stats", "--json").json
    assert (census["success"], census["waiting"]) == (1, 2)
    assert user.hypervisor("drain", "--dir", "b").code == 3  # nobody is at work
    user.worker("--dir", "b", "--all", "--exec", f"{command} {{}}").passed()
    assert user.worker("--dir", "b", "--stats", "--json").json["success"] == 3
    gate.close()
