"""One batch on one screen of any size."""

from __future__ import annotations

from typing import Any

import pytest

from hypervisor.report.screen import cells, fit, frame, next_steps, one_line, text_of


def head(**more: Any) -> dict[str, Any]:
    """Return the head of a report, as of a batch of which little is known."""
    census = {
        "queued": 100,
        "success": 40,
        "blocked": 1,
        "failed": 2,
        "skipped": 0,
        "running": 2,
        "waiting": 55,
    }
    return {
        "at": 1e9, "batch": {"id": "b", "called": "--dir b", "go_on": "batch_worker.py --dir b --all"},
        "census": census, "closes": True, "finished": False, "held_up": "", "questions": [],
        "pace": {"per_minute": 12.5, "window": 300.0, "eta": 720.0, "standing_on": 40, "quiet": 1.0},
        "at_work": [
            {"name": f"item-{n}", "who": f"worker-{n}-aaaa", "worker": f"worker-{n}-aaaa", "since": 1e9 - n}
            for n in range(8)
        ],
        "idle": [], "zone": {"word": "", "why": "", "at": None},
        "spent": {"tokens": None, "cost_usd": None, "of": 43, "tokens_known": 0, "cost_known": 0},
        **more,
    }  # fmt: skip


FAILURES = [("failed", f"name-{n}", "exit 1: no such file") for n in range(50)]


def lines_of(data: dict[str, Any], width: int, height: int) -> list[str]:
    return [text_of(line) for line in frame(data, FAILURES, width, height)]


@pytest.mark.parametrize("height", [1, 2, 5, 8, 12, 24, 80])
@pytest.mark.parametrize("width", [1, 10, 40, 80, 200])
def test_a_frame_never_leaves_its_screen(width: int, height: int) -> None:
    wide = head(
        at_work=[{"name": "日本語" * 40, "who": "日本" * 40, "worker": "w", "since": 1e9}] * 30,
        held_up="paused " * 40, closes=False,
    )  # fmt: skip
    for data in (head(), wide, head(at_work=[], finished=True)):
        lines = frame(data, FAILURES, width, height)
        assert len(lines) <= height
        assert max((cells(text_of(line)) for line in lines), default=0) <= width


def test_a_screen_of_80_by_24_shows_eight_workers_and_the_last_failures() -> None:
    lines = lines_of(head(), 80, 22)
    assert "43 of 100 (43 %)" in lines[1]
    assert lines[2] == "40 ✓ success  1 ? blocked  2 ✗ failed  0 - skipped  2 ▶ running  55 · waiting"
    assert lines[3] == "12.5 a minute (last 5 min)  about 12 min left, from 40 completions"
    assert all(any(f"item-{n} " in line for line in lines) for n in range(8))
    assert sum(line.startswith("✗ name-") for line in lines) >= 4


@pytest.mark.parametrize(("width", "height", "failures"), [(80, 22, 0), (140, 38, 0), (140, 38, 3)])
def test_the_lines_that_are_left_show_what_was_done_last(width: int, height: int, failures: int) -> None:
    latest = [("success", f"done-{number}", "exit 0") for number in range(50)]
    lines = frame(head(), FAILURES[:failures], width, height, lambda count: latest[:count])
    texts = [text_of(line) for line in lines]
    assert len(texts) == height
    assert texts[texts.index("done last") + 1] == "✓ done-0: exit 0"
    assert sum(text.startswith("✗ name-") for text in texts) == failures


def test_what_is_not_known_is_said_so() -> None:
    nothing = {"per_minute": None, "window": 0.0, "eta": None, "standing_on": 0, "quiet": None}
    text = "\n".join(lines_of(head(pace=nothing, at_work=[]), 80, 22))
    assert "nothing has ended yet" in text
    assert "tokens not known  cost not known" in text
    assert "nobody is at work" in text
    assert "machine" not in text


def test_an_old_zone_says_nothing_of_now_and_a_held_level_does() -> None:
    def told(at: float | None) -> bool:
        zone = {"word": "danger", "why": "", "at": at, "cpu_percent": 93.0}
        return "machine danger CPU 93 %" in "\n".join(lines_of(head(zone=zone), 120, 22))

    assert told(1e9 - 5)
    assert not told(1e9 - 500)
    assert told(None)


@pytest.mark.parametrize("text", ["abc", "x" * 50, "日本語のファイル名.md", "e\u0301" * 20, ""])
@pytest.mark.parametrize("width", [1, 7, 8, 9, 20])
def test_a_text_is_fitted_to_its_columns(text: str, width: int) -> None:
    assert cells(fit(text, width)) == width


def test_one_line_is_one_line() -> None:
    assert one_line(head()).endswith(
        "43 of 100 done, 2 failed, 1 blocked, 8 at work, 12.5 a minute (last 5 min)  about 12 min left, "
        "from 40 completions"
    )


def test_the_bar_of_a_batch_that_is_done_is_full_and_its_machine_is_not_told() -> None:
    census = {
        "queued": 60,
        "success": 41,
        "blocked": 3,
        "failed": 9,
        "skipped": 7,
        "running": 0,
        "waiting": 0,
    }
    zone = {"word": "danger", "why": "", "at": 1e9, "cpu_percent": 93.0}
    for width in range(40, 120):
        lines = lines_of(head(census=census, finished=True, at_work=[], zone=zone), width, 22)
        assert "░" not in lines[1]
        assert "machine" not in "\n".join(lines)


def test_a_screen_says_how_long_it_has_taken_where_and_by_which_command() -> None:
    pace = head()["pace"] | {"elapsed": 754.0}
    lines = lines_of(head(pace=pace, host="box", command="batch_worker.py --dir b --all"), 80, 22)
    assert "  13 min  box  " in lines[0]
    assert "command batch_worker.py --dir b --all" in lines


def test_what_to_type_next_is_told_in_full() -> None:
    assert next_steps(head()) == ["3 need attention: hypervisor summary --dir b"]
    asked = head(questions=[f"t-{number} asks" for number in range(7)])
    assert next_steps(asked)[4:6] == ["question: t-4 asks", "question: and 2 more: hypervisor questions"]
    dead = head(at_work=[], killed_run="run-7-ab")
    assert next_steps(dead)[1] == "to continue: batch_worker.py --dir b --all, with its --exec if it had one"
    assert "its run run-7-ab was killed" in lines_of(dead, 80, 22)
