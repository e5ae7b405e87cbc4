"""Lays out a batch of N items through the real store, to look at: `status`, `watch`, `report`, `serve`.

The items were "done" by W workers within the last hour: most succeed, some fail with a log, some are
blocked, a few wait, and what agents spent stands in the events. Then it says what looking costs: seconds
of CPU and the size of the page; with --browser, what the page's reader waits for in a real Chromium; with
--serve, how long after its result is written a completion stands on the live page. A folder that is there
is only looked at.

    uv run bench/seeing.py FOLDER [--items 10000] [--workers 8] [--browser] [--serve]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.append(str(ROOT / "tests"))

from chromium import Browser, find_chromium  # noqa: E402
from hypervisor.core.process import this_process  # noqa: E402
from hypervisor.queue.batch import Batch  # noqa: E402
from hypervisor.queue.batches import open_folder  # noqa: E402
from hypervisor.report.page import page  # noqa: E402
from hypervisor.report.report import ReportBuilder  # noqa: E402
from hypervisor.report.web import ReportServer  # noqa: E402
from hypervisor.store.events import RunEvent  # noqa: E402
from hypervisor.store.liveness import new_worker_id  # noqa: E402
from hypervisor.store.records import Completion, Worker, WorkerKind  # noqa: E402

REASONS = [
    "exit 1: AssertionError: expected 3 rows, found {}",
    "exit 2: no such table: orders_{}",
    "timed out after 60 s",
    "killed by signal 9",
]
#: Results that are committed together while the batch is laid out.
_TOGETHER = 500
#: The story takes place within the last hour; the store itself knows only now.
_TIMES = (
    "UPDATE attempt SET claimed_at = :begin, ended_at = :end WHERE id = :attempt",
    "UPDATE work SET decided_at = :end, published_at = :end"
    " WHERE id = (SELECT work FROM attempt WHERE id = :attempt)",
)
_EVENT_TIMES = (
    "UPDATE event SET at = (SELECT CASE event.kind WHEN 'claimed' THEN a.claimed_at ELSE a.ended_at END"
    " FROM attempt AS a WHERE a.id = event.attempt) WHERE attempt IS NOT NULL"
)


def lay_out(folder: Path, items: int, workers: int) -> Batch:
    """Make the batch; everything but the last 2 % of its items has a result."""
    folder.mkdir(parents=True)
    names = [f"notes/2026/{n % 12 + 1:02}/entry-{n:05}.md" for n in range(items)]
    (folder / "queue.txt").write_text("".join(f"{name}\n" for name in names), "utf-8")
    (folder / "logs").mkdir()
    batch = open_folder(str(folder), cwd=str(folder))
    batch.take_in()
    dice, claims = random.Random(7), batch.store.claims
    hands = [new_worker(batch) for _ in range(workers)]
    done = items - items // 50
    pace = 3600 / max(1, done) * workers
    free_at = [time.time() - 3600.0 + dice.uniform(0, pace) for _ in hands]
    times, ended = list[dict[str, int]](), list[Completion]()
    for _ in range(done):
        number = min(range(workers), key=free_at.__getitem__)
        start, seconds = free_at[number], dice.uniform(0.6, 1.3) * pace
        free_at[number] = start + seconds * 1.02
        (claim,) = claims.claim_next(hands[number], batch.number, 1)
        times.append({
            "attempt": claim.attempt, "begin": round(1000 * start), "end": round(1000 * (start + seconds)),
        })  # fmt: skip
        ended.append(_result(batch, claim.attempt, claim.key, seconds, dice))
        if len(ended) == _TOGETHER:
            claims.complete(ended)
            ended.clear()
    claims.complete(ended)
    batch.store.engine.write(lambda tx: [tx.each(statement, times) for statement in _TIMES])
    batch.store.engine.write(lambda tx: tx.run(_EVENT_TIMES))
    for minute in range(0, 60, 2):
        heat = 0.35 + 0.4 * (20 < minute < 40)
        figures = {
            "zone": "warning" if heat > 0.6 else "safe",
            "cpu_percent": round(100 * (heat + dice.uniform(0, 0.1)), 1),
            "ram_percent": round(40 + 30 * heat + dice.uniform(0, 3), 1),
        }
        batch.store.events.add(RunEvent.READING, figures, batch=batch.number)
        _move_event(batch, round(1000 * (time.time() - 3600 + minute * 60)))
    return batch


def _move_event(batch: Batch, at: int) -> None:
    """Give the latest event another time."""
    moment = {"at": at, "id": batch.store.events.last()}
    batch.store.engine.write(lambda tx: tx.run("UPDATE event SET at = :at WHERE id = :id", moment))


def new_worker(batch: Batch) -> Worker:
    """Register a worker that is never seen to die."""
    worker = Worker(
        id=new_worker_id("worker", os.getpid()), kind=WorkerKind.LEASE, name="batch-worker",
        process=this_process(),
    )  # fmt: skip
    batch.store.claims.add_worker(worker)
    return worker


def _result(batch: Batch, attempt: int, key: str, seconds: float, dice: random.Random) -> Completion:
    roll, log = dice.random(), f"logs/{key}-1"
    status, outcome = "success", f"{dice.randrange(40)} lines changed"
    if roll < 0.02:
        status, outcome = "failed", dice.choice(REASONS).format(dice.randrange(90))
        trace = "".join(f'  File "work.py", line {n}, in step_{n}\n' for n in range(80))
        text = f"\x1b[31mTraceback\x1b[0m (most recent call last):\n{trace}{outcome}\n"
        Path(batch.folder, log + ".err").write_text(text, "utf-8")
    elif roll < 0.025:
        status, outcome = "blocked", "which of the two accounts is meant?"
    tokens, cost = dice.randrange(4_000, 60_000), round(dice.uniform(0.01, 0.2), 4)
    result = {
        "status": status, "outcome": outcome, "runner": "exec", "seconds": round(seconds, 3),
        "evidence": {"exit": 0 if status == "success" else 1}, "tokens": tokens, "cost_usd": cost,
    }  # fmt: skip
    return Completion(attempt=attempt, status=status, result=result, tokens=tokens, cost_usd=cost, log=log)


#: What a reader does to the page, and what shows that it is done; each is timed within the page.
ACTS = {
    "filter by a word": "type('entry-0777')",
    "filter by two words": "type('entry rows')",
    "show all again": "type('')",
    "next page": "document.querySelector('[data-go=Next]').click()",
    "only what failed": "pick('only', 'failed')",
    "only one worker": "pick('by', '0')",
    "sort by time taken": "document.querySelector('[data-sort=seconds]').click()",
    "open a row": "document.querySelector('#rows button').click()",
}
_HANDS = """
    window.frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    window.told = (id, event) => document.getElementById(id).dispatchEvent(new Event(event, {bubbles: true}));
    window.type = text => { document.getElementById('text').value = text; told('text', 'input'); };
    window.pick = (id, word) => { document.getElementById(id).value = word; told(id, 'input'); };
    window.took = async act => {
      const changed = new Promise(done => new MutationObserver(done).observe(
        document.querySelector('#table'), {childList: true, subtree: true, characterData: true}));
      const begun = performance.now();
      act();
      await changed; await frame();
      return performance.now() - begun;
    };
"""


def in_browser(document: str, times: int = 5) -> None:
    """Print what each act costs the page's thread in CPU, and how long its reader waits: medians, in ms."""
    with tempfile.TemporaryDirectory() as folder, Browser(find_chromium()) as browser:
        browser.call("Performance.enable", timeDomain="threadTicks")

        def spent() -> float:
            metrics = browser.call("Performance.getMetrics")["metrics"]
            return next(1000 * float(one["value"]) for one in metrics if one["name"] == "TaskDuration")

        def told(what: str, costs: list[float], waits: list[float]) -> None:
            cost, wait = statistics.median(costs), statistics.median(waits)
            print(f"{what:24} {cost:8.0f} ms of CPU {wait:8.0f} ms waited")

        path = Path(folder, "page.html")
        path.write_text(document, "utf-8")
        costs, waits = [], []
        for _ in range(times):
            browser.open("about:blank")
            before = spent()
            browser.open(path.as_uri())
            browser.run("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
            waits.append(browser.run("performance.now()"))
            costs.append(spent() - before)
        told("open", costs, waits)
        browser.run(_HANDS)
        found: dict[str, tuple[list[float], list[float]]] = {what: ([], []) for what in ACTS}
        for _ in range(times):
            for what, act in ACTS.items():
                before = spent()
                found[what][1].append(browser.run(f"took(() => {{ {act} }})"))
                found[what][0].append(spent() - before)
            browser.run("document.getElementById('clear').click(); frame()")
        for what, (costs, waits) in found.items():
            told(what, costs, waits)
        assert set(browser.requests) <= {path.as_uri(), "about:blank"}, browser.requests
        assert not browser.complaints, browser.complaints


def live(batch: Batch, many: int = 20) -> None:
    """Print how long after its result is written a completion stands on the live page; *many* are made."""
    worker, late = new_worker(batch), list[float]()
    with (
        ReportServer(ReportBuilder(open_folder(batch.folder, cwd=batch.folder))) as server,
        Browser(find_chromium()) as browser,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(server.address)
        browser.wait("document.querySelector('#tiles b')")
        shown = "document.querySelector('#tiles b').textContent"
        for claim in batch.store.claims.claim_next(worker, batch.number, many):
            before = browser.run(shown)
            browser.run(
                "window.seen = new Promise(done => new MutationObserver((_, one) => {"
                f"if ({shown} !== {json.dumps(before)}) {{ one.disconnect(); done(Date.now()); }} }})"
                ".observe(document.querySelector('#tiles'), {subtree: true, childList: true,"
                " characterData: true})), 1"
            )
            time.sleep(random.uniform(0, 0.5))  # at any moment between two questions of the page
            written = time.time()
            result = {"status": "success", "outcome": "seen"}
            batch.store.claims.complete_one(
                Completion(attempt=claim.attempt, status="success", result=result)
            )
            late.append(browser.run("window.seen") / 1000 - written)
        server.shutdown()
    if late:
        late.sort()
        print(f"seen after {late[len(late) // 2]:.2f} s (median of {len(late)}), at most {late[-1]:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--browser", action="store_true")
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    if not options.folder.exists():
        lay_out(options.folder, options.items, options.workers).close()
    reporter = ReportBuilder(open_folder(str(options.folder), cwd=str(options.folder), write=False))
    document = ""
    acts: tuple[tuple[str, Callable[[], object]], ...] = (
        ("first look", reporter.look),
        ("next look, nothing new", reporter.look),
        ("head", reporter.head),
        ("news", lambda: reporter.body(reporter.version)),
        ("page", lambda: page(reporter.report())),
    )
    for what, act in acts:
        begun = time.process_time()
        made = act()
        took, size = time.process_time() - begun, ""
        if isinstance(made, str):
            document, size = made, f"  {len(made) / 2**20:.1f} MiB"
        print(f"{what:24} {took:8.3f} s of CPU{size}")
    if options.browser:
        in_browser(document)
    if options.serve:
        live(open_folder(str(options.folder), cwd=str(options.folder)))


if __name__ == "__main__":
    main()
