"""Which paths a glob means: ``*`` and ``?`` within a name, ``**`` for any number of folders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache


def matches_any(relative: str, globs: Iterable[str]) -> bool:
    """Tell whether the path *relative* (to the project root) is meant by one of *globs*."""
    return any(_compiled(glob).fullmatch(relative) for glob in globs)


@lru_cache(maxsize=256)
def _compiled(glob: str) -> re.Pattern[str]:
    out = []
    at = 0
    while at < len(glob):
        if glob.startswith("**/", at):
            out.append("(?:[^/]+/)*")
            at += 3
        elif glob.startswith("**", at):
            out.append(".*")
            at += 2
        elif glob[at] == "*":
            out.append("[^/]*")
            at += 1
        elif glob[at] == "?":
            out.append("[^/]")
            at += 1
        elif glob[at] == "[" and (close := glob.find("]", at + 2)) > 0:
            body = glob[at + 1 : close].replace("\\", "\\\\")
            out.append(f"[{'^' + body[1:] if body[0] in '!^' else body}]")
            at = close + 1
        else:
            out.append(re.escape(glob[at]))
            at += 1
    return re.compile("".join(out), re.DOTALL)
