"""How many workers a session runs: each counted once from its request to its end, in whatever order."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import pytest

from hypervisor.crowd import Crowd
from hypervisor.sessions import Session

#: After which an agent of which nothing was heard counts no more.
SILENCE = 900.0
ODD = ["../../x", "a/b", ".hidden", "", "a.b", "x" * 500, "é", "a\nb", "\ud800", "unknown"]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "outer/.hypervisor", "s-1")


@pytest.fixture
def crowd(session: Session) -> Crowd:
    return Crowd(session, SILENCE)


def ask(crowd: Crowd, *uses: str) -> None:
    for use in uses:
        with crowd.counted():
            crowd.ask(use)


def age(folder: Path, seconds: float) -> None:
    """Make everything in *folder* as if it had been touched that much earlier."""
    for path in folder.iterdir():
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def test_nobody_runs_in_a_session_of_which_nothing_is_known(session: Session, crowd: Crowd) -> None:
    assert crowd.running() == 0
    assert crowd.of_main() == []
    crowd.seen("a1")
    crowd.ended("a1")
    assert not session.folder.exists()


def test_a_request_counts_until_its_agent_ends(crowd: Crowd) -> None:
    ask(crowd, "u1", "u2")
    assert crowd.running() == 2
    crowd.started("a1")
    assert crowd.running() == 2
    crowd.started("a1", "u1", of_main=True)
    assert crowd.running() == 2
    crowd.ended("a1")
    assert crowd.running() == 1
    crowd.started("a2")
    crowd.ended("a2")
    crowd.ended("a2")
    assert crowd.running() == 0


def test_an_answer_that_comes_after_the_agents_end_brings_it_not_back(crowd: Crowd) -> None:
    ask(crowd, "u1", "u2")
    crowd.started("a1")
    crowd.ended("a1")
    crowd.started("a1", "u1", of_main=True)  # the launch is told late, on a busy machine
    assert crowd.running() == 1
    crowd.started("a2")
    assert crowd.running() == 1
    assert crowd.of_main() == []


def test_an_agent_that_is_woken_again_counts_again(crowd: Crowd) -> None:
    ask(crowd, "u1")
    crowd.started("a1")
    crowd.ended("a1")
    crowd.started("a1")
    assert crowd.running() == 1


def test_the_same_request_twice_is_one(crowd: Crowd) -> None:
    ask(crowd, "u1", "u1")
    assert crowd.running() == 1


def test_an_agent_that_nobody_asked_for_counts_as_well(crowd: Crowd) -> None:
    crowd.started("a1")
    crowd.started("a2", "u-unknown", of_main=True)
    assert crowd.running() == 2


def _orders(count: int) -> list[tuple[str, ...]]:
    """Return every order in which *count* background agents start, and their launches are answered."""
    return list(itertools.permutations([f"{what}{n}" for n in range(count) for what in ("start", "answer")]))


def test_in_whatever_order_agents_start_and_launches_are_answered_each_counts_once(tmp_path: Path) -> None:
    # The client gives no order: an answer may come before the start, and starts name no request.
    wrong = []
    for number, order in enumerate(_orders(3)):
        crowd = Crowd(Session(tmp_path / str(number), "s-1"), SILENCE)
        ask(crowd, "u0", "u1", "u2")
        counts = []
        for event in order:
            agent = f"a{event[-1]}"
            if event.startswith("start"):
                crowd.started(agent)
            else:
                crowd.started(agent, f"u{event[-1]}", of_main=True)
            counts.append(crowd.running())
        if counts != [3] * 6 or sorted(crowd.of_main()) != ["a0", "a1", "a2"]:
            wrong.append((order, counts))
    assert wrong == []


def test_a_request_that_came_to_nothing_frees_its_place(session: Session, crowd: Crowd) -> None:
    ask(crowd, "u1")
    age(session.folder / ".asked", 29)
    assert crowd.running() == 1
    ask(crowd, "u2")
    age(session.folder / ".asked", 2)
    assert crowd.running() == 1
    # The place of a request that is over is not given on: the agent takes that of the other.
    crowd.started("a2")
    assert crowd.running() == 1


def test_an_agent_that_is_silent_for_long_counts_no_more_until_it_is_seen(
    session: Session, crowd: Crowd
) -> None:
    crowd.started("a1")
    age(session.folder / ".running", SILENCE - 5)
    assert crowd.running() == 1
    crowd.seen("a1")
    age(session.folder / ".running", SILENCE - 5)
    assert crowd.running() == 1
    age(session.folder / ".running", 10)
    assert crowd.running() == 0
    crowd.seen("a1")
    assert crowd.running() == 1


def test_a_sign_of_life_of_somebody_else_counts_nobody(crowd: Crowd) -> None:
    crowd.started("a1")
    crowd.seen("main")
    crowd.seen("a9")
    assert crowd.running() == 1


def test_only_the_agents_that_main_put_into_the_background_are_mains(crowd: Crowd) -> None:
    crowd.started("b1", "u1", of_main=True)
    crowd.started("b2")
    crowd.started("b2", "u2", of_main=True)
    crowd.started("b3")
    crowd.started("nested", "u3")
    crowd.started("b1")  # the client says so once more
    assert sorted(crowd.of_main()) == ["b1", "b2"]
    crowd.ended("b1")
    assert crowd.of_main() == ["b2"]


def test_an_agent_of_main_that_is_silent_is_still_mains(session: Session, crowd: Crowd) -> None:
    crowd.started("b1", of_main=True)
    age(session.folder / ".running", SILENCE * 2)
    assert crowd.of_main() == ["b1"]


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_an_odd_name_stays_in_the_folder_of_its_session(tmp_path: Path, name: str) -> None:
    session = Session(tmp_path / "outer/.hypervisor", name)
    crowd = Crowd(session, SILENCE)
    ask(crowd, name)
    crowd.started(name, name, of_main=True)
    crowd.seen(name)
    assert crowd.running() == 1
    assert len(crowd.of_main()) == 1
    assert os.listdir(tmp_path) == ["outer"]
    assert os.listdir(tmp_path / "outer") == [".hypervisor"]
    assert os.listdir(tmp_path / "outer/.hypervisor") == ["sessions"]
    assert os.listdir(tmp_path / "outer/.hypervisor/sessions") == [session.folder.name]
    assert sorted(os.listdir(session.folder)) == [".asked", ".running"]
    crowd.ended(name)
    assert crowd.running() == 0


def test_two_sessions_do_not_count_each_others_workers(tmp_path: Path) -> None:
    one, other = (Crowd(Session(tmp_path, name), SILENCE) for name in ("s-1", "s-2"))
    ask(one, "u1")
    one.started("a1", "u1")
    ask(one, "u2")
    assert (one.running(), other.running()) == (2, 0)


def test_of_many_who_count_at_once_only_as_many_get_a_place_as_there_are(session: Session) -> None:
    got: list[int] = []
    ready = threading.Barrier(20)

    def request(number: int) -> None:
        crowd = Crowd(session, SILENCE)
        ready.wait(20)
        with crowd.counted() as running:
            if running < 8:
                crowd.ask(f"u{number}")
                got.append(number)

    threads = [threading.Thread(target=request, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(got) == 8
    assert Crowd(session, SILENCE).running() == 8
