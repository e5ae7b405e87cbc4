"""The real client at a terminal, as a person has it: screens are read, keys are pressed."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import psutil
import pytest

from acceptance.client import _MARK, PATIENCE, Client, marked
from commands import eventually

#: What stands before the answer that Enter would take.
_CURSOR = "\N{HEAVY RIGHT-POINTING ANGLE QUOTATION MARK ORNAMENT}"


class Terminal:
    """A client in a terminal of tmux; use it with ``with``. Without tmux a test is skipped, but never in CI.

    Args:
        client: Whose home, folder and plugins.
        flags: Further words for the client.
    """

    def __init__(self, client: Client, *flags: str) -> None:
        if shutil.which("tmux") is None:
            if os.environ.get("CI") == "true":
                pytest.fail("no tmux here")
            pytest.skip("no tmux here")
        self._client = client
        self._flags = flags
        self._mark = uuid.uuid4().hex
        self._tmux = ["tmux", "-L", f"hypervisor-{self._mark[:12]}"]

    def __enter__(self) -> Self:
        settings = {
            "hasCompletedOnboarding": True,
            "theme": "dark",
            "projects": {str(self._client.cwd): {"hasTrustDialogAccepted": True}},
            "customApiKeyResponses": {"approved": [self._client.environment["ANTHROPIC_API_KEY"][-20:]]},
        }
        folder = self._client.home / ".claude"
        folder.mkdir(exist_ok=True)
        (folder / ".claude.json").write_text(json.dumps(settings), "utf-8")
        environ = {**self._client.environment, _MARK: self._mark, "TERM": "xterm-256color"}
        words = ["env", "-i", *[f"{name}={value}" for name, value in environ.items()], self._client.path]
        for plugin in self._client.plugins:
            words += ["--plugin-dir", str(plugin)]
        words += ["--model", self._client.model, *self._flags]
        where = ["-c", str(self._client.cwd), "-x", "120", "-y", "45"]
        self._run("new-session", "-d", "-s", "client", *where, shlex.join(words))
        self.until("for shortcuts")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)
        while left := marked(self._mark):
            for one in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            psutil.wait_procs(left, timeout=PATIENCE)

    def _run(self, *words: str) -> str:
        return subprocess.run([*self._tmux, *words], check=True, capture_output=True, text=True).stdout

    @property
    def screen(self) -> str:
        """What is to be seen."""
        return self._run("capture-pane", "-p", "-t", "client")

    def until(self, text: str, *, seconds: float = PATIENCE) -> str:
        """Wait until *text* is to be seen; return the screen."""
        try:
            eventually(lambda: text in self.screen, text, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen:\n{self.screen}") from None
        return self.screen

    def press(self, *keys: str) -> None:
        """Press keys, as tmux calls them, one after another."""
        for key in keys:
            self._run("send-keys", "-t", "client", key)

    def choose(self, label: str) -> None:
        """Move down to an answer, and take it; a key that comes before the question is ready is lost."""

        def is_there() -> bool:
            if f"{_CURSOR} {label}" not in self.screen:
                self.press("Down")
                time.sleep(0.5)
            return f"{_CURSOR} {label}" in self.screen

        eventually(is_there, label, seconds=PATIENCE)
        self.press("Enter")

    def say(self, text: str) -> None:
        """Type a prompt, and send it off once it is to be seen."""
        self._run("send-keys", "-t", "client", "-l", text)
        self.until(text)
        self.press("Enter")


def options(*labels: str) -> Sequence[dict[str, str]]:
    """Return what `AskUserQuestion` offers."""
    return [{"label": label, "description": f"means {label}"} for label in labels]
