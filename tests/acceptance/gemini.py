"""Running the real Gemini CLI as a user's script does: headless, with an environment from nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from acceptance.gemini_api import GeminiApi
from commands import Ended

MODEL = "gemini-2.5-flash"
#: How long one run may take, in seconds; reached only when a test fails.
PATIENCE = 600.0
#: What the client says on standard error of every run in which nothing is wrong.
QUIET = ("Warning: 256-color support", "YOLO mode is enabled", "Ripgrep is not available", "[STARTUP]")


@dataclass(slots=True)
class GeminiClient:
    """A user of the client: a home, and a folder to work in."""

    path: str
    api: GeminiApi
    home: Path
    cwd: Path
    #: What the environment has beside the usual.
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        folder = self.home / ".gemini"
        if not folder.exists():
            folder.mkdir(parents=True)
            # The API on loopback counts as a gateway, unless the settings say how to log in.
            settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
            (folder / "settings.json").write_text(json.dumps(settings), "utf-8")

    @property
    def environment(self) -> dict[str, str]:
        """All that the client finds; each run has a key of its own, by which the API tells them apart."""
        folders = [os.path.dirname(self.path), *os.defpath.split(":"), "/usr/local/bin"]
        folders += [os.path.dirname(place) for tool in ("git", "uv", "node") if (place := shutil.which(tool))]
        made = {
            "PATH": ":".join(dict.fromkeys(folders)),
            "HOME": str(self.home),
            "GOOGLE_GEMINI_BASE_URL": self.api.url,
            "GEMINI_API_KEY": f"of-no-worth-{uuid.uuid4().hex}",
            "GEMINI_TELEMETRY_ENABLED": "false",
        }
        return {**made, **self.extra}

    def command(
        self, *words: str, stdin: str = "", env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Ended:
        """Run the client with *words* to its end."""
        done = subprocess.run(
            [self.path, *words], cwd=cwd or self.cwd, env={**self.environment, **(env or {})},
            input=stdin.encode(), capture_output=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        return Ended(done.returncode, out, err, done.stdout)

    def ask(self, prompt: str, *flags: str, env: Mapping[str, str] | None = None) -> Ended:
        """Run the original command: everything allowed, the prompt as an argument."""
        return self.command("--yolo", "--model", MODEL, *flags, "-p", prompt, env=env)


def said(ended: Ended) -> list[str]:
    """Return the lines of standard error that are not of every run."""
    return [line for line in ended.err.splitlines() if line and not line.startswith(QUIET)]
