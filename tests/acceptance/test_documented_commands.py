"""Every command that README and docs show is typed in a fresh clone, in the order in which it is read.

Each document has a clone and an empty home of its own. The agents are small scripts with the names of the
clients; that the real ones are driven right is for other tests. What cannot be typed here is named below with
the reason, and its options are at least read by the real parser.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from commands import ROOT, script, write_task
from hypervisor.cli import batch_worker, cli

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: A block in which a line begins with one of these is commands, line by line.
PROGRAMS = (
    "hypervisor", "uv", "claude", "gemini", "mkdir", "find", "export", "grep", "examples/try", "tests/run",
)  # fmt: skip

#: What is not typed here, by the beginning of a line, and why.
NOT_TYPED = {
    "tests/run": "runs this very test",
    "claude plugin": "needs the client: test_install.py types it on the real one",
    "export GEMINI_API_KEY": "needs a key that costs money",
    "gemini extensions": "needs the client: test_gemini_extension.py types it on the real one",
    "hypervisor run --all --agent gemini": "needs a key; test_gemini_run.py runs the real client",
    "hypervisor run t-1 t-2 --agent gemini": "needs a key; see above",
    "hypervisor run --all --agent auto": "needs a key; see above",
    "export HYPERVISOR_STORE": "needs a PostgreSQL server: test_store_command.py has one",
    "hypervisor store init": "see above",
    "uv run bench/": "measures for minutes or hours; test_benchmarks_quick.py runs them short",
}
#: Exit codes other than 0 that a line ends with here, by its beginning, and why.
ENDS = {
    "uv run scripts/batch_worker.py --dir work --": (1, "some of the sample tasks cannot be read"),
    "uv run scripts/batch_worker.py --dir work --dry-run": (0, ""),
    "uv run scripts/batch_worker.py --dir work --stats": (0, ""),
    "hypervisor run": (1, "the agent of t-12 leaves its task's files"),
    "hypervisor chunk run": (1, "it ends at a checkpoint"),
    "hypervisor chunk items": (3, "nothing is left"),
    "hypervisor retry": (3, "t-12 was accepted"),
    "hypervisor reap": (3, "nobody has died"),
    "hypervisor trust": (3, "the commands are of who types them"),
    "grep -rl": (1, "no task was Gemini's"),
    "hypervisor task list --assignee gemini": (3, "no task was Gemini's"),
}
#: Lines that go on until they are interrupted.
ENDLESS = ("hypervisor serve",)

_NAMES_OF_A_USER = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")

CLIENT = """
case $1 in --version) echo '2.1.332 (Claude Code)'; exit ;; esac
cat > /dev/null
mkdir -p src
echo made > "src/$HYPERVISOR_TASK_ID.txt"
git add src
git commit --quiet -m "Add $HYPERVISOR_TASK_ID"
cat <<'END'
{"type":"result","subtype":"success","is_error":false,"result":"made it","terminal_reason":"completed",\
"session_id":"s-1","total_cost_usd":0.01,"num_turns":1,"usage":{"input_tokens":10,"output_tokens":5},\
"modelUsage":{"m":{"inputTokens":10,"outputTokens":5,"costUSD":0.01}}}
END
"""
CLASSIFY = """#!/bin/sh
say='{item: .id, category: "archive", rationale: .subject}'
[ $# -eq 1 ] || { jq -c "select(.id == \\"m-0007\\") | $say" mail.jsonl; exit; }
jq -c "$say" "$1" | hypervisor chunk note "$HYPERVISOR_CHUNK_ID" -
"""


def shown(path: Path) -> Iterator[list[str]]:
    """Yield the lines of each block of a document that may be typed: in fences, or indented."""
    block: list[str] = []
    fence: str | None = None
    for line in [*path.read_text("utf-8").splitlines(), ""]:
        if line.startswith("```"):
            if fence in ("", "sh", "console"):
                yield block
            fence, block = (line[3:] if fence is None else None), []
        elif fence is not None or line.startswith("    "):
            block.append(line)
        else:
            if block:
                yield [one[4:] for one in block]
            block = []


def blocks(path: Path) -> Iterator[list[str]]:
    """Yield the command lines of each block of a document that shows commands."""
    for lines in shown(path):
        if any(line.startswith("$ ") for line in lines):
            yield [bare(line[2:]) for line in lines if line.startswith("$ ")]
        elif lines and lines[0].split(" ")[0] in PROGRAMS:
            yield [bare(line) for line in lines if line]


def bare(line: str) -> str:
    """Return a line without its comment."""
    return re.split(r"\s+#\s", line)[0].strip()


def beginning(line: str, known: Iterable[str]) -> str:
    """Return the longest of the known beginnings that *line* has, "" for none."""
    return max((one for one in known if line.startswith(one)), key=len, default="")


def typed(path: Path) -> list[str]:
    """Return the lines of a document that are typed here."""
    return [line for block in blocks(path) for line in block if not beginning(line, NOT_TYPED)]


class Reader:
    """Somebody who types what a document shows, in a fresh clone."""

    def __init__(self, folder: Path, uv: str, environment: dict[str, str]) -> None:
        self.home, self.clone, bins = folder / "home", folder / "clone", folder / "bin"
        for made in (self.home, bins):
            made.mkdir()
        (bins / "uv").symlink_to(uv)
        script(bins, "claude", CLIENT)
        path = f"{self.clone}/bin:{bins}:/usr/local/bin:/usr/bin:/bin"
        self.environment = {
            **environment, "HOME": str(self.home), "PATH": path,
            "HYPERVISOR_PYTHON": sys.executable, "HYPERVISOR_SANDBOX": "off",
            **dict.fromkeys(_NAMES_OF_A_USER, "user@example.invalid"),
        }  # fmt: skip
        files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
        for name in filter(None, files):
            if (ROOT / name).exists():
                (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.clone / name, follow_symlinks=False)
        self._furnish()
        for words in (["init", "-q", "-b", "main"], ["add", "--all"], ["commit", "-q", "-m", "Begin"]):
            subprocess.run(["git", *words], cwd=self.clone, env=self.environment, check=True)

    def _furnish(self) -> None:
        """Write what the documents take for granted: notes, tasks, records, and the commands on them."""
        for copy in "abc":  # more than one --batch 50 does
            shutil.copytree(ROOT / "examples/tasks", self.home / "notes" / copy)
        for name in ("t-1", "t-2", "t-9", "t-10"):
            made = f"src/{name}.txt"
            write_task(self.clone / f"tasks/{name}.md", files=f"[{made}]", verify=f"test -f {made}")
        write_task(self.clone / "tasks/t-12.md", files="[src/isbn.py]")
        state = self.clone / ".hypervisor"
        state.mkdir(mode=0o700)
        busy = "[machine]\nsafe_cpu_percent = 100\ndanger_cpu_percent = 100\n"
        (state / "config.toml").write_text(f'{busy}[spawn]\nagent = "exec"\ncommand = "true {{}}"\n', "utf-8")
        (state / ".gitignore").write_text("*\n", "utf-8")
        records = [
            {
                "id": f"m-{at:04}",
                "date": f"2025-0{(at - 7) % 3 + 1}-05",
                "subject": ("invoice", "news")[at % 2],
            }
            for at in range(1, 31)
        ]
        (self.clone / "mail.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records), "utf-8")
        (self.clone / "criteria.md").write_text("Keep invoices.\n", "utf-8")
        (self.clone / "tasks.json").write_text(
            '[{"description": "Look"}, {"description": "Sum up"}]', "utf-8"
        )
        (classify,) = ("\n".join(block) for block in shown(DOCUMENTS[0]) if block[:1] == ["#!/bin/sh"])
        for name, text in (("classify", classify), ("classify.py", CLASSIFY), ("archive.py", CLASSIFY)):
            (self.clone / name).write_text(text, "utf-8")
            (self.clone / name).chmod(0o755)

    def type(self, line: str) -> tuple[int, str]:
        """Type a line; return its exit code, and what was to be seen."""
        batches = self.clone / ".hypervisor/batches"
        if "BATCH" in line:
            line = line.replace("BATCH", max(path.name for path in batches.iterdir()))
        running = subprocess.Popen(
            ["sh", "-c", line], cwd=self.clone, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            if line.startswith(ENDLESS):
                assert running.stdout is not None
                first = running.stdout.readline()
                os.killpg(running.pid, signal.SIGINT)
                rest, _ = running.communicate(timeout=30)
                return 0, first + rest
            said, _ = running.communicate(timeout=120)
            return running.returncode, said
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def uv() -> str:
    """Return the path of uv; looked for before each test gets a PATH of its own."""
    found = shutil.which("uv")
    if found is None:
        pytest.skip("no uv on PATH; type: pip install uv")
    return found


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if typed(path)], ids=lambda path: path.name)
def test_each_command_does_what_its_document_says(
    path: Path, tmp_path: Path, uv: str, uv_environment: dict[str, str]
) -> None:
    reader, wrong = Reader(tmp_path, uv, uv_environment), []
    for line in typed(path):
        code, said = reader.type(line)
        wanted, _ = ENDS.get(beginning(line, ENDS), (0, ""))
        if code not in (wanted, 0) or "Traceback" in said:
            wrong.append(f"{line}\nexit {code}, not {wanted}: {said[-1500:]}")
    assert not wrong, "\n\n".join(wrong)


def test_what_is_not_typed_is_at_least_read_by_the_parser() -> None:
    lines = [line for path in DOCUMENTS for block in blocks(path) for line in block]
    skipped = [line for line in lines if beginning(line, NOT_TYPED)]
    assert {beginning(line, NOT_TYPED) for line in skipped} == set(NOT_TYPED), "a reason without its command"
    for line in skipped:
        words = shlex.split(line)
        if words[0] == "hypervisor":
            cli.parser().parse_args(words[1:])
        elif "batch_worker.py" in line:
            batch_worker.parser().parse_args(words[3:])
