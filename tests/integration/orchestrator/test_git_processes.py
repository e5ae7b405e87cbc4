"""How many git processes a run takes: each costs more than all else that a run does for a task."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from commands import script, shell, write_task

pytestmark = pytest.mark.acceptance

#: More than this a task would be felt; those of its agent, and of the run as a whole, are among them.
MOST = 15
_COMMITS = 'echo x > "f-$HYPERVISOR_TASK_ID"; git add .; git commit -qm x'
_LEAVES = 'echo x > "f-$HYPERVISOR_TASK_ID"'


@pytest.mark.parametrize(
    ("agent", "verify", "most"),
    [(_COMMITS, "", MOST), (_LEAVES, "", MOST + 1), (_COMMITS, "true", MOST + 2)],
    ids=["commits", "leaves it uncommitted", "verified"],
)
def test_a_task_takes_few_git_processes(tmp_path: Path, agent: str, verify: str, most: int) -> None:
    count = 10
    with shell(tmp_path) as user:
        for number in range(count):
            keys = {"verify": verify} if verify else {}
            write_task(user.cwd / f"tasks/t-{number}.md", files=f"[f-t-{number}]", **keys)
        for words in (
            "init -q -b main",
            "config user.name A",
            "config user.email a@x",
            "add .",
            "commit -qm x",
        ):
            user.run(["git", *words.split()]).passed()
        log, real = tmp_path / "git.log", shutil.which("git")
        bin_folder = tmp_path / "counting"
        bin_folder.mkdir()
        script(bin_folder, "git", f'echo "$*" >> "{log}"; exec {real} "$@"')
        user.extra["PATH"] = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
        command = script(user.home, "agent", agent)
        user.hypervisor("run", "--all", "-j", "2", "--agent", "exec", "--exec", command).passed()
        calls = [re.sub(r"^(-c \S+ )+", "", line).split()[0] for line in log.read_text().splitlines()]
        assert len(calls) / count <= most, Counter(calls)
