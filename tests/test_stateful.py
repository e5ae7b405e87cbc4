"""Whatever several workers do to a store, in whatever order, it does what a page of model says it does.

Hypothesis draws the acts. After each one the plain files are held against I1 - I5, and what everybody was
told against I6 and I7. ``STATEFUL=deep`` looks for long; with ``CI`` the same acts are drawn each time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from choreography import Died, Steps, World, abandon
from faults import broken_invariants, claims_of, end_of, owner_of, results_of, scratch
from hypervisor.claims.directory import DirectoryStore
from hypervisor.claims.port import Busy, Claim, Done, HolderKind, ItemState
from hypervisor.core.errors import ClaimLost
from hypervisor.core.keys import life_key
from hypervisor.core.machine import Identity, this_process

ATTEMPTS = 3
_LEASE = 900.0
_ITEMS = ("ann", "bob")
_WORDS = ("success", "failed", "skipped", "blocked")


@dataclass(slots=True)
class Worker:
    """One process that claims, and what others can know of its life."""

    store: DirectoryStore
    steps: Steps
    kind: HolderKind
    #: Which machine it runs on, as far as the claims say.
    boot: str
    #: Whether it watches silence by its own clock, which stands still here.
    patient: bool
    dead: bool = False


@dataclass(slots=True)
class Generation:
    """One claim of one life."""

    worker: Worker
    #: "" where nobody has signed.
    token: str
    how: Literal["open", "revoked", "released", "done"] = "open"
    counted: bool = False
    #: Whether its heartbeat is older than any lease.
    silent: bool = False
    note: bool = False

    def gone(self, viewer: Worker) -> bool:
        """Tell whether *viewer* would take over."""
        owner = self.worker
        if not self.token and owner.kind is HolderKind.PROCESS:
            return owner.dead  # known by the intent
        if self.token and owner.kind is HolderKind.SESSION and owner.boot == viewer.boot:
            return True  # this machine's only session has no client any more
        if self.token and owner.kind is HolderKind.PROCESS and owner.boot == viewer.boot:
            return owner.dead
        return self.silent and not viewer.patient


@dataclass(slots=True)
class Life:
    """What must be so of one life of an item."""

    generations: list[Generation] = field(default_factory=list)
    #: The token that won; "?" where only the winner's worker knows it.
    winner: str = ""
    status: str = ""

    @property
    def last(self) -> Generation | None:
        return self.generations[-1] if self.generations else None

    @property
    def spent(self) -> int:
        return sum(one.how in ("revoked", "released") and one.counted for one in self.generations)


class Store(RuleBasedStateMachine):
    """Workers of four kinds on a real store, beside the model."""

    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = scratch()
        self.world = World(str(self.folder / "store"))
        self.workers: dict[str, Worker] = {}
        self.lives: dict[str, Life] = {}
        self.current = dict.fromkeys(_ITEMS, 1)
        self.results: dict[str, bytes] = {}
        self.accepted: dict[str, set[str]] = {}
        self.lost: set[str] = set()

    def teardown(self) -> None:
        for worker in self.workers.values():
            if not worker.dead:
                worker.store.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @initialize()
    def begin(self) -> None:
        for name in ("one", "two", "patient", "agent", "session", "foreign"):
            self._open(name)

    def _open(self, name: str) -> None:
        here: Identity | None = None
        if name == "session":  # a client that is gone
            here = replace(this_process(), start="0")
        if name == "foreign":
            here = replace(this_process(), host="elsewhere", boot="another")
        kinds = {"agent": HolderKind.LEASE, "session": HolderKind.SESSION}
        kind, patient, steps = kinds.get(name, HolderKind.PROCESS), name == "patient", Steps()
        store = self.world.open(
            name, files=steps, kind=kind, lease_seconds=_LEASE, here=here, patient=patient, attempts=ATTEMPTS
        )
        store._judge.monotonic = lambda: 0.0
        boot = "another" if name == "foreign" else "this"
        self.workers[name] = Worker(store, steps, kind, boot, patient)

    # ---------------------------------------------------------------- the model's moves

    def key(self, item: str) -> str:
        """Return the life of *item* that is worked on."""
        return life_key(item, self.current[item])

    def life(self, key: str) -> Life:
        return self.lives.setdefault(key, Life())

    def win(self, life: Life, token: str, status: str) -> None:
        life.winner, life.status = token, status
        life.generations.clear()  # collected

    def settle(self, life: Life, viewer: Worker) -> str:
        """Do what whoever looks does on the way; return ``done``, ``busy`` or ``free``."""
        last = life.last
        if life.winner:
            return "done"
        if last is None:
            return "free"
        if last.how == "done":
            self.win(life, last.token, "")
            return "done"
        if last.how == "open":
            if not last.gone(viewer):
                return "busy"
            last.how, last.counted = "revoked", True
        return "free"

    # ------------------------------------------------------------------------- rules

    names = st.sampled_from(("one", "two", "patient", "agent", "session", "foreign"))
    items = st.sampled_from(_ITEMS)

    @rule(target=claims, name=names, item=items)
    def claim(self, name: str, item: str) -> Claim | MultipleResults[Claim]:
        return self._claim(self.workers[name], self.key(item), item)

    def _claim(self, worker: Worker, key: str, item: str) -> Claim | MultipleResults[Claim]:
        life = self.life(key)
        expected = self.settle(life, worker)
        answer = worker.store.claim(key, item)
        if expected == "busy":
            assert isinstance(answer, Busy), answer
            return multiple()
        if expected == "done":
            assert isinstance(answer, Done), answer
            assert not answer.given_up
            return multiple()
        if life.spent >= ATTEMPTS:
            assert isinstance(answer, Done), answer
            assert answer.given_up
            self.win(life, "?", "failed")
            return multiple()
        assert isinstance(answer, Claim), answer
        assert key not in results_of(self.world.root), "I6: handed out, and finished"
        assert answer.generation == len(life.generations) + 1
        life.generations.append(Generation(worker, answer.token))
        return answer

    @rule(claim=claims, name=names, status=st.sampled_from(_WORDS))
    def complete(self, claim: Claim, name: str, status: str) -> None:
        """By the holder or by another process: the claim decides, not who bears it."""
        life = self.life(claim.key)
        mine = self._mine(life, claim)
        store = self.workers[name].store
        if life.winner == claim.token or (mine is not None and mine.how in ("open", "done")):
            if life.winner != claim.token:
                self.win(life, claim.token, status if mine is None or mine.how == "open" else "")
            result = store.complete(claim, {"item": claim.key, "status": status})
            assert result["token"] == claim.token
            assert result["status"] == life.status or not life.status
            self.accepted.setdefault(claim.key, set()).add(claim.token)
        else:
            self._loses(claim, lambda: store.complete(claim, {"item": claim.key, "status": status}))

    @rule(claim=claims, name=names, counted=st.booleans())
    def give_back(self, claim: Claim, name: str, counted: bool) -> None:
        life = self.life(claim.key)
        mine, store = self._mine(life, claim), self.workers[name].store
        act = store.fail if counted else store.release
        if mine is not None and mine.how in ("open", "released"):
            if mine.how == "open":
                mine.how, mine.counted = "released", counted
            act(claim, "not now")
        elif life.winner == claim.token or (mine is not None and mine.how == "done"):
            self._raises(lambda: act(claim, "not now"), "finished")  # by itself: it is no loss
        elif life.winner and claim.generation in claims_of(self.world.root).get(claim.key, []):
            with contextlib.suppress(ClaimLost):  # what is not collected yet may be given back twice
                act(claim, "not now")
        else:
            self._loses(claim, lambda: act(claim, "not now"))

    @rule(name=names, item=items)
    def wear_out(self, name: str, item: str) -> None:
        """Use up what attempts are left but one."""
        for _ in range(ATTEMPTS - 1):
            claim = self._claim(self.workers[name], self.key(item), item)
            if isinstance(claim, Claim):
                self.give_back(claim, name, True)

    @rule(claim=claims, name=names)
    def beat(self, claim: Claim, name: str) -> None:
        life = self.life(claim.key)
        mine, store = self._mine(life, claim), self.workers[name].store
        if life.winner == claim.token or (mine is not None and mine.how in ("open", "done")):
            store.beat(claim)
            if mine is not None:
                mine.silent = False
        else:
            self._loses(claim, lambda: store.beat(claim))

    @rule(claim=claims, name=names)
    def annotate(self, claim: Claim, name: str) -> None:
        life = self.life(claim.key)
        mine, store = self._mine(life, claim), self.workers[name].store
        if life.winner == claim.token:
            # Its directory may be there yet; its note decides nothing any more.
            with contextlib.suppress(ClaimLost, FileExistsError):
                store.annotate(claim, {"a": 1})
        elif mine is None or mine.how not in ("open", "done"):
            self._loses(claim, lambda: store.annotate(claim, {"a": 1}))
        elif mine.note:
            with contextlib.suppress(FileExistsError):
                store.annotate(claim, {"a": 2})
                raise AssertionError("a second note")
            mine.silent = False  # the draft stands in the directory
        else:
            store.annotate(claim, {"a": 1})
            mine.note, mine.silent = True, False

    @rule(name=names, item=items)
    def revoke(self, name: str, item: str) -> None:
        life = self.life(self.key(item))
        last = life.last
        open_ = not life.winner and last is not None and last.how == "open"
        if last is not None and open_:
            last.how, last.counted = "revoked", False
        assert self.workers[name].store.revoke(self.key(item), "cancelled") is open_

    @rule(target=claims, name=names, item=items)
    def cancel(self, name: str, item: str) -> Claim | MultipleResults[Claim]:
        """Take it from whoever has it, and end it."""
        self.revoke(name, item)
        return self._claim(self.workers[name], self.key(item), item)

    @rule(name=names)
    def reap(self, name: str) -> None:
        viewer, freed = self.workers[name], []
        for key, life in sorted(self.lives.items()):
            last = life.last
            if last is None or last.how in ("revoked", "released"):
                continue
            if self.settle(life, viewer) != "busy":
                freed.append(key)
        left = [key for key in claims_of(self.world.root) if self.life(key).winner and key not in freed]
        assert sorted(viewer.store.reap()) == sorted(freed + left)

    @rule(name=names)
    def tidy(self, name: str) -> None:
        self.workers[name].store.tidy()
        assert os.listdir(self.world.root + "/trash") == []
        assert not [key for key in claims_of(self.world.root) if self.life(key).winner]

    @rule(name=names)
    def die(self, name: str) -> None:
        """The process is gone, or taken for gone and goes on with what it has in hand."""
        worker = self.workers[name]
        worker.dead = True
        abandon(worker.store)
        self._open(name)

    @rule(
        name=names,
        item=items,
        act=st.sampled_from(("claim", "complete", "release", "reap")),
        nth=st.integers(1, 14),
        after=st.booleans(),
    )
    def die_within(self, name: str, item: str, act: str, nth: int, after: bool) -> None:
        """The process dies between two system calls; the model is told what is there."""
        worker, key = self.workers[name], self.key(item)
        life = self.life(key)
        last = life.last
        mine = Claim(key=key, generation=len(life.generations), token=last.token if last else "", holder="")
        worker.steps.forget()
        worker.steps.die("*", nth=nth, after=after)
        acts: dict[str, Callable[[], object]] = {
            "claim": lambda: worker.store.claim(key, item),
            "complete": lambda: worker.store.complete(mine, {"item": key, "status": "success"}),
            "release": lambda: worker.store.release(mine, "not now"),
            "reap": lambda: worker.store.reap([key]),
        }
        with contextlib.suppress(Died, ClaimLost):
            acts[act]()
        self.die(name)
        self._adopt(key, worker)

    @rule(item=items)
    def fall_silent(self, item: str) -> None:
        last = self.life(self.key(item)).last
        if last is not None and last.how == "open":
            generation = len(self.life(self.key(item)).generations)
            path = self.workers["one"].store.layout.claim_path(self.key(item), generation)
            then = os.stat(path).st_mtime - 10 * _LEASE
            os.utime(path, (then, then))
            last.silent = True

    @precondition(lambda self: any(self.life(self.key(item)).winner for item in _ITEMS))
    @rule(item=items)
    def reopen(self, item: str) -> None:
        if self.life(self.key(item)).winner:
            self.current[item] += 1

    @rule(name=names, item=items)
    def look(self, name: str, item: str) -> None:
        """What everybody sees is what the model says."""
        viewer, key = self.workers[name], self.key(item)
        life, store = self.life(key), self.workers[name].store
        last, result = life.last, store.result(key)
        assert (result is not None) == bool(life.winner)
        lives = not life.winner and last is not None and last.how == "open"
        held = store.held(key)
        assert (held is not None) == (lives and last is not None and bool(last.token))
        if held is not None and last is not None:
            assert (held.token, held.generation) == (last.token, len(life.generations))
        state = store.snapshot([key])[key]
        if life.winner:
            assert state is ItemState.FINISHED
            return
        in_hand = lives and last is not None and not last.gone(viewer)
        # What is decided and not published is in nobody's hands, and is not finished yet.
        assert state is (ItemState.HELD if in_hand else ItemState.WAITING)
        assert [(a.generation, a.how, a.counted) for a in store.attempts(key)] == [
            (number, one.how, one.counted)
            for number, one in enumerate(life.generations, 1)
            if one.how in ("revoked", "released")
        ]
        assert ((key, item) in store.forsaken()) == (last is not None and not in_hand)

    # ------------------------------------------------------------------------- checks

    @invariant()
    def the_files_keep_the_invariants(self) -> None:
        root = self.world.root
        assert broken_invariants(root, self.results) == []
        self.results = results_of(root)
        claims = claims_of(root)
        for key, life in self.lives.items():
            data = self.results.get(key)
            assert (data is not None) == bool(life.winner), f"{key}: {data!r}"
            if data is None:
                assert len(claims.get(key, [])) == len(life.generations)
                for number, one in enumerate(life.generations, 1):
                    end = end_of(root, key, number)
                    assert (end.how if end else "open") == one.how
            if data is not None:
                token = next(iter(self.accepted.get(key, {life.winner})))
                assert life.winner == "?" or f'"{life.winner}"'.encode() in data
                assert token == "?" or f'"{token}"'.encode() in data, "I1: accepted, and another's"
                assert not [one for one in self.lost if one.encode() in data], "I7: lost, and won"
            assert len(self.accepted.get(key, ())) <= 1, "I1"

    def _age(self, key: str, generation: int) -> float:
        path = self.workers["one"].store.layout.claim_path(key, generation)
        return os.stat(self.world.root).st_mtime - os.stat(path).st_mtime

    def _mine(self, life: Life, claim: Claim) -> Generation | None:
        return next((one for one in life.generations if one.token == claim.token), None)

    def _loses(self, claim: Claim, act: Callable[[], object]) -> None:
        self._raises(act, "")
        self.lost.add(claim.token)

    def _raises(self, act: Callable[[], object], reason: str) -> None:
        try:
            value = act()
        except ClaimLost as error:
            if reason not in ("", error.loss.reason):
                raise
        else:
            raise AssertionError(f"not told that it is lost: {value!r}")

    def _adopt(self, key: str, maker: Worker) -> None:
        """Take over from the files how far the dead one came; it may only have gone forward."""
        root, life = self.world.root, self.life(key)
        results, before = results_of(root), life.generations
        if life.winner:
            return
        if key in results:
            store = self.workers["one"].store
            result: Mapping[str, Any] | None = store.result(key)
            assert result is not None
            allowed = [one.token for one in before if one.how in ("open", "done")]
            assert result["token"] in allowed or result["status"] == "failed", "I4"
            self.win(life, str(result["token"]), str(result["status"]))
            return
        after: list[Generation] = []
        for number in claims_of(root).get(key, []):
            owner, end = owner_of(root, key, number), end_of(root, key, number)
            old = before[number - 1] if number <= len(before) else None
            one = replace(old) if old else Generation(maker, owner.token if owner else "")
            if one.silent:  # a draft in the directory is a sign of life like a beat
                one.silent = self._age(key, number) > _LEASE
            assert old is None or old.token == (owner.token if owner else ""), "a name served twice"
            if end is not None:
                assert old is None or old.how in ("open", end.how), "I5: an end has changed"
                one.how, one.counted = end.how, end.counted if end.how != "done" else False
                if end.how == "done" and (old is None or old.how == "open"):
                    life.status = ""
            after.append(one)
        assert len(after) >= len(before), "a claim is gone, and there is no result"
        life.generations[:] = after


_DEEP = os.environ.get("STATEFUL") == "deep"
_SETTINGS = settings(
    max_examples=5_000 if _DEEP else 500,
    stateful_step_count=100 if _DEEP else 40,
    derandomize=bool(os.environ.get("CI")) and not _DEEP,
    print_blob=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_no_order_of_acts_breaks_the_store() -> None:
    run_state_machine_as_test(Store, settings=_SETTINGS)
