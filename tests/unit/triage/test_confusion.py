"""What triage decides of tasks that were labelled by hand: who gets them, as a confusion matrix.

`tests/data/triage.yaml` holds the tasks, the labels, and the guidelines of the readings.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from hypervisor.core.settings import default_settings
from hypervisor.tasks.files import parse_task
from hypervisor.triage.classify import compile_rules, triage

DATA = Path(__file__).parents[2] / "data/triage.yaml"
SETTINGS = default_settings()
RULES = compile_rules(SETTINGS)
WHO = ("agent", "person", "leave")


def decided(entry: dict[str, Any]) -> str:
    front = {"status": "inbox"} | {k: v for k, v in entry.items() if k not in ("is", "split", "body")}
    text = f"---\n{yaml.safe_dump(front)}---\n{entry.get('body', '')}"
    task, _ = parse_task(Path("/tasks/t.md"), text.encode(), SETTINGS)
    return {"bot": "agent", "nic": "person", None: "leave"}[triage(task, RULES).assignee]


def matrix(split: str) -> dict[str, tuple[int, ...]]:
    entries = [e for e in yaml.safe_load(DATA.read_text("utf-8")) if e.get("split", "dev") == split]
    counts = Counter((entry["is"], decided(entry)) for entry in entries)
    return {label: tuple(counts[label, who] for who in WHO) for label in WHO}


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        # A row is a label; its columns are the decisions: agent, person, left alone.
        ("dev", {"agent": (25, 0, 0), "person": (0, 59, 0), "leave": (0, 0, 15)}),
        ("test", {"agent": (20, 0, 0), "person": (0, 30, 0), "leave": (0, 0, 10)}),
        ("unseen", {"agent": (11, 0, 1), "person": (0, 5, 20), "leave": (0, 0, 5)}),
    ],
)
def test_the_confusion_matrix_of_the_labelled_tasks(split: str, expected: dict[str, Any]) -> None:
    assert matrix(split) == expected
