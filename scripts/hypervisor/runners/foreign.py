"""JSON that a client prints, read with care: it comes from outside, and changes from release to release."""

from __future__ import annotations

import json
from typing import Any


def event_of(line: bytes) -> dict[str, Any]:
    """Return the object that a line is, and an empty one for what is none."""
    try:
        return map_of(json.loads(line))
    except (ValueError, RecursionError):
        return {}


def list_of(value: object) -> list[Any]:
    """Return a list as it is, and none where there is something else."""
    return value if isinstance(value, list) else []


def map_of(value: object) -> dict[str, Any]:
    """Return an object's fields, and none where there is something else."""
    return value if isinstance(value, dict) else {}


def number_of(value: object) -> float:
    """Return a number as it is, and 0 where there is something else."""
    return value if isinstance(value, int | float) and value == value else 0  # noqa: PLR0124 - not NaN
