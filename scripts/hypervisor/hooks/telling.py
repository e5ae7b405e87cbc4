"""Telling a session, at its hooks, what it has not been told: what is lost, what is known, what is said now.

A hook's output proves nothing: another plugin may block the prompt, the client may be killed or give up on
the hook. So a message is looked for in the client's transcript, and handed over anew until it is there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from ..inbox import Box, Inbox, Offer
from . import transcript
from .hookcall import Call
from .notices import Notice, fold

#: How long the client may take to write down what it has been given, in seconds: measured 0.1 to 0.3.
_FLUSH_SECONDS = 2.0
_LOOK_SECONDS = 0.05
#: For how long a line that wakes the client may be on its way.
_WAKING_SECONDS = 60.0
#: After which a prompt that is not in the transcript was blocked: other plugins' hooks may take a while.
_BLOCKED_SECONDS = 4.0
#: Events at which a message begins a turn: where it is lost, no hook may run for hours.
_WAKERS = ("watch", "UserPromptSubmit")
#: A client goes on at most so often in a row, if it is not told another number.
_CAP = 8
_TOOL_ENDS = ("PostToolUse", "PostToolUseFailure")


def tell(inbox: Inbox, call: Call, running: int, *, only_waking: bool = False) -> str:
    """Return what the session's own thread is to be told at *call*, "" for nothing.

    Args:
        inbox: The session's.
        call: A call of its own thread at which text can be put before the model.
        running: How many workers of the session run.
        only_waking: Whether to keep what is not worth a turn of its own.
    """
    if inbox.idle():
        return ""
    try:
        with inbox.open() as box:
            box.transcript = call.transcript or box.transcript
            settle(box, call)
            if call.event != "Stop":
                box.blocks = 0
            pending = box.pending()
            if not pending or (only_waking and not any(notice.wakes for notice in pending)):
                return ""
            if call.event == "Stop" and not may_block(box, os.environ):
                return ""
            box.blocks += call.event == "Stop"
            place = transcript.length(call.transcript)
            offer = box.offer(pending, call.event, use=call.use, prompt=call.prompt_id, place=place)
            return fold(pending, running, offer.mark)
    except FileNotFoundError:  # forgotten meanwhile
        return ""


def hand_over(inbox: Inbox, event: str, running: int | None) -> tuple[str, list[Notice]]:
    """Return what is to be told, for somebody who is no hook to say: ``wait`` or ``watch``.

    Returns:
        The message and what it tells of; empty where there is nothing.
    """
    try:
        with inbox.open() as box:
            pending = box.pending()
            if not pending:
                return "", []
            place = transcript.length(box.transcript) if box.transcript else -1
            return fold(pending, running, box.offer(pending, event, place=place).mark), pending
    except FileNotFoundError:
        return "", []


def settle_resting(inbox: Inbox) -> bool:
    """Find out what became of what was to wake the client, or stood in a prompt, while no hook runs.

    Returns:
        Whether there is still something of which that is not known.
    """
    try:
        with inbox.open() as box:
            wakers = [offer for offer in box.offers if offer.event in _WAKERS]
            if not (wakers and box.transcript):
                return False
            place = max(0, min(one.place for one in wakers))
            seen = transcript.shown(box.transcript, place, [one.mark for one in wakers])
            box.settle(lambda one: _resting_verdict(one, seen) if one.event in _WAKERS else None)
            return any(offer.event in _WAKERS for offer in box.offers)
    except FileNotFoundError:
        return False


def _resting_verdict(offer: Offer, seen: set[str] | None) -> bool | None:
    if seen is not None and offer.mark in seen:
        return True
    # What stood in a prompt that was blocked never comes; nobody else says so.
    patience = _WAKING_SECONDS if offer.event == "watch" else _BLOCKED_SECONDS
    return False if time.time() - offer.at > patience else None


def confirm(inbox: Inbox, call: Call) -> None:
    """Look once more what the client has written down, at the session's end."""
    if not inbox.idle():
        with inbox.open() as box:
            settle(box, call)


def may_block(box: Box, environ: Mapping[str, str]) -> bool:
    """Tell whether the client may be kept from stopping once more: it overrides who does that too often."""
    text = environ.get("CLAUDE_CODE_STOP_HOOK_BLOCK_CAP", "")
    cap = int(text) if text.isdecimal() else _CAP
    return cap == 0 or box.blocks < cap - 1  # one is left to other plugins


def settle(box: Box, call: Call) -> None:
    """Find out what became of what was handed over before."""
    if not box.offers:
        return
    deadline = time.monotonic() + _FLUSH_SECONDS
    while True:
        found = _seen(box, call)
        late = time.monotonic() >= deadline
        box.settle(lambda offer: _verdict(offer, call, found, late))  # noqa: B023 - called at once
        if late or not box.offers or not _is_edge(call) or all(one.event == "watch" for one in box.offers):
            return
        # At the edge of a turn it has to be known now: what is lost is said again, here or never.
        time.sleep(_LOOK_SECONDS)


def _is_edge(call: Call) -> bool:
    return call.event not in _TOOL_ENDS


def _seen(box: Box, call: Call) -> set[str] | None:
    if not call.transcript:
        return None
    place = max(0, min(offer.place for offer in box.offers))
    return transcript.shown(call.transcript, place, [offer.mark for offer in box.offers])


def _verdict(offer: Offer, call: Call, seen: set[str] | None, late: bool) -> bool | None:
    """Return True if the model has the offer, False if it is lost, None if that is not known yet."""
    if seen is not None and offer.mark in seen:
        return True
    if offer.event == "watch":
        if offer.mark in call.prompt:  # on its way in this very prompt, which may be blocked still
            offer.event, offer.prompt = "UserPromptSubmit", call.prompt_id
            return None
        return False if time.time() - offer.at > _WAKING_SECONDS else None
    if call.event == "UserPromptSubmit" and offer.mark in call.prompt:
        return None
    if offer.event == "wait" and any(offer.mark in text for text in _texts(call.response)):
        offer.event, offer.use, offer.prompt = call.event, call.use, call.prompt_id
        return None if seen is not None else True
    if seen is None:
        return _without_transcript(offer, call)
    if offer.place < 0:  # handed over when no hook had named the transcript yet
        offer.place = transcript.length(call.transcript)
        return None
    if transcript.answered(call.transcript, offer.place, offer.use):
        return False
    return False if late and _is_edge(call) else None


def _without_transcript(offer: Offer, call: Call) -> bool | None:
    """Judge by whether the client went on: then it has most likely used what it was given."""
    if offer.event == "SessionStart":
        return call.event != "SessionStart"
    if offer.event == "Stop":
        return call.asked or call.event in _TOOL_ENDS
    same = bool(offer.prompt) and offer.prompt == call.prompt_id
    return same and call.event in (*_TOOL_ENDS, "Stop")


def _texts(value: Any, depth: int = 4) -> list[str]:
    """Return the texts of a tool's response, also those of JSON within a text."""
    found: list[str] = []
    if isinstance(value, str):
        found = [value]
        if value[:1] in "{[" and depth:
            try:
                found += _texts(json.loads(value), depth - 1)
            except (ValueError, RecursionError):
                return found
    elif isinstance(value, dict | list) and depth:
        for one in value.values() if isinstance(value, dict) else value:
            found += _texts(one, depth - 1)
    return found
