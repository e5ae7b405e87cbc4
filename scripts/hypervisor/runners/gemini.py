"""An agent that is the Gemini CLI, headless: its command line, its home, its environment, and its run.

Measured with client 0.61.0; the client changes from release to release.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import UsageError
from .base import AgentEnd, Assignment, How
from .child import run_child
from .exec import ended_otherwise
from .gemini_events import GeminiEvents, classify, metered
from .gemini_home import Need, make_home, verify_script
from .sandbox import Sandbox

#: What says that a client runs inside another; it must not look like a part of that one.
_OF_A_SESSION = frozenset(
    {"GEMINI_CLI", "GEMINI_SESSION_ID", "GEMINI_PROJECT_DIR", "GEMINI_CWD", "GEMINI_PLANS_DIR"}
)
#: What our server and our hooks must know begins like this; the client passes on to them what is named.
_TOLD = "HYPERVISOR_"
#: The variables that the client knows, and where Google's own login is.
_VARIABLES = ("GEMINI_*", "GOOGLE_*", "CODE_ASSIST_*", "CLOUDSDK_*", "OTEL_*")
_CLOUD = ".config/gcloud/application_default_credentials.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiAgent:
    """Runs the Gemini CLI on a task; a run of its own, in nobody's session."""

    program: str = "gemini"
    #: Folder of the product, whose server and hooks it uses.
    plugin: str
    model: str | None = None
    #: Whether it may do everything, unasked.
    skip_permissions: bool = False
    name: str = "gemini"
    briefing: Sequence[str] = ("gemini-task-worker.md", "gemini-commission.md")

    @property
    def permissions(self) -> str:
        """What it may do without being asked."""
        if self.skip_permissions:
            return "may do everything but git, unasked (--approval-mode yolo)"
        return "may edit the task's files, and run its verify command"

    @property
    def starts(self) -> Sequence[str]:
        """The client."""
        return (self.program,)

    def words(self, allowed: Sequence[str] = ()) -> list[str]:  # noqa: ARG002 - that stands in its home
        """Return program and flags; the prompt goes in by standard input, where no @ is read as a file."""
        mode = "yolo" if self.skip_permissions else "auto_edit"
        words = [self.program, "--output-format", "stream-json", "--approval-mode", mode]
        return words + (["--model", self.model] if self.model else [])

    def run(self, assignment: Assignment) -> AgentEnd:
        """Run the client to its end, in a home that is gone afterwards."""
        home, told, sandbox = Path(f"{assignment.log}.home"), assignment.environment, assignment.sandbox
        users = users_folder(told)
        if sandbox is not None:
            sandbox = sandboxed(sandbox, users, home, told)
            told = sandbox.variables(told)
        need = Need(
            plugin=self.plugin,
            environment={name: value for name, value in told.items() if name.startswith(_TOLD)},
            verify=assignment.verify,
            allowed=assignment.allowed,
            contained=sandbox is not None,
        )
        shutil.rmtree(home, ignore_errors=True)
        try:
            make_home(home, users, need)
            prompt = assignment.prompt
            if assignment.verify and not self.skip_permissions:
                prompt += f"\n\n{_how_to_verify(home)}\n"
            told = environment(told, home)
            return self._run(replace(assignment, prompt=prompt, environment=told, sandbox=sandbox), home)
        except UsageError as error:
            return AgentEnd(how=How.FAILED, text=str(error))
        finally:
            shutil.rmtree(home, ignore_errors=True)

    def _run(self, assignment: Assignment, home: Path) -> AgentEnd:
        heard = GeminiEvents()
        with metered(home, heard, assignment.used):
            end = run_child(self.words(), assignment, on_line=heard.line)
        until, other = None, ended_otherwise(end, assignment, self.program)
        if other:
            how, text = other.how, other.text
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


def sandboxed(sandbox: Sandbox, users: Path, home: Path, environ: Mapping[str, str]) -> Sandbox:
    """Return *sandbox* with what the client needs of its user, and the home of this run.

    Of the user's folder, only the login is written to, which the client renews.
    """
    key = environ.get("GOOGLE_APPLICATION_CREDENTIALS") or f"{sandbox.home}/{_CLOUD}"
    return sandbox.showing(
        readable=[str(users), str(users.parent / ".env"), os.path.abspath(key)],
        writable=[str(home), str(users / "oauth_creds.json")],
        environment=_VARIABLES,
    )


def users_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder in which the client keeps the user's settings and login."""
    return Path(environ.get("GEMINI_CLI_HOME") or environ.get("HOME") or os.path.expanduser("~"), ".gemini")


def environment(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return what the client finds: the user's environment, without a session that we may run in."""
    kept = {name: value for name, value in environ.items() if name not in _OF_A_SESSION}
    return {
        **kept,
        "GEMINI_CLI_HOME": str(home),
        # A worktree is a new folder, which nobody has trusted yet; whoever starts the run has named it.
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
        # Else it starts itself once more, and whoever ends the first leaves the second at work.
        "GEMINI_CLI_NO_RELAUNCH": "true",
        # Whatever the agent runs: git gets nothing out of this machine, and nothing in.
        "GIT_ALLOW_PROTOCOL": "none",
    }


def _how_to_verify(home: Path) -> str:
    words = f"sh {shlex.quote(str(verify_script(home)))}"
    return f"The one command that you may run is the verification: `{words}`"
