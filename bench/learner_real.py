"""The comparison of `bench/learner.py` with real processes: `hypervisor run --agent exec`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

HYPERVISOR = (sys.executable, str(ROOT / "scripts/hypervisor_cli.py"))
TASKS = 32
#: Fixed numbers that are compared; all of them would take an hour.
FIXED = (1, 2, 3, 4, 8)
_SECONDS = 1.0

#: What an agent of each kind does. A service that serves three at once, and refuses what is more, is three
#: files that are locked by whoever is served.
AGENTS = {
    "sleep": "sleep 1",
    "cpu": "{python} -c 'for _ in range({loops}): pass'",
    "lock": "sleep 0.1; flock {folder}/lock sleep 0.9",
    "half-lock": "sleep 0.7; flock {folder}/lock sleep 0.3",
    "rate limit": (
        "for n in 1 2 3; do flock -n -E 75 {folder}/served.$n sleep 1; code=$?;"
        " [ $code = 75 ] || break; done; [ $code = 0 ] || exit $code"
    ),
}
_REPORT = 'printf \'{"kind":"done","text":"done","evidence":"seen"}\' > "$HYPERVISOR_REPORT"'


def compare(kind: str, limit: int, learning: int) -> dict[str, Any]:
    """Compare one kind; rates are tasks per second."""
    with tempfile.TemporaryDirectory(prefix="learner-") as folder:
        agent = Path(folder, "agent")
        text = AGENTS[kind].replace("{folder}", folder).replace("{python}", sys.executable)
        agent.write_text(f"#!/bin/sh\n{text.replace('{loops}', str(_loops()))}\n{_REPORT}\n", "utf-8")
        agent.chmod(0o755)
        fixed = {}
        for number in (n for n in FIXED if n <= limit):
            project = _project(Path(folder, f"fixed-{number}"), kind)
            fixed[number] = _rate(project, agent, "parallel", number)
        project = _project(Path(folder, "adaptive"), kind)
        rates = []
        for _ in range(learning + 1):
            rates.append(_rate(project, agent, "adaptive", limit))
            _project(project, kind)
        shown = json.loads(_run(project, "learn", "show", kind, "--json"))
    (row,) = shown
    return {
        "kind": kind, "fixed": fixed, "adaptive": rates, "says": f"{row['at_once']} at once: {row['why']}",
        "bottleneck": row["bottleneck"], "benefit": row["benefit"], "steps": [],
    }  # fmt: skip


def _loops() -> int:
    """Return how many turns of the loop take a second of a processor here."""
    turns = 2_000_000
    loop = f"import time\nt = time.process_time()\nfor _ in range({turns}): pass"
    code = f"{loop}\nprint(time.process_time() - t)"
    took = float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )
    return int(turns * _SECONDS / max(took, 0.01))


def _project(folder: Path, kind: str) -> Path:
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    stamp = time.time_ns()
    for number in range(TASKS):
        name = f"t-{stamp}-{number:02}"
        front = f"id: {name}\ntitle: A task\nstatus: active\ntype: {kind}\nverify: 'true'\n"
        (folder / "tasks" / f"{name}.md").write_text(f"---\n{front}---\n# A task\n", "utf-8")
    return folder


def _run(project: Path, *words: str) -> str:
    environment = {**os.environ, "HYPERVISOR_HOME": str(project / ".hypervisor")}
    done = subprocess.run(
        [*HYPERVISOR, *words], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _rate(project: Path, agent: Path, strategy: str, number: int) -> float:
    _run(
        project, "run", "--all", "--agent", "exec", "--exec", str(agent), "--isolation", "none",
        "--retries", "99", "-j", str(number), "--strategy", strategy,
    )  # fmt: skip
    (newest,) = sorted((project / ".hypervisor/batches").iterdir())[-1:]
    tried = [json.loads(line) for line in (newest / "events.jsonl").read_text("utf-8").splitlines()]
    spans = [one for one in tried if one["event"] == "tried"]
    done = sum(one["how"] == "success" for one in spans)
    if done != TASKS:
        raise SystemExit(f"{newest}: {done} of {TASKS} succeeded")
    took = max(one["until"] for one in spans) - min(one["began"] for one in spans)
    return float(done / took)
