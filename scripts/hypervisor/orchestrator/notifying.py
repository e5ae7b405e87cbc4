"""Telling the user, who is not there, of questions, failures and the end of a run.

The user's command gets one JSON document on standard input, the user's URL the same by POST. Both are as
trusted as what the user types: they run with the user's rights and in no sandbox. A run never waits for them,
but for a bounded time at its end; their failure is one line.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..core.settings import STORE_URL
from ..core.text import last_line, now_text, printable_line
from ..monitor.processes import OURS, WITHIN

#: In the environment of the command: what happened.
EVENT = "HYPERVISOR_EVENT"
What = Literal["question", "failure", "end"]


def warn(line: str) -> None:
    """Print a line about what does not stop a run."""
    print(f"hypervisor: {line}", file=sys.stderr, flush=True)


@dataclass(slots=True)
class Notifier:
    """Sends notifications from a thread of its own. Thread-safe."""

    #: The table ``[notify]`` of the settings.
    settings: Mapping[str, Any]
    #: What every notification says: project and batch.
    about: Mapping[str, str]
    #: Prints a line.
    say: Callable[[str], None] = warn
    _waiting: queue.SimpleQueue[dict[str, Any] | None] = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None
    #: Failures that were told.
    _told: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, what: What, text: str, **more: Any) -> None:
        """Send a notification, without waiting for it.

        Args:
            what: What happened.
            text: The same in one line, for people.
            more: What else the document says.
        """
        if not (self.settings["command"] or self.settings["url"]):
            return
        line = printable_line(text, 1000)
        with self._lock:
            self._waiting.put({"event": what, "text": line, **self.about, "at": now_text(), **more})
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="notifications")
                self._thread.start()

    def close(self, text: str, **more: Any) -> None:
        """Send the notification of the end, and wait for it; what could not be sent before is dropped."""
        dropped = 0
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
                dropped += 1
        self.send("end", text, **more)
        if self._thread is None:
            return
        self._waiting.put(None)
        # The one that is being sent, and the last one; each by both ways.
        self._thread.join(4 * float(self.settings["seconds"]) + 1)
        if dropped or self._thread.is_alive():
            self._fail(f"{dropped or 'the last'} notification(s) were not sent in time")

    # ---------------------------------------------------------------- details

    def _work(self) -> None:
        while (notification := self._waiting.get()) is not None:
            data = json.dumps(notification, ensure_ascii=False).encode("utf-8", "replace")
            for named, way in (("command", _by_command), ("url", _by_post)):
                if to := self.settings[named]:
                    try:
                        why = way(to, notification["event"], data, float(self.settings["seconds"]))
                    except Exception as error:  # noqa: BLE001 - whatever it is, it costs a run one line
                        why = f"{type(error).__name__}: {error}"
                    if why:
                        self._fail(f"notify.{named}: {why}")

    def _fail(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self.say(printable_line(line, 300))


def _by_command(command: str, what: str, data: bytes, seconds: float) -> str:
    """Run the user's command; return why that failed, "" if it did not."""
    environment = {name: value for name, value in os.environ.items() if name not in (OURS, WITHIN, STORE_URL)}
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said,
            env={**environment, EVENT: what}, start_new_session=True,
        )  # fmt: skip
        try:
            child.communicate(data, timeout=seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return f"did not end within {seconds:g} s"
        if child.returncode == 0:
            return ""
        said.seek(0)
        line = last_line(said.read()[-4000:].decode("utf-8", "replace"))
        return f"exited {child.returncode}{f': {line}' if line else ''}"


def _by_post(url: str, _: str, data: bytes, seconds: float) -> str:
    """Post to the user's URL; return why that failed, "" if it did not. The URL may be a secret: not told."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return "is no http:// or https:// URL"
    headers = {"Content-Type": "application/json", "User-Agent": "hypervisor"}
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - see above
    try:
        with urllib.request.urlopen(request, timeout=seconds):  # noqa: S310
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"{parts.hostname} answered {error.code}"
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        return f"{parts.hostname} cannot be reached: {reason}"
