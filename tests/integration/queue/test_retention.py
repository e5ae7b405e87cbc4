"""Outputs: kept whole, compressed once their batch is over, removed by a rule only. What the dead left."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import ROOT, Gate, Shell, eventually, write_task
from hypervisor.queue import retention
from hypervisor.queue.retention import Kept, RetentionRule
from hypervisor.runners import outputs
from hypervisor.runners.pump import Sink
from inprocess import in_process

#: What an item is called on disk.
T = "t-" + "0" * 32
#: Prints 6,000 bytes, which is more than a block.
LOUD = "yes hello | head -c 6000"
DAY = 86400.0


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with in_process(tmp_path) as made:
        yield made


def text(size: int, seed: int = 1) -> bytes:
    """Return text that shrinks, but not to nothing."""
    words = random.Random(seed)
    return "".join(f"{words.random()} is a line of output\n" for _ in range(size // 40)).encode()


def key(number: int) -> str:
    return f"t-{number:032}"


def write(path: Path, data: bytes, *, days_ago: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    at = time.time() - days_ago * DAY
    os.utime(path, (at, at))
    return path


# ------------------------------------------------------------------ compressing


def test_what_is_compressed_is_read_by_zcat_and_keeps_its_age_and_mode(tmp_path: Path) -> None:
    data = text(100_000)
    log = write(tmp_path / f"{T}~1.out", data, days_ago=3)
    log.chmod(0o640)
    when = log.stat().st_mtime_ns
    packed = outputs.compress(str(tmp_path))
    assert os.listdir(tmp_path) == [f"{T}~1.out.gz"]
    made = tmp_path / f"{T}~1.out.gz"
    assert (packed.files, packed.before, packed.after) == (1, len(data), made.stat().st_size)
    assert (made.stat().st_mtime_ns, made.stat().st_mode & 0o777) == (when, 0o640)
    assert subprocess.run(["zcat", str(made)], capture_output=True, check=True).stdout == data


def test_what_would_not_shrink_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    data = text(20_000)
    ours = f"{T}~1.out"
    theirs = ["notes.txt", "make.out", "make.err.gz", f"{T}~2.log", f"{T}~1.report.json", f"{T}~1.out.bak"]
    for name, content in {ours: b"x" * 4096, **dict.fromkeys(theirs, data)}.items():
        write(tmp_path / name, content)
    (tmp_path / f"{T}~3.out").symlink_to(tmp_path / "notes.txt")
    (tmp_path / f"{T}~4.out").mkdir()
    before = sorted(os.listdir(tmp_path))
    assert outputs.compress(str(tmp_path)).files == 0
    assert outputs.remove(str(tmp_path)).files == 1  # the small one
    assert sorted(os.listdir(tmp_path)) == sorted(set(before) - {ours})
    assert outputs.compress(str(tmp_path / "none")).files == 0


def test_the_parts_of_a_long_output_are_compressed_each(tmp_path: Path) -> None:
    sink = Sink(str(tmp_path / f"{T}~2.out"), 9000)
    data = text(20_000)
    sink.take(data)
    sink.close()
    assert outputs.compress(str(tmp_path)).files == 2
    names = [f"{T}~2.out.gz", f"{T}~2.out.1.gz", f"{T}~2.out.2"]
    assert sorted(os.listdir(tmp_path)) == sorted(names)  # the last is too small to shrink
    packed = b"".join(gzip.decompress((tmp_path / name).read_bytes()) for name in names[:2])
    assert packed + (tmp_path / names[2]).read_bytes() == data


def test_what_an_agent_still_prints_into_is_left(tmp_path: Path) -> None:
    sink = Sink(str(tmp_path / f"{T}~1.out"), 2**20)
    sink.take(text(9000))
    packed = outputs.compress(str(tmp_path))
    assert packed.left == {f"{T}~1.out": "is being written"}
    assert outputs.remove(str(tmp_path)).files == 0
    sink.take(b"and more")
    sink.close()
    assert outputs.compress(str(tmp_path)).files == 1
    assert gzip.decompress((tmp_path / f"{T}~1.out.gz").read_bytes()) == text(9000) + b"and more"


def test_a_command_that_outlives_its_worker_still_holds_its_output(user: Shell, tmp_path: Path) -> None:
    (user.cwd / "work").mkdir()
    (user.cwd / "work/queue.txt").write_text("a\n")
    gate = Gate(tmp_path, "gate")
    words = ["sh", "-c", f"{LOUD}; {gate.words}; echo the end"]
    running = user.start("--dir", "work", "--all", "--exec", " ".join(f"'{word}'" for word in words))
    gate.wait()
    running.kill()
    logs = user.cwd / "work/logs"
    assert [*outputs.compress(str(logs)).left.values()] == ["is being written"]
    gate.open()
    eventually(lambda: outputs.compress(str(logs)).files == 1, "the end of the command")
    (made,) = logs.glob("*.gz")
    assert gzip.decompress(made.read_bytes()).endswith(b"the end\n")
    gate.close()


def test_what_somebody_writes_without_our_lock_is_left(tmp_path: Path) -> None:
    """A process of a version before the locks may be at work."""
    log = write(tmp_path / f"{T}~1.out", text(8_000_000))
    done = threading.Event()

    def append() -> None:
        while not done.is_set():
            with open(log, "ab") as file:
                file.write(b"more\n")

    writer = threading.Thread(target=append)
    writer.start()
    try:
        assert outputs.compress(str(tmp_path)).left == {f"{T}~1.out": "was written to meanwhile"}
    finally:
        done.set()
        writer.join()
    assert os.listdir(tmp_path) == [f"{T}~1.out"]


_COMPRESS = (
    f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
    + """
from hypervisor.runners import outputs
print("begun", flush=True)
outputs.compress(sys.argv[1])
"""
)


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_one_of_both_whole(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    whole = {f"{key(number)}~1.out": text(600_000, number) for number in range(8)}
    for name, data in whole.items():
        write(logs / name, data)
    rounds = 0
    while any(name in os.listdir(logs) for name in whole):
        rounds += 1
        running = subprocess.Popen([sys.executable, "-c", _COMPRESS, str(logs)], stdout=subprocess.PIPE)
        assert running.stdout is not None
        running.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(0.03 * rounds)  # each round gets further than the one before
        running.send_signal(signal.SIGKILL)
        running.wait()
        running.stdout.close()
        for name, data in whole.items():
            plain, packed = logs / name, logs / f"{name}.gz"
            if packed.exists():
                assert gzip.decompress(packed.read_bytes()) == data
            if plain.exists():
                assert plain.read_bytes() == data
            assert plain.exists() or packed.exists()
    assert rounds > 1
    outputs.compress(str(logs))  # what the last one that was killed left
    assert sorted(os.listdir(logs)) == sorted(f"{name}.gz" for name in whole)


def test_killed_between_the_new_name_and_the_end_of_the_old_one(tmp_path: Path) -> None:
    data = text(9000)
    write(tmp_path / f"{T}~1.out", data)
    write(tmp_path / f"{T}~1.out.gz", gzip.compress(data))
    assert outputs.compress(str(tmp_path)).files == 1
    assert os.listdir(tmp_path) == [f"{T}~1.out.gz"]


@pytest.mark.parametrize(
    "other", [gzip.compress(b"of another run"), b"no gzip at all", b""], ids=["another", "no gzip", "empty"]
)
def test_two_that_differ_are_both_left(tmp_path: Path, other: bytes) -> None:
    write(tmp_path / f"{T}~1.out", text(9000))
    write(tmp_path / f"{T}~1.out.gz", other)
    packed = outputs.compress(str(tmp_path))
    assert packed.left == {f"{T}~1.out": f"differs from {T}~1.out.gz; look at both"}
    assert (tmp_path / f"{T}~1.out").read_bytes() == text(9000)
    assert (tmp_path / f"{T}~1.out.gz").read_bytes() == other


def test_two_at_once_do_it_once(tmp_path: Path) -> None:
    for number in range(30):
        write(tmp_path / f"{key(number)}~1.out", text(50_000, number))
    words = [sys.executable, "-c", _COMPRESS, str(tmp_path)]
    both = [subprocess.Popen(words, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [one.wait(60) for one in both] == [0, 0]
    for number in range(30):
        assert gzip.decompress((tmp_path / f"{key(number)}~1.out.gz").read_bytes()) == text(50_000, number)
    assert len(os.listdir(tmp_path)) == 30


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(user: Shell, small_disk: Path) -> None:
    user.cwd = small_disk
    (small_disk / "queue.txt").write_text("a\n")
    data = text(500_000)
    (small_disk.parent / "data").write_bytes(data)
    user.worker("--dir", ".", "--all", "--exec", f"sh -c 'cat {small_disk.parent}/data; true {{}}'").passed()
    (log,) = (small_disk / "logs").iterdir()
    assert log.suffix == ".gz"
    plain = write(log.with_suffix(""), data)
    log.unlink()
    with contextlib.suppress(OSError), open(small_disk / "filler", "wb") as filler:
        while True:
            filler.write(b"x" * 4096)
    ended = user.hypervisor("clean", "--dir", ".")
    ended.refused(1, "No space left on device; free some space and start again; nothing is lost")
    assert os.listdir(small_disk / "logs") == [plain.name]
    assert plain.read_bytes() == data
    (small_disk / "filler").unlink()
    assert "compressed" in user.hypervisor("clean", "--dir", ".").passed().out


# ------------------------------------------------------------------ removing


def test_what_was_written_after_the_decision_stays(tmp_path: Path) -> None:
    write(tmp_path / f"{T}.out", b"old", days_ago=40)
    decided = outputs.measure(str(tmp_path)).newest
    write(tmp_path / f"{T}~2.out", b"of a retry that began meanwhile")
    assert outputs.remove(str(tmp_path), decided).files == 1
    assert os.listdir(tmp_path) == [f"{T}~2.out"]


_REMOVE = (
    f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
    + """
from hypervisor.runners import outputs
print("begun", flush=True)
while True:
    outputs.remove(sys.argv[1])
"""
)


def test_what_is_begun_while_another_removes_is_not_lost(tmp_path: Path) -> None:
    """The name may be there already, and the lock comes after the file."""
    logs = tmp_path / "logs"
    remover = subprocess.Popen([sys.executable, "-c", _REMOVE, str(logs)], stdout=subprocess.PIPE)
    assert remover.stdout is not None
    remover.stdout.readline()
    removed = 0
    try:
        for number in range(2000):
            path = logs / f"{key(number % 2)}.out"
            removed += not path.exists()
            descriptor = outputs.begin(str(path))
            os.write(descriptor, b"whole")
            assert path.read_bytes() == b"whole"
            assert os.fstat(descriptor).st_ino == path.stat().st_ino
            os.close(descriptor)
    finally:
        remover.kill()
        remover.wait()
        remover.stdout.close()
    assert removed > 1, "nothing was removed meanwhile"


def many(user: Shell, count: int) -> Path:
    """Run a batch to its end, and give it the outputs of *count* items more; return its folder."""
    folder = batch(user, "b-1")
    for number in range(count):
        write(folder / "logs" / f"{key(number)}.out", text(9000, number))
    write(folder / "logs/mine.out", b"mine" * 2000)
    return folder


def below(folder: Path) -> dict[str, bytes]:
    """Return what lies below *folder*, but for outputs of items."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path): path.read_bytes() for path in found if path.parent.name != "logs" or "mine" in path.name
    }


@pytest.mark.slow
@pytest.mark.parametrize("rule", [["--larger-than", "0"], []], ids=["remove", "compress"])
def test_two_that_clean_at_once_do_it_once_and_both_pass(user: Shell, rule: list[str]) -> None:
    folder = many(user, 200)
    before = below(folder)
    both = [user.start_hypervisor("clean", "--outputs", *rule, "--json") for _ in range(2)]
    said = [one.end() for one in both]
    assert {one.code for one in said} <= {0, 3}, [one.err for one in said]
    assert {row["what"] for one in said for row in one.json["rows"]} <= {"removed", "compressed", "kept"}
    left = sorted(path.name for path in (folder / "logs").iterdir())
    if rule:
        assert left == ["mine.out"]
    else:
        assert len(left) == 202
        assert [name for name in left if not name.endswith(".gz")] == ["mine.out"]
        for number in range(200):
            packed = folder / "logs" / f"{key(number)}.out.gz"
            assert gzip.decompress(packed.read_bytes()) == text(9000, number)
    assert below(folder) == before


#: `hypervisor clean` that is killed before and after each removal, at the one whose number it is given.
_KILLED = (
    f"import os, sys; sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
    + """
from hypervisor.cli.cli import main
last, real, left = sys.argv[1] == "after", os.unlink, int(sys.argv[2])
def unlink(path, **more):
    global left
    left -= "/logs/" in str(path)
    if left or last:
        real(path, **more)
    if not left:
        os.kill(os.getpid(), 9)
os.unlink = unlink
main(["clean", "--outputs", "--larger-than", "0"])
"""
)


@pytest.mark.slow
@pytest.mark.parametrize(("when", "number"), [("before", 1), ("after", 1), ("before", 20), ("after", 41)])
def test_killed_while_it_removes_it_has_removed_outputs_only_and_the_next_goes_on(
    user: Shell, when: str, number: int
) -> None:
    folder = many(user, 40)  # and one of the batch itself
    before = below(folder)
    assert user.run([sys.executable, "-c", _KILLED, when, str(number)]).code == -signal.SIGKILL
    left = [path for path in (folder / "logs").iterdir() if path.name != "mine.out"]
    assert len(left) == 41 - number + (when == "before")
    for path in left:
        if path.suffix == ".out":
            assert path.read_bytes() == text(9000, int(path.stem.removeprefix("t-")))
    assert below(folder) == before
    assert user.hypervisor("clean", "--outputs", "--larger-than", "0").code == (0 if left else 3)
    assert os.listdir(folder / "logs") == ["mine.out"]
    assert below(folder) == before
    assert "1 success" in user.hypervisor("summary", "b-1").passed().out


# ------------------------------------------------------------------ the rule


def kept(name: str, size: int, newest: float) -> Kept:
    return Kept(batch=name, folder=name, logs=name, size=outputs.Size(files=1, bytes=size, newest=newest))


BATCHES = [kept("old", 500, 10 * DAY), kept("open", 900, 20 * DAY), kept("new", 300, 29 * DAY)]


@pytest.mark.parametrize(
    ("rule", "goes"),
    [
        (RetentionRule(), []),
        (RetentionRule(older_than=30 * DAY), []),
        (RetentionRule(older_than=19 * DAY), ["old"]),
        (RetentionRule(older_than=0), ["old", "new"]),
        (RetentionRule(larger_than=1700), []),
        (RetentionRule(larger_than=1699), ["old"]),
        (RetentionRule(larger_than=1000), ["old", "new"]),
        (RetentionRule(larger_than=0), ["old", "new"]),
        (RetentionRule(older_than=19 * DAY, larger_than=1200), ["old"]),
    ],
)
def test_the_oldest_go_first_and_never_those_of_a_batch_that_is_not_over(
    rule: RetentionRule, goes: list[str]
) -> None:
    chosen = retention.choose(BATCHES, rule, 30 * DAY, lambda one: "not over" * (one.batch == "open"))
    assert [one.kept.batch for one in chosen if not one.stays] == goes
    assert all(one.why for one in chosen)


def batch(user: Shell, name: str, items: str = "a\n", command: str = LOUD) -> Path:
    """Run a batch of the project to its end; return its folder."""
    (user.cwd / ".hypervisor").mkdir(mode=0o700, exist_ok=True)
    (user.cwd / ".hypervisor/.gitignore").write_text("*\n")
    folder = user.cwd / ".hypervisor/batches" / name
    folder.mkdir(parents=True)
    (folder / "queue.txt").write_text(items)
    user.worker("--dir", str(folder), "--all", "--exec", f"sh -c '{command}; true {{}}'")
    return folder


def age(folder: Path, days: float) -> None:
    at = time.time() - days * DAY
    for path in (folder / "logs").iterdir():
        os.utime(path, (at, at))


def test_a_batch_that_is_over_is_compressed_and_its_answers_stay_the_same(user: Shell) -> None:
    folder = batch(user, "b-1")
    (log,) = (folder / "logs").iterdir()
    assert gzip.decompress(log.read_bytes()) == b"hello\n" * 1000
    assert user.hypervisor("summary", "b-1", "--json").passed().json["workers"][0]["outcome"] == "hello"
    assert "1 success" in user.hypervisor("status").passed().out


def test_switched_off_nothing_is_compressed(user: Shell) -> None:
    (user.cwd / ".hypervisor").mkdir(mode=0o700)
    (user.cwd / ".hypervisor/config.toml").write_text("[retention]\ncompress = false\n")
    folder = batch(user, "b-1")
    assert user.hypervisor("clean").code == 3
    assert [path.suffix for path in (folder / "logs").iterdir()] == [".out"]


def test_clean_says_first_and_removes_only_outputs(user: Shell) -> None:
    old, new = batch(user, "b-1"), batch(user, "b-2")
    age(old, 40)
    before = {path for path in old.rglob("*") if "logs" not in path.parts}
    words = ["clean", "--outputs", "--older-than", "30d"]
    said = user.hypervisor(*words, "--dry-run", "--json").passed().json
    (row,) = said["rows"]
    assert (row["name"], row["what"], row["why"]) == ("b-1", "would", "older than 30 days")
    assert said["bytes"] == row["bytes"] == next((old / "logs").iterdir()).stat().st_size
    assert "b-2" not in user.hypervisor(*words).passed().out
    assert list((old / "logs").iterdir()) == []
    assert {path for path in old.rglob("*") if "logs" not in path.parts} == before
    assert list((new / "logs").iterdir())
    assert user.hypervisor(*words).code == 3
    assert "1 success" in user.hypervisor("summary", "b-1").passed().out


def test_outputs_of_a_batch_that_still_runs_stay(user: Shell, tmp_path: Path) -> None:
    gate = Gate(tmp_path, "gate")
    (user.cwd / "work").mkdir()
    (user.cwd / "work/queue.txt").write_text("a\nb\n")
    command = f"""sh -c '{LOUD}; [ "$0" = a ] || ({gate.words})' {{}}"""
    running = user.start("--dir", "work", "--all", "--exec", command)
    gate.wait()
    ended = user.hypervisor("clean", "--dir", "work", "--outputs", "--larger-than", "0")
    assert ended.code == 3
    assert "kept" in ended.out
    assert "it is not over: 1 running" in ended.out
    assert len(list((user.cwd / "work/logs").glob("*.out"))) == 2
    gate.open()
    assert running.end().code == 0
    gate.close()
    assert len(list((user.cwd / "work/logs").glob("*.out.gz"))) == 2


def test_the_settings_hold_for_clean_alone(user: Shell) -> None:
    old, new = batch(user, "b-1"), batch(user, "b-2")
    age(old, 8)
    assert user.hypervisor("clean").code == 3  # nothing vanishes without a rule
    told = user.hypervisor("clean", "--outputs")
    assert told.code == 3
    assert "no output is removed without a rule" in told.err
    (user.cwd / ".hypervisor/config.toml").write_text("[retention]\noutput_days = 7\n")
    user.hypervisor("status").passed()
    user.hypervisor("doctor")
    assert list((old / "logs").iterdir())
    assert "removed    outputs b-1" in user.hypervisor("clean").passed().out
    assert list((old / "logs").iterdir()) == []
    assert list((new / "logs").iterdir())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--older-than", "30"], "30: must have a unit, like 12h, 30d or 4w"),
        (["--outputs", "--larger-than", "lots"], "lots: must be like 500M or 2G"),
        (["--older-than", "30d"], "add --outputs"),
    ],
)
def test_a_rule_that_is_none_is_refused(user: Shell, words: list[str], reason: str) -> None:
    user.hypervisor("clean", *words).refused(2, reason)


# ------------------------------------------------------------------ what the dead left


def test_drafts_and_locks_of_the_dead_go(user: Shell) -> None:
    batch(user, "b-1")
    state = user.cwd / ".hypervisor"
    write_task(user.cwd / "tasks/t-1.md")
    mark = "0123456789abcdef"
    old = [
        write(user.cwd / f"tasks/.t-1.md.{mark}.tmp", b"half", days_ago=1),
        write(state / f"batches/b-1/.summary.json.{mark}.tmp", b"{", days_ago=1),
        write(state / f"batches/b-1/.queue.txt.{mark}", b"a", days_ago=1),
        write(state / "workers/worker-1-abcd.lock", b"", days_ago=1),
    ]
    young = write(user.cwd / f"tasks/.t-2.md.{mark}.tmp", b"half")
    others = [
        write(user.cwd / "tasks/.t-1.md.swp", b"an editor's", days_ago=9),
        write(user.cwd / f"tasks/.t-1.md.{mark}", b"who knows", days_ago=9),
        write(user.cwd / f"notes/.x.md.{mark}.tmp", b"no task folder", days_ago=9),
    ]
    said = user.hypervisor("clean", "--dry-run", "--json").passed().json
    assert {row["name"] for row in said["rows"]} == {os.path.relpath(path, user.cwd) for path in old}
    assert all(path.exists() for path in old)
    user.hypervisor("clean").passed()
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in (young, *others))


def test_a_log_that_is_locked_by_somebody_else_is_no_draft(tmp_path: Path) -> None:
    draft = write(tmp_path / f".{T}~1.out.0123456789abcdef.tmp", b"half")
    with open(draft, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        outputs.compress(str(tmp_path))
        assert draft.exists()
    outputs.compress(str(tmp_path))
    assert not draft.exists()


def test_the_answer_is_one_document(user: Shell) -> None:
    batch(user, "b-1")
    told = user.hypervisor("clean", "--json")
    assert json.loads(told.out) == {"dry_run": False, "bytes": 0, "rows": []}
