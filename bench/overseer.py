"""What becomes of agents that run away, in a control group of 1 GiB that stands for the machine.

First, two agents do their work and the others balloon (TERM ignored), spin, say nothing, hide children
(setsid, a double fork, TERM ignored, some with their environment wiped), fork without end, and start agents
of their own with `hypervisor run`. Then, six agents do their work, each in 250 MiB, which is too much for
all at once: the least urgent are stopped, and wait again. Printed with the overseer, and without it: how
the batch ended, how often the kernel killed for want of memory, what was still running afterwards, and for
each task the figure that ended it. Exit 1 if with the overseer a batch did not end, something survived, or
the kernel killed.

It needs a control group with the memory controller that it may make (v1 or v2): usually root, on Linux.

    uv run bench/overseer.py [--patience 240] [--rounds 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from bench.measure import run_events

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
HYPERVISOR = [sys.executable, str(ROOT / "scripts/hypervisor_cli.py")]

#: One agent for each kind, told by the first word of its task's id.
AGENT = """
import os, signal, subprocess, sys, time
kind = os.environ["HYPERVISOR_TASK_ID"].split("-")[0]
def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
def hide(words, **more):  # a session of its own, and no parent
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            stubborn()
            for number in range(3):
                os.close(number)
            os.execvpe(words[0], words, more.get("env", os.environ))
        os._exit(0)
    os.wait()
def work():
    task = os.environ["HYPERVISOR_TASK_ID"]
    os.makedirs("src", exist_ok=True)
    open(f"src/{task}.txt", "w").write(task)
    subprocess.run(["git", "add", "src"], check=True)
    subprocess.run(["git", "commit", "-qm", task], check=True)
print("begun", flush=True)
if kind == "good":
    time.sleep(1)
    work()
elif kind == "balloon":
    stubborn()
    kept = []
    while True:
        kept.append(b"x" * (8 * 2**20))
        print(len(kept) * 8, "MiB", flush=True)
        time.sleep(0.04)  # 200 MiB/s
elif kind == "heavy":
    kept = []
    for _ in range(31):
        kept.append(b"x" * (8 * 2**20))
        time.sleep(0.08)  # 100 MiB/s
    time.sleep(3)
    work()
elif kind == "spin":
    stubborn()
    while True:
        pass
elif kind == "silent":
    stubborn()
    time.sleep(3600)
elif kind == "hide":
    for _ in range(3):
        hide(["sleep", "3600"])
        hide(["sleep", "3601"], env={})
    print("done", flush=True)
elif kind == "fork":
    while True:
        if os.fork() == 0:
            stubborn()
            os.setsid()
            time.sleep(3600)
        time.sleep(0.01)
elif kind == "spawn":
    words = sys.argv[1:3] + ["run", "silent-8", "silent-9", "--agent", "exec", "--isolation", "none"]
    subprocess.run([*words, "--exec", os.environ["STUB"]])
"""
RUNAWAYS = ["good-1", "balloon-1", "spin-1", "hide-1", "balloon-2", "silent-1", "fork-1", "spawn-1", "good-2"]
HEAVY = ["heavy-1", "heavy-2", "heavy-3", "heavy-4", "heavy-5", "heavy-6"]
#: The same limits as by default, but for times: an hour of silence is a long time to wait in a benchmark.
WITH = """
[overseer]
processes = 60
silence_seconds = 10
mute_cpu_seconds = 4
wall_seconds = 40
grace_seconds = 2.0
[machine]
grow_seconds = 5
"""
WITHOUT = """
[overseer]
rss_percent = 0
processes = 0
silence_seconds = 0
mute_cpu_seconds = 0
[machine]
safe_ram_percent = 100
danger_ram_percent = 100
danger_disk_mib = 0
emergency_available_percent = 0
emergency_pressure_percent = 100
run_out_seconds = 0
"""


class Group:
    """A control group with a limit of memory, below the one that we are in."""

    def __init__(self, size: int) -> None:
        self._v1 = Path("/sys/fs/cgroup/memory").is_dir()
        base, own = Path("/sys/fs/cgroup/memory" if self._v1 else "/sys/fs/cgroup"), ""
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == ("memory" if self._v1 else ""):
                own = path.strip("/")
        if not self._v1 or not (base / own).is_dir():  # v2: a group that has processes gives no limits on
            own = ""
        self.folder = base / own / f"hypervisor-bench-{os.getpid()}"
        try:
            self.folder.mkdir()
            (self.folder / ("memory.limit_in_bytes" if self._v1 else "memory.max")).write_text(str(size))
        except OSError as error:
            sys.exit(f"{self.folder}: no control group with a memory limit can be made here ({error})")

    @property
    def kills(self) -> int:
        """How often the kernel killed in it for want of memory."""
        text = (self.folder / ("memory.oom_control" if self._v1 else "memory.events")).read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))

    @property
    def peak(self) -> int:
        """The most memory that was in use, file pages included."""
        return int((self.folder / ("memory.max_usage_in_bytes" if self._v1 else "memory.peak")).read_text())

    def running(self) -> list[int]:
        """Return the pids in it that are no zombies."""
        found = []
        for pid in (self.folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/stat").read_text()
                if text[text.rindex(")") + 2] not in "ZX":
                    found.append(int(pid))
        return found

    def close(self) -> None:
        """End what is in it, all of which we have started, and take it away."""
        for _ in range(200):
            for pid in self.running():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                return


@contextlib.contextmanager
def project(config: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "project"
        (root / "tasks").mkdir(parents=True)
        (root / ".hypervisor").mkdir()
        (root / ".hypervisor/config.toml").write_text(config)
        (root / ".gitignore").write_text(".hypervisor/\n")
        for number, task in enumerate([*RUNAWAYS, *HEAVY, "silent-8", "silent-9"]):
            keys = f"id: {task}\ntitle: Task {number}\nstatus: active\nfiles: [src/{task}.txt]\n"
            keys += "priority: low\n" if task in HEAVY[3:] else ""
            (root / "tasks" / f"{task}.md").write_text(f"---\n{keys}---\n# {task}\n\nDo it.\n")
        stub = Path(name) / "agent"
        stub.write_text(f"#!{sys.executable}\n{AGENT}")
        stub.chmod(0o755)
        for words in (["init", "-q", "-b", "main"], ["config", "user.name", "A User"],
                      ["config", "user.email", "user@example.invalid"], ["add", "-A"],
                      ["commit", "-qm", "Begin"]):  # fmt: skip
            subprocess.run(["git", *words], cwd=root, check=True)
        yield root
        shutil.rmtree(root, ignore_errors=True)


def measure(config: str, tasks: list[str], jobs: int, patience: float) -> dict[str, Any]:
    group = Group(GIB)
    try:
        with project(config) as root:
            stub = str(root.parent / "agent")
            words = [*HYPERVISOR, "run", *tasks, "--agent", "exec", "-j", str(jobs)]
            join = ["sh", "-c", f'echo $$ > {group.folder}/cgroup.procs; exec "$@"', "sh"]
            environment = {"PATH": os.environ["PATH"], "HOME": str(root.parent), "STUB": stub}
            begun = time.monotonic()
            running = subprocess.Popen(
                [*join, *words, "--exec", f"{stub} {' '.join(HYPERVISOR)}", "--json"], cwd=root,
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
            try:
                out, err = running.communicate(timeout=patience)
            except subprocess.TimeoutExpired:
                running.kill()
                _, err = running.communicate()
                out = b""
            seconds = time.monotonic() - begun
            time.sleep(1)
            events = run_events(root)  # the outer batch is the first
            if not events:
                sys.exit(f"no batch was made: {err.decode()}")
            rows = json.loads(out)["workers"] if out else []
            return {
                "ended": "ended" if out else "not ended" if seconds > patience else "killed with its run",
                "seconds": round(seconds, 1),
                "kernel kills": group.kills,
                "peak MiB": group.peak // 2**20,
                "survivors": len(group.running()),
                "results": {row["task_id"]: f"{row['status']}: {row['outcome']}" for row in rows},
                "events": [event for event in events if event["event"] in ("overseen", "level")],
            }
    finally:
        group.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patience", type=float, default=240, help="seconds until a batch is given up")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is done with the overseer")
    parser.add_argument("--json", type=Path, help="write all that was seen to this file")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for what, tasks, jobs in (("runaways", RUNAWAYS, 4), ("heavy", HEAVY, 6)):
        ways = [("with the overseer" + f", round {n}" * (n > 1), WITH) for n in range(1, options.rounds + 1)]
        for name, config in (*ways, ("without it", WITHOUT)):
            one = found[f"{what} {name}"] = measure(config, tasks, jobs, options.patience)
            print(
                f"{what}, {name}: {one['ended']} after {one['seconds']} s, {one['survivors']} survivors, "
                f"{one['kernel kills']} kernel kills, peak {one['peak MiB']} MiB"
            )
            for event in one["events"]:
                deed = event.get("act") or f"{event['level']}, room for {event['room']}"
                print(f"  {event['event']:8} {event.get('task', ''):10} {deed}: {event.get('why', '')}")
            for task, result in one["results"].items():
                print(f"  {task:10} {result}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    best = [one for name, one in found.items() if "without" not in name]
    good = all(one["ended"] == "ended" and not one["survivors"] + one["kernel kills"] for one in best)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
