"""Bad input, row by row: one reason in one line, the file as it was, and the next item goes on."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from commands import BATCH_WORKER, Ended, Shell, eventually, result_of, results, tree, write_task
from inprocess import in_process

FINE = "---\nid: {id}\nstatus: active\ncomplexity: mechanical\nassignee: bot\n---\n# Fix typo\n"


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    with in_process(tmp_path) as made:
        yield made


# --------------------------------------------------------------- files as items

#: Content of a file, and the reason that its result bears.
CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no frontmatter (the first line is not ---)"),
    "blank": (b"\n\n", "no frontmatter (the first line is not ---)"),
    "no frontmatter": (b"# Only a heading\n", "no frontmatter (the first line is not ---)"),
    "not at the top": (b"\n---\nid: x\n---\n", "no frontmatter (the first line is not ---)"),
    "never ended": (b"---\nid: x\nstatus: active\n", "no frontmatter (no line --- ends it)"),
    "bad yaml": (b"---\nid: x\ntitle: [a\n---\n", "bad yaml (4:1 while parsing a flow sequence: "),
    "two colons": (b"---\ntitle: Fix: the thing\n---\n", "bad yaml (2:11 mapping values are not allowed"),
    "tab": (b"---\nid: x\n\tstatus: active\n---\n", "bad yaml (3:1 "),
    "a list": (b"---\n- a\n- b\n---\n", "not a mapping (sequence at 2:1)"),
    "a word": (b"---\nword\n---\n", "not a mapping (scalar at 2:1)"),
    "latin-1": ("---\nid: x\ntitle: Bücher\n---\n".encode("latin-1"), "not utf-8 (byte 18)"),
    "utf-16": ("---\nid: x\n---\n".encode("utf-16"), "not utf-8 (byte 0)"),
    "nul": (b"---\nid: x\ntitle: a\0b\n---\n", "bad yaml (3:9 control character U+0000)"),
    "too large": (
        b"---\nid: x\n---\n" + b"x" * 2_000_000,
        "too large (2,000,014 bytes; `tasks.max_bytes` allows 2,000,000)",
    ),
    "deep flow": (b"---\nid: x\nx: " + b"[" * 5000 + b"]" * 5000 + b"\n---\n", "nested too deeply)"),
    "deep block": (
        b"---\n" + b"".join(b" " * n + b"k:\n" for n in range(100)) + b"---\n", "nested too deeply)"
    ),
    "unclosed deep": (b"---\nx: " + b"[" * 20000 + b"\n---\n", "bad yaml ("),
    "alias bomb": (
        b"---\na: &a [x, x]\n" + b"".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n".encode() for n in range(20)
        ) + b"---\n", "more than 16 aliases)",
    ),
    "alias to itself": (b"---\na: &a [*a]\n---\n", "alias to a value that it is part of)"),
    "unknown alias": (b"---\na: *none\n---\n", "bad yaml (2:4 "),
    "duplicate keys": (
        b"---\nid: x\nstatus: active\nid: y\n---\n", "bad yaml (4:1 key `id` stands twice, in lines 2 and 4)"
    ),
    "a tag": (b"---\nid: !!python/object/apply:os.system [exit]\n---\n", "bad yaml (2:5 "),
    "a key that is a list": (b"---\n[a, b]: c\n---\n", "bad yaml (2:1 key that is not a word)"),
}  # fmt: skip


@dataclass(slots=True)
class Table:
    """One run over a queue of all rows."""

    ended: Ended
    folder: Path
    before: dict[str, str]
    after: dict[str, str]
    items: dict[str, bytes] = field(default_factory=dict)

    def row(self, name: str) -> tuple[str, str]:
        """Return status and outcome of a row."""
        result = result_of(self.folder, os.fsdecode(self.items[name]))
        return result["status"], result["outcome"]


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for name in os.listdir(os.fsencode(folder)):
        path = os.path.join(os.fsencode(folder), name)
        if os.path.isfile(path) and not os.path.islink(path):
            with open(path, "rb") as file:
                found[os.fsdecode(name)] = hashlib.sha256(file.read()).hexdigest()
    return found


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    """Run triage once over files of every kind, and over names of every kind."""
    base = tmp_path_factory.mktemp("bad")
    with in_process(base) as user:
        files = user.cwd / "files"
        files.mkdir()
        items: dict[str, bytes] = {}
        for name, (content, _) in CONTENTS.items():
            (files / f"{name}.md").write_bytes(content)
            items[name] = f"files/{name}.md".encode()
        (files / "folder.md").mkdir()
        os.mkfifo(files / "fifo.md")
        (files / "loop.md").symlink_to("loop.md")
        (files / "dangling.md").symlink_to("nowhere.md")
        (files / "zero.md").symlink_to("/dev/zero")
        items |= {
            name: f"files/{name}.md".encode()
            for name in ("folder", "fifo", "loop", "dangling", "zero", "missing")
        }
        items["below a file"] = b"files/empty.md/t.md"
        items["device"] = b"/dev/zero"
        items["long name"] = b"files/" + b"n" * 300 + b".md"
        items["newline missing"] = b"files/a\nb\nc.md"
        # Names that are unusual and nothing else.
        fine = {
            "spaces": b" lead and trail .md", "newline": b"two\nlines.md",
            "unicode": "Bücher 図書館.md".encode(), "not utf-8": b"caf\xe9.md", "dash": b"--all.md",
            "quote": b"it's \"x\" $(y) `z` {}.md", "cr": b"cr.md\r", "tab": b"a\tb.md",
            "escape": b"\x1b[31mred.md",
            "255 bytes": b"n" * 252 + b".md",
        }  # fmt: skip
        for name, file_name in fine.items():
            with open(os.path.join(os.fsencode(files), file_name), "wb") as file:
                file.write(FINE.format(id=name).encode())
            items[f"fine: {name}"] = b"files/" + file_name
        items["fine: up"] = b"files/../files/../../here/files/up.md"
        items["fine: absolute"] = os.fsencode(files / "absolute.md")
        for name in ("up", "absolute"):
            (files / f"{name}.md").write_text(FINE.format(id=name))
        before = _digests(files)
        (user.cwd / "work").mkdir()
        ended = user.worker(
            "--dir", "work", "--queue", "-", "-0", "--all", stdin=b"\0".join(items.values()), timeout=60
        )
        yield Table(ended, user.cwd / "work", before, _digests(files), items)


def test_a_queue_full_of_bad_files_is_worked_through(table: Table) -> None:
    assert table.ended.code == 1
    assert [line[:15] for line in table.ended.err.splitlines()] == ["triage assigns "]
    assert len(results(table.folder)) == len(table.items)
    assert "IS NOT" not in table.ended.out
    assert all(result["attempt"] == 1 for result in results(table.folder))


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_cannot_be_read_fails_with_the_reason(table: Table, name: str) -> None:
    status, outcome = table.row(name)
    assert status == "failed"
    assert CONTENTS[name][1] in outcome
    assert "\n" not in outcome
    assert "Traceback" not in outcome


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "missing"),
        ("dangling", "missing"),
        ("below a file", "missing"),
        ("newline missing", "missing"),
        ("folder", "not a file"),
        ("fifo", "not a file"),
        ("zero", "not a file"),
        ("device", "not a file"),
        ("loop", "not a file (a link that leads to itself)"),
        ("long name", "path too long ("),
    ],
)
def test_what_is_no_file_fails_with_the_reason(table: Table, name: str, reason: str) -> None:
    status, outcome = table.row(name)
    assert status == "failed"
    assert outcome.startswith(reason) if reason.endswith("(") else outcome == reason


@pytest.mark.parametrize(
    "name",
    ["spaces", "newline", "unicode", "not utf-8", "dash", "quote", "cr", "tab", "escape", "255 bytes", "up",
     "absolute"],
)  # fmt: skip
def test_an_unusual_name_is_no_fault(table: Table, name: str) -> None:
    status, outcome = table.row(f"fine: {name}")
    assert status == "success"
    assert outcome == "nothing to change"


def test_a_path_of_more_than_4096_bytes_fails_and_the_next_goes_on(user: Shell) -> None:
    folder = user.cwd / "work"
    folder.mkdir()
    write_task(user.cwd / "fine.md")
    for depth in (19, 20, 21):
        with open(folder / "queue.txt", "a") as queue:
            queue.write("/".join(["d" * 200] * depth) + "/t.md\n")
    with open(folder / "queue.txt", "a") as queue:
        queue.write("fine.md\n")
    ended = user.worker("--dir", "work", "--all")
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    outcomes = [result["outcome"] for result in results(folder) if result["status"] == "failed"]
    assert len(outcomes) == 3
    assert all(text == "missing" or text.startswith("path too long (4,") for text in outcomes)
    assert result_of(folder, "fine.md")["status"] == "success"


def test_no_file_was_touched(table: Table) -> None:
    assert table.before == table.after


def test_what_is_told_of_an_item_is_one_printable_line(table: Table) -> None:
    told = [line for line in table.ended.out.split("\n") if line[:8].strip() in ("success", "failed")]
    assert len(told) == len(table.items)
    assert "\x1b" not in table.ended.out
    assert "\r" not in table.ended.out
    assert all(len(line) < 500 for line in told)


def test_bad_files_do_not_stop_a_look_at_tasks(user: Shell) -> None:
    for name, (content, _) in CONTENTS.items():
        path = user.cwd / "tasks" / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    write_task(user.cwd / "tasks/t-1.md")
    listed = user.hypervisor("task", "list", "--ready").passed()
    assert listed.lines[1].startswith("t-1  ")
    plan = user.hypervisor("preflight", "--all", "--json").passed().json
    assert plan["run"] == ["t-1"]
    assert len(plan["unreadable"]) == len(CONTENTS)


# ------------------------------------------------------------------ queue lines


def test_lines_that_say_the_same_or_nothing_cost_nothing(user: Shell) -> None:
    write_task(user.cwd / "a.md")
    folder = user.cwd / "work"
    folder.mkdir()
    (folder / "queue.txt").write_text(f"a.md\n\n   \n./a.md\n\t\na.md\n{user.cwd}/a.md\n\n")
    user.worker("--dir", "work", "--all").passed()
    told = user.worker("--dir", "work", "--stats", "--json").passed().json
    assert (told["queue_total"], told["success"], told["duplicates"]) == (1, 1, 3)


def test_a_queue_of_a_dos_program_says_what_is_wrong(user: Shell) -> None:
    write_task(user.cwd / "a.md")
    folder = user.cwd / "work"
    folder.mkdir()
    (folder / "queue.txt").write_bytes(b"a.md\r\n")
    assert user.worker("--dir", "work", "--all").code == 1
    (result,) = results(folder)
    assert result["item"] == "a.md\r"
    assert result["outcome"] == (
        "missing (the queue's line ends in a carriage return; save it with plain newlines)"
    )


def test_blanks_around_a_line_belong_to_the_item(user: Shell) -> None:
    folder = user.cwd / "work"
    folder.mkdir()
    (folder / "queue.txt").write_text(" a \nb c\n")
    user.worker("--dir", "work", "--all", "--exec", "printf <%s> {}").passed()
    assert [result["outcome"] for result in results(folder)] == ["< a >", "<b c>"]


def test_a_comment_is_an_item_like_any_other(user: Shell) -> None:
    folder = user.cwd / "work"
    folder.mkdir()
    (folder / "queue.txt").write_text("# not a comment\n")
    user.worker("--dir", "work", "--all", "--exec", "true").passed()
    assert results(folder)[0]["item"] == "# not a comment"


@pytest.mark.parametrize(
    "line",
    [
        b"a\0b",
        b"x\0y/c.md",
        b"\0.md",
        b"a\0b.md",
    ],
)
def test_a_line_with_a_nul_in_it_fails_and_the_next_goes_on(user: Shell, line: bytes) -> None:
    folder = user.cwd / "work"
    folder.mkdir()
    (folder / "queue.txt").write_bytes(line + b"\nfine\n")
    ended = user.worker("--dir", "work", "--all", "--exec", "true")
    assert "Traceback" not in ended.err
    assert ended.code == 1
    assert sorted(result["status"] for result in results(folder)) == ["failed", "success"]
    failed = next(result for result in results(folder) if result["status"] == "failed")
    assert failed["outcome"] == "the item holds a NUL: no command can be given it"


def test_a_queue_of_garbage_is_worked_through(user: Shell) -> None:
    folder = user.cwd / "work"
    folder.mkdir()
    (folder / "queue.txt").write_bytes(bytes(range(256)) * 4)
    ended = user.worker("--dir", "work", "--all")
    assert ended.code == 1
    assert "Traceback" not in ended.err
    user.worker("--dir", "work", "--stats").passed()


def test_an_item_that_is_longer_than_a_command_may_be_fails(user: Shell) -> None:
    folder = user.cwd / "work"
    folder.mkdir()
    (folder / "queue.txt").write_bytes(b"x" * 300_000 + b"\n")
    assert user.worker("--dir", "work", "--all", "--exec", "true").code == 1
    assert results(folder)[0]["outcome"] == "the item is too long for a command: Argument list too long"


def test_a_file_that_may_not_be_read_fails_with_the_reason(user: Shell) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything; see the test of a user without rights")
    path = write_task(user.cwd / "a.md")
    path.chmod(0)
    folder = user.cwd / "work"
    folder.mkdir()
    (folder / "queue.txt").write_text("a.md\n")
    assert user.worker("--dir", "work", "--all").code == 1
    assert results(folder)[0]["outcome"] == "no access"


def _as_nobody(user: Shell, *words: str) -> Ended:
    """Run ``batch_worker.py`` as a user without rights, from a copy of it that they may read."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to become somebody else")
    # The checkout and the interpreter may lie in a folder of root's own: by descriptor and by name
    # nothing of them is to be seen then.
    look = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c",
         "import psutil, yaml, sys; open(sys.argv[1]).close()", BATCH_WORKER[1]],
        capture_output=True, env=user.environment, check=False,
    )  # fmt: skip
    if look.returncode:
        pytest.skip("this checkout or its Python is not to be read by others")
    return user.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *BATCH_WORKER, *words]
    )


@pytest.fixture
def open_user(user: Shell) -> Shell:
    """Give a user whose folders others may enter."""
    for folder in (user.cwd, *user.cwd.parents):
        if folder.owner() == "root" and str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    for folder in (user.cwd, user.home):
        folder.chmod(0o777)
    return user


def test_without_rights_a_file_fails_and_is_left(open_user: Shell) -> None:
    path = write_task(open_user.cwd / "a.md")
    path.chmod(0)
    folder = open_user.cwd / "work"
    folder.mkdir()
    (folder / "queue.txt").write_text("a.md\n")
    folder.chmod(0o777)
    assert _as_nobody(open_user, "--dir", "work", "--all").code == 1
    assert results(folder)[0]["outcome"] == "no access"


def test_a_folder_that_may_not_be_written_is_one_line(open_user: Shell) -> None:
    folder = open_user.cwd / "work"
    folder.mkdir()
    (folder / "queue.txt").write_text("a\n")
    folder.chmod(0o555)
    ended = _as_nobody(open_user, "--dir", "work", "--all", "--exec", "true")
    ended.refused(1, str(folder), "Permission denied", "check the permissions")


# ---------------------------------------------------------------- wrong options

WRONG: dict[str, tuple[list[str], list[str]]] = {
    "no amount": (["--dir", "work"], ["say how much: --batch N, --all or --stats"]),
    "both amounts": (["--dir", "work", "--batch", "1", "--all"], ["not allowed with argument"]),
    "negative": (["--dir", "work", "--batch=-1"], ["--batch -1: must be 1 or more"]),
    "zero": (["--dir", "work", "--batch", "0"], ["--batch 0: must be 1 or more"]),
    "no number": (["--dir", "work", "--batch", "many"], ["--batch: invalid int value: 'many'"]),
    "no workers": (["--dir", "work", "--all", "--workers", "0"], ["--workers 0: must be 1 or more"]),
    "timeout 0": (["--dir", "work", "--all", "--timeout", "0"], ["--timeout 0: must be more than 0 seconds"]),
    "timeout nan": (["--dir", "work", "--all", "--timeout", "nan"], ["--timeout: nan: must be a time like"]),
    "lease 0": (["--dir", "work", "--all", "--lease", "0"], ["--lease 0: must be more than 0 seconds"]),
    "retries": (["--dir", "work", "--all", "--retries=-1"], ["--retries -1: must be 0 or more"]),
    "unknown option": (["--dir", "work", "--all", "--wrokers", "2"], ["--wrokers"]),
    "abbreviation": (["--dir", "work", "--al"], ["--al"]),
    "a word too many": (["work", "--all"], ["work"]),
    "unknown folder": (["--dir", "none", "--all"], ["none: no such folder; make it and put a queue.txt"]),
    "no queue": (["--dir", "bare", "--all"], ["bare/queue.txt: no such queue; write one item a line"]),
    "no queue file": (["--dir", "bare", "--queue", "none", "--all"], ["--queue none: no such file"]),
    "queue is a folder": (["--dir", "odd", "--all"], ["odd/queue.txt: no such queue"]),
    "folder is a file": (["--dir", "file", "--all"], ["file: no such folder"]),
    "nothing here": (["--all"], ["no queue here", "has no queue.txt", "name --dir or --tasks"]),
    "queue without folder": (["--queue", "file", "--all"], ["--queue needs --dir D"]),
    "items without folder": (["--queue", "-", "--all"], ["--queue - needs --dir D"]),
    "two queues": (["--dir", "work", "--tasks", "*.md", "--all"], ["--dir and --tasks name two"]),
    "stats of tasks": (["--tasks", "*.md", "--stats"], ["--stats shows a batch"]),
    "bad quoting": (["--dir", "work", "--all", "--exec", "cat 'x"], ["No closing quotation; quote it"]),
    "empty command": (["--dir", "work", "--all", "--exec", "  "], ["--exec is empty; name a command"]),
    "nul for lines": (["--dir", "begun", "--all", "-0"], ["was begun with items a line each; omit -0"]),
    "queue is gone": (["--dir", "gone", "--all"], ["gone/queue.txt: the batch's queue is gone; put it back"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with in_process(tmp_path_factory.mktemp("wrong")) as user:
        for name in ("work", "bare", "odd/queue.txt", "begun", "gone"):
            (user.cwd / name).mkdir(parents=True)
        (user.cwd / "file").write_text("")
        for name in ("work", "begun", "gone"):
            (user.cwd / name / "queue.txt").write_text("a\n")
        for name in ("begun", "gone"):
            user.worker("--dir", name, "--all", "--exec", "true").passed()
        (user.cwd / "gone/queue.txt").unlink()
        yield user


@pytest.mark.parametrize("name", WRONG)
def test_wrong_words_are_one_line_that_says_what_to_do(folders: Shell, name: str) -> None:
    words, reasons = WRONG[name]
    before = _files(folders.cwd)
    folders.worker(*words).refused(2, *reasons)
    assert _files(folders.cwd) == before


def _files(folder: Path) -> dict[str, str]:
    """Return the files below *folder*, but for those of databases."""
    return {
        name: what for name, what in tree(folder).items()
        if (folder / name).is_file() and "hypervisor.db" not in name
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "reasons"),
    [
        (["frobnicate"], 2, ["'frobnicate'"]),
        (["summary", "none"], 2, ["none: no such batch in", "see `hypervisor status`"]),
        (["summary", "../x"], 2, ["../x: no such batch"]),
        (["summary", "x", "--dir", "work"], 2, ["x and --dir work name two batches"]),
        (["summary"], 2, ["has no batch; try: hypervisor summary --dir begun; hypervisor summary --dir"]),
        (["cancel", "--dir", "work"], 2, ["say which: --item ITEM, or --all"]),
        (["cancel", "--dir", "work", "--item", "zzz"], 1, ["not in batch work: zzz"]),
        (["task", "show", "none"], 2, ["none: no such task in", "see `hypervisor task list`"]),
        (["task", "claim", "none"], 2, ["none: no such task"]),
        (["task", "update", "none"], 2, ["say what to change"]),
        (["task", "update", "none", "--priority", "soon"], 2, ["priority soon: must be one of critical"]),
        (["task", "complete", "none"], 2, ["none: no such task"]),
        (["task", "receipt", "none", " "], 2, ["the receipt is empty"]),
        (["preflight"], 2, ["say which tasks: IDs, --all or --parent ID"]),
    ],
)  # fmt: skip
def test_wrong_words_to_hypervisor_are_one_line(
    folders: Shell, words: list[str], code: int, reasons: list[str]
) -> None:
    folders.hypervisor(*words).refused(code, *reasons)


# -------------------------------------------------------------------- settings

SETTINGS: dict[str, tuple[bytes, list[str]]] = {
    "not toml": (b"[claims\n", ["config.toml", "line 1"]),
    "not utf-8": (b"# caf\xe9\n", ["config.toml: not UTF-8 at byte 5; save it as UTF-8"]),
    "unknown key": (b"[claims]\nattempt = 3\n", ["no setting `claims.attempt`; did you mean `attempts`?"]),
    "unknown table": (b"[zzz]\nx = 1\n", ["there is no setting `zzz`; known here: claims, "]),
    "wrong type": (b'[claims]\nattempts = "3"\n', ["`claims.attempts` must be a number, not a string"]),
    "no table": (b"claims = 3\n", ["`claims` must be a table, not a number"]),
    "a table": (b"[tasks.globs]\nx = 1\n", ["`tasks.globs` must be a list, not a table"]),
    "true": (b"[claims]\nattempts = true\n", ["`claims.attempts` must be a number, not true or false"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_cannot_be_understood_are_one_line(user: Shell, name: str) -> None:
    content, reasons = SETTINGS[name]
    path = write_task(user.cwd / "tasks/t-1.md")
    state = user.cwd / ".hypervisor"
    state.mkdir(mode=0o700)
    (state / "config.toml").write_bytes(content)
    before = path.read_bytes()
    user.worker("--tasks", "tasks/*.md", "--all").refused(2, *reasons)
    user.hypervisor("task", "claim", "t-1", "--caller", "claude").refused(2, *reasons)
    found = user.hypervisor("doctor", "--json").json
    (finding,) = [one for one in found if one["check"] == "settings"]
    assert not finding["ok"]
    for reason in reasons:
        assert reason in finding["text"]
    assert path.read_bytes() == before
    assert os.listdir(state) == ["config.toml"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("[claims]\nlease_seconds = 0\n", "claims.lease_seconds"),
        ("[claims]\nattempts = 0\n", "claims.attempts"),
    ],
)
def test_figures_that_make_no_sense_are_refused(user: Shell, settings: str, reason: str) -> None:
    write_task(user.cwd / "tasks/t-1.md")
    state = user.cwd / ".hypervisor"
    state.mkdir(mode=0o700)
    (state / "config.toml").write_text(settings)
    user.hypervisor("task", "claim", "t-1", "--caller", "claude").refused(2, reason)


# ---------------------------------------------------------- odd files in the folder


def test_a_fifo_as_queue_is_no_queue(user: Shell) -> None:
    folder = user.cwd / "work"
    folder.mkdir()
    os.mkfifo(folder / "queue.txt")
    running = user.start("--dir", "work", "--all")
    running.end(seconds=20).refused(2, "queue.txt: no such queue")
    eventually(lambda: running.process.poll() is not None, "its end")


def test_a_database_that_is_damaged_is_told_and_nothing_is_done_again(user: Shell) -> None:
    folder = user.cwd / "work"
    folder.mkdir()
    (folder / "queue.txt").write_text("a\n")
    user.worker("--dir", "work", "--all", "--exec", "true").passed()
    for content in (b"{" * 5000, b"\xff" * 100_000):
        (folder / "hypervisor.db").write_bytes(content)
        for words in (["--stats"], ["--all", "--exec", "false"]):
            ended = user.worker("--dir", "work", *words)
            ended.refused(1, "hypervisor.db: the database is damaged", "move it away")
        assert (folder / "hypervisor.db").read_bytes() == content
