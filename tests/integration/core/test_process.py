"""Who a process is, whether it lives, and that ending it ends that and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from commands import PATIENCE
from hypervisor.core import files
from hypervisor.core import process as core_process
from hypervisor.core.process import (
    WORKER_MARK,
    Identity,
    end_group,
    end_orphans,
    life_of,
    start_time,
    this_process,
)

LINUX_ONLY = pytest.mark.skipif(not core_process.LINUX, reason="looks into /proc")


def sleeper(code: str = "", *, mark: str = "", session: bool = True) -> subprocess.Popen[bytes]:
    """Start a process that says when it is ready, and then sleeps for a minute."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import time\n{code}\nprint('ready', flush=True)\ntime.sleep(60)"],
        stdout=subprocess.PIPE,
        env={**os.environ, **({WORKER_MARK: mark} if mark else {})},
        start_new_session=session,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def ended(process: subprocess.Popen[bytes]) -> int:
    code = process.wait(PATIENCE)
    assert process.stdout is not None
    process.stdout.close()
    return code


# ---------------------------------------------------------------- start time


def test_a_process_has_one_start_time() -> None:
    assert start_time(os.getpid()) == start_time(os.getpid()) != ""


def test_a_process_that_is_gone_has_none() -> None:
    process = sleeper()
    assert start_time(process.pid) != ""
    process.kill()
    ended(process)
    assert start_time(process.pid) == ""


def test_a_zombie_has_none() -> None:
    process = sleeper()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not taken from the table
    assert start_time(process.pid) == ""
    ended(process)


@LINUX_ONLY
def test_a_commands_name_may_hold_blanks_and_parentheses(tmp_path: Path) -> None:
    name = tmp_path / "a) Z (b 1"
    os.symlink(sys.executable, name)
    code = "import ctypes; ctypes.CDLL(None).prctl(15, b'a) Z (b 1')"
    process = sleeper(code)
    assert start_time(process.pid).isdigit()
    process.kill()
    ended(process)


# ------------------------------------------------------------------- life of

HERE = Identity(host="h", boot="b", pid_namespace="n", pid=os.getpid(), start=start_time(os.getpid()))


@pytest.mark.parametrize(
    ("other", "life"),
    [
        (HERE, "alive"),
        (replace(HERE, start="1"), "dead"),
        (replace(HERE, start=""), "dead"),
        (replace(HERE, pid=2**22 + 1), "dead"),
        (replace(HERE, boot="c"), "dead"),
        (replace(HERE, boot="c", host="i"), "unknown"),
        (replace(HERE, boot="c", pid_namespace="m"), "dead"),
        (replace(HERE, pid_namespace="m"), "unknown"),
        (replace(HERE, pid_namespace="m", start="1"), "unknown"),
        (replace(HERE, host="i"), "alive"),  # the same boot: the host was only given another name
    ],
)
def test_life_is_told_from_boot_namespace_pid_and_start(other: Identity, life: str) -> None:
    assert life_of(other, HERE) == life


def test_a_process_knows_itself() -> None:
    me = this_process()
    assert me.pid == os.getpid()
    assert life_of(me, this_process()) == "alive"
    assert Identity(**me.to_json()) == me


# ------------------------------------------------------------------- end group


def test_a_group_is_ended_whole() -> None:
    process = sleeper("import subprocess, sys\nsubprocess.Popen(['sleep', '60'])")
    end_group(process.pid, grace_seconds=5.0)
    assert ended(process) == -signal.SIGTERM
    assert not core_process._running_members(process.pid)


def test_a_group_that_ignores_term_is_killed_after_its_grace() -> None:
    process = sleeper("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    end_group(process.pid, grace_seconds=0.1)
    assert ended(process) == -signal.SIGKILL


def test_a_group_is_not_waited_for_longer_than_it_takes() -> None:
    process = sleeper()
    begun = time.monotonic()
    end_group(process.pid, grace_seconds=30.0)
    assert time.monotonic() - begun < 10
    assert ended(process) == -signal.SIGTERM


def test_ending_a_group_whose_leader_is_a_zombie_ends_what_is_left_of_it() -> None:
    process = sleeper("import subprocess\nchild = subprocess.Popen(['sleep', '60'])", session=True)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert core_process._running_members(process.pid)
    end_group(process.pid, grace_seconds=5.0)
    assert not core_process._running_members(process.pid)
    ended(process)


# ----------------------------------------------------------------- end orphans


def test_orphans_are_found_by_their_mark_and_nothing_else_is_ended() -> None:
    mine, other, bare = sleeper(mark="w-1"), sleeper(mark="w-11"), sleeper()
    try:
        assert end_orphans("w-1") == [mine.pid]
        assert start_time(mine.pid) == ""
        assert other.poll() is None
        assert bare.poll() is None
    finally:
        for process in (mine, other, bare):
            process.kill()
            ended(process)


def test_an_orphan_that_ignores_term_is_killed() -> None:
    process = sleeper("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)", mark="w-2")
    assert end_orphans("w-2", grace_seconds=0.1) == [process.pid]
    ended(process)
    assert start_time(process.pid) == ""


def test_an_orphan_that_had_to_be_killed_is_gone_before_its_item_is_handed_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A signal is only sent: what it ends still runs for a moment, and may still write."""
    process = sleeper("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)", mark="w-5")
    order: list[str] = []
    kill, wait = psutil.Process.kill, psutil.wait_procs

    def killed(self: psutil.Process) -> None:
        order.append("kill")
        kill(self)

    def waited(*arguments: Any, **options: Any) -> Any:
        order.append("wait")
        return wait(*arguments, **options)

    monkeypatch.setattr(psutil.Process, "kill", killed)
    monkeypatch.setattr(psutil, "wait_procs", waited)
    end_orphans("w-5", grace_seconds=0.1)
    ended(process)
    assert order == ["wait", "kill", "wait"]


def test_an_orphan_in_a_session_of_its_own_is_found() -> None:
    parent = sleeper(
        "import subprocess\nsubprocess.Popen(['sleep', '60'], start_new_session=True)", mark="w-3"
    )
    found = end_orphans("w-3")
    assert parent.pid in found
    assert len(found) == 2
    ended(parent)
    assert end_orphans("w-3") == []


def test_an_orphan_that_is_just_becoming_a_program_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = sleeper(mark="w-6")
    environment, asked = core_process._environment, []

    def between_exec_and_start(pid: int) -> bytes:
        if pid == orphan.pid:
            asked.append(pid)
            if len(asked) == 1:  # so the kernel shows it for a moment
                return b""
        return environment(pid)

    monkeypatch.setattr(core_process, "_environment", between_exec_and_start)
    assert end_orphans("w-6") == [orphan.pid]
    ended(orphan)


@LINUX_ONLY
def test_what_started_since_is_among_few_and_what_is_older_is_not_looked_at() -> None:
    older = sleeper()
    moment = core_process.this_moment()
    newer = sleeper()
    found = core_process.pids_since(moment)
    assert newer.pid in found
    assert older.pid in core_process.pids_since(None)
    if core_process._in_turn() and moment.pid > older.pid:
        assert older.pid not in found
    for one in (older, newer):
        one.kill()
        ended(one)


@LINUX_ONLY
@pytest.mark.parametrize("case", ["come round", "too many", "backwards", "not told"])
def test_where_numbers_tell_nothing_every_process_is_looked_at(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = core_process.this_moment()
    monkeypatch.setattr(core_process, "_most_pids", lambda: 1000)
    monkeypatch.setattr(core_process, "_in_turn", lambda: case != "not told")
    change = {"come round": 100, "too many": 251, "backwards": -1, "not told": 1}[case]
    before = replace(now, forks=now.forks - change, pid=now.pid + (1 if case == "come round" else 0))
    monkeypatch.setattr(core_process, "this_moment", lambda: now)
    found = core_process.pids_since(before)
    assert os.getpid() in found or os.getpid() == now.pid
    assert (1 in found) == (1 in core_process.pids_since(None))


def test_a_process_never_ends_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKER_MARK, "w-4")
    assert end_orphans("w-4") == []


# ---------------------------------------------------------------- file systems


@LINUX_ONLY
def test_the_deepest_mount_says_what_file_system_it_is() -> None:
    assert files.file_system_of("/proc/self") == "proc"
    assert files.file_system_of("/") not in ("", "proc")


@pytest.mark.parametrize(
    ("kind", "network"),
    [("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("ext4", False), ("tmpfs", False)],
)
def test_a_network_file_system_is_known_by_its_type(
    monkeypatch: pytest.MonkeyPatch, kind: str, network: bool
) -> None:
    monkeypatch.setattr(files, "file_system_of", lambda path: kind)
    assert files.on_network("/anywhere") is network
