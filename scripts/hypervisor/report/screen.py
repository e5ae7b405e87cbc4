"""One batch on one screen: what `watch` shows all the time, and `status` once. Pure: a report in, lines out.

A line is a list of pieces, each a text and a style. Nothing here knows of a terminal but its size.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..queue.summary import STATES
from .pace import duration
from .timeline import ZONE_SECONDS

#: State, name and reason or outcome of an item.
Told = tuple[str, str, str]
#: Text and style: a state's name, ``dim``, ``bold``, ``bad``, or "".
Piece = tuple[str, str]
Line = list[Piece]

SIGNS = {
    "success": "✓", "blocked": "?", "failed": "✗", "skipped": "-", "running": "▶", "waiting": "·",
}  # fmt: skip
#: After so many seconds without a completion it is said for how long there was none.
_QUIET = 60.0
#: Lines that the workers leave to the failures below them, if there are any.
_BELOW = 4
#: A screen of so many lines has no room for the command.
_SMALL = 12
#: Questions that are shown.
_QUESTIONS = 5


def frame(
    head: Mapping[str, Any],
    failures: Sequence[Told],
    width: int,
    height: int,
    latest: Callable[[int], Sequence[Told]] = lambda _: (),
) -> list[Line]:
    """Return the lines of one screen, at most *height* of them, each at most *width* columns wide.

    Args:
        head: See `report.ReportBuilder.head`.
        failures: State, name and reason of the items that failed last, the newest first.
        width: Of the screen, in columns.
        height: Of the screen, in lines.
        latest: Returns so many of the items that were done last, for the lines that are left.
    """
    lines = [_title(head), _bar(head, width), _census(head, width), _pace(head), _spent(head)]
    if not head["closes"]:
        lines.append([("THE CENSUS DOES NOT CLOSE", "bad")])
    if head.get("killed_run"):
        lines.append([(f"its run {head['killed_run']} was killed", "blocked")])
    elif head["held_up"]:
        lines.append([(str(head["held_up"]), "blocked")])
    if head.get("command") and height > _SMALL:
        lines.append([("command ", "dim"), (str(head["command"]), "")])
    rows = _rows(head)
    left = height - len(lines)
    # Failures get what the workers leave, and where both are many a few lines all the same.
    below = min(len(failures) + 2, max(_BELOW, left - len(rows) - 2)) if failures else 0
    lines += _workers(rows, width, left - min(below, max(3, left // 2)))
    lines += _items("recent failures", failures, width, height - len(lines))
    if height - len(lines) > _BELOW:
        lines += _items("done last", latest(height - len(lines) - 2), width, height - len(lines))
    return [_clip(line, width) for line in lines[:height]]


def next_steps(head: Mapping[str, Any]) -> list[str]:
    """Return what a person may type next, a line each; they must not be cut."""
    batch, questions = head["batch"], head["questions"]
    steps = [f"question: {line}" for line in questions[:_QUESTIONS]]
    if len(questions) > _QUESTIONS:
        steps.append(f"question: and {len(questions) - _QUESTIONS} more: hypervisor questions")
    if troubled := head["census"]["failed"] + head["census"]["blocked"]:
        steps.append(f"{troubled} need attention: hypervisor summary {batch['called']}")
    if not head["finished"] and not head["at_work"] and not head["idle"]:
        # Which runner a queue is for is its users' to say: without `--exec` its items would be triaged.
        more = "" if str(batch["go_on"]).startswith("hypervisor run ") else ", with its --exec if it had one"
        steps.append(f"to continue: {batch['go_on']}{more}")
    return steps


def text_of(line: Line) -> str:
    """Return a line without its styles."""
    return "".join(text for text, _ in line).rstrip()


def one_line(head: Mapping[str, Any]) -> str:
    """Return a batch in a line, for an output that is no terminal."""
    census = head["census"]
    over = sum(census[state] for state in STATES[:-2])
    parts = [f"{over} of {census['queued']} done"]
    parts += [f"{census[state]} {state}" for state in ("failed", "blocked") if census[state]]
    parts += [f"{len(head['at_work'])} at work", text_of(_pace(head))]
    return f"{time.strftime('%H:%M:%S', time.localtime(head['at']))} {', '.join(parts)}"


# ----------------------------------------------------------------------- lines


def _title(head: Mapping[str, Any]) -> Line:
    if head["finished"]:
        how = ("finished", "success")
    elif head["at_work"] or head["idle"]:
        how = (f"{len(head['at_work'])} at work", "running")
    else:
        how = ("nobody is at work", "blocked")
    at = time.strftime("%H:%M:%S", time.localtime(head["at"]))
    elapsed = head["pace"].get("elapsed")
    took = f"  {duration(elapsed)}" if elapsed is not None else ""
    host = f"  {head['host']}" if head.get("host") else ""
    return [
        ("batch ", "dim"), (str(head["batch"]["id"]), "bold"), ("  ", ""), how, (took, ""),
        (f"{host}  {at}", "dim"),
    ]  # fmt: skip


def _bar(head: Mapping[str, Any], width: int) -> Line:
    census, queued = head["census"], max(1, head["census"]["queued"])
    over = sum(census[state] for state in STATES[:-2])
    told = f" {over:,} of {head['census']['queued']:,} ({100 * over // queued} %)"
    length = max(10, width - len(told))
    line: Line = []
    used = 0
    for state in STATES:
        # Whatever there is of a state takes a column: one failure in a million is seen.
        part = min(length - used, max(bool(census[state]), round(length * census[state] / queued)))
        if part and state != "waiting":
            line.append(("█" * part, state))
            used += part
    if line and over == head["census"]["queued"]:  # what rounding has left over
        line[-1] = (line[-1][0] + "█" * (length - used), line[-1][1])
        used = length
    return [*line, ("░" * (length - used), "dim"), (told, "")]


def _census(head: Mapping[str, Any], width: int) -> Line:
    for states in (STATES, [state for state in STATES if head["census"][state]]):
        line: Line = []
        for state in states:
            number = head["census"][state]
            line += [(f"{number:,} {SIGNS[state]} {state}", state if number else "dim"), ("  ", "")]
        if cells(text_of(line)) <= width:  # else what is none is left out
            break
    return line[:-1]


def _pace(head: Mapping[str, Any]) -> Line:
    pace = head["pace"]
    if pace["per_minute"] is None:
        return [("nothing has ended yet", "dim")]
    over = "in" if head["finished"] else "last"
    line: Line = [
        (f"{pace['per_minute']:,.1f} a minute", ""),
        (f" ({over} {duration(pace['window'])})", "dim"),
    ]
    if head["finished"]:
        return line
    if pace["eta"] is not None:
        line += [
            (f"  about {duration(pace['eta'])} left", ""),
            (f", from {pace['standing_on']} completions", "dim"),
        ]
    if pace["quiet"] > _QUIET:
        line.append((f"  last end {duration(pace['quiet'])} ago", "blocked"))
    return line


def _spent(head: Mapping[str, Any]) -> Line:
    spent, zone = head["spent"], head["zone"]
    tokens = "not known" if spent["tokens"] is None else f"{spent['tokens']:,.0f}"
    cost = "not known" if spent["cost_usd"] is None else f"{spent['cost_usd']:,.2f} USD"
    line: Line = [("tokens ", "dim"), (tokens, ""), ("  cost ", "dim"), (cost, "")]
    if 0 < spent["tokens_known"] < spent["of"]:
        line.append((f" (of {spent['tokens_known']:,} of {spent['of']:,})", "dim"))
    new = not head["finished"] and (zone["at"] is None or head["at"] - zone["at"] <= ZONE_SECONDS)
    if zone["word"] and new:
        figures = [
            f"{word} {zone[key]:.0f} %"
            for word, key in (("CPU", "cpu_percent"), ("RAM", "ram_percent"))
            if zone.get(key) is not None
        ]
        style = "success" if zone["word"] in ("safe", "ideal") else "bad"
        line += [("  machine ", "dim"), (zone["word"], style), (f" {' '.join(figures)}", "dim")]
    return line


def _rows(head: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return who is at work: name, item, for how long, when it last said something."""
    rows = [
        (
            one["who"] or "-",
            one["name"],
            "" if one["since"] is None else duration(max(0.0, head["at"] - one["since"])),
            f"output {duration(one['output_ago'])} ago" if "output_ago" in one else "",
        )
        for one in head["at_work"]
    ]
    rows += [(name, "", "between two items", "") for name in head["idle"]]
    rows.sort(key=lambda row: row[0])  # so that each keeps its line while items pass
    return rows


def _workers(rows: list[tuple[str, str, str, str]], width: int, room: int) -> list[Line]:
    """Return the lines of those at work, at most *room* of them, a blank one first."""
    if not rows or room < 3:
        return []
    who = min(26, max(cells(row[0]) for row in rows))
    took = max(cells(row[2]) for row in rows)
    said = max(cells(row[3]) for row in rows)
    item = max(10, width - who - took - said - 6)
    lines: list[Line] = [[], [("at work", "bold")]]
    shown = rows if len(rows) + 2 <= room else rows[: room - 3]
    for name, what, since, output in shown:
        lines.append([
            (fit(name, who), "dim"), ("  ", ""), (fit(what, item), ""), ("  ", ""),
            (since.rjust(took), "running" if what else "dim"), ("  ", ""), (output, "dim"),
        ])  # fmt: skip
    if len(shown) < len(rows):
        lines.append([(f"and {len(rows) - len(shown)} more", "dim")])
    return lines


def _items(title: str, items: Sequence[Told], width: int, room: int) -> list[Line]:
    """Return the lines of items that are over, at most *room* of them, a blank one first."""
    if not items or room < 3:
        return []
    lines: list[Line] = [[], [(title, "bold")]]
    for state, name, said in items[: room - 2]:
        named = fit(name, min(cells(name), max(12, width // 2)))
        lines.append(
            [(f"{SIGNS.get(state, '!')} ", state), (named, ""), (f": {said}" if said else "", "dim")]
        )
    return lines


# ------------------------------------------------------------------------ width


def cells(text: str) -> int:
    """Return how many columns a text takes: two for a wide character, none for one that joins another."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def fit(text: str, width: int) -> str:
    """Return *text* in exactly *width* columns; of a longer one its beginning and its end."""
    length = cells(text)
    if length <= width:
        return text + " " * (width - length)
    end = (width - 1) * 2 // 3  # what tells paths apart stands at their end
    made = _begin(text, width)
    if width >= 8:
        made = f"{_begin(text, width - 1 - end)}…{_begin(text[::-1], end)[::-1]}"
    return made + " " * (width - cells(made))


def _begin(text: str, width: int) -> str:
    made = 0
    for number, char in enumerate(text):
        made += cells(char)
        if made > width:
            return text[:number]
    return text


def _clip(line: Line, width: int) -> Line:
    clipped: Line = []
    for text, style in line:
        length = cells(text)
        if length > width:
            return [*clipped, (_begin(text, max(0, width - 1)) + "…" if width else "", style)]
        clipped.append((text, style))
        width -= length
    return clipped
