"""The stream of events of a Claude Code run: what it has said so far, and how the run ended.

A field that is missing or odd is passed over: the client changes from release to release. Its texts are as
2.1.197 has them unless said otherwise. What fits no row of `classify` has failed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from ..core.text import last_line, signal_name
from .base import How, event_of, list_of, map_of, number_of

#: Tools that change nothing: an agent that got no further than these was refused what it needed.
_READING = frozenset(
    {"Read", "Glob", "Grep", "LS", "ToolSearch", "Skill", "TodoWrite", "TaskList", "TaskGet", "WebFetch"}
)
#: The client's name of the plugin's server.
_SERVER = "plugin:hypervisor:task_manager"
#: How the result of a call begins that began a subagent in the background.
_LAUNCHED = "Async agent launched"


@dataclass(slots=True)
class ClaudeEvents:
    """What the stream of one run has said so far."""

    result: dict[str, Any] | None = None
    #: The session's id.
    session: str = ""
    #: The client's word for what went wrong with the main thread's last message, such as ``rate_limit``.
    error: str = ""
    #: The last attempt to repeat a request: ``error_status``, ``error``.
    retry: Mapping[str, Any] = field(default_factory=dict)
    #: The limit that rejected a request: ``resetsAt``, in seconds. Only users with a plan are told.
    limit: Mapping[str, Any] = field(default_factory=dict)
    #: Whether a tool that may change something has succeeded.
    worked: bool = False
    denials: list[str] = field(default_factory=list)
    #: See `Assignment.used`.
    used: Callable[[int, int, bool], None] = lambda _tokens, _talks, _again: None
    #: See `Assignment.warn`; None where the agent is not given the plugin's tools.
    warn: Callable[[str], None] | None = None
    _tools: dict[str, str] = field(default_factory=dict)
    #: Tokens by answer: each of an answer's events repeats its usage so far.
    _usage: dict[str, int] = field(default_factory=dict)
    #: The calls that began subagents which still work, and the tasks that the client made of them.
    _talks: set[str] = field(default_factory=set)
    _tasks: dict[str, str] = field(default_factory=dict)

    def line(self, line: bytes) -> None:
        """Take one line; what is no event is passed over."""
        event = event_of(line)
        kind = event.get("type")
        if kind == "result":
            # A background agent that ends wakes the client: one more result, whose totals hold all.
            self.result = event
            self.denials += [_denial(one) for one in list_of(event.get("permission_denials"))]
        elif kind == "rate_limit_event" and map_of(event.get("rate_limit_info")).get("status") == "rejected":
            self.limit = map_of(event["rate_limit_info"])
        elif kind == "system" and event.get("subtype") == "api_retry":
            self.retry = event
        elif kind == "system" and event.get("subtype") == "init":
            self.session = str(event.get("session_id") or "")
            self._look_for_tools(event)
        elif kind == "system":
            self._follow(event)
        elif kind in ("assistant", "user"):
            self._hear(event, of_agent=kind == "assistant")

    def _look_for_tools(self, event: Mapping[str, Any]) -> None:
        """Warn where the client begins without the plugin's server: its agent can not report."""
        if self.warn is None or "mcp_servers" not in event:
            return
        servers = {one.get("name"): one.get("status") for one in map(map_of, list_of(event["mcp_servers"]))}
        if (status := servers.get(_SERVER, "not there")) != "connected":
            self.warn(
                f"agents of claude work without the tools of task_manager (the client says: {status}), and "
                f"cannot report; see `hypervisor doctor`"
            )

    def _hear(self, event: Mapping[str, Any], *, of_agent: bool) -> None:
        """Take a message, of the agent or to it."""
        if of_agent and not event.get("parent_tool_use_id"):
            self.error = str(event.get("error") or "")
        message = map_of(event.get("message"))
        for block in map(map_of, list_of(message.get("content"))):
            if block.get("type") == "tool_use":
                self._tools[str(block.get("id"))] = str(block.get("name"))
                if block.get("name") in ("Agent", "Task"):
                    self._talks.add(str(block.get("id")))
            elif block.get("type") == "tool_result":
                call = str(block.get("tool_use_id"))
                if not block.get("is_error"):
                    self.worked |= self._tools.get(call, "Read") not in _READING
                if _LAUNCHED not in str(block.get("content")):
                    self._talks.discard(call)
        if of_agent:
            self._count(message)

    def _count(self, message: Mapping[str, Any]) -> None:
        """Tell what the answers so far have used."""
        usage, name = map_of(message.get("usage")), str(message.get("id"))
        read = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
        tokens = sum(int(number_of(usage.get(key))) for key in read)
        self._usage[name] = max(tokens, self._usage.get(name, 0))
        asks = any(map_of(one).get("type") == "tool_use" for one in list_of(message.get("content")))
        self.used(sum(self._usage.values()), 1 + len(self._talks), asks)

    def _follow(self, event: Mapping[str, Any]) -> None:
        """Note the end of a subagent in the background."""
        task, call = str(event.get("task_id")), str(event.get("tool_use_id"))
        if event.get("subtype") == "task_started":
            self._tasks[task] = call
        elif event.get("subtype") == "task_notification":
            self._talks -= {call, self._tasks.get(task, "")}

    def counted(self) -> dict[str, Any]:
        """Return tokens, money and turns, as `AgentEnd` names them; nothing where there is no result."""
        if self.result is None:
            return {}
        # `usage` is the main thread's last turn only; `modelUsage` has the subagents too.
        models = [map_of(one) for one in map_of(self.result.get("modelUsage")).values()]
        read = ("inputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")
        cost, turns = self.result.get("total_cost_usd"), self.result.get("num_turns")
        return {
            "input_tokens": sum(int(number_of(one.get(name))) for one in models for name in read),
            "output_tokens": sum(int(number_of(one.get("outputTokens"))) for one in models),
            "cost_usd": float(number_of(cost)) if cost is not None else None,
            "turns": int(number_of(turns)) if turns is not None else None,
        }


def _denial(value: object) -> str:
    what = map_of(value)
    told = map_of(what.get("tool_input"))
    detail = next((str(told[key]) for key in ("command", "file_path", "url", "skill") if key in told), "")
    return " ".join(f"{what.get('tool_name', value)} {detail}".split())[:300]


# --------------------------------------------------------------------- the end

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
    heard: ClaudeEvents, code: int, stderr: str, now: float
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


def _api_error(heard: ClaudeEvents, text: str, status: object) -> How | None:
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
