"""Reading the machine: control groups of both versions, pressure, the disk; on trees that stand for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from hypervisor.monitor.metrics import Cgroups, CpuGroup, MemoryGroup, Reading, Sampler

GIB, MIB = 2**30, 2**20
V2_MOUNT = "40 30 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 32 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)


class Tree:
    """A folder that stands for ``/``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str | int) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def v2(self, group: str, **files: str | int) -> None:
        for name, text in files.items():
            self.write(f"sys/fs/cgroup/{group}/{name.replace('_', '.', 1)}", text)

    def v1(self, controller: str, group: str, **files: str | int) -> None:
        for name, text in files.items():
            self.write(f"sys/fs/cgroup/{controller}/{group}/{name.replace('_', '.', 1)}", text)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def two(tree: Tree) -> Tree:
    """A machine with groups of version 2; we are in /a/b."""
    tree.write("proc/self/mountinfo", V2_MOUNT)
    tree.write("proc/self/cgroup", "0::/a/b")
    (tree.root / "sys/fs/cgroup/a/b").mkdir(parents=True)
    return tree


@pytest.fixture
def one(tree: Tree) -> Tree:
    """A machine with groups of version 1; we are in /a/b, but for CPU in /."""
    tree.write("proc/self/mountinfo", V1_MOUNTS)
    tree.write("proc/self/cgroup", "4:memory:/a/b\n2:cpu,cpuacct:/\n1:name=systemd:/x")
    (tree.root / "sys/fs/cgroup/memory/a/b").mkdir(parents=True)
    (tree.root / "sys/fs/cgroup/cpu,cpuacct").mkdir(parents=True)
    return tree


class Machine:
    """The figures of a machine, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.total, self.available = 16 * GIB, 12 * GIB
        self.busy, self.every = 1000.0, 4000.0

    def sampler(self, root: Path, **more: Any) -> Sampler:
        return Sampler(
            str(root), str(root), lambda: (self.total, self.available, self.busy, self.every),
            lambda: self.now, **more,
        )  # fmt: skip


# ---------------------------------------------------------------------- groups


def test_v2_every_group_up_to_the_mount_counts(two: Tree) -> None:
    two.v2("a/b", memory_max="max", memory_current=300 * MIB)
    two.v2("a", memory_max=GIB, memory_current=700 * MIB, memory_stat="anon 5\ninactive_file 0")
    assert Cgroups(str(two.root)).memory() == [MemoryGroup(limit=GIB, used=700 * MIB)]


def test_v2_file_pages_are_not_in_use_as_the_kernel_drops_them_before_it_kills(two: Tree) -> None:
    stat = f"anon 1\ninactive_file {100 * MIB}\nactive_file {50 * MIB}\nshmem 9"
    two.v2("a/b", memory_max=GIB, memory_current=400 * MIB, memory_stat=stat)
    assert Cgroups(str(two.root)).memory() == [MemoryGroup(limit=GIB, used=250 * MIB)]


def test_v2_a_quota_of_cpu_is_a_number_of_cpus(two: Tree) -> None:
    two.v2("a/b", cpu_max="150000 100000", cpu_stat="usage_usec 2500000\nuser_usec 1")
    two.v2("a", cpu_max="max 100000", cpu_stat="usage_usec 9000000")
    assert Cgroups(str(two.root)).cpu() == [CpuGroup(cpus=1.5, used_seconds=2.5)]


def test_v1_a_limit_and_the_totals_of_its_children(one: Tree) -> None:
    stat = f"inactive_file 1\ntotal_inactive_file {20 * MIB}\ntotal_active_file {10 * MIB}"
    one.v1("memory", "a/b", memory_limit_in_bytes=2**63 - 4096, memory_usage_in_bytes=5)
    one.v1(
        "memory", "a", memory_limit_in_bytes=GIB, memory_usage_in_bytes=130 * MIB, memory_stat=stat
    )  # fmt: skip
    assert Cgroups(str(one.root)).memory() == [MemoryGroup(limit=GIB, used=100 * MIB)]


def test_v1_a_quota_of_cpu(one: Tree) -> None:
    one.v1("cpu,cpuacct", "", cpu_cfs_quota_us=50000, cpu_cfs_period_us=100000, cpuacct_usage=3_000_000_000)
    assert Cgroups(str(one.root)).cpu() == [CpuGroup(cpus=0.5, used_seconds=3.0)]
    one.v1("cpu,cpuacct", "", cpu_cfs_quota_us=-1)
    assert Cgroups(str(one.root)).cpu() == []


def test_within_a_container_the_mount_is_our_own_group(tree: Tree) -> None:
    # The path is one of the outside, and the mount shows that very group as its top.
    tree.write("proc/self/mountinfo", V2_MOUNT.replace(" / /sys", " /docker/x /sys"))
    tree.write("proc/self/cgroup", "0::/docker/x")
    tree.v2("", memory_max=GIB, memory_current=MIB)
    assert Cgroups(str(tree.root)).memory() == [MemoryGroup(limit=GIB, used=MIB)]
    # Or the path leads out of what the container can see.
    tree.write("proc/self/cgroup", "0::/../../elsewhere")
    assert Cgroups(str(tree.root)).memory() == [MemoryGroup(limit=GIB, used=MIB)]


def test_a_process_that_is_moved_to_another_group_is_found_there(two: Tree) -> None:
    groups = Cgroups(str(two.root))
    assert groups.memory() == []
    two.v2("c", memory_max=GIB, memory_current=MIB)
    two.write("proc/self/cgroup", "0::/c")
    assert groups.memory() == [MemoryGroup(limit=GIB, used=MIB)]


@pytest.mark.parametrize("text", ["", "nonsense", "0::/a/b\n:::\n4:memory", "0::/" + "x/" * 5000])
def test_what_cannot_be_understood_is_no_limit(tree: Tree, text: str) -> None:
    tree.write("proc/self/mountinfo", V2_MOUNT + "broken\n - cgroup\n" + V1_MOUNTS)
    tree.write("proc/self/cgroup", text)
    groups = Cgroups(str(tree.root))
    assert (groups.memory(), groups.cpu()) == ([], [])


# -------------------------------------------------------------------- readings


def test_without_groups_the_machines_own_memory_counts(tree: Tree) -> None:
    found = Machine().sampler(tree.root).read()
    assert (found.ram_percent, found.available_percent) == (25.0, 75.0)
    assert (found.ram_bytes, found.available_bytes) == (16 * GIB, 12 * GIB)
    assert found.pressure_percent is None
    assert found.disk_free_bytes is not None
    assert found.disk_free_bytes > 0


def test_the_tightest_of_machine_and_groups_counts(two: Tree) -> None:
    two.v2("a/b", memory_max=GIB, memory_current=900 * MIB)
    machine = Machine()
    found = machine.sampler(two.root).read()
    assert found.ram_percent == pytest.approx(100 * 900 / 1024)
    assert found.ram_bytes == GIB
    machine.available = GIB // 4  # of 16: worse than the group
    found = machine.sampler(two.root).read()
    assert found.ram_percent == pytest.approx(100 - 100 / 64)


def test_cpu_is_told_between_two_looks(tree: Tree) -> None:
    machine = Machine()
    sampler = machine.sampler(tree.root)
    assert sampler.read().cpu_percent is None
    machine.now, machine.busy, machine.every = 101.0, 1003.0, 4004.0
    assert sampler.read().cpu_percent == 75.0
    machine.now = 101.01  # too soon to tell anything new
    assert sampler.read().cpu_percent == 75.0


def test_a_group_that_has_used_its_quota_is_busy_on_an_idle_machine(two: Tree) -> None:
    two.v2("a/b", cpu_max="50000 100000", cpu_stat="usage_usec 1000000")
    machine = Machine()
    sampler = machine.sampler(two.root)
    sampler.read()
    machine.now, machine.every = 102.0, 4016.0
    two.v2("a/b", cpu_stat="usage_usec 1900000")
    assert sampler.read().cpu_percent == pytest.approx(90.0)


def test_pressure_is_the_share_of_time_in_which_all_stood_still(two: Tree) -> None:
    line = "some avg10=9.00 avg60=0.00 avg300=0.00 total=99\nfull avg10=4.00 avg60=0.00 avg300=0.00 total={}"
    two.write("proc/pressure/memory", line.format(1_000_000))
    machine = Machine()
    sampler = machine.sampler(two.root)
    assert sampler.read().pressure_percent == 4.0  # what the kernel says, at first
    two.write("proc/pressure/memory", line.format(1_600_000))
    machine.now += 2.0
    assert sampler.read().pressure_percent == pytest.approx(30.0)
    # The pressure in our own group is nearer to us than that of the machine.
    two.v2("a/b", memory_pressure=line.format(5_000_000))
    assert machine.sampler(two.root).read().pressure_percent == 4.0
    two.write("proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0")
    assert Machine().sampler(two.root / "nowhere").read().pressure_percent is None


def test_this_machine_can_be_read() -> None:
    found = Sampler(os.getcwd()).read()
    assert found.ram_bytes is not None
    assert found.ram_bytes <= psutil.virtual_memory().total
    assert found.available_percent is not None
    assert 0 < found.available_percent <= 100


def test_figures_name_what_is_known_and_nothing_else() -> None:
    assert Reading(at=1.0).figures() == {}
    told = Reading(at=1.0, cpu_percent=84.96, disk_free_bytes=5 * MIB + 1).figures()
    assert told == {"cpu_percent": 85.0, "disk_free_mib": 5.0}
