"""May this task be claimed, by whom, and why not. Pure: data in, decision out."""

from __future__ import annotations

from .preflight import Named, Plan, claim_refusal, is_agent, plan, skip_reason, unfit_for_next
from .selection import Wanted, in_turn, nothing_ready

__all__ = [
    "Named", "Plan", "Wanted", "claim_refusal", "in_turn", "is_agent", "nothing_ready", "plan", "skip_reason",
    "unfit_for_next",
]  # fmt: skip
