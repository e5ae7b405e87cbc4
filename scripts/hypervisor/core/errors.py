"""Everything that can go wrong, as one tree.

::

    HypervisorError
    ├── UsageError            wrong words on the command line, or wrong settings   (exit 2)
    │   └── ConfigError       a config file that cannot be understood
    ├── NothingToDo           a command that found no work                          (exit 3)
    ├── Refused               a request that the rules turn down                    (exit 1)
    │   └── Taken             because somebody else has the task now
    ├── ClaimLost             a claim that is no longer yours; it carries a `Loss`
    ├── StoreUnusable         a database that cannot serve here: too old, or on a network file system
    │   ├── StoreNewer        changed by a newer version: readable, not writable
    │   └── StoreDamaged      not a database, or damaged
    └── Unreadable            a task file that cannot be read; it is left untouched

Every message says what, where, and what to do. What the disk or the server did (full, read-only,
unreachable) reaches the caller as an ``OSError`` with its number.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Literal

LossReason = Literal["revoked", "released", "finished", "unknown"]
UnreadableReason = Literal[
    "missing", "not a file", "no access", "not utf-8", "too large", "no frontmatter",
    "bad yaml", "not a mapping", "path too long",
]  # fmt: skip


#: What the user can do about an error of the machine.
_ADVICE = {
    errno.ENOSPC: "free some space and start again; nothing is lost",
    errno.EDQUOT: "free some of your quota and start again; nothing is lost",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "the file system is read-only; name another folder",
    errno.ECONNREFUSED: "start it, or check the URL with `hypervisor store check`; nothing is lost",
    errno.EMFILE: "raise `ulimit -n`",
}


class HypervisorError(Exception):
    """Raised when the product, and not the machine, says no. The root of the tree."""


class UsageError(HypervisorError):
    """Raised when the words of a command do not fit together."""


class ConfigError(UsageError):
    """Raised when a config file cannot be read, or names a key that does not exist."""


class NothingToDo(HypervisorError):
    """Raised when a command finds nothing to do."""


class Refused(HypervisorError):
    """Raised when a request is understood and turned down; the message says why."""


class Taken(Refused):
    """Raised when somebody else holds what is asked for; it may be free later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Why a claim is no longer held."""

    #: The item's key.
    key: str
    #: The number of the attempt that was lost.
    attempt: int
    #: ``revoked``: judged dead or silent, or cancelled; ``released``: given back by its worker;
    #: ``finished``: the item has its result; ``unknown``: the store has no such attempt.
    reason: LossReason
    #: What the one who ended it wrote: why, and who.
    detail: str = ""

    def __str__(self) -> str:
        tail = f": {self.detail}" if self.detail else ""
        return f"the claim on {self.key} (attempt {self.attempt}) is lost: {self.reason}{tail}"


class ClaimLost(HypervisorError):
    """Raised when a claim is no longer held. Final: that attempt never wins later."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(str(loss))
        #: The record of the loss.
        self.loss = loss


class StoreUnusable(HypervisorError):
    """Raised when a database cannot hold the state here; the message names what would."""


class StoreNewer(StoreUnusable):
    """Raised when a newer version has changed the schema: nothing may be written by this one."""


class StoreDamaged(StoreUnusable):
    """Raised when the file is not a database, or is damaged."""


class Unreadable(HypervisorError):
    """Raised when a task file cannot be read or edited; the file stays as it was."""

    def __init__(self, path: str, reason: UnreadableReason, detail: str = "") -> None:
        #: The fault without the file's name.
        self.why = f"{reason} ({detail})" if detail else str(reason)
        super().__init__(f"{path}: {self.why}")
        #: The file, as it was named.
        self.path = path
        #: The kind of fault, from a closed set.
        self.reason = reason
        #: Where in the file, and what.
        self.detail = detail


def advice_for(error: OSError) -> str:
    """Return what the user can do about an error of the machine."""
    return _ADVICE.get(error.errno or 0, "fix it and start again; nothing is lost")
