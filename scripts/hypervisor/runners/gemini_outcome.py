"""How a run of the Gemini CLI ended: from its events, its exit code and its standard error.

Exit 0 says nothing: the client says it for a signal, for a circle in which it went, for a stream that
broke off, and where its servers never started. Codes and texts are as 0.61.0 has them.

| seen                                                 | exit            | told by
|------------------------------------------------------|-----------------|--------------------------
| came to its end                                      | 0               | result: success, a text
| SIGTERM, SIGINT                                      | 0               | no result
| empty or malformed stream, answer blocked for safety | 0               | result: error, an error event
| the same call five times                             | 0               | result: success, a warning
| our server missing or dead                           | 0               | no call of ours, stderr
| HTTP 400, 401, 403, 429, 500, 503                    | status mod 256  | result: error, its text
| no key; no turns left; folder not trusted            | 41; 53; 55      | no result, or its error
| no sandbox                                           | 1 or 44         | no result, stderr
"""

from __future__ import annotations

import contextlib
import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from .agent import How
from .command import signal_name
from .gemini_events import Heard
from .program import last_line

_LOGIN = re.compile(
    r"api key not valid|api[_ ]key_invalid|must specify the GEMINI_API_KEY|invalid auth method"
    r"|unauthenticated|permission_denied|please set an auth method|re-?authenticate|login required",
    re.IGNORECASE,
)
#: The day's allowance: the client's own words, and the service's.
_DAILY = re.compile(r"daily quota|PerDay|requests per day|limit:\s*0(?!\d|\.\d)", re.IGNORECASE)
_AFTER = re.compile(r"(?:quota will reset after|retry in)\s+((?:[\d.]+[hms]\s*)+)", re.IGNORECASE)
_PART = re.compile(r"([\d.]+)([hms])")
_SECONDS = {"h": 3600, "m": 60, "s": 1}
#: So long a wait is a usage limit and not a crowd; the client itself waits for less.
_LONG_SECONDS = 300.0
_SANDBOX = re.compile(r"FatalSandboxError: (.*)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOST_SERVER = "MCP issues detected"
_STATUS = {status % 256: status for status in (400, 401, 403, 404, 429, 499, 500, 502, 503, 504)}


def classify(heard: Heard, code: int, stderr: str, now: float) -> tuple[How, str, float | None]:
    """Tell how a run ended that nobody ended: how, why in one line, and when a usage limit ends.

    Args:
        heard: What its events have said.
        code: Its exit code.
        stderr: The end of its standard error.
        now: Seconds since the epoch.
    """
    if heard.result is None:
        return *_without_result(code, stderr), None
    if heard.result.get("status") != "success" or code != 0:
        return _of_error(heard, code, stderr, now)
    if heard.errors:  # "Loop detected, stopping execution": a warning, and success
        return How.FAILED, last_line(heard.errors[-1]) or "the client gave up", None
    if _LOST_SERVER in stderr and not heard.served:
        text = "its server did not start, so that it had no tools for the task; see `gemini mcp list`"
        return How.FAILED, f"{text}: {last_line(heard.said)}".rstrip(": "), None
    word = last_line(heard.said)
    if heard.denials and (not word or not heard.worked) and not heard.reported:
        return How.REFUSED, f"denied: {heard.denials[0]}"[:500], None
    if not word and not heard.reported:
        return How.EMPTY, "it said nothing", None
    return How.ENDED, word or "reported, and said nothing", None


def _without_result(code: int, stderr: str) -> tuple[How, str]:
    """Tell of a run that left no result."""
    if code in (129, 130, 137, 143):
        return How.KILLED, f"killed by signal {signal_name(code - 128)}"
    if code == 44 or _SANDBOX.search(stderr):
        told = _SANDBOX.search(stderr)
        return How.MISSING, f"no sandbox: {told[1][:300] if told else last_line(_words(stderr))}"
    if code == 41 or _LOGIN.search(stderr):
        return How.LOGGED_OUT, last_line(_words(stderr)) or "no login"
    if code == 55:
        return How.FAILED, "exit 55: the client does not trust the folder, and its machine's rules forbid to"
    if code == 0:  # so it does at SIGTERM, and at SIGINT
        return How.KILLED, "ended with exit 0 and without a result, as it does when a signal ends it"
    return How.FAILED, f"exit {code}: {last_line(_words(stderr)) or 'no result'}"


def _of_error(heard: Heard, code: int, stderr: str, now: float) -> tuple[How, str, float | None]:
    """Sort a run whose result is an error."""
    full = str(heard.error.get("message") or "") or " ".join(heard.errors)
    text = last_line(full.splitlines()[0] if full else "") or last_line(_words(stderr)) or f"exit {code}"
    status = _STATUS.get(code)
    if code == 53 or heard.error.get("type") == "FatalTurnLimitedError":
        return How.TURN_LIMIT, text, None
    if status in (401, 403) or (status != 429 and _LOGIN.search(full)):
        return How.LOGGED_OUT, text, None
    if status == 429 or "RESOURCE_EXHAUSTED" in full:
        until = reset_time(full, now)
        return (How.USAGE_LIMIT, text, until) if until is not None else (How.RATE_LIMIT, text, None)
    if status == 503 or "overloaded" in full.lower():
        return How.OVERLOAD, text, None
    if "safety" in full:  # it would be again
        return How.FAILED, text, None
    if status or "[API Error" in full or heard.errors:  # a broken stream is a fault of the service as well
        return How.API_ERROR, text, None
    return How.FAILED, text, None


def reset_time(text: str, now: float) -> float | None:
    """Return when a limit ends that *text* tells of, in seconds since the epoch; None if it ends soon.

    A day's allowance is given anew at midnight on the coast where the service is at home
    (https://ai.google.dev/gemini-api/docs/rate-limits).
    """
    for told in _AFTER.finditer(text):
        seconds = sum(float(n) * _SECONDS[unit] for n, unit in _PART.findall(told[1]))
        if seconds > _LONG_SECONDS:
            return now + seconds
    if not _DAILY.search(text):
        return None
    with contextlib.suppress(KeyError, ValueError, OSError):
        here = datetime.fromtimestamp(now, ZoneInfo("America/Los_Angeles"))
        day = (here + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return day.timestamp()
    return now + 3600.0  # a machine that knows no time zones


def _words(stderr: str) -> str:
    """Return standard error without what the client says there of every run."""
    stderr = _COLOUR.sub("", stderr)
    noise = ("Warning: 256-color", "Ripgrep is not available", "    at ", "}", "YOLO mode is enabled")
    return "\n".join(line for line in stderr.splitlines() if not line.startswith(noise))
