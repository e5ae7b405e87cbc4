"""The arguments of a call: in the types of the tool's schema, as they are meant. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ..core.errors import UsageError
from ..core.model import TaskStatus
from .schema import IDENTITY, Property, Tool

Arguments = Mapping[str, Any]

_LONGEST_NAME = 100


def read_arguments(tool: Tool, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call in the types of the tool's schema.

    Models send ``"5"`` for 5 and ``'["a"]'`` for a list: that is taken as it is meant. Arguments
    that the tool does not know are left out, as are those that are null.

    Raises:
        UsageError: One is missing, or of another type.
    """
    found = {}
    for name, schema in tool.takes.items():
        value = given.get(name)
        if value is not None:
            found[name] = _read(f"{tool.name}: {name}", _kind(schema), value)
    for name in tool.required:
        if found.get(name) in (None, ""):
            raise UsageError(f"{tool.name}: {name} is missing; it takes {', '.join(tool.takes)}")
    for name in IDENTITY:
        if isinstance(given.get(name), str):
            found[name] = given[name]
    return found


def _kind(schema: Property) -> str:
    kind: str = schema["type"]
    return "tables" if kind == "array" and schema["items"]["type"] == "object" else kind


def _read(what: str, kind: str, value: Any) -> Any:
    if kind == "string":
        if isinstance(value, str):
            _require_plain(what, value)
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    elif kind == "integer":
        return _integer(what, value)
    elif kind == "boolean":
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
    elif kind == "array":
        return _list(what, value)
    elif kind == "number":
        return _figure(what, value)
    elif kind in ("tables", "object"):
        return _json(what, kind, value)
    raise UsageError(f"{what} must be {_A[kind]}, not {json.dumps(value, default=str)[:80]}")


_A = {
    "string": "a text", "integer": "a whole number", "boolean": "true or false", "array": "a list of texts",
    "number": "a number", "tables": "a list of tables", "object": "a table",
}  # fmt: skip


def _figure(what: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{what} must be a number, not {json.dumps(value, default=str)[:80]}")
    return number


def _json(what: str, kind: str, value: Any) -> Any:
    """Return a list or a table; one that comes as text is taken as it is meant, a lone text as a list."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UsageError(f"{what} must be {_A[kind]}; this text is no JSON") from None
    if kind == "tables" and isinstance(value, dict | str):
        value = [value]
    if not isinstance(value, list if kind == "tables" else dict):
        raise UsageError(f"{what} must be {_A[kind]}, not {json.dumps(value, default=str)[:80]}")
    return value


def _integer(what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UsageError(f"{what} must be a whole number, not {json.dumps(value, default=str)[:80]}")
    try:
        number = int(value)
    except (ValueError, OverflowError):
        number = -1
    if number < 0 or number > 10**12 or (isinstance(value, float) and value != number):
        raise UsageError(f"{what} must be a whole number, not {json.dumps(value)[:80]}")
    return number


def _list(what: str, value: Any) -> list[str]:
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [value]
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UsageError(f"{what} must be a list of texts")
    for one in value:
        _require_plain(what, one)
    return value


def _require_plain(what: str, value: str) -> None:
    if "\0" in value:
        raise UsageError(f"{what} holds a NUL, which no file's text can")


# ------------------------------------------------------------------ words and names


def status_in(arguments: Arguments) -> TaskStatus | None:
    """Return the status that is asked for, None if none is.

    Raises:
        UsageError: There is no such status.
    """
    if "status" not in arguments:
        return None
    word = arguments["status"].strip().lower().replace("-", "_").replace(" ", "_")
    if word not in list(TaskStatus):
        raise UsageError(f"update_task: status must be one of {', '.join(TaskStatus)}")
    return TaskStatus(word)


def caller_in(caller: str) -> str:
    """Return *caller* if it can be one assignee of a file, and its claim's holder.

    Raises:
        UsageError: It cannot.
    """
    name = caller.strip().lstrip("@")
    if not name or len(name) > _LONGEST_NAME or not name.isprintable() or "," in name:
        raise UsageError(f"caller {caller[:80]!r}: must be one name of at most {_LONGEST_NAME} characters")
    return name
