"""The record of what is trusted: in the user's own state folder, used only if nobody else can write there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from hypervisor.core.errors import Refused
from hypervisor.core.project import state_folder
from hypervisor.core.trust import TrustRecord

ONE, TWO = ("command", "make test"), ("setting", 'run.sandbox = "off"')


def record(tmp_path: Path, root: str = "/project") -> TrustRecord:
    return TrustRecord.of(Path(root), {"HOME": str(tmp_path), "XDG_STATE_HOME": ""})


def test_what_was_added_is_read_back_and_forgotten(tmp_path: Path) -> None:
    assert record(tmp_path).read() == frozenset()
    record(tmp_path).add([ONE])
    record(tmp_path).add([ONE, TWO])
    assert record(tmp_path).read() == {ONE, TWO}
    assert record(tmp_path, "/other").read() == frozenset()
    assert record(tmp_path).forget()
    assert not record(tmp_path).forget()
    assert record(tmp_path).read() == frozenset()


def test_it_is_for_its_owner_only(tmp_path: Path) -> None:
    one = record(tmp_path)
    one.add([ONE])
    assert one.file is not None
    assert [oct(place.stat().st_mode & 0o777) for place in (one.file, one.file.parent)] == ["0o600", "0o700"]


def test_a_torn_line_loses_nothing_that_follows(tmp_path: Path) -> None:
    one = record(tmp_path)
    one.add([ONE])
    assert one.file is not None
    one.file.write_bytes(one.file.read_bytes() + b'{"kind": "command", "te')
    one.add([TWO])
    assert one.read() == {ONE, TWO}


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    keys = [("command", str(number)) for number in range(16)]
    started = threading.Barrier(len(keys))

    def add(key: tuple[str, str]) -> None:
        started.wait()
        record(tmp_path).add([key])

    threads = [threading.Thread(target=add, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert record(tmp_path).read() == set(keys)


@pytest.mark.parametrize("part", ["file", "folder"])
def test_a_record_that_everybody_may_write_to_is_refused(tmp_path: Path, part: str) -> None:
    one = record(tmp_path)
    one.add([ONE])
    assert one.file is not None
    place = one.file if part == "file" else one.file.parent
    place.chmod(0o777)
    with pytest.raises(
        Refused, match="everybody may write to it; `chmod o-w` it; what is trusted there is not used"
    ):
        one.read()
    with pytest.raises(Refused, match="everybody may write to it"):
        one.add([TWO])


def test_a_record_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = record(tmp_path)
    one.add([ONE])
    assert one.file is not None
    if os.geteuid() == 0:
        os.chown(one.file, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(Refused, match=r"belongs to the user with id \d+, not to you"):
        one.read()


def test_without_a_home_nothing_can_be_trusted(tmp_path: Path) -> None:
    one = TrustRecord.of(tmp_path, {})
    assert one.read() == frozenset()
    with pytest.raises(Refused, match="HOME is not set"):
        one.add([ONE])


@pytest.mark.parametrize(
    ("named", "expected"),
    [("", "/h/.local/state"), ("relative/state", "/h/.local/state"), ("/state", "/state")],
)
def test_a_relative_state_folder_is_not_used(named: str, expected: str) -> None:
    assert str(state_folder({"XDG_STATE_HOME": named, "HOME": "/h"})) == expected
