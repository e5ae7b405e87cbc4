"""Receipts: lines at the end of a body's ``## Receipts``. Pure."""

from __future__ import annotations

from ..documents import markdown

HEADING = "Receipts"


def with_receipt(text: str, offset: int, receipt: str) -> str:
    """Return *text* with the line *receipt* at the end of its receipts, which are made if missing.

    Args:
        text: The whole file.
        offset: Where its body begins.
        receipt: The line, without its end.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    body = text[offset:]
    found = list(markdown.headings(body))
    mine = [index for index, heading in enumerate(found) if heading.title == HEADING and heading.level == 2]
    endless = next((span for span in markdown.spans(body) if not span.closed), None)
    if not mine and endless and f"## {HEADING}" in body[endless.start :].splitlines():
        # It stands in a code fence that never ends, as does everything below it.
        return f"{text}{'' if text.endswith(newline) else newline}{receipt}{newline}"
    if not mine:
        gap = "" if not body.strip() else newline if body.endswith("\n") else newline * 2
        return f"{text}{gap}## {HEADING}{newline}{newline}{receipt}{newline}"
    following = next((h.start for h in found[mine[-1] + 1 :] if h.level <= 2), len(body))
    section = body[found[mine[-1]].end : following]
    kept = section.rstrip()
    # The blank lines that end the section stay behind the new line.
    at = offset + found[mine[-1]].end + len(kept)
    lead = newline if kept else ("" if body[: found[mine[-1]].end].endswith("\n") else newline) + newline
    tail = text[at:] if text[at:].startswith(("\n", "\r\n")) else newline + text[at:]
    return text[:at] + lead + receipt + tail


def receipts_in(text: str, offset: int) -> list[str]:
    """Return the lines that stand in the receipts of *text*, each without its end.

    Args:
        text: The whole file.
        offset: Where its body begins.
    """
    body = text[offset:]
    found = list(markdown.headings(body))
    lines: list[str] = []
    for index, heading in enumerate(found):
        if heading.title == HEADING and heading.level == 2:
            end = next((h.start for h in found[index + 1 :] if h.level <= 2), len(body))
            lines += [line.rstrip("\r\n") for line in markdown.lines(body[heading.end : end])]
    endless = next((span for span in markdown.spans(body) if not span.closed), None)
    if endless is not None:  # what `with_receipt` appends where a fence hides all that follows
        hidden = body[endless.start :].splitlines()
        lines += hidden[hidden.index(f"## {HEADING}") + 1 :] if f"## {HEADING}" in hidden else []
    return [line for line in lines if line.startswith("- ")]
