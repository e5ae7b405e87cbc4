"""An agent that is Claude Code, headless: its command line, and what its stream of events says.

Measured with client 2.1.197 unless said otherwise. The client changes from release to release: a field
that is missing or odd is passed over, and what fits no row of `classify` has failed.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from .agent import AgentEnd, Assignment, How
from .child import last_line, run_child
from .command import ended_otherwise, signal_name

#: What a task needs at least: change files, and commit.
_ALLOWED = ("Edit", "Write", "Bash(git add *)", "Bash(git commit *)")
#: What says that a client runs inside a session; it must not look like a part of that one. Everything
#: else that begins with CLAUDE_ is the user's settings, such as CLAUDE_CONFIG_DIR and the login.
_OF_A_SESSION = frozenset(
    {"CLAUDECODE", "AI_AGENT", "CLAUDE_PROJECT_DIR", "CLAUDE_PLUGIN_ROOT", "CLAUDE_PLUGIN_DATA",
     "CLAUDE_ENV_FILE", "CLAUDE_RUNNER_ACTIVITY_FD", "CLAUDE_BG_RV_AUTH", "CLAUDE_CODE_SESSION_ID",
     "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_CHILD_SESSION", "CLAUDE_CODE_EXECPATH", "CLAUDE_CODE_SSE_PORT",
     "CLAUDE_CODE_REMOTE_SESSION_ID", "CLAUDE_CODE_SESSION_ACCESS_TOKEN", "CLAUDE_CODE_WORKER_EPOCH",
     "CLAUDE_CODE_RESUME_PROMPT", "CLAUDE_CODE_RESUME_INTERRUPTED_TURN", "CLAUDE_CODE_DIAGNOSTICS_FILE"}
)  # fmt: skip
#: Tools that change nothing: an agent that got no further than these was refused what it needed.
_READING = frozenset(
    {"Read", "Glob", "Grep", "LS", "ToolSearch", "Skill", "TodoWrite", "TaskList", "TaskGet", "WebFetch"}
)

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


@dataclass(slots=True)
class Heard:
    """What the stream of one run has said so far."""

    result: dict[str, Any] | None = None
    #: The client's word for what went wrong with the main thread's last message, such as ``rate_limit``.
    error: str = ""
    #: The last attempt to repeat a request: ``error_status``, ``error``.
    retry: Mapping[str, Any] = field(default_factory=dict)
    #: The limit that rejected a request: ``resetsAt``, in seconds. Only users with a plan are told.
    limit: Mapping[str, Any] = field(default_factory=dict)
    #: Whether a tool that may change something has succeeded.
    worked: bool = False
    denials: list[str] = field(default_factory=list)
    _tools: dict[str, str] = field(default_factory=dict)

    def line(self, line: bytes) -> None:
        """Take one line; what is no event is passed over."""
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(event, dict):
            return
        kind = event.get("type")
        if kind == "result":
            # A background agent that ends wakes the client: one more result, whose totals hold all.
            self.result = event
            self.denials += [_denial(one) for one in _list(event.get("permission_denials"))]
        elif kind == "rate_limit_event" and _map(event.get("rate_limit_info")).get("status") == "rejected":
            self.limit = _map(event["rate_limit_info"])
        elif kind == "system" and event.get("subtype") == "api_retry":
            self.retry = event
        elif kind in ("assistant", "user"):
            if kind == "assistant" and not event.get("parent_tool_use_id"):
                self.error = str(event.get("error") or "")
            for block in map(_map, _list(_map(event.get("message")).get("content"))):
                if block.get("type") == "tool_use":
                    self._tools[str(block.get("id"))] = str(block.get("name"))
                elif block.get("type") == "tool_result" and not block.get("is_error"):
                    self.worked |= self._tools.get(str(block.get("tool_use_id")), "Read") not in _READING

    def counted(self) -> dict[str, Any]:
        """Return tokens, money and turns, as `AgentEnd` names them; nothing where there is no result."""
        if self.result is None:
            return {}
        # `usage` is the main thread's last turn only; `modelUsage` has the subagents too.
        models = [_map(one) for one in _map(self.result.get("modelUsage")).values()]
        read = ("inputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")
        cost, turns = self.result.get("total_cost_usd"), self.result.get("num_turns")
        return {
            "input_tokens": sum(int(_number(one.get(name))) for one in models for name in read),
            "output_tokens": sum(int(_number(one.get("outputTokens"))) for one in models),
            "cost_usd": float(_number(cost)) if cost is not None else None,
            "turns": int(_number(turns)) if turns is not None else None,
        }


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
    errors = " ".join(str(one) for one in _list(result.get("errors")))
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
            return how, text, _number(heard.limit.get("resetsAt")) or reset_time(text, now)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaudeAgent:
    """Runs Claude Code on a task; a run of its own, in nobody's session."""

    program: str = "claude"
    #: Folder of a plugin that it loads.
    plugin: str | None = None
    model: str | None = None
    max_turns: int | None = None
    max_budget_usd: float | None = None
    #: Whether it may do everything, unasked. As root the client refuses that outside of a sandbox.
    skip_permissions: bool = False
    extra_flags: Sequence[str] = ()
    name: str = "claude"

    @property
    def permissions(self) -> str:
        """What it may do without being asked."""
        if self.skip_permissions:
            return "may do everything, unasked (--dangerously-skip-permissions)"
        return f"may edit files in its folder, and use: {', '.join(_ALLOWED)}"

    def words(self, allowed: Sequence[str] = ()) -> list[str]:
        """Return program and flags; the prompt goes in by standard input, as flags eat words after them."""
        words = [self.program, "-p", "--output-format", "stream-json", "--verbose"]
        for flag, value in (
            ("--plugin-dir", self.plugin),
            ("--model", self.model),
            ("--max-turns", self.max_turns),
            ("--max-budget-usd", self.max_budget_usd),
        ):
            words += [flag, str(value)] if value is not None else []
        if self.skip_permissions:
            words.append("--dangerously-skip-permissions")
        else:
            words += ["--permission-mode", "acceptEdits", "--allowedTools", *_ALLOWED, *allowed]
        return [*words, *self.extra_flags]

    def run(self, assignment: Assignment) -> AgentEnd:
        """Run the client to its end; `child_environment` makes the environment that it should be given."""
        heard = Heard()
        end = run_child(self.words(assignment.allowed), assignment, on_line=heard.line)
        until, other = None, ended_otherwise(end, assignment, self.program)
        if other and (other.how is not How.KILLED or not heard.result):
            how, text = other.how, other.text
            if how is How.TIMEOUT and heard.retry:  # a 401 is repeated for minutes, too
                status = heard.retry.get("error_status") or heard.retry.get("error")
                text += f"; it was repeating a request that had failed: {status}"
        else:
            how, text, until = classify(heard, end.code or 0, end.stderr, time.time())
        return AgentEnd(
            how=how,
            text=text,
            exit=end.code,
            until=until,
            denials=tuple(heard.denials),
            survivors=end.survivors,
            **heard.counted(),
        )


def child_environment(environ: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a headless client: the user's, without the session that we may run in."""
    kept = {name: value for name, value in environ.items() if name not in _OF_A_SESSION}
    # Else the client ends its own background agents after 600 s of waiting; our timeout is the limit.
    return {**kept, "CLAUDE_CODE_PRINT_BG_WAIT_CEILING_MS": "0", **extra}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _map(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float:
    return value if isinstance(value, int | float) and value == value else 0  # noqa: PLR0124 - not NaN


def _denial(value: object) -> str:
    what = _map(value)
    told = _map(what.get("tool_input"))
    detail = next((str(told[key]) for key in ("command", "file_path", "url", "skill") if key in told), "")
    return " ".join(f"{what.get('tool_name', value)} {detail}".split())[:300]
