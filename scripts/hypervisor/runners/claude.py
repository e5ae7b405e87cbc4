"""An agent that is Claude Code, headless: its command line, its environment, and its run.

Measured with client 2.1.197 unless said otherwise; the client changes from release to release.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .base import AgentEnd, Assignment, How
from .child import run_child
from .claude_events import ClaudeEvents, classify
from .exec import ended_otherwise
from .sandbox import Sandbox

#: In the environment of what we start: the Python that our scripts run with (`scripts/launch`).
PYTHON = "HYPERVISOR_PYTHON"
#: What a task needs at least: change files, commit, and report as `prompts/worker.md` says.
_ALLOWED = (
    "Edit", "Write", "Bash(git add *)", "Bash(git commit *)", "Bash(hypervisor task complete *)",
    "Bash(hypervisor task block *)", "Bash(hypervisor task ask *)", "Bash(hypervisor hive *)",
)  # fmt: skip
#: What says that a client runs inside a session; it must not look like a part of that one. Everything
#: else that begins with CLAUDE_ is the user's settings, such as CLAUDE_CONFIG_DIR and the login.
_OF_A_SESSION = frozenset(
    {"CLAUDECODE", "AI_AGENT", "CLAUDE_PROJECT_DIR", "CLAUDE_PLUGIN_ROOT", "CLAUDE_PLUGIN_DATA",
     "CLAUDE_ENV_FILE", "CLAUDE_RUNNER_ACTIVITY_FD", "CLAUDE_BG_RV_AUTH", "CLAUDE_CODE_SESSION_ID",
     "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_CHILD_SESSION", "CLAUDE_CODE_EXECPATH", "CLAUDE_CODE_SSE_PORT",
     "CLAUDE_CODE_REMOTE_SESSION_ID", "CLAUDE_CODE_SESSION_ACCESS_TOKEN", "CLAUDE_CODE_WORKER_EPOCH",
     "CLAUDE_CODE_RESUME_PROMPT", "CLAUDE_CODE_RESUME_INTERRUPTED_TURN", "CLAUDE_CODE_DIAGNOSTICS_FILE"}
)  # fmt: skip
#: What the client reads of its user's folder.
_SHOWN = (
    "settings.json", "settings.local.json", "CLAUDE.md", "plugins", "skills", "agents", "commands", "hooks",
    "rules", "output-styles", "scripts",
)  # fmt: skip
#: The variables that it knows.
_VARIABLES = (
    "ANTHROPIC_*", "CLAUDE_*", "DISABLE_*", "ENABLE_*", "MAX_*", "MCP_*", "BASH_*", "OTEL_*",
    "API_TIMEOUT_MS", "USE_BUILTIN_RIPGREP",
)  # fmt: skip
#: Services of others, by the variable that chooses one: further variables, and where their login is.
_CLOUDS = (
    ("CLAUDE_CODE_USE_BEDROCK", ("AWS_*",), ".aws"),
    ("CLAUDE_CODE_USE_VERTEX", ("GOOGLE_*", "GCLOUD_*", "CLOUD_ML_REGION", "VERTEX_*"), ".config/gcloud"),
    ("CLAUDE_CODE_USE_FOUNDRY", ("AZURE_*",), ".azure"),
)  # fmt: skip
#: In our sandbox the client's own cannot be made, and its commands would all fail.
_NO_OTHER = '{"sandbox": {"enabled": false}}'


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
    briefing: Sequence[str] = ("worker.md",)

    @property
    def permissions(self) -> str:
        """What it may do without being asked."""
        if self.skip_permissions:
            return "may do everything, unasked (--dangerously-skip-permissions)"
        return f"may edit files in its folder, and use: {', '.join(_ALLOWED)}"

    @property
    def starts(self) -> Sequence[str]:
        """The client."""
        return (self.program,)

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
        heard = ClaudeEvents(used=assignment.used, warn=assignment.warn if self.plugin else None)
        limited = self
        if assignment.budget_usd is not None:
            most = min(assignment.budget_usd, self.max_budget_usd or float("inf"))
            limited = replace(self, max_budget_usd=round(most, 6))
        verify = [f"Bash({assignment.verify})"] if assignment.verify else []
        words = limited.words([*assignment.allowed, *verify])
        if assignment.sandbox is not None:
            assignment = replace(assignment, sandbox=sandboxed(assignment.sandbox, assignment.environment))
            words += ["--settings", _NO_OTHER]
        if assignment.resume:
            words += ["--resume", assignment.resume]
        end = run_child(words, assignment, on_line=heard.line)
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
            # In a sandbox the client's sessions are gone with it.
            session="" if assignment.sandbox else heard.session,
            denials=tuple(heard.denials),
            survivors=end.survivors,
            **heard.counted(),
        )


def sandboxed(sandbox: Sandbox, environ: Mapping[str, str]) -> Sandbox:
    """Return *sandbox* with what the client needs of its user: the login, the settings, what they name.

    It keeps its sessions in a folder that is gone afterwards. Of the user's, only the login is written to,
    which the client renews: nothing that an agent writes is read by a later session.
    """
    named = environ.get("CLAUDE_CONFIG_DIR", "")
    config = os.path.abspath(named) if named else f"{sandbox.home}/.claude"
    state = Path(f"{config}/.claude.json" if named else f"{sandbox.home}/.claude.json")
    own = Path(sandbox.scratch, "claude" if named else "home")
    own.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        shutil.copyfile(state, own / ".claude.json")
    clouds = [(names, place) for switch, names, place in _CLOUDS if environ.get(switch)]
    return sandbox.showing(
        readable=[
            *(f"{config}/{name}" for name in _SHOWN),
            *(f"{sandbox.home}/{place}" for _, place in clouds),
        ],
        writable=[f"{config}/.credentials.json"],
        own=[(config, "claude")],
        environment=[*_VARIABLES, *(name for names, _ in clouds for name in names)],
    )


def child_environment(environ: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a headless client: the user's, without the session that we may run in."""
    kept = {name: value for name, value in environ.items() if name not in _OF_A_SESSION}
    return {
        **kept,
        # Else the client ends its own background agents after 600 s of waiting; our timeout is the limit.
        "CLAUDE_CODE_PRINT_BG_WAIT_CEILING_MS": "0",
        # Its server starts with the packages that this process has: nothing is fetched while it waits.
        PYTHON: sys.executable,
        **extra,
    }
