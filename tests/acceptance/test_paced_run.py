"""A run is limited by what is known of its tasks, says why, and is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import script, shell, write_task
from hypervisor.store.events import RunEvent
from hypervisor.store.store import Store

pytestmark = pytest.mark.acceptance


def test_a_run_follows_a_lesson_says_why_and_is_measured(tmp_path: Path) -> None:
    with shell(tmp_path) as user:
        agent = script(
            user.home, "agent", 'printf \'{"kind":"done","text":"ok","evidence":"x"}\' > $HYPERVISOR_REPORT'
        )
        for number in range(4):
            write_task(user.cwd / f"tasks/t-{number}.md", type="migration", verify="'true'")
        (user.cwd / ".hypervisor").mkdir()
        user.hypervisor("learn", "add", "migration", "--benefit", "0.1", "--notes", "one database").passed()
        words = ("run", "--all", "--agent", "exec", "--exec", agent, "--isolation", "none", "-j", "4")
        done = user.hypervisor(*words, "--strategy", "auto").passed()
        assert "migration: 1 at once: said to gain 0.1 of one by each further agent" in done.out + done.err
        with Store.open(user.cwd / ".hypervisor", {}, create=False) as store:
            (batch,) = store.batches.all()
            events = list(store.events.since(0, batch=batch.id))
        (paced,) = [event.data for event in events if event.kind == RunEvent.PACED]
        assert (paced["type"], paced["limit"]) == ("migration", 1)
        turns = [event.kind for event in events if event.kind in (RunEvent.BEGUN, RunEvent.ENDED)]
        assert turns == [RunEvent.BEGUN, RunEvent.ENDED] * 4  # one at a time
        (row,) = user.hypervisor("learn", "show", "migration", "--json").passed().json["advice"]
        assert (row["samples"], row["success_rate"], row["at_once"]) == (4, 1.0, 1)
