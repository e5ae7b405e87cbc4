"""The end of a log: found packed, cut or in parts, never more than its share, never another file's."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

from hypervisor.report import logtail
from hypervisor.report.activity import log_stem


def test_the_end_of_a_log_is_found_packed_cut_or_in_parts(tmp_path: Path) -> None:
    stem = str(tmp_path / "one")
    (tmp_path / "one.err").write_text("".join(f"line {n}\n" for n in range(100)), "utf-8")
    (tmp_path / "one.out").write_text("part 0\n", "utf-8")
    (tmp_path / "one.out.1.gz").write_bytes(gzip.compress(b"part 1\n"))
    error, out = logtail.tails(stem)
    assert error.text.split("\n") == [f"line {n}" for n in range(40, 100)]
    assert error.cut
    assert (out.name, out.text, out.cut) == ("one.out.1.gz", "part 1", False)


def test_a_log_is_never_more_than_its_share(tmp_path: Path) -> None:
    (tmp_path / "one.out").write_bytes(b"y" * 500_000)
    (tmp_path / "one.err.gz").write_bytes(gzip.compress(b"z" * 500_000))
    for tail in logtail.tails(str(tmp_path / "one"), 1000):
        assert len(tail.text) <= 500
        assert tail.cut


def test_what_is_no_plain_file_is_no_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "one.out")
    (tmp_path / "secret").write_text("secret", "utf-8")
    (tmp_path / "one.err").symlink_to(tmp_path / "secret")
    (tmp_path / "two.out.gz").write_bytes(b"not packed")
    assert logtail.tails(str(tmp_path / "one")) == []
    assert logtail.tails(str(tmp_path / "two")) == []
    assert logtail.tails(str(tmp_path / "none")) == []


def test_a_log_lies_below_the_batch_only() -> None:
    assert log_stem("/b", "logs/a-1") == "/b/logs/a-1"
    assert log_stem("/b", "/b/logs/a-1") == "/b/logs/a-1"
    for elsewhere in ("../secret", "logs/../../secret", "/etc/passwd", "/bad/logs", ""):
        assert log_stem("/b", elsewhere) == ""
