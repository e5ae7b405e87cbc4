"""What a check of `hypervisor doctor` has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ``failure``: something does not work, or may lose work; ``warning``: some kinds of work go worse, or not.
Level = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFinding:
    """The outcome of one check."""

    check: str
    text: str
    level: Level = "ok"
    #: What to type; "" where nothing helps, or nothing needs help.
    do: str = ""


def found(check: str, text: str) -> CheckFinding:
    """Return that all is well."""
    return CheckFinding(check=check, text=text)


def warning(check: str, text: str, do: str) -> CheckFinding:
    """Return what makes some kinds of work go worse, or not at all."""
    return CheckFinding(check=check, level="warning", text=text, do=do)


def failure(check: str, text: str, do: str) -> CheckFinding:
    """Return what has to be mended before anything else."""
    return CheckFinding(check=check, level="failure", text=text, do=do)
