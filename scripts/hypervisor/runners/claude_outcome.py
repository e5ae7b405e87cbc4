"""How a run of Claude Code ended: from its events, its exit code and its standard error.

The client's texts are as 2.1.197 has them unless said otherwise. What fits no row of `classify` has failed.
"""

from __future__ import annotations

import contextlib
import re
from datetime import datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from .agent import How
from .claude_events import Heard
from .command import signal_name
from .foreign import list_of, number_of
from .program import last_line

_LOGIN = re.compile(
    r"not logged in|please run /login|invalid api key|failed to authenticate|authentication_error"
    r"|oauth token (has )?(expired|revoked)|belongs to a disabled organization",
    re.IGNORECASE,
)
#: Older clients, with the epoch; these said so with exit 0 and without an error.
_LIMIT_OLD = re.compile(r"(?:Claude AI )?usage limit reached\|(\d{10,13})", re.IGNORECASE)
#: "You've hit your session limit · resets 3am (Europe/Berlin)"; session, weekly, Opus, Sonnet, usage,
#: "org's monthly usage limit" (all in the client's text), and what earlier clients said.
_LIMIT = re.compile(
    r"you(?:'|\u2019)ve (?:hit|reached) your .*(?:limit|usage)|usage limit (?:reached|exceeded)"
    r"|(?:your|exceed\w*) (?:\S+ )?usage limit|out of (?:extra usage|usage credits)|limit will reset at"
    r"|usage allocation has been disabled",
    re.IGNORECASE,
)
_NO_LIMIT = "not your usage limit"  # the client's words for a 429 of the service's own capacity
_RESET = re.compile(
    r"\bresets?(?: at| on)?\s+(?:(?P<month>[A-Z][a-z]{2})[a-z]* (?P<day>\d{1,2})(?:, (?P<year>\d{4}))?,?"
    r"(?: at)?\s+)?(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?\s*(?P<half>[ap])\.?m\b\.?"
    r"(?:\s*\((?P<zone>[^)]+)\))?",
    re.IGNORECASE,
)
_MONTHS = "janfebmaraprmayjunjulaugsepoctnovdec"


def classify(  # noqa: PLR0912 - a decision table
    heard: Heard, code: int, stderr: str, now: float
) -> tuple[How, str, float | None]:
    """Tell how a run ended that nobody ended: how, why in one line, and when a usage limit ends.

    An exit code says little: the client fails with 1 and stops on an unknown command with 0.
    """
    result = heard.result
    killed = -code if code < 0 else code - 128 if code in (129, 130, 137, 143) else 0
    if result is None:
        # SIGTERM: 143 and no result. A wrong flag: 1, no event at all, the reason on standard error.
        word = last_line(stderr) or "no result"
        if killed:
            return How.KILLED, f"killed by signal {signal_name(killed)}", None
        return How.LOGGED_OUT if _LOGIN.search(stderr) else How.FAILED, f"exit {code}: {word}", None
    full = result.get("result") if isinstance(result.get("result"), str) else ""
    errors = " ".join(str(one) for one in list_of(result.get("errors")))
    word, subtype, status = last_line(full or ""), result.get("subtype"), result.get("api_error_status")
    text = word or last_line(errors) or f"{subtype}, exit {code}"
    if subtype == "error_max_turns":  # no `result` key; errors: "Reached maximum number of turns (2)"
        return How.TURN_LIMIT, text, None
    if subtype == "error_max_budget_usd":  # errors: "Reached maximum budget ($0.0001)"
        return How.BUDGET, text, None
    if _LIMIT_OLD.fullmatch((full or "").strip()):
        return How.USAGE_LIMIT, text, reset_time(text, now)
    if result.get("is_error"):
        how = _api_error(heard, full or errors, status)
        if how is How.USAGE_LIMIT:
            return how, text, number_of(heard.limit.get("resetsAt")) or reset_time(text, now)
        if how or not killed:
            return how or How.FAILED, text, None
    if killed:
        return How.KILLED, f"killed by signal {signal_name(killed)}", None
    # "Unknown command: /nonsense": exit 0, no error, no `terminal_reason`, and no request was made.
    if result.get("num_turns") == 0 and re.match(r"Unknown (command|skill|slash command):", word):
        return How.UNKNOWN_COMMAND, text, None
    reason = result.get("terminal_reason", "completed")  # clients before it was told
    if code != 0 or subtype != "success" or result.get("is_error"):
        return How.FAILED, f"exit {code}, {subtype}: {word}" if word else text, None
    # The client says success of a run that was denied everything. One that could do some of its work
    # has ended: whether that was enough is to be seen from the task, not from the agent's words.
    if heard.denials and (not word or not heard.worked):
        return How.REFUSED, f"denied: {heard.denials[0]}"[:500], None
    if not word:  # a Stop hook that goes on blocking, or a hook that stops the run, leaves nothing
        return How.EMPTY, "it said nothing" + ("" if reason == "completed" else f" ({reason})"), None
    return (How.ENDED, word, None) if reason == "completed" else (How.FAILED, f"{reason}: {word}", None)


def _api_error(heard: Heard, text: str, status: object) -> How | None:
    """Sort an error of the service; None for an error that is not the service's.

    | served; exit 1, subtype "success"      | status | error of the message  | text
    | 401                                    | 401    | authentication_failed | Invalid API key · Fix ...
    | 403                                    | 403    | authentication_failed | Failed to authenticate. ...
    | no key at all, no request              | null   | authentication_failed | Not logged in · Please ...
    | 400 "credit balance is too low"        | 400    | billing_error         | Credit balance is too low
    | 429                                    | 429    | rate_limit            | API Error: Request ...
    | 429, unified-status: rejected, by plan | 429    | rate_limit            | You've hit your ...
    | 529                                    | 529    | server_error          | API Error: 529 Overloaded. ...
    | 500                                    | 500    | server_error          | API Error: 500 ...
    | no connection                          | null   | server_error          | API Error: Unable to ...
    """
    if status == 401 or heard.error == "authentication_failed" or (status != 429 and _LOGIN.search(text)):
        return How.LOGGED_OUT
    if _NO_LIMIT not in text and ((heard.limit and status == 429) or _LIMIT.search(text)):
        return How.USAGE_LIMIT
    if heard.error == "billing_error" or "credit balance is too low" in text.lower():
        return How.USAGE_LIMIT  # until somebody pays: no time is known
    if status == 429 or (status is None and heard.error == "rate_limit"):
        return How.RATE_LIMIT
    if status == 529 or "overloaded" in text.lower():
        return How.OVERLOAD
    return How.API_ERROR if status or heard.error or text.startswith("API Error") else None


def reset_time(text: str, now: float) -> float | None:
    """Return the time in *text* at which a limit ends, in seconds since the epoch; None if there is none.

    A time without a date is the next one after *now*, or less than a minute ago, as seconds are not told.
    A zone that is not named, or that this machine does not know, is the machine's own.
    """
    if old := _LIMIT_OLD.search(text):
        return float(old[1]) / (1000 if len(old[1]) == 13 else 1)
    if not (told := _RESET.search(text)):
        return None
    zone: tzinfo | None = None
    with contextlib.suppress(KeyError, ValueError, OSError):
        zone = ZoneInfo(told["zone"]) if told["zone"] else None
    with contextlib.suppress(ValueError, OverflowError):
        hour = int(told["hour"]) % 12 + (12 if told["half"].lower() == "p" else 0)
        here = datetime.fromtimestamp(now, zone)
        when = here.replace(hour=hour, minute=int(told["minute"] or 0), second=0, microsecond=0)
        if not told["month"]:
            return (when if when.timestamp() > now - 60 else when + timedelta(days=1)).timestamp()
        place = _MONTHS.index(told["month"].lower())
        when = when.replace(year=int(told["year"] or here.year), month=place // 3 + 1, day=int(told["day"]))
        if not told["year"] and when.timestamp() < now - 86400:
            when = when.replace(year=when.year + 1)
        return when.timestamp()
    return None
