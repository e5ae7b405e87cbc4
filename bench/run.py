"""P7 and P10: what `hypervisor run` costs for a task that takes no time, beside the same by hand.

Per task: the yardstick, a shell script that adds a worktree, commits in it, merges and removes it, task
after task; `run` with each isolation, on tasks whose agent writes a file and commits it; and `run --isolation
none`, on tasks whose agent does nothing but report. Then the git processes of each, by subcommand: those that
were started by anybody, git itself among them, counted with strace where there is one, and else those that
were found in the PATH. And memory and idle CPU of a run that has many tasks queued and two at work.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.measure import SCRIPTS, Figures, Row, Say, Spent, clear, ground

_BY_HAND = """
set -e
n=0
while [ $n -lt $1 ]; do
  git worktree add -q -b "task-$n" "../tree-$n" HEAD
  (cd "../tree-$n"; echo x > "f-$n"; git add .; git commit -qm x)
  git merge -q --no-ff -m "Merge $n" "task-$n"
  git worktree remove "../tree-$n"
  git branch -q -d "task-$n"
  n=$((n + 1))
done
"""
_COMMITS = 'n=${HYPERVISOR_TASK_ID#t-}; echo x > "f-$n"; git add .; git commit -qm x'
_REPORTS = """printf '{"kind": "done", "text": "did it", "evidence": "seen"}' > "$HYPERVISOR_REPORT" """
_EXECUTED = re.compile(r'execve\("(?:[^"]*/)?(git[a-z-]*)", \["[^"]*"((?:, "(?:[^"\\]|\\.)*")*)')
#: How many agents are at work at once.
_JOBS = 2
#: In seconds: how long a run is left alone before its idle CPU is measured, and for how long it is.
_SETTLE, _IDLE = 5, 30


def no_op_tasks(where: Path, rounds: int, tasks: int, say: Say) -> list[Row]:
    """Measure P7 and P10, and count the git processes."""
    ways: dict[str, Callable[[Path], list[str]]] = {"by hand (sh)": lambda _: by_hand(tasks)}
    ways |= {f"run, {kind}": partial(run_words, _COMMITS, kind) for kind in ("clone", "worktree")}
    seven, ten, git = (Figures(section, say) for section in ("P7", "P10", "git"))
    every: dict[str, Callable[[Path], list[str]]] = {
        **ways,
        "run, none": partial(run_words, _REPORTS, "none"),
    }
    with ground(where) as home:
        for number in range(rounds + 1):  # the first warms the caches
            base = 0.0
            for name, way in every.items():
                # Those that do nothing are many, as starting Python takes as long as dozens of them.
                count = (tasks * 4 if name == "run, none" else tasks) if number else 1
                used = measured(home / _word(f"{number} {name}"), way, count)
                base = base or used.cpu
                if not number:
                    continue
                if name == "run, none":
                    seven.add(name, CPU_ms=used.cpu, wall_ms=used.wall)
                else:
                    ten.add(name, CPU_ms=used.cpu, ratio=used.cpu / base, wall_ms=used.wall)
        for name, way in every.items():
            calls = counted(home / _word(f"git {name}"), way, tasks)
            git.add(name, processes_a_task=sum(calls.values()) / tasks)
            told = ", ".join(f"{word} {count / tasks:.2g}" for word, count in calls.most_common())
            git.rows[-1]["told"] = told
    return [*seven.rows, *ten.rows, *git.rows]


def _word(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def queued(where: Path, counts: tuple[int, ...], say: Say) -> list[Row]:
    """Measure a coordinator that has so many tasks queued, while two agents are at work."""
    import psutil  # noqa: PLC0415 - of the environment that runs this

    found = Figures("queued", say)
    for count in counts:
        with ground(where) as home:
            place = home / "project"
            project(place, count)
            words = [sys.executable, str(SCRIPTS / "hypervisor_cli.py"), "run", "--all", "-j", "2"]
            words += ["--agent", "exec", "--exec", "sh -c 'sleep 3600'", "--isolation", "none"]
            environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
            with subprocess.Popen(
                words, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as run:
                process, begun = psutil.Process(run.pid), time.monotonic()
                while not list(place.glob(".hypervisor/batches/*/reports")):
                    if run.poll() is not None:
                        raise RuntimeError("the run ended before it had begun anything")
                    time.sleep(0.05)
                took = time.monotonic() - begun
                time.sleep(_SETTLE)
                before = sum(process.cpu_times()[:2])
                time.sleep(_IDLE)
                idle = (sum(process.cpu_times()[:2]) - before) / _IDLE
                status = Path(f"/proc/{run.pid}/status").read_text("ascii").splitlines()
                now, most = (
                    int(next(one for one in status if one.startswith(name)).split()[1]) / 1024
                    for name in ("VmRSS", "VmHWM")
                )
                for _ in range(2):
                    run.terminate()
                    time.sleep(1)
            found.add(f"{count:,} tasks queued, two at work", MiB=now, MiB_at_most=most,
                      idle_CPU_ms_a_second=1000 * idle, first_began_after_s=took)  # fmt: skip
            clear(place)
    return found.rows


def by_hand(tasks: int) -> list[str]:
    """Return the words of the yardstick."""
    return ["sh", "-c", _BY_HAND, "sh", str(tasks)]


def run_words(agent: str, isolation: str, place: Path) -> list[str]:
    """Return the words of a run with an agent that is a shell script."""
    script = place.parent / "agent"
    script.write_text(f"#!/bin/sh\n{agent}\n")
    script.chmod(0o755)
    words = [sys.executable, str(SCRIPTS / "hypervisor_cli.py"), "run", "--all", "-j", str(_JOBS)]
    return [*words, "--agent", "exec", "--exec", str(script), "--isolation", isolation, "--sandbox", "off"]


def project(place: Path, tasks: int) -> None:
    """Make a project of tasks, each about a file of its own."""
    (place / "tasks").mkdir(parents=True)
    (place / ".gitignore").write_text(".hypervisor/\n")
    for number in range(tasks):
        head = f"id: t-{number}\nstatus: active\naccept_reports: true\n"
        (place / f"tasks/t-{number}.md").write_text(f"---\n{head}---\n# Task {number}\n")
    for words in ("init -q -b main", "config user.name A", "config user.email a@example.invalid", "add -A",
                  "commit -qm Begin"):  # fmt: skip
        subprocess.run(["git", *words.split()], cwd=place, check=True, capture_output=True)


def started(place: Path, words: list[str], path: str = "") -> None:
    """Run *words* in a project to their end."""
    # One home for all: compiled code is kept there, and a user's is there already.
    environment = {"PATH": path or os.environ["PATH"], "HOME": str(place.parents[1])}
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(
            f"{' '.join(words)}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


def measured(folder: Path, way: Callable[[Path], list[str]], tasks: int) -> Spent:
    """Return what all processes of one run used."""
    place = folder / "project"
    project(place, tasks)
    words = way(place)
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    started(place, words)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begun
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(cpu=1000 * cpu / tasks, wall=1000 * wall / tasks, ran=Counter())


def counted(folder: Path, way: Callable[[Path], list[str]], tasks: int) -> Counter[str]:
    """Return how many git processes one run started, by subcommand."""
    place, log = folder / "project", folder / "log"
    project(place, tasks)
    words = way(place)
    log.touch()
    if strace := shutil.which("strace"):
        traced = [
            strace,
            "-f",
            "-qq",
            "-s",
            "4096",
            "-e",
            "trace=execve",
            "-e",
            "status=successful",
            "-o",
            str(log),
        ]
        started(place, [*traced, *words])
        texts = (_EXECUTED.search(line) for line in log.read_text("utf-8", "replace").splitlines())
        return Counter(
            _subcommand(one[1], re.findall(r'"((?:[^"\\]|\\.)*)"', one[2])) for one in texts if one
        )
    real = shutil.which("git")
    (folder / "bin").mkdir()
    (folder / "bin/git").write_text(f'#!/bin/sh\necho "$*" >> "{log}"\nexec {real} "$@"\n')
    (folder / "bin/git").chmod(0o755)
    started(place, words, f"{folder / 'bin'}:{os.environ['PATH']}")
    return Counter(_subcommand("git", line.split()) for line in log.read_text().splitlines())


def _subcommand(program: str, words: list[str]) -> str:
    if program != "git":
        return program.removeprefix("git-")
    while words and words[0].startswith("-"):
        words = words[2 if words[0] in ("-c", "-C") else 1 :]
    return words[0] if words else "git"
