"""What the client's hooks cost, as CPU time beside that of something as small as it can be.

The guard where nothing uses us, beside a shell that does nothing; and a full decision (a heartbeat
of an agent that holds a claim) beside `uv run --script` of an empty script with the same
dependencies. Printed are ratios of medians, with the number of runs; the runs of a pair take turns.

    uv run bench/hooks.py [--runs 21]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SESSION, AGENT = "6019c1f4-0d32-4f85-9a5e-2f6f3a1b7c11", "aa074d3940be4060c"
HEARTBEAT = {
    "session_id": SESSION, "hook_event_name": "PostToolUse",
    "agent_id": AGENT, "agent_type": "hypervisor:worker",
    "tool_name": "Bash", "tool_input": {"command": "echo hi"}, "tool_use_id": "toolu_01",
    "tool_response": {"stdout": "hi", "stderr": "", "interrupted": False}, "duration_ms": 101,
}  # fmt: skip
UV = ("uv", "run", "--quiet", "--python", ">=3.11", "--script")


def cost(words: Sequence[str], environ: Mapping[str, str], stdin: bytes, cwd: Path) -> float:
    """Run a command; return the milliseconds of CPU that it and all that it started took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, env=dict(environ), input=stdin, cwd=cwd, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def beside(
    name: str,
    pair: tuple[Sequence[str], Sequence[str]],
    runs: int,
    told: tuple[Mapping[str, str], bytes, Path],
) -> None:
    """Run both commands of a pair in turn, and print what the first costs in terms of the second."""
    environ, stdin, cwd = told
    costs: tuple[list[float], list[float]] = ([], [])
    for number in range(runs + 1):
        for words, found in zip(pair, costs, strict=True):
            spent = cost(words, environ, stdin, cwd)
            if number:  # the first run warms the caches
                found.append(spent)
    ours, yardstick = (statistics.median(found) for found in costs)
    ratio = ours / yardstick
    print(f"{name}: {ours:.1f} ms beside {yardstick:.1f} ms, ratio {ratio:.2f} (medians of {runs} runs)")


def claim(project: Path) -> None:
    """Make a project with a task that the agent holds."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from hypervisor.core import config  # noqa: PLC0415 - found only now
    from hypervisor.core.paths import Project  # noqa: PLC0415
    from hypervisor.tasks.desk import Desk  # noqa: PLC0415
    from hypervisor.tasks.tasklist import Caller  # noqa: PLC0415

    (project / "tasks").mkdir(parents=True)
    (project / "tasks/t-1.md").write_text("---\nid: t-1\nstatus: active\n---\n# One\n", "utf-8")
    home = Project(project, project / ".hypervisor")
    Desk(home, config.load(home.state), Caller(name="claude", session=SESSION, agent=AGENT)).claim("t-1")


def last_heartbeat(project: Path) -> float:
    """Return when the one claim there was renewed."""
    (place,) = (project / ".hypervisor/locks").iterdir()
    return place.stat().st_mtime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=21)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        unused, used = folder / "unused", folder / "used"
        unused.mkdir()
        claim(used)
        script = folder / "empty.py"
        header = re.match(r"(?:#.*\n)+", (ROOT / "scripts/hook.py").read_text("utf-8"))
        assert header
        script.write_text(header[0], "utf-8")
        shutil.copy(ROOT / "scripts/hook.py.lock", folder / "empty.py.lock")
        environ = {**os.environ, "CLAUDE_PLUGIN_ROOT": str(ROOT), "CLAUDE_CODE_SESSION_ID": SESSION}
        for name in ("HYPERVISOR_HOME", "VIRTUAL_ENV"):
            environ.pop(name, None)
        payload, guard = json.dumps(HEARTBEAT).encode(), str(ROOT / "hooks/guard")

        there = ({**environ, "CLAUDE_PROJECT_DIR": str(unused)}, payload, unused)
        beside("guard without a queue", (("sh", guard, "project"), ("sh", "-c", ":")), runs, there)

        # A session begins with another hook, after which uv is not needed for the next ones.
        first = json.dumps({"session_id": SESSION, "hook_event_name": "SessionStart"}).encode()
        cost(("sh", guard, "project"), {**environ, "CLAUDE_PROJECT_DIR": str(used)}, first, used)
        before = last_heartbeat(used)
        there = ({**environ, "CLAUDE_PROJECT_DIR": str(used)}, payload, used)
        beside("heartbeat of a holder", (("sh", guard, "session"), (*UV, str(script))), runs, there)
        assert last_heartbeat(used) > before, "nothing was renewed: that was no full decision"


if __name__ == "__main__":
    main()
