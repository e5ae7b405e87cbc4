"""The page in a real browser: usable at ten thousand items, by keyboard alone, whatever its texts say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chromium import Browser, find_chromium
from commands import Shell, script, shell, write_task
from handwork import Hands, batch_in
from hostile import HOSTILE
from hypervisor.queue.batch import Batch
from hypervisor.queue.summary import take_census
from hypervisor.store.columns import plain
from large_batch import lay_out


@pytest.fixture(scope="module")
def chromium() -> str:
    return find_chromium()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Batch]:
    """Return a batch of 10,000 items, all of whose claims and results the store has made."""
    with lay_out(tmp_path_factory.mktemp("large") / "b", 10_000, 8) as batch:
        yield batch


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with shell(tmp_path) as made:
        yield made


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


def test_the_page_is_used_with_the_keyboard_alone_and_all_in_it_has_a_name(
    user: Shell, chromium: str
) -> None:
    with batch_in(user.cwd / "b", "a", "b", "c") as batch:
        hands = Hands(batch)
        hands.do("a")
        hands.do("b", "failed", outcome="fix `it`")
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


def test_what_strangers_wrote_is_shown_and_never_run(user: Shell, chromium: str) -> None:
    items = [f"i{n} {text[:200]}".replace("\n", " ") for n, text in enumerate(HOSTILE)]
    with batch_in(user.cwd / "b", *items) as batch:
        Path(batch.logs).mkdir()
        for number, (item, text) in enumerate(zip(items, HOSTILE, strict=True)):
            hands, log = Hands(batch, plain(text, 50)), f"logs/{number}"
            claim = hands.begin(item, log)
            Path(batch.folder, f"{log}.err").write_bytes(text.encode("utf-8", "surrogateescape"))
            evidence = {text[:99]: [text[:99]]}
            hands.end(claim, "failed", outcome=text, evidence=evidence, log=log)
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


def test_a_phone_shows_the_page_without_scrolling_sideways(user: Shell, chromium: str) -> None:
    with batch_in(user.cwd / "b", "notes/" + "x" * 90, "a-failure") as batch:
        Hands(batch).do("notes/" + "x" * 90)
        Hands(batch).do("a-failure", "failed", outcome="exit 1: " + "y" * 300)
    user.hypervisor("report", "--dir", "b", "--html", "r.html").passed()
    with Browser(chromium) as browser:
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True
        )
        browser.open((user.cwd / "r.html").as_uri())
        browser.wait("document.querySelectorAll('#rows tr').length === 2")
        browser.run("document.querySelectorAll('#rows button').forEach(one => one.click())")
        browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert browser.run("document.documentElement.scrollWidth") == 390
        assert browser.run("document.querySelector('#table').getBoundingClientRect().right") <= 390
