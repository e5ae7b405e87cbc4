"""Claims on a directory: the protocol.

`mkdir` decides who holds an item; one write-once name, ``end``, decides how that claim ended, so
that completing and revoking exclude each other. Nothing is deleted to reclaim, so there is no ABA.
Safety uses no clock. What lies where: `layout`; when a holder counts as gone: `judge`. The steps
are numbered as in docs/claims.md, where the invariants stand; any delay or death may come between
two of them. Only ENOENT means absent and only EEXIST means a lost race: every other error is
raised, and leaves nothing held.

It is one module, though a long one, so that the protocol can be checked in one reading.
"""

from __future__ import annotations

import contextlib
import errno
import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core import clock
from ..core.errors import ClaimLost, Loss, LossReason
from ..core.keys import generation_name, split_generation
from ..core.machine import Identity, end_orphans
from .files import Files
from .judge import Verdict
from .port import Attempt, Busy, Claim, Done, Holder, HolderKind, Payload
from .records import End, Owner
from .view import DirectoryView
from .workers import WorkerFile, forget_dead

#: How often a claim is looked at anew when it changed under the look.
_LOOKS = 64


def no_effects(result: Mapping[str, Any], unpublished: Callable[[], bool]) -> None:
    """Change nothing outside the store."""


def plain_failure(item: str, attempts: list[Attempt]) -> Payload:
    """Return the result of an item that has used up its attempts."""
    tries = "; ".join(f"attempt {a.generation}: {a.detail or a.how}" for a in attempts)
    outcome = f"gave up after {len(attempts)} attempts: {tries}"
    return {"item": item, "status": "failed", "outcome": outcome, "finished": clock.now_text()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a store's user decides."""

    #: Counted attempts after which an item is given up.
    attempts: int = 3
    #: For how long a claim that nobody has signed may stay so.
    lease_seconds: float = 900.0
    #: Whether this process stays; see `Judge`.
    patient: bool = True
    #: Called with a result that is decided but not published, and with a function that tells
    #: whether it still is so: writes what the result says about the world outside (a task's
    #: status). Must be idempotent: any process may call it, any number of times.
    effects: Callable[[Mapping[str, Any], Callable[[], bool]], None] = no_effects
    #: Makes the result of an item that has used up its attempts.
    give_up: Callable[[str, list[Attempt]], Payload] = plain_failure


class DirectoryStore(DirectoryView):
    """A claim store in a folder.

    Args:
        root: The folder. Its subfolders are made if there is a holder.
        holder: In whose name claims are made; None for a store that is only looked at.
        policy: See `Policy`.
        files: The system calls.
        here: The identity of this process; for claims of a client's agents, the client's.
    """

    def __init__(
        self,
        root: str,
        holder: Holder | None = None,
        *,
        policy: Policy | None = None,
        files: Files | None = None,
        here: Identity | None = None,
    ) -> None:
        self.holder = holder
        self.policy = policy or Policy()
        super().__init__(
            root,
            lease_seconds=self.policy.lease_seconds,
            patient=self.policy.patient,
            files=files,
            here=here,
        )
        self._worker: WorkerFile | None = None
        #: Claims handed out and, as far as this process knows, not ended.
        self._open: set[Claim] = set()
        if holder is not None:
            self.layout.make()
            if holder.kind is HolderKind.PROCESS:
                self._worker = WorkerFile(self.layout.workers, holder.id)

    @property
    def lock_descriptor(self) -> int | None:
        """What a child process must be given, so that it is seen to live when its worker died."""
        return self._worker.descriptor if self._worker else None

    def close(self) -> None:
        """Say that this holder is gone; its open claims are free at once."""
        if self._worker is not None:
            self._worker.close(owes_nothing=not self._open)
            self._worker = None

    # ------------------------------------------------------------------ claim

    def claim(self, key: str, item: str) -> Claim | Busy | Done:
        """See `ClaimStore.claim`."""
        for _ in range(_LOOKS):
            if self.layout.finished(key):  # c1
                return Done(key=key)
            generation = self.layout.highest(key)  # c2
            if generation == 0:
                return self._take(key, 1, item)
            try:
                end = self.layout.end(key, generation)  # c3
                if end is None:
                    verdict = self._judge.verdict(key, generation)
                    if not verdict.gone:
                        return Busy(key=key, detail=verdict.detail)
                    self._take_over(key, generation, verdict)
                elif end.how == "done":
                    self._publish(key, generation)
                else:
                    # Else a power loss might take the end back and leave its successor: two open claims.
                    self._files.sync(self.layout.claim_path(key, generation))
                    return self._take(key, generation + 1, item)
            except FileNotFoundError:
                continue  # the directory is gone: collected, or lost with the power
        return Busy(key=key, detail="it changed hands while it was looked at")

    def _take(self, key: str, generation: int, item: str) -> Claim | Busy | Done:
        if self.holder is None:
            raise ValueError("this store was opened without a holder: it can only be looked at")
        self._intend(generation_name(key, generation), item)
        path = self.layout.claim_path(key, generation)
        try:
            self._files.mkdir(path)  # c4
        except FileExistsError:
            self._intend("")  # or it would speak for whoever did make it, and may die there
            return Busy(key=key, detail="taken this moment by another worker")
        except OSError:
            with contextlib.suppress(OSError):
                self._intend("")  # or it would speak, while it lives, for whoever dies there next
            raise
        claim = Claim(key=key, generation=generation, token=secrets.token_hex(16), holder=self.holder.id)
        if not self._sign(path, claim, self.holder, item):  # c5
            return Busy(key=key, detail="taken over before it was signed")
        self._open.add(claim)
        try:
            finished = self.layout.finished(key)  # c6
            spent = [a for a in self.attempts(key) if a.counted] if generation > 1 and not finished else []
        except OSError as error:
            with contextlib.suppress(OSError, ClaimLost):
                self.release(claim, f"the store failed: {error.strerror}")
            raise
        if finished:
            self._open.discard(claim)
            self._collect(key)
            self._discard(key, generation)  # those below it may be gone, so that none leads to it
            return Done(key=key)
        if len(spent) >= self.policy.attempts:
            return Done(key=key, given_up=self._give_up(claim, item, spent))
        return claim  # c7

    def _give_up(self, claim: Claim, item: str, spent: list[Attempt]) -> bool:
        try:
            self.complete(claim, self.policy.give_up(item, spent))
        except ClaimLost:  # somebody else did
            return False
        except OSError as error:
            with contextlib.suppress(OSError, ClaimLost):
                self.release(claim, f"the store failed: {error.strerror}")
            raise
        return True

    def _intend(self, name: str, item: str = "") -> None:
        if self._worker is not None:
            self._worker.intend(name, item)

    def _sign(self, path: str, claim: Claim, holder: Holder, item: str) -> bool:
        owner = Owner(
            token=claim.token,
            holder=holder,
            process=self._here,
            suspended=clock.suspended_seconds(),
            item=item,
        )
        try:
            self._files.symlink(owner.to_text(), path + "/owner")
        except (FileNotFoundError, FileExistsError):
            return False
        except OSError:
            # Not held: give the newborn back, unless it was revoked meanwhile and is not empty.
            with contextlib.suppress(OSError):
                self._files.rmdir(path)
            with contextlib.suppress(OSError, ClaimLost):
                self.release(claim, "it could not be signed")  # and was, all the same
            with contextlib.suppress(OSError):
                self._intend("")
            raise
        return True

    # ------------------------------------------------------ beat and annotate

    def beat(self, claim: Claim) -> None:
        """See `ClaimStore.beat`."""
        try:
            self._must_hold(claim)
            self._files.touch(self._path(claim))
        except (ClaimLost, FileNotFoundError):
            result = self.layout.result(claim.key)
            if result is None or result["token"] != claim.token:
                raise ClaimLost(self._loss(claim)) from None
            # Its own completion has won and taken the claim's place away: nothing is lost (I7).

    def annotate(self, claim: Claim, note: Mapping[str, Any]) -> None:
        """See `ClaimStore.annotate`."""
        path = self._path(claim)
        draft = f"{path}/n.{secrets.token_hex(8)}"
        try:
            self._must_hold(claim)
            self._files.write_new(draft, json.dumps(note).encode())
            self._files.link(draft, path + "/note")
        except FileNotFoundError:
            raise ClaimLost(self._loss(claim)) from None

    def _must_hold(self, claim: Claim) -> None:
        end = self.layout.end(claim.key, claim.generation)
        done_by_me = end is not None and end.how == "done" and end.token == claim.token
        if (end is not None and not done_by_me) or not self._mine(claim):
            raise ClaimLost(self._loss(claim))

    # --------------------------------------------------------------- complete

    def complete(self, claim: Claim, payload: Payload) -> Mapping[str, Any]:
        """See `ClaimStore.complete`."""
        if self.layout.finished(claim.key):  # d0
            return self._settled(claim)
        try:
            end = self.layout.end(claim.key, claim.generation)
            decided = end is not None and end.how == "done" and end.token == claim.token
            if not decided and (not self._mine(claim) or not self._decide(claim, payload)):  # d1 - d3
                return self._settled(claim)
            self._publish(claim.key, claim.generation)  # d4, d5
        except FileNotFoundError:
            return self._settled(claim)  # collected by another; or lost, which `_settled` finds out
        return self._settled(claim, synced=True)  # d6

    def _decide(self, claim: Claim, payload: Payload) -> bool:
        """Make the result this claim's end; tell whether it is, now or since an earlier call.

        Raises:
            FileNotFoundError: The claim's directory is gone.
        """
        record = {**payload, "key": claim.key, "generation": claim.generation, "token": claim.token}
        path = self._path(claim)
        draft = f"{path}/r.{secrets.token_hex(8)}"
        self._files.write_new(draft, json.dumps(record, separators=(",", ":")).encode())  # d1
        try:
            self._files.link(draft, path + "/end")  # d3
        except FileExistsError:
            end = self.layout.end(claim.key, claim.generation)
            return end is not None and end.how == "done" and end.token == claim.token
        return True

    def _publish(self, key: str, generation: int) -> None:
        """Make a decided end the result. Anybody may; everybody who finds one does.

        Raises:
            FileNotFoundError: The end is gone, and there is no result either.
        """
        end = self.layout.claim_path(key, generation) + "/end"
        try:
            record = json.loads(self._files.read(end))
        except FileNotFoundError:
            if self.layout.finished(key):
                return
            raise
        self.policy.effects(record, lambda: not self.layout.finished(key))
        try:
            self._files.link(end, self.layout.result_path(key))  # d4
        except FileExistsError:
            pass
        except FileNotFoundError:
            if not self.layout.finished(key):
                raise
        self._files.sync(self.layout.results)
        self._collect(key, synced=True)  # d5

    def _settled(self, claim: Claim, *, synced: bool = False) -> Mapping[str, Any]:
        """Say what came of a completion: the accepted result, or a loss, or "not known"."""
        result = self.layout.result(claim.key)
        if result is not None and result["token"] == claim.token:
            if not synced:
                self._files.sync(self.layout.results)
            self._open.discard(claim)
            return result
        end = self.layout.end_if_there(claim.key, claim.generation)
        mine = end.token == claim.token and end.how == "done" if end else self._mine(claim)
        if result is None and mine:
            # Neither ended nor gone: saying "lost" here could be taken back later (I7).
            raise OSError(errno.EIO, "a completion could not be carried out; call again", self._path(claim))
        raise ClaimLost(self._loss(claim))

    # ---------------------------------------------------- release, fail, revoke

    def release(self, claim: Claim, reason: str) -> None:
        """See `ClaimStore.release`."""
        self._finish(claim, counted=False, detail=reason)

    def fail(self, claim: Claim, reason: str) -> None:
        """See `ClaimStore.fail`."""
        self._finish(claim, counted=True, detail=reason)

    def _finish(self, claim: Claim, *, counted: bool, detail: str) -> None:
        path = self._path(claim) + "/end"
        text = End(how="released", token=claim.token, counted=counted, detail=detail).to_text()
        bare = End(how="released", token=claim.token, counted=counted).to_text()
        try:
            if not self._mine(claim):
                raise ClaimLost(self._loss(claim))
            try:
                self._files.symlink(text, path)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                # Without its reason the text fits the inode and needs no block of a full disk.
                self._files.symlink(bare, path)
            self._files.sync(self._path(claim))  # before anybody makes the next generation (I2)
        except FileNotFoundError:
            raise ClaimLost(self._loss(claim)) from None
        except FileExistsError:
            found = self.layout.end_if_there(claim.key, claim.generation)
            if found is None or found.how != "released" or found.token != claim.token:
                raise ClaimLost(self._loss(claim)) from None
        self._open.discard(claim)

    def revoke(self, key: str, why: str, generation: int | None = None) -> bool:
        """See `ClaimStore.revoke`."""
        generation = self.layout.highest(key) if generation is None else generation
        if generation == 0 or self.layout.finished(key):
            return False
        return self._revoke(key, generation, why, counted=False)

    def _take_over(self, key: str, generation: int, verdict: Verdict) -> None:
        if verdict.orphans_of:
            end_orphans(verdict.orphans_of)
        self._revoke(key, generation, verdict.detail, counted=True)

    def _revoke(self, key: str, generation: int, why: str, *, counted: bool) -> bool:
        path = self.layout.claim_path(key, generation)
        by = self.holder.id if self.holder else "a reader"
        end = End(how="revoked", counted=counted, detail=f"{why} (by {by})")
        try:
            self._files.symlink(end.to_text(), path + "/end")  # r3
        except (FileExistsError, FileNotFoundError):
            revoked = False
        else:
            revoked = True
        with contextlib.suppress(FileNotFoundError):
            # Also where another revoked it: before anybody makes the next generation, a power loss
            # must not be able to bring this claim back beside it.
            self._files.sync(path)
        return revoked

    # --------------------------------------------------------- reap and collect

    def reap(self, keys: Iterable[str] | None = None) -> list[str]:
        """See `ClaimStore.reap`."""
        wanted = self.layout.unfinished() if keys is None else keys
        return [key for key in wanted if self._reap(key)]

    def _reap(self, key: str) -> bool:
        if self.layout.finished(key):
            self._collect(key)
            return True
        generation = self.layout.highest(key)
        try:
            end = self.layout.end(key, generation) if generation else None
            if end is not None and end.how == "done":
                self._publish(key, generation)
                return True
            if end is not None or not generation:
                return False
            verdict = self._judge.verdict(key, generation)
        except FileNotFoundError:
            return False
        if verdict.gone:
            self._take_over(key, generation, verdict)
        return verdict.gone

    def tidy(self) -> None:
        """Take away what finished items and dead processes left; for the end of a drain."""
        for name in self._files.names(self.layout.locks):
            key, generation = split_generation(name)
            if self.layout.finished(key):
                self._collect(key)
                self._discard(key, generation)  # beyond a gap that a power loss has left
        for name in self._files.names(self.layout.trash):
            self._files.delete_tree(self.layout.trash + name)
        if not self._files.names(self.layout.locks):
            forget_dead(self.layout.workers)

    def _collect(self, key: str, *, synced: bool = False) -> None:
        """Take the claims of a finished item away, the latest first.

        So those that are left always count up from 1, and whoever collects next finds them.
        """
        if not self.layout.finished(key):
            return
        if not synced:
            self._files.sync(self.layout.results)
        for generation in range(self.layout.highest(key), 0, -1):
            self._discard(key, generation)

    def _discard(self, key: str, generation: int) -> None:
        away = f"{self.layout.trash}{generation_name(key, generation)}.{secrets.token_hex(8)}"
        try:
            self._files.rename(self.layout.claim_path(key, generation), away)
        except FileNotFoundError:
            return
        self._files.delete_tree(away)

    # ---------------------------------------------------------------- details

    def _path(self, claim: Claim) -> str:
        return self.layout.claim_path(claim.key, claim.generation)

    def _mine(self, claim: Claim) -> bool:
        owner = self.layout.owner(claim.key, claim.generation)
        return owner is not None and owner.token == claim.token

    def _loss(self, claim: Claim) -> Loss:
        """Say why a claim is lost. Final: a power loss must not be able to take it back (I7)."""
        end = self.layout.end_if_there(claim.key, claim.generation)
        result = self.layout.result(claim.key)
        if end is not None:
            with contextlib.suppress(FileNotFoundError):
                self._files.sync(self._path(claim))
        if result is not None:
            self._files.sync(self.layout.results)
        self._open.discard(claim)
        reason: LossReason
        if end is not None and end.how != "done":
            reason, detail = end.how, end.detail
        elif result is not None or end is not None:
            by = result["generation"] if result is not None else claim.generation
            reason, detail = "finished", f"by generation {by}"
        elif self.layout.owner(claim.key, claim.generation) is None:
            reason, detail = "gone", ""
        else:
            reason, detail = "taken", ""
        return Loss(key=claim.key, generation=claim.generation, reason=reason, detail=detail)
