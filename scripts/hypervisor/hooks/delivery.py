"""Delivery of notices: what is put before a session's own thread, and whether it arrived.

A hook's output proves nothing: another plugin may block the prompt, the client may be killed or give up on
the hook. So a message is looked for in the client's transcript, and offered anew until it is there.

What tasks and results say comes from outside and goes before a model: each notice is one printable line, cut,
and there are never more than a few.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..report.ends import ends_answer
from ..store.notices import Delivery, Notice, NoticeQueue, RunItem
from . import transcript
from .call import Call, one_line

#: Lines of one message, and its characters: a client cuts the output of a monitor at 3,000. The
#: rest is counted.
MOST_LINES, _MOST = 20, 2800
#: Characters of an outcome or a reason, and of a task's id.
_WHY, _NAME = 160, 80
_WORDS = {
    "success": "success",
    "blocked": "blocked",
    "failed": "failed",
    "cancelled": "cancelled",
    "released": "released, ready again",
    "taken": "lost its worker",
    "left": "left without a task",
    "run": "run over",
}
#: How long the client may take to write down what it was given, in seconds: measured 0.1 to 0.3.
_FLUSH_SECONDS = 2.0
_LOOK_SECONDS = 0.05
#: After which a message that is nowhere to be seen is lost, in milliseconds; one that wakes the
#: client may be on its way for a while.
_OVERDUE_MS = 60_000
#: After which a prompt that is not in the transcript was blocked: other plugins' hooks may take a while.
_BLOCKED_MS = 4_000
#: Messages that begin a turn: where one of those is lost, no hook may run for hours.
_BEGINS_TURN = ("watch", "UserPromptSubmit")
#: A client goes on at most so often in a row, if it is not told another number.
_CAP = 8
_TOOL_ENDS = ("PostToolUse", "PostToolUseFailure")


def deliver_at_hook(queue: NoticeQueue, call: Call, running: int) -> str:
    """Return what the session's own thread is to be told at *call*, "" for nothing.

    Args:
        queue: The session's.
        call: A call of its own thread at which text can be put before the model.
        running: How many workers of the session run.
    """
    queue.set_transcript(call.transcript)
    settle(queue, call)
    if call.event != "Stop":
        queue.set_blocks(0)
    if not queue.pending():
        return ""
    if call.event == "Stop":
        blocks = queue.blocks
        if not may_block(blocks, os.environ):
            return ""
        queue.set_blocks(blocks + 1)
    place = transcript.length(call.transcript)
    mark, notices = queue.offer(call.event, prompt=call.prompt_id, place=place)
    return message(queue, notices, running, mark)


def deliver(queue: NoticeQueue, event: str, running: int | None) -> tuple[str, list[Notice]]:
    """Return what is to be told by somebody who is no hook: ``wait``, or ``watch`` for what wakes the client.

    Args:
        queue: The session's.
        event: ``wait`` or ``watch``.
        running: How many workers of the session run; None where that is not known.

    Returns:
        The message and its notices; empty where there is nothing.
    """
    if not queue.pending():
        return "", []
    place = transcript.length(queue.transcript)
    mark, notices = queue.offer(event, place=place)
    return message(queue, notices, running, mark), notices


def wait_answer(text: str, notices: Sequence[Notice], place: int) -> dict[str, Any]:
    """Return the answer to a session that has waited.

    Args:
        text: What it is told.
        notices: Of which ends.
        place: The id of the latest event.
    """
    rows = [{"event": one.end, "task": one.name, "why": one.why} for one in notices]
    return {"said": text, **ends_answer(rows, place)}


def may_block(blocks: int, environ: Mapping[str, str]) -> bool:
    """Return whether the client may be kept from stopping once more: it overrides who does that too often."""
    text = environ.get("CLAUDE_CODE_STOP_HOOK_BLOCK_CAP", "")
    cap = int(text) if text.isdecimal() else _CAP
    return cap == 0 or blocks < cap - 1  # one is left to other plugins


# -------------------------------------------------------------------- arrival


def settle(queue: NoticeQueue, call: Call) -> None:
    """Find out which messages arrived that were handed over before *call*."""
    deadline = time.monotonic() + _FLUSH_SECONDS
    while offered := queue.offered():
        seen = _shown(offered, call.transcript)
        late = time.monotonic() >= deadline
        verdicts = [(one, _verdict(one, call, seen, late=late)) for one in offered]
        queue.settle(*([one.mark for one, v in verdicts if v == name] for name in ("told", "lost", "missed")))
        for one, verdict in verdicts:
            if verdict == "moved":
                queue.moved(one.mark, "UserPromptSubmit", call.prompt_id)
        open_ = [one for one, verdict in verdicts if verdict == "" and one.event != "watch"]
        if late or not open_ or not _is_edge(call):
            return
        # At the edge of a turn it has to be known now: what is lost is said again, here or never.
        time.sleep(_LOOK_SECONDS)


def settle_resting(queue: NoticeQueue, path: str) -> bool:
    """Find out which messages arrived that begin a turn, while no hook runs.

    Args:
        queue: The session's.
        path: The client's transcript.

    Returns:
        Whether that is not known yet of some.
    """
    offered = [one for one in queue.offered() if one.event in _BEGINS_TURN]
    if not (offered and path):
        return False
    seen = _shown(offered, path) or set()
    told = [one.mark for one in offered if one.mark in seen]
    lost = [
        one.mark
        for one in offered
        if one.mark not in seen and one.age > (_OVERDUE_MS if one.event == "watch" else _BLOCKED_MS)
    ]
    queue.settle(told, lost)
    return len(told) + len(lost) < len(offered)


def _shown(offered: Sequence[Delivery], path: str) -> set[str] | None:
    """Return the marks of messages that the transcript shows; None where it cannot be read."""
    if not path:
        return None
    return transcript.shown(path, min(one.place for one in offered), [one.mark for one in offered])


def _is_edge(call: Call) -> bool:
    return call.event not in _TOOL_ENDS


def _verdict(one: Delivery, call: Call, seen: set[str] | None, *, late: bool) -> str:
    """Return what became of a message, in a word of `NoticeQueue.settle`; "" for not known yet.

    ``moved``: it is a part of the prompt that the client is about to take up, or to block.
    """
    if seen is not None and one.mark in seen:
        return "told"
    if one.mark in call.prompt:
        return "moved" if one.event == "watch" else ""
    if one.event == "watch":
        return "lost" if one.age > _OVERDUE_MS else ""
    # That the client went on with the turn is not proof of arrival: it may have dropped the hook's output.
    went_on = call.asked if one.event == "Stop" else bool(one.prompt) and one.prompt == call.prompt_id
    if seen is None and (went_on or (one.event == "SessionStart" != call.event)):
        return "told"
    at_edge = _is_edge(call) and (late or seen is None)
    if not at_edge and one.age <= _OVERDUE_MS:
        return ""
    return "missed" if went_on else "lost"


# -------------------------------------------------------------------- message


def message(queue: NoticeQueue, notices: Sequence[Notice], running: int | None, mark: str) -> str:
    """Return one message of several notices, "" for none; that of a run has a line for each of its items."""
    items = {one.run: queue.run_items(one.run, MOST_LINES) for one in notices if one.run}
    return fold(notices, running, mark, items) if notices else ""


def fold(
    notices: Sequence[Notice],
    running: int | None,
    mark: str = "",
    items: Mapping[int, Sequence[RunItem]] = {},
) -> str:
    """Return one message of several notices. Pure.

    Args:
        notices: At least one, the oldest first.
        running: How many workers of the session run; None where that is not known.
        mark: The name under which the message is looked for in the client's transcript.
        items: What items of runs came to, by `Notice.run`.
    """
    counts = Counter(word(notice) for notice in notices)
    many = ", ".join(f"{count} {what}" for what, count in counts.most_common())
    shown: list[str] = []
    told = size = 0
    for notice in notices:
        for number, one in enumerate([line(notice), *map(_item_line, items.get(notice.run, ()))]):
            size += len(one)
            if len(shown) == MOST_LINES or size > _MOST:
                break
            shown.append(one)
            told += number == 0
    if rest := len(notices) - told:
        shown.append(f"- and {rest} more; batch_status or `hypervisor status` has them all")
    still = "" if running is None else f" {running} {'worker' if running == 1 else 'workers'} still at work."
    tail = f" [notice {mark}]" if mark else ""
    return "\n".join([f"hypervisor: {len(notices)} ended: {many}.{still}{tail}", *shown])


def word(notice: Notice) -> str:
    """Return how an end is called before a model."""
    return _WORDS[notice.end]


def line(notice: Notice) -> str:
    """Return a notice as one line."""
    why = f": {_plain(notice.why, _WHY)}" if notice.why else ""
    return f"- {_plain(notice.name, _NAME)} {word(notice)}{why}"


def _item_line(item: RunItem) -> str:
    outcome = f": {_plain(item.outcome, _WHY)}" if item.outcome else ""
    return f"  - {_plain(item.name, _NAME)} {item.status}{outcome}"


def _plain(text: str, length: int) -> str:
    # The client wraps what it passes on in tags of its own.
    return one_line(text.replace("<", "(").replace(">", ")"), length)
