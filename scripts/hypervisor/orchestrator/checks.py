"""Commands that say whether work is good: a task's `verify`, and those run on what was merged."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.model import Task
from .verdict import Failed, Passed


def verify(task: Task, folder: Path, settings: Mapping[str, Any]) -> Passed | Failed | None:
    """Run a task's `verify` command in *folder*; None if it names none."""
    return run_check(task.verify, folder, settings["run"]["verify_seconds"]) if task.verify else None


def run_check(command: str, folder: Path, seconds: float) -> Passed | Failed:
    """Run a command that says whether work is good."""
    begun = time.monotonic()
    try:
        # The owner's own command line, read from the file of record before the agent began.
        done = subprocess.run(
            ["sh", "-c", command], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Failed(command=command, code=None, line=f"did not end within {seconds:g} s")
    if done.returncode == 0:
        return Passed(command=command, seconds=round(time.monotonic() - begun, 3))
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").strip().splitlines()
    return Failed(command=command, code=done.returncode, line=lines[-1][:300] if lines else "")
