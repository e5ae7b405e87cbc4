"""What adaptive admission gains at a service that takes only so many requests.

The service is a token bucket on 127.0.0.1: R answers a second, B at once; above that it says 429. The
agents are stubs of the client (`claude` on PATH): each makes a few requests with a pause after each, repeats
one that was refused once, after a second, as clients do, and then gives up, which wastes its attempt. They
speak the client's stream of events, so that all else is the product's own. Printed for each way to start
them: how many tasks were finished a minute, attempts that were wasted, and requests that were refused.

All ways are run at the same time, each with a service of its own, so that they find the same machine.

    uv run bench/admission.py [--tasks 30] [--rate 1] [--burst 4] [--requests 4] [--pause 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from bench.measure import run_events

ROOT = Path(__file__).resolve().parent.parent
HYPERVISOR = [sys.executable, str(ROOT / "scripts/hypervisor_cli.py")]
#: One run of the client: requests with some work between them; its commit; its result.
CLIENT = """
import json, os, subprocess, sys, time, urllib.error, urllib.request
task, url = os.environ["HYPERVISOR_TASK_ID"], os.environ["STUB_URL"]
sys.stdin.read()
def tell(**event):
    print(json.dumps(event), flush=True)
def end(code, **more):
    usage = {"claude-stub": {"inputTokens": 100, "outputTokens": 10}}
    tell(type="result", num_turns=1, terminal_reason="completed", modelUsage=usage, **more)
    sys.exit(code)
def ask():
    for again in (True, False):
        try:
            urllib.request.urlopen(url, data=b"{}", timeout=30).read()
            return
        except urllib.error.HTTPError:
            if not again:
                tell(type="assistant", error="rate_limit", message={"id": "x", "content": []})
                said = "API Error: Request rejected (429)"
                end(1, subtype="success", is_error=True, api_error_status=429, result=said)
            time.sleep(1)
for _ in range(int(os.environ["STUB_REQUESTS"])):
    ask()
    time.sleep(float(os.environ["STUB_PAUSE"]))
os.makedirs("src", exist_ok=True)
open(f"src/{task}.txt", "w").write(task)
subprocess.run(["git", "add", "src"], check=True)
subprocess.run(["git", "commit", "-qm", task], check=True)
end(0, subtype="success", is_error=False, result="done")
"""
#: A limit grows ten times as fast as by default, as the stubs are done ten times as fast as agents.
COMMON = """
[machine]
safe_cpu_percent = 100
danger_cpu_percent = 100
per_batch = 1000
"""
WAYS = {
    "adaptive": ("16", "grow_seconds = 6\nstagger_seconds = 0.2\n"),
    "fixed -j 4": ("4", "grow_seconds = 0\nstagger_seconds = 0\n"),
    "fixed -j 16": ("16", "grow_seconds = 0\nstagger_seconds = 0\n"),
    "burst, all": ("1000", "grow_seconds = 0\nstagger_seconds = 0\n"),
}


class Bucket(http.server.ThreadingHTTPServer):
    """A service that takes so many requests a second, and so many at once."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, rate: float, burst: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rate, self.burst, self.level, self.at = rate, burst, burst, time.monotonic()
        self.lock, self.refused, self.taken = threading.Lock(), 0, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def take(self) -> bool:
        with self.lock:
            now = time.monotonic()
            self.level = min(self.burst, self.level + self.rate * (now - self.at))
            self.at = now
            if self.level < 1:
                self.refused += 1
                return False
            self.level -= 1
            self.taken += 1
            return True


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        server = self.server
        assert isinstance(server, Bucket)
        self.send_response(200 if server.take() else 429)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def set_up(root: Path, tasks: int, config: str) -> None:
    (root / "tasks").mkdir(parents=True)
    (root / ".hypervisor").mkdir()
    (root / ".hypervisor/config.toml").write_text(config)
    (root / ".gitignore").write_text(".hypervisor/\n")
    for number in range(tasks):
        name = f"t-{number:03}"
        keys = f"id: {name}\ntitle: Task {number}\nstatus: active\nfiles: [src/{name}.txt]\n"
        (root / "tasks" / f"{name}.md").write_text(f"---\n{keys}---\n# {name}\n\nDo it.\n")
    stub = root.parent / "bin/claude"
    stub.parent.mkdir()
    stub.write_text(f"#!{sys.executable} -IS\n{CLIENT}")
    stub.chmod(0o755)
    for words in (["init", "-q", "-b", "main"], ["config", "user.name", "A User"],
                  ["config", "user.email", "user@example.invalid"], ["add", "-A"],
                  ["commit", "-qm", "Begin"]):  # fmt: skip
        subprocess.run(["git", *words], cwd=root, check=True)


def measure(options: argparse.Namespace, jobs: str, config: str) -> dict[str, Any]:
    server = Bucket(options.rate, options.burst)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        set_up(root, options.tasks, COMMON + config)
        environment = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": folder,
            "STUB_URL": f"http://127.0.0.1:{server.server_address[1]}/",
            "STUB_REQUESTS": str(options.requests), "STUB_PAUSE": str(options.pause),
        }  # fmt: skip
        begun = time.monotonic()
        done = subprocess.run(
            [*HYPERVISOR, "run", "--all", "-j", jobs, "--json"], cwd=root, env=environment, check=False,
            capture_output=True, timeout=1800,
        )  # fmt: skip
        seconds = time.monotonic() - begun
        if not done.stdout:
            sys.exit(done.stderr.decode())
        summary = json.loads(done.stdout)
        ends = [event for event in run_events(root) if event["event"] == "ended"]
    server.shutdown()
    server.server_close()
    good = summary["census"]["success"]
    return {
        "finished": good,
        "per minute": round(60 * good / seconds, 1),
        "seconds": round(seconds, 1),
        "wasted attempts": sum(event["how"] == "rate limit" for event in ends),
        "refused requests": server.refused,
        "answered requests": server.taken,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=30)
    parser.add_argument("--rate", type=float, default=1, help="requests a second that are answered")
    parser.add_argument("--burst", type=float, default=4, help="how many are answered at once")
    parser.add_argument("--requests", type=int, default=4, help="requests of each agent")
    parser.add_argument("--pause", type=float, default=2, help="seconds after each of them")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    most = 60 * options.rate / options.requests
    print(f"{options.tasks} tasks; the service takes {most:g} a minute at most")
    with ThreadPoolExecutor(len(WAYS)) as pool:
        begun = {name: pool.submit(measure, options, *way) for name, way in WAYS.items()}
        found = {name: one.result() for name, one in begun.items()}
    for name, one in found.items():
        print(f"{name:12} " + ", ".join(f"{value} {key}" for key, value in one.items()))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all(one["finished"] == options.tasks for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
