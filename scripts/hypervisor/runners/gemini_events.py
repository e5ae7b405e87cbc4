"""The stream of events of a Gemini CLI run: what it has said so far, what it has used, and how it ended.

A field that is missing or odd is passed over: the client changes from release to release. Its events are
as 0.61.0 has them: ``init``, ``message``, ``tool_use``, ``tool_result``, ``error``, ``result``.

Its stream tells of tokens at the end alone. But it keeps each conversation, those of its subagents too, in a
file of its home: a JSON record a line, and a message once more whenever more is known of it.

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
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from ..core.text import last_line, signal_name
from .base import How, event_of, list_of, map_of, number_of

#: Our server's name among the client's; its policies would misread one with an underscore.
SERVER = "task-manager"
#: What the client calls our tools.
PREFIX = f"mcp_{SERVER}_"
#: Tools that change nothing: an agent that got no further than these was refused what it needed.
_READING = frozenset(
    {"read_file", "read_many_files", "list_directory", "glob", "grep_search", "google_web_search"}
    | {f"{PREFIX}{name}" for name in ("get_task", "list_tasks", "claim_task", "claim_next_task")}
)
#: What begins a subagent.
_SUBAGENT = "invoke_agent"
_REPORTS = frozenset(f"{PREFIX}{name}" for name in ("complete_task", "update_task", "release_task"))


@dataclass(slots=True)
class GeminiEvents:
    """What the stream of one run has said so far."""

    result: dict[str, Any] | None = None
    #: What the model has said since it last used a tool.
    said: str = ""
    #: Faults on the way, and the warning that it went in a circle.
    errors: list[str] = field(default_factory=list)
    #: Calls that a policy, a hook or the client's own rules did not let through.
    denials: list[str] = field(default_factory=list)
    #: Whether a tool of ours has answered.
    served: bool = False
    #: Whether one of ours has taken a report of how the task ended.
    reported: bool = False
    #: Whether a tool that may change something has succeeded.
    worked: bool = False
    #: Whether the model will be asked again: it has called for a tool, or has its answer.
    asks: bool = False
    _tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Calls that have no answer yet.
    _open: set[str] = field(default_factory=set)

    def line(self, line: bytes) -> None:
        """Take one line; what is no event is passed over."""
        event = event_of(line)
        kind = event.get("type")
        if kind == "result":
            self.result = event
        elif kind == "message" and event.get("role") == "assistant":
            self.said += str(event.get("content") or "")
            self.asks = False
        elif kind == "error":
            self.errors.append(str(event.get("message") or ""))
        elif kind == "tool_use":
            self.said, self.asks = "", True
            self._tools[str(event.get("tool_id"))] = event
            self._open.add(str(event.get("tool_id")))
        elif kind == "tool_result":
            self.asks = True
            self._open.discard(str(event.get("tool_id")))
            self._used(event)

    def _used(self, event: dict[str, Any]) -> None:
        call = self._tools.get(str(event.get("tool_id")), {})
        name = str(call.get("tool_name", ""))
        if event.get("status") == "success":
            self.served |= name.startswith(PREFIX)
            self.reported |= name in _REPORTS
            self.worked |= bool(name) and name not in _READING
            return
        error = map_of(event.get("error"))
        text = str(error.get("message") or event.get("output") or "")
        if error.get("type") == "policy_violation" or "denied by policy" in text or "blocked" in text[:40]:
            self.denials.append(_denial(name, map_of(call.get("parameters")), text))

    @property
    def talks(self) -> int:
        """How many conversations are open: its own, and those of its subagents."""
        return 1 + [self._tools[one].get("tool_name") for one in tuple(self._open)].count(_SUBAGENT)

    def counted(self) -> dict[str, Any]:
        """Return the tokens, as `AgentEnd` names them; nothing where there is no result.

        The client counts what the model thought in the total alone. It knows no money.
        """
        if self.result is None:
            return {}
        stats = map_of(self.result.get("stats"))
        read, total = int(number_of(stats.get("input_tokens"))), int(number_of(stats.get("total_tokens")))
        written = max(int(number_of(stats.get("output_tokens"))), total - read)
        return {"input_tokens": read, "output_tokens": written}

    @property
    def error(self) -> dict[str, Any]:
        """The fault that the result names, if it names one."""
        return map_of(map_of(self.result).get("error"))

    @property
    def models(self) -> list[str]:
        """The models that answered."""
        return list_of(list(map_of(map_of(map_of(self.result).get("stats")).get("models"))))


def _denial(name: str, told: dict[str, Any], why: str) -> str:
    detail = next((str(told[key]) for key in ("command", "file_path", "url", "id") if key in told), "")
    return " ".join(f"{name} {detail}: {why}".split())[:300]


# ---------------------------------------------------------------------- tokens

#: Between two looks, in seconds.
_LOOK_SECONDS = 0.1
#: Answers that a conversation may be ahead of its record: the client asks again as soon as a tool has
#: answered, which may be before anybody has read what the last answer cost.
_AHEAD = 2


class Meter:
    """Adds up the answers that are in the records of one home."""

    def __init__(self, home: Path) -> None:
        self._folder = home / ".gemini/tmp"
        #: By file: how far it was read. By file and message: its tokens.
        self._read: dict[Path, int] = {}
        self._tokens: dict[tuple[Path, str], int] = {}

    def look(self) -> int:
        """Return the tokens of all answers so far; what cannot be read counts for nothing."""
        for path in self._folder.glob("*/chats/**/*.jsonl"):
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
                whole = text[: text.rfind(b"\n") + 1]  # the last line may be half written
                self._read[path] = self._read.get(path, 0) + len(whole)
                for line in whole.splitlines():
                    self._take(path, line)
        return sum(self._tokens.values())

    def _take(self, path: Path, line: bytes) -> None:
        record = event_of(line)
        tokens = int(number_of(map_of(record.get("tokens")).get("total")))
        if tokens:
            self._tokens[path, str(record.get("id"))] = tokens


@contextlib.contextmanager
def metered(home: Path, heard: GeminiEvents, used: Callable[[int, int, bool], None]) -> Iterator[None]:
    """Tell *used* meanwhile the tokens so far, the answers that may be on their way, and if it asks again."""
    meter, over = Meter(home), threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            if tokens := meter.look():
                used(tokens, _AHEAD * heard.talks, heard.asks)

    thread = threading.Thread(target=look, daemon=True, name="gemini tokens")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# --------------------------------------------------------------------- the end

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


def classify(heard: GeminiEvents, code: int, stderr: str, now: float) -> tuple[How, str, float | None]:
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


def _of_error(heard: GeminiEvents, code: int, stderr: str, now: float) -> tuple[How, str, float | None]:
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
