"""What stands in a claim's directory, as text: who owns it, and how it ended.

Both are targets of symbolic links, which appear whole or not at all. The text of ``owner`` is
JSON, so that ``ls -l locks/*/`` can be read by a person; the text of ``end`` is
``revoked:<why>:<by>`` or ``released:<token>:<counted>:<reason>``, short enough to fit an inode
where the reason is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from ..core.machine import Identity
from .port import Holder, HolderKind

#: Link targets may be 4,095 bytes long (PATH_MAX); one more byte and symlink(2) refuses.
_REASON_LENGTH = 600
#: Characters of an item that still fit beside the rest: each is at most 12 bytes of JSON.
_ITEM_LENGTH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whoever made a claim."""

    token: str
    holder: Holder
    #: Whoever's death ends the claim: the worker, or an agent's client; for a bare lease, whoever
    #: made it, and its boot is all that counts.
    process: Identity
    #: For how long the machine had slept since its boot when the claim was made, in seconds.
    suspended: float
    #: What is claimed, as the queue spells it; "" where it is too long for a link's text.
    item: str

    def to_text(self) -> str:
        """Return the owner as the target of a link."""
        holder = self.holder
        record: dict[str, Any] = {
            "token": self.token,
            "holder": holder.id,
            "kind": holder.kind.value,
            "name": holder.name[:200],
            "lease": holder.lease_seconds,
            "session": holder.session[:200],
            "agent": holder.agent[:200],
            "suspended": round(self.suspended, 3),
            "item": self.item if len(self.item) <= _ITEM_LENGTH else "",
            **self.process.to_json(),
        }
        return json.dumps(record, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Owner:
        """Read back what `to_text` wrote."""
        record = json.loads(text)
        return cls(
            token=record["token"],
            holder=Holder(
                id=record["holder"],
                kind=HolderKind(record["kind"]),
                name=record["name"],
                lease_seconds=record["lease"],
                session=record["session"],
                agent=record["agent"],
            ),
            process=Identity(
                host=record["host"],
                boot=record["boot"],
                pid_namespace=record["pid_namespace"],
                pid=record["pid"],
                start=record["start"],
            ),
            suspended=record["suspended"],
            item=record["item"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a claim ended. A claim has at most one end, and it never changes."""

    how: Literal["revoked", "released", "done"]
    #: Of whoever released or completed; "" for a revocation.
    token: str = ""
    counted: bool = True
    detail: str = ""

    def to_text(self) -> str:
        """Return a revocation or a release as the target of a link."""
        detail = self.detail.replace("\n", " ")[:_REASON_LENGTH]
        if self.how == "revoked":
            return f"revoked:{int(self.counted)}:{detail}"
        return f"released:{self.token}:{int(self.counted)}:{detail}"

    @classmethod
    def from_text(cls, text: str) -> End:
        """Read back what `to_text` wrote."""
        how, _, rest = text.partition(":")
        if how == "revoked":
            counted, _, detail = rest.partition(":")
            return cls(how="revoked", counted=counted == "1", detail=detail)
        token, _, rest = rest.partition(":")
        counted, _, detail = rest.partition(":")
        return cls(how="released", token=token, counted=counted == "1", detail=detail)
