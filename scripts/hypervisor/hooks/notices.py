"""Notices: what a session of a client is told of its agents' claims and runs. Pure: events in, text out.

What tasks and results say comes from outside and goes before a model: each notice is one printable
line, cut, and there are never more than a few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..claims.port import MAIN
from ..events import ENDS, Happening, claim_end

#: Lines of one message, and its characters: a client cuts what a monitor says at 3,000. The rest is counted.
MOST_LINES, _MOST = 20, 2800
#: Characters of an outcome or a reason, and of a task's id.
_SAID, _NAME = 160, 80
#: Letters of a session's name that a claim keeps (`claims.records`).
_SESSION = 200
#: How an end is called before a model.
_WORDS = {
    Happening.COMPLETED: "success",
    Happening.BLOCKED: "blocked",
    Happening.CANCELLED: "cancelled",
    Happening.RELEASED: "released, ready again",
    Happening.REAPED: "lost its worker",
    Happening.LEFT: "left without a task",
    Happening.RUN_OVER: "run over",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One end that a session is to be told of."""

    #: Which end of what: the same end told twice is one notice.
    key: str
    event: str
    task: str
    why: str = ""
    #: The batch of a run that the session has begun; "" for what its own agents did.
    batch: str = ""

    @property
    def wakes(self) -> bool:
        """Whether a model is woken for it: not for each task of a run, which may be thousands."""
        return not self.batch or self.event == Happening.RUN_OVER

    @property
    def word(self) -> str:
        """What came of it, in a word or two."""
        return _WORDS.get(Happening(self.event), self.event)

    def line(self) -> str:
        """Return the notice as one line."""
        said = f": {_plain(self.why, _SAID)}" if self.why else ""
        return f"{_plain(self.task, _NAME)} {self.word}{said}"


def needle(session: str) -> bytes:
    """Return bytes that each line of the log has which concerns *session*."""
    import json  # noqa: PLC0415 - as it is spelled there

    return b'"session":' + json.dumps(session[:_SESSION]).encode()


def notice_of(event: Mapping[str, Any], session: str) -> Notice | None:
    """Return what *session* is to be told of an event, None if nothing.

    What its own thread has ended itself it knows. What others took from that thread `hooks` tells it; here it
    is told only of what was let go at its end, as it may be gone on with.
    """
    what = event.get("event")
    if event.get("session") != session[:_SESSION] or not isinstance(event.get("task"), str):
        return None
    key = claim_end(event)
    if what in (Happening.RUN_OVER, Happening.LEFT):
        key = f"{event['task']}@{event.get('run', 'left')}"
    elif what not in ENDS or not key or (event.get("agent") == MAIN and not event.get("taken")):
        return None
    why, batch = event.get("why", ""), event.get("batch", "")
    return Notice(key=key, event=str(what), task=event["task"], why=str(why), batch=str(batch))


def fold(notices: Sequence[Notice], running: int | None, mark: str = "") -> str:
    """Return one message of several notices.

    Args:
        notices: At least one, the oldest first.
        running: How many workers of the session run; None where that is not known.
        mark: The name under which the message is looked for in the client's transcript.
    """
    counts = Counter(notice.word for notice in notices)
    many = ", ".join(f"{count} {word}" for word, count in counts.most_common())
    shown = [f"- {notice.line()}" for notice in notices[:MOST_LINES]]
    while sum(map(len, shown)) > _MOST:
        shown.pop()
    if rest := len(notices) - len(shown):
        shown.append(f"- and {rest} more; batch_status or `hypervisor status` has them all")
    still = "" if running is None else f" {running} {'worker' if running == 1 else 'workers'} still at work."
    tail = f" [notice {mark}]" if mark else ""
    return "\n".join([f"hypervisor: {len(notices)} ended: {many}.{still}{tail}", *shown])


def _plain(text: str, length: int) -> str:
    # The client wraps what it passes on in tags of its own.
    return one_line(text.replace("<", "(").replace(">", ")"), length)


def one_line(text: str, length: int) -> str:
    """Return *text* as one printable line of at most *length* characters."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.strip())
    line = line.encode("utf-8", "backslashreplace").decode()
    return line if len(line) <= length else f"{line[: length - 1]}…"
